"""Short programs (crun) and long ones (conmon), started as cheaply as the kernel allows.

The event loops' own subprocess support forks, and a fork copies the page tables of a process that holds a
whole agent; `posix_spawn` does not (it runs the child on the parent's memory until exec). Exits are seen
through pidfds. Standard output and error go to one memory file that is read after the end: an error text
needs no pipe, no reader and no wake-up while the program runs.

Processes start in a session of their own, so that a terminal's ^C at the agent does not reach them.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import shlex
import signal
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from podling.linux.pidfd import Process
from podling.linux.posix_spawn import posix_spawn

ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"}
"""All that our helpers get. LC_ALL saves conmon some thirty opened locale files a container."""

OUTPUT_LIMIT = 1 << 20


@dataclass(frozen=True, slots=True)
class Finished:
    argv: Sequence[str]
    exit_code: int
    """128 + N when signal N ended it."""
    output: str
    """Standard output and error, mixed as they came."""

    @property
    def command(self) -> str:
        """The command line, to be pasted into a shell."""
        return shlex.join(self.argv)


def spawn(
    argv: Sequence[str],
    *,
    files: Mapping[int, int] | None = None,
    environment: Mapping[str, str] | None = None,
    cwd: Path | str = "/",
) -> Process:
    """Start a program; `files` maps its descriptors to ours, and 0 to 2 are /dev/null unless given.

    Returns with the program running: its exec has succeeded. Raises OSError (FileNotFoundError: not
    installed).
    """
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    try:
        wanted = {0: null, 1: null, 2: null, **(files or {})}
        # A target number may be in use as a source: go through copies above all of them.
        floor = max(*wanted, *wanted.values()) + 1
        copies = {target: _copy(source, floor) for target, source in wanted.items()}
        try:
            pid = posix_spawn(
                argv[0], argv, {**ENVIRONMENT, **(environment or {})}, files=copies, cwd=os.fspath(cwd)
            )
        finally:
            for fd in copies.values():
                os.close(fd)
    finally:
        os.close(null)
    # Our own child, so the PID is its own until we reap it, even when it has ended already.
    return Process(pid, os.pidfd_open(pid))


async def start(
    argv: Sequence[str],
    *,
    files: Mapping[int, int] | None = None,
    environment: Mapping[str, str] | None = None,
    cwd: Path | str = "/",
) -> Process:
    """`spawn` in a thread: until the child's exec the caller stands still, for a millisecond or so."""
    starting = asyncio.ensure_future(
        asyncio.to_thread(spawn, argv, files=files, environment=environment, cwd=cwd)
    )
    try:
        return await asyncio.shield(starting)
    except asyncio.CancelledError:
        await asyncio.wait([starting])
        if starting.exception() is None:
            process = starting.result()
            process.send(signal.SIGKILL)
            await finish(process, timeout_s=None)
        raise


def _copy(fd: int, floor: int) -> int:
    return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, floor)


class Runner:
    """Runs helpers, not more than `limit` at once."""

    def __init__(self, limit: int) -> None:
        self.slots = asyncio.Semaphore(limit)

    async def run(
        self,
        argv: Sequence[str],
        *,
        timeout_s: float = 60.0,
        capture: bool = True,
        files: Mapping[int, int] | None = None,
    ) -> Finished:
        """Run to the end. TimeoutError when it takes longer, after killing it; cancellation kills it too.

        `capture=False` leaves /dev/null (or `files`) to programs whose children keep their output open.
        """
        if not capture:
            async with self.slots:
                code = await finish(await start(argv, files=files), timeout_s=timeout_s)
                return Finished(argv, code, "")
        output = os.memfd_create("output", os.MFD_CLOEXEC)
        try:
            async with self.slots:
                process = await start(argv, files={1: output, 2: output})
                code = await finish(process, timeout_s=timeout_s)
            return Finished(argv, code, os.pread(output, OUTPUT_LIMIT, 0).decode(errors="replace").strip())
        finally:
            os.close(output)


async def finish(process: Process, *, timeout_s: float | None) -> int:
    """Wait for a child of ours and reap it. Killed when time is up (TimeoutError) or on cancellation."""
    try:
        async with asyncio.timeout(timeout_s):
            await process.ended()
    except BaseException:
        process.send(signal.SIGKILL)
        with suppress(ChildProcessError):
            os.waitpid(process.pid, 0)  # noqa: ASYNC222 - killed: a matter of microseconds
        raise
    else:
        code = process.reap()
        assert code is not None, f"process {process.pid} was reaped by someone else"
        return code
    finally:
        process.close()
