"""Paths that cannot leave a directory: `openat2` with RESOLVE_IN_ROOT, and directory creation on top of it.

An image layer is written by a stranger. A symlink planted by one entry must not make the next entry land
outside the root file system, not even in a race, so every path is resolved by the kernel with the image's
root as `/` (`man 2 openat2`, "RESOLVE_IN_ROOT"; Linux 5.6 and newer). Rejected: resolving symlinks in user
space and checking the result, which needs the tree to stand still.
"""

from __future__ import annotations

import ctypes
import errno
import itertools
import os
import stat
import struct
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

SYS_OPENAT2 = 437  # the same on every architecture (include/uapi/asm-generic/unistd.h)
RESOLVE_NO_MAGICLINKS = 0x02  # include/uapi/linux/openat2.h
RESOLVE_IN_ROOT = 0x10
MAX_SYMLINKS = 40  # the kernel's own limit (include/linux/namei.h, MAXSYMLINKS)

_libc = ctypes.CDLL(None, use_errno=True)


def open_in_root(root_fd: int, path: str, flags: int) -> int:
    """Open `path` as if `root_fd` were `/`: absolute symlinks and `..` stay inside. Raises OSError."""
    how = struct.pack("=QQQ", flags | os.O_CLOEXEC, 0, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS)
    # EAGAIN means that a rename raced with a `..` lookup; the manual page asks to try again.
    for _ in range(8):
        fd: int = _libc.syscall(
            ctypes.c_long(SYS_OPENAT2),
            ctypes.c_int(root_fd),
            os.fsencode(path or "."),
            how,
            ctypes.c_size_t(len(how)),
        )
        if fd >= 0:
            return fd
        if ctypes.get_errno() != errno.EAGAIN:
            break
    err = ctypes.get_errno()
    raise OSError(err, os.strerror(err), path)


def open_dir(root_fd: int, path: str) -> int:
    """A descriptor of the directory `path` inside the root, following symlinks inside the root."""
    return open_in_root(root_fd, path, os.O_PATH | os.O_DIRECTORY)


def ensure_dir(root_fd: int, path: str, depth: int = 0) -> int:
    """Like `open_dir`, and makes what is missing (mode 0755), also behind a dangling symlink."""
    try:
        return open_dir(root_fd, path)
    except FileNotFoundError:
        if depth > MAX_SYMLINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path) from None
    head, _, name = path.rpartition("/")
    parent = ensure_dir(root_fd, head, depth)
    if name in ("", ".", ".."):  # of a symlink's target; what it steps back from is there now
        os.close(parent)
        return open_dir(root_fd, path)
    try:
        os.mkdir(name, 0o755, dir_fd=parent)
    except FileExistsError:
        # A symlink whose target does not exist yet, as /var/lock -> /run/lock in a layer without /run.
        if not stat.S_ISLNK(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
            raise
        target = os.readlink(name, dir_fd=parent)
        joined = target.lstrip("/") if target.startswith("/") else f"{head}/{target}".lstrip("/")
        return ensure_dir(root_fd, joined.rstrip("/"), depth + 1)
    finally:
        os.close(parent)
    return open_dir(root_fd, path)


def remove_tree(parent_fd: int, name: str) -> None:
    """Remove the directory `name` and all below it; nothing in it is followed. Raises OSError.

    Not `shutil.rmtree`, which recurses and holds a descriptor for each level: a stranger may nest
    directories deeper than either allows. What lies deeper is moved up beside the rest instead.
    """
    top = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent_fd)
    moved = itertools.count()
    try:
        while entries := _entries(top):
            for child, is_dir in entries:
                if is_dir:
                    _lift(top, child, moved)
                else:
                    os.unlink(child, dir_fd=top)
    finally:
        os.close(top)
    os.rmdir(name, dir_fd=parent_fd)


def _lift(top: int, directory: str, moved: Iterator[int]) -> None:
    """Empty a directory of `top` into `top`, and remove it."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=top)
    try:
        for child, is_dir in _entries(fd):
            while is_dir:
                try:
                    os.rename(child, f".{next(moved)}", src_dir_fd=fd, dst_dir_fd=top)
                    break
                except (FileExistsError, NotADirectoryError):
                    continue  # the name is taken
                except OSError as err:
                    if err.errno != errno.ENOTEMPTY:
                        raise
            else:
                os.unlink(child, dir_fd=fd)
    finally:
        os.close(fd)
    os.rmdir(directory, dir_fd=top)


def _entries(fd: int) -> list[tuple[str, bool]]:
    with os.scandir(fd) as entries:
        return [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]


def discard_tree(path: Path) -> None:
    """`remove_tree` for cleaning up: what cannot be removed, or is gone already, is left to the next who
    sweeps."""
    with suppress(OSError):
        parent = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            remove_tree(parent, path.name)
        finally:
            os.close(parent)


def syncfs(fd: int) -> None:
    """Write the file system behind `fd` to disk (`man 2 syncfs`)."""
    if _libc.syncfs(ctypes.c_int(fd)) != 0:
        err = ctypes.get_errno()
        raise OSError(err, f"syncfs: {os.strerror(err)}")
