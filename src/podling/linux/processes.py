"""Which process is meant: a PID alone is reused, a PID with its start time is not."""

from __future__ import annotations

import os
import select
import signal
from functools import cache
from pathlib import Path

import msgspec

PF_EXITING = 0x00000004  # <linux/sched.h>


class ProcessRef(msgspec.Struct, frozen=True):
    """One process of this machine's lifetime."""

    pid: int
    start_time: int
    """Field 22 of /proc/PID/stat: clock ticks since boot."""
    boot_id: str = ""

    @property
    def alive(self) -> bool:
        return self.start_time == start_time(self.pid) and self.boot_id == boot_id()

    @property
    def running(self) -> bool:
        """Alive, and not on its way out."""
        return self.alive and not self.exiting

    @property
    def exiting(self) -> bool:
        """Alive, but on its way out: PID 1 of a namespace waits until all that lived in it is reaped."""
        stat = _stat(self.pid)
        return stat is not None and bool(int(stat[6]) & PF_EXITING)


@cache
def boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def start_time(pid: int) -> int | None:
    """None when there is no such process, or only its zombie."""
    stat = _stat(pid)
    return None if stat is None or stat[0] in "ZX" else int(stat[19])


def _stat(pid: int) -> list[str] | None:
    """The fields of /proc/PID/stat from the third, the state, on."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The command name is in parentheses and may hold anything, closing parentheses too.
    return text[text.rindex(")") + 2 :].split()


def reference(pid: int) -> ProcessRef | None:
    started = start_time(pid)
    return None if started is None else ProcessRef(pid, started, boot_id())


def end(process: ProcessRef, *, grace_s: float) -> bool:
    """SIGTERM, and SIGKILL after `grace_s` seconds (0: at once). True when it is gone, also if it was before.

    Blocks; never signals a process that merely reuses the PID.
    """
    try:
        fd = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return True
    try:
        # Checked while the pidfd is held: from here on the PID cannot change hands unnoticed.
        if not process.alive:
            return True
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        for sig, wait_s in ((signal.SIGTERM, grace_s), (signal.SIGKILL, 10.0)):
            if sig == signal.SIGTERM and not grace_s:
                continue
            try:
                signal.pidfd_send_signal(fd, sig)
            except ProcessLookupError:
                return True
            if poll.poll(wait_s * 1000):
                return True
        return False
    finally:
        os.close(fd)
