"""Death at a chosen step: a countdown over what a process asks of the kernel.

Every call of C that may change something outside the process is a step: those of `os`, of files and sockets
(seen by the interpreter's profiling hook, in every thread), and those made through ctypes. Dying before step
K for K = 0, 1, 2, ... visits every state that a `kill -9` can leave behind, helper programs aside.
"""

from __future__ import annotations

import _thread
import os
import signal
import sys
import threading
from types import FrameType, ModuleType
from typing import Any

from podling.linux import posix_spawn, syscalls

# fmt: off
STEPS = frozenset((
    "mkdir", "rmdir", "unlink", "remove", "rename", "replace", "link", "symlink", "mkfifo", "mknod", "chmod",
    "fchmod", "chown", "utime", "truncate", "open", "write", "__exit__", "close", "send", "sendto", "sendmsg",
    "sendall", "connect", "bind", "ioctl", "flock", "fsync", "kill", "pidfd_send_signal", "waitid", "waitpid",
    "memfd_create", "pipe2", "pidfd_open", "start_new_thread",
))
# fmt: on


class Countdown:
    """One for a process: `install` early, `arm` when the time has come."""

    def __init__(self) -> None:
        self._left = -1
        self.names: list[str] = []
        """The steps since `arm`, so that a report can say where it died."""

    def install(self) -> None:
        """For threads that start from now on, and this one."""
        threading.setprofile(self._profile)
        sys.setprofile(self._profile)
        start = _thread.start_new_thread

        def start_profiled(body: Any, args: tuple[Any, ...], *more: Any) -> int:
            def profiled(*args: Any, **named: Any) -> None:
                sys.setprofile(self._profile)
                body(*args, **named)

            return start(profiled, args, *more)

        _thread.start_new_thread = start_profiled  # type: ignore[assignment]
        syscalls._libc = _Counted(syscalls._libc, self)  # type: ignore[assignment]
        posix_spawn._libc = _Counted(posix_spawn._libc, self)  # type: ignore[assignment]

    def arm(self, steps: int) -> None:
        """Die before the step after so many."""
        self.names.clear()
        self._left = steps

    def disarm(self) -> int:
        """How many steps were made."""
        self._left = -1
        return len(self.names)

    def step(self, name: str) -> None:
        if self._left < 0:
            return
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        self._left -= 1
        self.names.append(name)

    def _profile(self, frame: FrameType, event: str, call: Any) -> None:
        if event == "c_call" and self._left >= 0 and call.__name__ in STEPS:
            owner = call.__self__  # a module, or the object whose method it is
            # Generators and locks have methods of the same names.
            if isinstance(owner, ModuleType) or type(owner).__module__ in ("_io", "_socket"):
                self.step(call.__name__)


class _Counted:
    """A C library whose calls are steps."""

    def __init__(self, library: Any, countdown: Countdown) -> None:
        self._library = library
        self._countdown = countdown

    def __getattr__(self, name: str) -> Any:
        function = getattr(self._library, name)
        if "_init" in name or "_destroy" in name or "_add" in name or "_set" in name or "sig" in name:
            return function  # posix_spawn's preparations: they change nothing

        def counted(*args: Any) -> Any:
            self._countdown.step(name)
            return function(*args)

        return counted
