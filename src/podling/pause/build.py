"""The pause program and the one that starts it: how they are built, and where they are."""

from __future__ import annotations

import platform
from pathlib import Path

from podling.linux.cbuild import CProgram

VERSION = "1.0"

FREESTANDING = frozenset({"x86_64", "aarch64"})
"""Architectures pause.c has an entry point for; on others it is linked against the static C library, and
there is no launch."""

# fmt: off
COMMON_FLAGS = (
    "-std=gnu11", "-Os", "-Wall", "-Wextra", "-static", "-no-pie", "-fno-pie", "-s", "-fno-stack-protector",
    "-fno-asynchronous-unwind-tables", "-Wl,--build-id=none", "-Wl,-z,noexecstack",
)
NO_LIBC_FLAGS = ("-DPAUSE_NO_LIBC", "-ffreestanding", "-nostdlib", "-nostartfiles", "-Wl,-z,noseparate-code")
# fmt: on

PAUSE = CProgram(
    name="pause",
    version=VERSION,
    source=Path(__file__).with_name("pause.c"),
    flags=(
        *COMMON_FLAGS,
        f'-DPAUSE_VERSION="{VERSION}"',
        *(NO_LIBC_FLAGS if platform.machine() in FREESTANDING else ()),
    ),
)

LAUNCH = CProgram(
    name="launch",
    version=VERSION,
    source=Path(__file__).with_name("launch.c"),
    flags=(*COMMON_FLAGS, *NO_LIBC_FLAGS),
)


def pause_path() -> Path:
    """The pause program; built first if need be (some 50 ms, once). Raises `BuildError`."""
    return PAUSE.path()


def launch_path() -> Path | None:
    """What makes system calls from a list; None where it is not known how. Raises `BuildError`."""
    return LAUNCH.path() if platform.machine() in FREESTANDING else None
