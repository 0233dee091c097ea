"""A list of system calls for `pause/launch.c`: written down here, made there, each with a name for errors.

    script = Script("x86_64")
    script.call("sethostname", "web-0", 5)
    script.write_file("/proc/self/oom_score_adj", "-998")
    script.fork(CLONE_NEWNS | CLONE_NEWUTS)
    script.call("execve", "/pause", ["/pause"], [])
    pid = await run(runner, launch, script)

Strings, bytes and lists of strings among the arguments become addresses: the launcher maps the script at one
known place. Numbers of system calls and constants are those of the kernel's headers.
"""

from __future__ import annotations

import os
import platform
import signal
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from podling.runtime.spawn import Runner

# launch.c
ADDRESS, BYTES, SCRIPT_FD = 0x20000000, 1 << 16, 3
KEEPS_RESULT, MAY_FAIL, FORKS = 1 << 8, 1 << 9, 1 << 10
HEADER, STEP = struct.Struct("=4q"), struct.Struct("=8q")

# <asm/unistd.h>
NUMBERS = {
    "x86_64": {
        "write": 1, "close": 3, "clone": 56, "execve": 59, "chdir": 80, "setsid": 112, "setgroups": 116,
        "setresuid": 117, "setresgid": 119, "capset": 126, "pivot_root": 155, "prctl": 157, "mount": 165,
        "umount2": 166, "sethostname": 170, "keyctl": 250, "openat": 257, "setns": 308, "seccomp": 317,
        "close_range": 436,
    },
    "aarch64": {
        "write": 64, "close": 57, "clone": 220, "execve": 221, "chdir": 49, "setsid": 157, "setgroups": 159,
        "setresuid": 147, "setresgid": 149, "capset": 91, "pivot_root": 41, "prctl": 167, "mount": 40,
        "umount2": 39, "sethostname": 161, "keyctl": 219, "openat": 56, "setns": 268, "seccomp": 277,
        "close_range": 436,
    },
}  # fmt: skip

AT_FDCWD = -100
CLONE_VFORK = 0x00004000


class Result:
    """An argument: what the last call that kept its result has returned."""


RESULT = Result()


@dataclass(frozen=True, slots=True)
class Filter:
    """An argument: `struct sock_fprog` of a filter program (<linux/filter.h>)."""

    program: bytes


Argument = int | str | bytes | Sequence[str] | Result | Filter | None


class ScriptError(Exception):
    """A step failed: which, on what, and why."""


class Script:
    def __init__(self, machine: str | None = None) -> None:
        """Raises KeyError for a machine whose system calls are not known."""
        self._numbers = NUMBERS[machine or platform.machine()]
        self._steps: list[tuple[int, int, list[Argument]]] = []
        self.names: list[str] = []
        """Of the steps, for people."""

    def call(self, name: str, *arguments: Argument, flags: int = 0) -> None:
        self._steps.append((self._numbers[name], flags, list(arguments)))
        self.names.append(f"{name}({', '.join(map(_shown, arguments))})")

    def open(self, path: str, flags: int) -> None:
        """Its descriptor is `RESULT`."""
        self.call("openat", AT_FDCWD, path, flags | os.O_CLOEXEC, 0, flags=KEEPS_RESULT)

    def write_file(self, path: str, text: str) -> None:
        """Into a file of the kernel's; never makes one."""
        self.open(path, os.O_WRONLY)
        self.call("write", RESULT, text, len(text.encode()))
        self.call("close", RESULT)

    def fork(self, flags: int) -> None:
        """The steps from here on are the child's, in new namespaces (`man 2 clone`)."""
        self.call("clone", flags | CLONE_VFORK | signal.SIGCHLD, 0, 0, 0, 0, flags=FORKS)

    def encode(self) -> bytes:
        """`struct script` and all it points to. Raises ValueError when it is too long."""
        data = bytearray()
        start = ADDRESS + HEADER.size + STEP.size * len(self._steps)

        def place(content: bytes) -> int:
            data.extend(bytes(-len(data) % 8))
            at = start + len(data)
            data.extend(content)
            return at

        def word(argument: Argument) -> int:
            if argument is None or isinstance(argument, Result):
                return 0
            if isinstance(argument, int):
                return argument
            if isinstance(argument, bytes):
                return place(argument)
            if isinstance(argument, str):
                return place(os.fsencode(argument) + b"\0")
            if isinstance(argument, Filter):
                return place(struct.pack("=H6xq", len(argument.program) // 8, place(argument.program)))
            strings = [place(os.fsencode(text) + b"\0") for text in argument]
            return place(struct.pack(f"={len(strings) + 1}q", *strings, 0))

        steps = bytearray()
        for number, flags, arguments in self._steps:
            taken = sum(1 << n for n, argument in enumerate(arguments) if isinstance(argument, Result))
            words = [word(argument) for argument in arguments]
            steps += STEP.pack(number, flags | taken, *words, *[0] * (6 - len(words)))
        whole = HEADER.pack(len(self._steps), 0, 0, 0) + steps + data
        if len(whole) > BYTES:
            raise ValueError(f"a script of {len(whole)} bytes: only {BYTES} fit")
        return whole


def _shown(argument: Argument) -> str:
    if isinstance(argument, Result):
        return "fd"
    if isinstance(argument, bytes):
        return f"<{len(argument)} bytes>"
    if isinstance(argument, Filter):
        return "<filter>"
    return "NULL" if argument is None else repr(argument)


async def run(runner: Runner, launch: Path, script: Script) -> int:
    """Start it, and return the PID of what it has forked: it has executed its program, and is not our child.

    Raises `ScriptError`, OSError, TimeoutError.
    """
    memory = os.memfd_create("script", os.MFD_CLOEXEC)
    try:
        os.ftruncate(memory, BYTES)
        os.pwrite(memory, script.encode(), 0)
        done = await runner.run([str(launch)], capture=False, files={SCRIPT_FD: memory})
        child: int
        _, child, failed, error = HEADER.unpack(os.pread(memory, HEADER.size, 0))
        if failed:
            raise ScriptError(f"{script.names[failed - 1]}: {os.strerror(-error)}")
        if done.exit_code != 0 or child <= 0:
            raise ScriptError(f"{launch} ended with code {done.exit_code}")
        return child
    finally:
        os.close(memory)
