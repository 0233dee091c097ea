"""Processes by pidfd: signal without hitting a successor of the PID, wait without being the parent.

A pidfd is readable once its process has ended (`man 2 pidfd_open`), so one `loop.add_reader` replaces
SIGCHLD handlers and polling, and works for processes that an earlier life of this program started.
"""

from __future__ import annotations

import asyncio
import os
import select
import signal
from collections.abc import Callable
from pathlib import Path

from podling.linux.processes import start_time


class Process:
    """One process, its own child or not, held by a pidfd until `close`.

    Not thread-safe; `ended` needs a running event loop, the rest does not.
    """

    __slots__ = ("_callbacks", "_fd", "_loop", "_over", "pid")

    def __init__(self, pid: int, fd: int) -> None:
        self.pid = pid
        self._fd = fd
        self._over = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._callbacks: list[Callable[[], None]] = []

    @classmethod
    def open(cls, pid: int, started: int | None = None) -> Process | None:
        """None when there is no such process, or only its zombie, or when the one that has the PID now
        did not start at clock tick `started` (`podling.linux.processes.start_time`)."""
        try:
            fd = os.pidfd_open(pid)
        except ProcessLookupError:
            return None
        # Looked at while the pidfd is held: the PID cannot change hands in between.
        now = start_time(pid)
        if now is None or (started is not None and now != started):
            os.close(fd)
            return None
        return cls(pid, fd)

    @property
    def fd(self) -> int:
        return self._fd

    @property
    def over(self) -> bool:
        """Whether it has ended; asks the kernel until it has."""
        if not self._over and self._fd >= 0:
            poll = select.poll()
            poll.register(self._fd, select.POLLIN)
            self._over = bool(poll.poll(0))
        return self._over

    def send(self, number: int) -> bool:
        """Signal it. False when it is gone already."""
        if self._fd < 0:
            return False
        try:
            signal.pidfd_send_signal(self._fd, number)
        except ProcessLookupError:
            return False
        return True

    def when_over(self, callback: Callable[[], None]) -> None:
        """Call back on the running loop once the process has ended; soon if it has already."""
        loop = asyncio.get_running_loop()
        if self._over or self._fd < 0:
            loop.call_soon(callback)
            return
        self._callbacks.append(callback)
        if self._loop is None:
            self._loop = loop
            loop.add_reader(self._fd, self._ended)

    async def ended(self) -> None:
        """Return when the process has ended. Does not reap."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def wake() -> None:
            if not waiter.done():
                waiter.set_result(None)

        self.when_over(wake)
        await waiter

    def reap(self) -> int | None:
        """Exit status of an ended child of ours (128 + N after signal N); None for other processes."""
        try:
            info = os.waitid(os.P_PIDFD, self._fd, os.WEXITED | os.WNOHANG)
        except ChildProcessError:
            return None
        if info is None:
            return None
        return info.si_status if info.si_code == os.CLD_EXITED else 128 + info.si_status

    def close(self) -> None:
        """Let go of it. Pending callbacks are dropped. Twice is fine."""
        self._unwatch()
        self._callbacks.clear()
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def _unwatch(self) -> None:
        loop, self._loop = self._loop, None
        if loop is not None and not loop.is_closed():
            loop.remove_reader(self._fd)

    def _ended(self) -> None:
        self._over = True
        self._unwatch()
        callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback()

    def __repr__(self) -> str:
        return f"<Process {self.pid}{' over' if self._over else ''}>"


def command_line(pid: int) -> list[str]:
    """The arguments of a process; empty for a kernel thread or one that is gone."""
    try:
        raw = Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return []
    return [word.decode(errors="replace") for word in raw.rstrip(b"\0").split(b"\0")] if raw else []
