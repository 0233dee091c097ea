"""`podling run`: a container by hand, as with docker."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from podling.cli import run_options
from podling.cli.byhand import DockerCommand, Refused, opened

if TYPE_CHECKING:
    from podling.runtime.attach import Attachment
    from podling.runtime.byhand.create import Wanted
    from podling.runtime.byhand.hand import Hand, Held
    from podling.runtime.cri import messages as cri

PASSED_ON = ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2")


@click.command("run", cls=DockerCommand, context_settings={"allow_interspersed_args": False})
@click.option("-d", "--detach", is_flag=True, help="Run in the background and print the container ID.")
@click.option("-i", "--interactive", is_flag=True, help="Keep standard input open.")
@click.option("-t", "--tty", is_flag=True, help="Give the container a terminal.")
@click.option("--rm", "auto_remove", is_flag=True, help="Remove the container when it ends.")
@click.option("--name", default="", help="A name for the container.")
@click.option("--pod", default="", help="Join a pod; new:NAME makes it.")
@click.option("-e", "--env", multiple=True, metavar="NAME[=VALUE]", help="Set an environment variable.")
@click.option("--env-file", multiple=True, metavar="FILE", help="Environment variables, one a line.")
@click.option("-v", "--volume", multiple=True, metavar="HOST:PATH[:ro]", help="Bind a directory or file.")
@click.option("--tmpfs", multiple=True, metavar="PATH[:OPTIONS]", help="Mount a tmpfs.")
@click.option("--device", multiple=True, metavar="HOST[:PATH][:rwm]", help="Give it a device.")
@click.option("--pid", default="", metavar="MODE", help="host or container:NAME.")
@click.option("--ipc", default="", metavar="MODE", help="host or container:NAME.")
@run_options.publishing
@click.option("--restart", default="no", help="no, on-failure[:N], always or unless-stopped.")
@click.option("--entrypoint", default=None, help="Instead of the image's.")
@click.option("-u", "--user", default="", metavar="USER[:GROUP]", help="By name or number.")
@click.option("-w", "--workdir", default="", help="Working directory.")
@click.option("-m", "--memory", default="", help="Memory limit, as 64m.")
@click.option("--memory-swap", default="", help="Limit of memory and swap together; -1 for none.")
@click.option("--cpus", type=float, default=0.0, help="Number of processors.")
@click.option("-c", "--cpu-shares", type=int, default=0, help="Weight, 1024 by default.")
@click.option("--cpuset-cpus", default="", help="Processors it may use, as 0-1.")
@click.option("--pids-limit", type=int, default=0, help="Number of processes.")
@click.option("--ulimit", multiple=True, metavar="TYPE=SOFT[:HARD]", help="A resource limit.")
@click.option("--oom-score-adj", type=click.IntRange(-1000, 1000), default=0, help="For the kernel's killer.")
@click.option("--cap-add", multiple=True, help="Add a capability.")
@click.option("--cap-drop", multiple=True, help="Drop a capability.")
@click.option("--security-opt", multiple=True, help="no-new-privileges, seccomp=unconfined, seccomp=FILE.")
@click.option("--privileged", is_flag=True, help="All capabilities and devices.")
@click.option("--read-only", is_flag=True, help="Mount the root file system read-only.")
@click.option("--stop-signal", default="", help="What `stop` sends.")
@click.option("--stop-timeout", type=float, default=10.0, show_default=True, help="Before it is killed.")
@click.option("--log-opt", multiple=True, metavar="max-size=SIZE", help="When the log begins anew.")
@click.argument("image")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
def command(**options: Any) -> int:
    """Run a command in a new container.

    Exit codes are docker's: the container's own, 125 it could not be run, 126 the command cannot be
    executed, 127 it was not found.
    """
    from podling.runtime.byhand.errors import HandError
    from podling.runtime.images.errors import ImageError

    try:
        with opened() as hand:
            return asyncio.run(_run(hand, options))
    except HandError as err:
        raise Refused(str(err), err.exit_code) from err
    except ImageError as err:
        raise Refused(str(err), 125) from err


async def _run(hand: Hand, options: dict[str, Any]) -> int:
    from podling.runtime.byhand.create import create

    wanted = _wanted(options)
    await ensure_image(hand, wanted.image)
    if options["pod"]:
        wanted = await _in_pod(hand, wanted, options["pod"])
    held = await create(hand, wanted)
    if options["detach"]:
        await _start(hand, held)
        click.echo(held.id)
        return 0
    return await _foreground(hand, held, wanted)


async def _in_pod(hand: Hand, wanted: Wanted, name: str) -> Wanted:
    """`--pod NAME`, or `--pod new:NAME`, whose ports are then the pod's."""
    from podling.runtime.byhand import pod

    if name.startswith("new:"):
        asked = pod.PodWanted(name=name.removeprefix("new:"), ports=wanted.ports)
        name, wanted = (await pod.create(hand, asked)).id, replace(wanted, ports=[])
    return pod.member(await pod.running(hand, name), wanted)


async def _start(hand: Hand, held: Held, attach: Any = None) -> None:
    """A container that cannot start and was to be removed at its end is removed."""
    from podling.runtime.byhand.errors import HandError
    from podling.runtime.byhand.remove import remove
    from podling.runtime.byhand.start import start

    try:
        async with hand.lock(held.id):
            await start(hand, held, attach=attach)
    except HandError:
        if held.settings.auto_remove:
            await remove(hand, held.id)
        raise


async def _foreground(hand: Hand, held: Held, wanted: Wanted) -> int:
    from podling.cli.streams import Detached, pump, raw_terminal
    from podling.runtime.attach import Attachment, connect
    from podling.runtime.byhand.hand import client_lock

    attached: list[Attachment] = []

    async def attach(held: Held) -> None:
        bundle = hand.paths.bundle(held.id)
        connection = await connect(bundle)
        streams = {"stdin": wanted.stdin, "stdout": True, "stderr": not wanted.tty}
        attached.append(Attachment(held.container, bundle, connection, **streams))

    async with hand.lock(client_lock(held.id), shared=True):
        await _start(hand, held, attach)
        loop = asyncio.get_running_loop()
        process = held.record.process
        for name in PASSED_ON if process else ():
            number = getattr(signal, name)
            loop.add_signal_handler(number, _pass_on, held, number)
        with raw_terminal(wanted.tty and wanted.stdin):
            try:
                await pump(attached[0], stdin=wanted.stdin, terminal=wanted.tty)
            except Detached:
                return 0
            code = await hand.exit_code(held.id)
    await _settled(hand, held.id)
    return 255 if code is None else code


def _pass_on(held: Held, number: int) -> None:
    if held.alive and held.record.process is not None:
        os.kill(held.record.process.pid, number)


async def _settled(hand: Hand, container_id: str) -> None:
    """So that what comes after us sees the end's effects: no address, no container after `--rm`."""
    from podling.runtime.byhand.errors import NoSuchContainerError
    from podling.runtime.byhand.remove import remove_ended
    from podling.runtime.byhand.settle import settle

    with suppress(NoSuchContainerError):  # conmon's exit command was faster
        async with hand.lock(container_id):
            held = hand.load(container_id)
            await settle(hand, held)
        if held.settings.auto_remove:
            await remove_ended(hand, container_id)


async def ensure_image(hand: Hand, name: str) -> None:
    if hand.core.images.resolve(name) is None:
        click.echo(f"Unable to find image {name!r} locally", err=True)
        await pull_image(hand, name)


async def pull_image(hand: Hand, name: str) -> None:
    """As `podling image pull` does it. Raises `ImageError`."""
    from podling.cli.pull_progress import ProgressView

    view = ProgressView()
    try:
        await hand.core.images.pull(name, use_auth_files=True, report=view)
    finally:
        view.close()


# options


def _wanted(options: dict[str, Any]) -> Wanted:
    from podling.runtime.byhand.create import Wanted

    if options["auto_remove"] and options["restart"] != "no":
        raise Refused("conflicting options: cannot specify both --restart and --rm", 125)
    if options["tty"] and options["interactive"] and not options["detach"] and not sys.stdin.isatty():
        raise Refused("the input device is not a TTY", 1)
    ipc = "" if options["ipc"] in ("private", "shareable") else options["ipc"]
    return Wanted(
        image=options["image"],
        name=options["name"],
        entrypoint=options["entrypoint"],
        command=list(options["command"]),
        env=run_options.environment(options["env"], options["env_file"]),
        mounts=[run_options.mount(text) for text in options["volume"]],
        devices=[run_options.device(text) for text in options["device"]],
        ports=[run_options.port(text) for text in options["publish"]],
        network=run_options.network(options["network"]),
        pid=run_options.mode(options["pid"], "PID"),
        ipc=run_options.mode(ipc, "IPC"),
        hostname=options["hostname"],
        user=options["user"],
        workdir=run_options.directory(options["workdir"]),
        labels=dict(run_options.label(text) for text in options["label"]),
        tty=options["tty"],
        stdin=options["interactive"],
        # With a terminal one may leave (^P ^Q) and come back.
        stdin_once=options["interactive"] and not options["detach"] and not options["tty"],
        auto_remove=options["auto_remove"],
        restart=run_options.restart(options["restart"]),
        context=_context(options),
        resources=_resources(options),
        stop_signal=run_options.stop_signal(options["stop_signal"]),
        stop_timeout_s=options["stop_timeout"],
        extras=run_options.extras(options),
    )


def _context(options: dict[str, Any]) -> cri.LinuxContainerSecurityContext:
    from podling.runtime.cri import messages as cri

    context = cri.LinuxContainerSecurityContext(
        capabilities=cri.Capability(
            add_capabilities=run_options.capabilities("CapAdd", options["cap_add"]),
            drop_capabilities=run_options.capabilities("CapDrop", options["cap_drop"]),
        ),
        privileged=options["privileged"],
        readonly_rootfs=options["read_only"],
    )
    run_options.security(options["security_opt"], context)
    return context


def _resources(options: dict[str, Any]) -> cri.LinuxContainerResources:
    from podling.runtime.cri import messages as cri

    memory = run_options.memory(options["memory"])
    return cri.LinuxContainerResources(
        memory_limit_in_bytes=memory,
        memory_swap_limit_in_bytes=run_options.swap(options["memory_swap"], memory),
        cpu_period=100_000 if options["cpus"] else 0,
        cpu_quota=int(options["cpus"] * 100_000),
        cpu_shares=options["cpu_shares"],
        cpuset_cpus=options["cpuset_cpus"],
        oom_score_adj=options["oom_score_adj"],
    )
