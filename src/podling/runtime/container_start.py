"""StartContainer: conmon creates the container through crun, then crun lets its first process go.

A command that cannot be run leaves the container exited with code 128 and reason StartError, as containerd
does; the kubelet shows the message.
"""

from __future__ import annotations

import os
import stat
import time
from pathlib import Path

import msgspec

from podling.linux.pidfd import Process
from podling.linux.processes import ProcessRef, reference
from podling.runtime import container_exit, sandbox_events
from podling.runtime.conmon import ConmonOptions
from podling.runtime.core import Container, Core, to_the_end
from podling.runtime.cri import messages as cri
from podling.runtime.cri.errors import Code, CRIError
from podling.runtime.crun import OCIError
from podling.runtime.images.inroot import open_in_root
from podling.runtime.state import ContainerPhase

START_ERROR_EXIT_CODE = 128


async def start_container(core: Core, request: cri.StartContainerRequest) -> cri.StartContainerResponse:
    container = core.container(request.container_id)
    async with container.lock:
        if container.record.phase is not ContainerPhase.CREATED:
            raise CRIError(
                Code.FAILED_PRECONDITION,
                f"container {container.id!r} is {container.record.phase}: only a created one can start",
            )
        sandbox = core.sandbox(container.record.sandbox_id)
        if not sandbox.ready:
            raise CRIError(Code.FAILED_PRECONDITION, f"sandbox {sandbox.id!r} is not ready")
        with core.timings.phase("container: start", container.id):
            try:
                await to_the_end(_start(core, container))
            except (OCIError, OSError, TimeoutError) as err:
                raise await _failed(core, container, err) from err
    kind = cri.ContainerEventType.CONTAINER_STARTED_EVENT
    sandbox_events.publish(core, container.record.sandbox_id, container.id, kind)
    return cri.StartContainerResponse()


async def _start(core: Core, container: Container) -> None:
    record = container.record
    # Not written down before it runs: conmon leaves its PID and crun its state, by which `recovery` knows
    # that a created container was being started.
    record.phase = ContainerPhase.STARTING
    with core.timings.phase("container: conmon", container.id):
        started = await core.conmon.create(
            ConmonOptions(
                container_id=record.id,
                name=record.name,
                bundle=core.paths.bundle(record.id),
                exits=core.paths.exits,
                log_path=record.log_path,
                terminal=record.config.tty,
                stdin=record.config.stdin,
                stdin_once=record.config.stdin_once,
                # Images stay also while no agent runs: other nodes, and people, collect from the same store.
                kept=tuple(hold.fd for hold in container.holds),
            )
        )
    container.conmon = started.conmon
    record.conmon = reference(started.conmon.pid)
    record.process = reference(started.pid)
    container.process = _open(record.process)
    with core.timings.phase("container: crun start", container.id):
        await core.crun.start(record.id, hooks=record.hooks)
    record.phase = ContainerPhase.RUNNING
    record.started_at = time.time_ns()
    core.records.save_container(record)
    container_exit.watch(core, container)


def _open(ref: ProcessRef | None) -> Process | None:
    return Process.open(ref.pid, ref.start_time) if ref else None


async def _failed(core: Core, container: Container, err: Exception) -> CRIError:
    """Clean up; the container stays, exited, to be looked at and removed."""
    record = container.record
    text = explain(core.paths.bundle(record.id), core.paths.rootfs(record.id)) or str(err)
    message = f"OCI runtime create failed: unable to start container process: {text}"
    await core.forget(record.id, record.cgroup)
    if container.conmon is not None:
        await container.conmon.ended()
        container.conmon.reap()
    now = time.time_ns()
    record.started_at = record.started_at or now
    code = START_ERROR_EXIT_CODE
    container_exit.finish(
        core, container, exit_code=code, finished_at=now, reason="StartError", message=message
    )
    return CRIError(Code.UNKNOWN, f'failed to start container "{record.id}": {message}')


def explain(bundle: Path, rootfs: Path) -> str:
    """Why the command cannot be run, in the words of runc that users know; empty when the command is fine.

    Looked up rather than read from the runtime's text: each runtime has its own.
    """
    try:
        process = msgspec.json.decode((bundle / "config.json").read_bytes())["process"]
    except (OSError, msgspec.MsgspecError, KeyError):
        return ""
    return explain_command(rootfs, process["args"][0], process["env"], process["cwd"])


def explain_command(rootfs: Path, command: str, env: list[str], cwd: str) -> str:
    try:
        root = os.open(rootfs, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return ""
    try:
        if "/" in command:
            problem = _problem(root, os.path.join(cwd, command))
            return f'exec: "{command}": {problem}' if problem else ""
        path = next((entry[5:] for entry in env if entry.startswith("PATH=")), "")
        problems = [_problem(root, os.path.join(folder, command)) for folder in path.split(":")]
        return "" if "" in problems else f'exec: "{command}": executable file not found in $PATH'
    finally:
        os.close(root)


def _problem(root: int, path: str) -> str:
    """What keeps a file from being executed, or nothing."""
    try:
        fd = open_in_root(root, path, os.O_PATH)
    except OSError as err:
        return f"stat {path}: {os.strerror(err.errno or 0).lower()}"
    try:
        mode = os.fstat(fd).st_mode
    finally:
        os.close(fd)
    if stat.S_ISDIR(mode):
        return "is a directory"
    return "" if mode & 0o111 else "permission denied"
