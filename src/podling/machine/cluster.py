"""`up` and `down`: a cluster's life on this machine, each as a list of steps.

`up` forks the supervisor, which makes the nodes, and waits until every node says Ready; when any step
fails it takes back what was made. `down` needs nobody's help: it works from the record and the kernel,
the same whether the cluster is well, half-made, or was killed in part or whole.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import msgspec

from podling.api import core_v1
from podling.client import kubeconfig
from podling.client.client import Client
from podling.client.errors import ApiError, TransportError
from podling.client.http import HttpTransport
from podling.linux.processes import end
from podling.machine import credentials, firewall, node_cgroup, paths, record, switch
from podling.machine.config import ClusterConfig, ConfigError
from podling.machine.paths import ClusterPaths
from podling.machine.record import ClusterRecord

READY_TIMEOUT_S = 60.0
RETRY_S = 0.2
PROGRAMS = {"crun": "crun", "conmon": "conmon"}
"""Program -> the Debian package that has it."""


class UpError(Exception):
    """A cluster that could not be brought up; nothing of it is left."""


def check_machine() -> None:
    """Raises `ConfigError` that names what this machine lacks and how to get it."""
    if os.geteuid() != 0:
        raise ConfigError("podling makes namespaces, links and mounts, which needs root: run it with sudo")
    missing = {program: package for program, package in PROGRAMS.items() if shutil.which(program) is None}
    if missing:
        raise ConfigError(
            f"missing program{'s' if len(missing) > 1 else ''}: {', '.join(missing)}. "
            f"On Debian and Ubuntu: apt-get install {' '.join(missing.values())}"
        )


def up(config: ClusterConfig, kubeconfig_path: Path, progress: Callable[[str], None]) -> ClusterRecord:
    """Bring the cluster up and return when all its nodes are Ready. `progress` is told each step done.

    Raises `ConfigError` before anything was made, `UpError` after everything made was removed again.
    """
    with record.machine_lock():
        existing = record.load(config.name)
        if existing is not None and existing.running:
            raise ConfigError(
                f'node(s) already exist for a cluster with the name "{config.name}": '
                f"remove it with `podling down --name {config.name}`, or choose another --name"
            )
        if config.name in record.names():
            _remove(config.name)
        kubeconfig.load(kubeconfig_path)  # one that cannot be understood is refused before anything is made
        config = _with_index(config, record.free_index())
        switch.check_ranges(config)
        made = ClusterRecord(config=config, kubeconfig=str(kubeconfig_path))
        made.save()
        try:
            _make(made, progress)
            write_context(made)
        except BaseException as err:
            logs = _last_words(config.name)
            _remove(config.name)
            if isinstance(err, UpError) and logs:
                raise UpError(f"{err}\n{logs}") from err
            raise
        return made


def _with_index(config: ClusterConfig, index: int) -> ClusterConfig:
    return msgspec.structs.replace(config, index=index)


def _make(made: ClusterRecord, progress: Callable[[str], None]) -> None:
    credentials.write_all(made.config)
    made.ip_forward_was = switch.forwarding_to_restore(made.config)
    made.save()
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        _become_supervisor(made, writer)
    os.close(writer)
    with os.fdopen(reader) as steps:
        for line in steps:
            step = line.rstrip("\n")
            if step.startswith("error: "):
                raise UpError(step.removeprefix("error: "))
            progress(step)
            if step == "agents":
                break
        else:
            raise UpError("the supervisor ended before the nodes were made")
    asyncio.run(wait_ready(made.config, progress))


def _become_supervisor(made: ClusterRecord, writer: int) -> None:
    """In the forked child: make the cluster, report each step on `writer`, then supervise. Never returns."""
    from podling.machine.supervisor import Supervisor, close_all_but_stdio, open_log, redirect

    code = 1
    try:
        os.setsid()
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        redirect(open_log(ClusterPaths.of(made.config.name).log("supervisor")))
        close_all_but_stdio(writer)
        supervisor = Supervisor(made, lambda step: _tell(writer, step))
        try:
            supervisor.start()
        except Exception as err:
            traceback.print_exc()
            _tell(writer, f"error: {str(err) or type(err).__name__}".replace("\n", " "))
            raise
        os.close(writer)
        supervisor.run()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        with suppress(Exception):
            sys.stderr.flush()
        os._exit(code)


def _tell(writer: int, line: str) -> None:
    # The reader may be gone (Ctrl-C in the terminal): that is no reason to stop half-way.
    with suppress(BrokenPipeError):
        os.write(writer, f"{line}\n".encode())


async def wait_ready(config: ClusterConfig, progress: Callable[[str], None]) -> None:
    """Return when every node is Ready. Raises `UpError` that names those not Ready in time."""
    waiting = {node.name for node in config.nodes}
    transport = HttpTransport(kubeconfig.client_config(ClusterPaths.of(config.name).admin_conf))
    client = Client(transport)

    unheard = ""
    try:
        async with asyncio.timeout(READY_TIMEOUT_S):
            while True:
                try:
                    await _watch_nodes(client, waiting, progress)
                    unheard = ""
                except TransportError as err:
                    # A machine with much else to do may need more than one connection's patience.
                    unheard = str(err)
                if not waiting:
                    return
                await asyncio.sleep(RETRY_S)
    except TimeoutError:
        late = f"not Ready after {READY_TIMEOUT_S:g} s: {', '.join(sorted(waiting))}"
        if unheard:
            late = f"the API server at {config.server} does not answer: {unheard}"
        why = firewall.obstacle(config)
        raise UpError(f"{late}\n{why}" if why else late) from None
    except ApiError as err:
        raise UpError(f"the API server at {config.server} refuses: {err}") from err
    finally:
        await transport.close()


async def _watch_nodes(client: Client, waiting: set[str], progress: Callable[[str], None]) -> None:
    """Take the nodes that are Ready out of `waiting` until none is left, or the server ends the watch."""

    def seen(node: core_v1.Node) -> None:
        name = node.metadata.name
        if name in waiting and _is_ready(node):
            waiting.discard(name)
            progress(f"ready {name}")

    listed = await client.list(core_v1.Node)
    for node in listed.items:
        seen(node)
    if not waiting:
        return
    async for event in client.watch(core_v1.Node, resource_version=listed.resource_version):
        seen(event.object)
        if not waiting:
            return


def _is_ready(node: core_v1.Node) -> bool:
    conditions = node.status.conditions if node.status else []
    return any(c.type == "Ready" and c.status == "True" for c in conditions)


def write_context(made: ClusterRecord) -> None:
    """Write the context `podling-NAME` into the user's kubeconfig and make it current."""
    document = kubeconfig.load(ClusterPaths.of(made.config.name).admin_conf)
    kubeconfig.merge_context(
        Path(made.kubeconfig),
        made.config.context,
        document["clusters"][0]["cluster"],
        document["users"][0]["user"],
    )


def down(name: str) -> bool:
    """Remove the cluster and everything of it. False when there was none. May be repeated."""
    with record.machine_lock():
        if name not in record.names():
            return False
        _remove(name)
        return True


def _remove(name: str) -> None:
    try:
        made = record.load(name)
    except ConfigError:
        made = None  # unreadable: what can be found without it is removed all the same
    if made is not None:
        _end_processes(made)
        switch.remove(made.config, ip_forward_was=made.ip_forward_was)
    node_cgroup.remove(name)
    shutil.rmtree(ClusterPaths.of(name).root, ignore_errors=False)
    for directory in (paths.CLUSTERS, paths.STATE):
        with suppress(OSError):
            directory.rmdir()
    # Last: a file of the user's that cannot be read must not keep the cluster alive.
    if made is not None and made.kubeconfig:
        kubeconfig.remove_context(Path(made.kubeconfig), made.config.context)


SUPERVISOR_GRACE_S = 10.0


def _end_processes(made: ClusterRecord) -> None:
    # The supervisor ends the rest and reaps it; what it left, or all when it was dead, follows by hand.
    if made.supervisor is not None and not end(made.supervisor, grace_s=SUPERVISOR_GRACE_S):
        raise UpError(f"the supervisor of cluster {made.config.name} ({made.supervisor.pid}) does not end")
    for process in [*made.nodes.values(), *made.processes.values()]:
        if not end(process, grace_s=0):
            raise UpError(f"process {process.pid} of cluster {made.config.name} does not end")


def _last_words(name: str, lines: int = 12) -> str:
    """The end of each daemon's log, for an error message."""
    out = []
    for log in sorted(ClusterPaths.of(name).root.glob("logs/*.log")):
        tail = log.read_text(errors="replace").splitlines()[-lines:]
        if tail:
            out += [f"--- {log.stem}", *tail]
    return "\n".join(out)
