"""Builds the pause program and says where it is.

`setup.py` calls `build` when the package is built, so an installed package carries the binary. From a source
tree, or with a source newer than the binary, `pause_path` compiles it on first use: into the package when
that is writable, else into /var/lib/podling. It is made beside its final name and renamed, so processes may
race for it. This module imports nothing of ours: the package's build runs it by path.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

VERSION = "1.0"
SOURCE = Path(__file__).with_name("pause.c")
STATE_DIR = Path("/var/lib/podling")

FREESTANDING = frozenset({"x86_64", "aarch64"})
"""Architectures pause.c has an entry point for; on others it is linked against the static C library."""

# fmt: off
COMMON_FLAGS = (
    "-std=gnu11", "-Os", "-Wall", "-Wextra", "-static", "-no-pie", "-fno-pie", "-s", "-fno-stack-protector",
    "-fno-asynchronous-unwind-tables", "-Wl,--build-id=none", "-Wl,-z,noexecstack",
)
NO_LIBC_FLAGS = ("-DPAUSE_NO_LIBC", "-ffreestanding", "-nostdlib", "-nostartfiles", "-Wl,-z,noseparate-code")
# fmt: on


class PauseBuildError(RuntimeError):
    """No pause program, and none can be made here. The message says what to install."""


def compiler() -> str | None:
    """`$CC`, else the first C compiler on the path."""
    for name in (os.environ.get("CC"), "cc", "gcc", "clang"):
        if name and (found := shutil.which(name)):
            return found
    return None


def build(target: Path) -> Path:
    """Compile pause.c to `target`, whole or not at all. Raises `PauseBuildError`."""
    cc = compiler()
    if cc is None:
        raise PauseBuildError("cannot build pause: no C compiler found (install gcc, or set CC)")
    flags = [*COMMON_FLAGS, f'-DPAUSE_VERSION="{VERSION}"']
    if platform.machine() in FREESTANDING:
        flags += NO_LIBC_FLAGS
    fd, half_made = tempfile.mkstemp(prefix=".pause-", dir=target.parent)
    os.close(fd)
    try:
        command = [cc, *flags, "-o", half_made, str(SOURCE)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise PauseBuildError(f"cannot build pause: {' '.join(command)}\n{done.stderr.strip()}")
        os.chmod(half_made, 0o755)
        os.rename(half_made, target)
    finally:
        Path(half_made).unlink(missing_ok=True)
    return target


def pause_path() -> Path:
    """The pause program; built first if need be (some 50 ms, once). Raises `PauseBuildError`."""
    candidates = [SOURCE.with_name("pause"), STATE_DIR / f"pause-{VERSION}"]
    for path in candidates:
        if path.exists() and path.stat().st_mtime >= SOURCE.stat().st_mtime:
            return path
    if compiler() is None:
        for path in candidates:  # older than its source by date only, as in a copied tree
            if path.exists():
                return path
    STATE_DIR.mkdir(parents=True, exist_ok=True)
    for path in candidates:
        if os.access(path.parent, os.W_OK):
            return build(path)
    raise PauseBuildError(f"cannot build pause: neither {SOURCE.parent} nor {STATE_DIR} is writable")
