"""Starting a further process in a running container, for ExecSync and for streams.

`crun exec` stays beside the process, hands over our standard streams (or sends us the terminal it makes) and
ends with its exit code. The process gets the container's own environment, user and rights.

Each exec has a folder in the container's bundle, locked by whoever waits for it (agent or command line). When
that one has died nobody will read the answer or keep the time limit: the next start of the runtime ends it.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from podling.linux.inotify import IN_CLOSE_WRITE, IN_MOVED_TO, Inotify
from podling.linux.pidfd import Process
from podling.runtime import names
from podling.runtime.container_start import explain_command
from podling.runtime.core import Container, Core
from podling.runtime.cri.errors import Code, CRIError
from podling.runtime.spawn import start
from podling.runtime.state import encode_json, remove_tree

PREFIX = "exec-"
PID_FILE_TIMEOUT_S = 5.0


@dataclass(slots=True, kw_only=True)
class Exec:
    """A running `crun exec`. `close` when it has ended."""

    crun: Process
    folder: Path
    """Its own, below the bundle: process.json, pid."""
    lock: int
    """A descriptor of the folder that holds its lock."""
    log: Path

    @property
    def pid_file(self) -> Path:
        return self.folder / "pid"

    async def end(self) -> None:
        """Kill the process in the container, and wait until crun has followed it. Fine when it has ended."""
        if self.crun.over:
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(PID_FILE_TIMEOUT_S):
                await self._started()
        process = _opened(self.pid_file)
        if process is not None:
            process.send(signal.SIGKILL)
            process.close()
        else:
            self.crun.send(signal.SIGKILL)
        await self.crun.ended()

    async def _started(self) -> None:
        """Until crun has told the PID or ended: killed any earlier, it would leave the process behind."""
        with Inotify(self.folder, IN_CLOSE_WRITE | IN_MOVED_TO) as changes:
            ended = asyncio.ensure_future(self.crun.ended())
            try:
                while not ended.done() and _read_pid(self.pid_file) is None:
                    changed = asyncio.ensure_future(changes.changed())
                    try:
                        await asyncio.wait({changed, ended}, return_when=asyncio.FIRST_COMPLETED)
                    finally:
                        changed.cancel()
                        await asyncio.wait({changed})
            finally:
                ended.cancel()

    def close(self) -> None:
        self.crun.close()
        remove_tree(self.folder)
        fd, self.lock = self.lock, -1
        if fd >= 0:
            os.close(fd)


async def start_exec(
    core: Core,
    container: Container,
    command: Sequence[str],
    *,
    files: Mapping[int, int],
    console_socket: Path | None = None,
    change: Mapping[str, Any] | None = None,
    detach: bool = False,
) -> Exec:
    """`change` replaces members of the OCI process; with `detach` crun ends when the process runs.

    Raises `CRIError` FAILED_PRECONDITION (not running), INVALID_ARGUMENT (no command), UNKNOWN."""
    if not command:
        raise CRIError(Code.INVALID_ARGUMENT, f"exec in container {container.id!r}: no command")
    if not container.running:
        raise CRIError(Code.FAILED_PRECONDITION, f"container {container.id!r} is not running")
    bundle = core.paths.bundle(container.id)
    process = msgspec.json.decode((bundle / "config.json").read_bytes())["process"]
    process |= {**(change or {}), "args": list(command), "terminal": console_socket is not None}
    # An exec is not protected from the kernel's killer as pause is; it has the container's score already.
    process.pop("oomScoreAdj", None)
    if console_socket is not None and not any(e.startswith("TERM=") for e in process["env"]):
        process["env"].append("TERM=xterm")
    problem = explain_command(core.paths.rootfs(container.id), command[0], process["env"], process["cwd"])
    if problem:
        # Told before it is tried: afterwards crun's own failure looks like the command's.
        raise CRIError(
            Code.UNKNOWN,
            f'failed to exec in container "{container.id}": OCI runtime exec failed: exec failed: '
            f"unable to start container process: {problem}",
        )
    folder = bundle / f"{PREFIX}{names.new_id()[:12]}"
    folder.mkdir(mode=0o700)
    lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        (folder / "process.json").write_bytes(encode_json(process))
        log = folder / "crun.log"
        extra = [f"--console-socket={console_socket}"] if console_socket else []
        extra += ["--detach"] if detach else []
        argv = core.crun.exec_argv(container.id, folder / "process.json", folder / "pid", extra)
        # Errors of crun itself go to a file: on standard error they would look like the command's words.
        argv.insert(1, f"--log={log}")
        return Exec(crun=await start(argv, files=files), folder=folder, lock=lock, log=log)
    except BaseException:
        remove_tree(folder)
        os.close(lock)
        raise


def failure(running: Exec) -> str:
    """What crun said when it could not start the process; empty when it could."""
    if running.pid_file.exists():
        return ""
    return running.log.read_text(errors="replace").strip() if running.log.exists() else ""


def abandoned(bundle: Path) -> list[Path]:
    """Folders of execs that nobody waits for any more."""
    found = []
    for folder in bundle.glob(f"{PREFIX}*"):
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            found.append(folder)
        except BlockingIOError:
            continue
        finally:
            os.close(fd)
    return found


def end_abandoned(folder: Path, inside: Sequence[int]) -> None:
    """Kill its process, if it is one of those in the container's cgroup, and forget it. Twice is fine.

    Call when its `crun exec` is gone: that would go on and start one.
    """
    pid = _read_pid(folder / "pid")
    if pid is not None and pid in inside:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    remove_tree(folder)


def _opened(pid_file: Path) -> Process | None:
    pid = _read_pid(pid_file)
    return Process.open(pid) if pid is not None else None


def _read_pid(pid_file: Path) -> int | None:
    try:
        return int(pid_file.read_text())
    except (FileNotFoundError, ValueError):
        return None


def memory_file(name: str) -> int:
    return os.memfd_create(name, os.MFD_CLOEXEC)
