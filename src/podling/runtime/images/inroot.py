"""Paths that cannot leave a directory: `openat2` with RESOLVE_IN_ROOT, and directory creation on top of it.

An image layer is written by a stranger. A symlink planted by one entry must not make the next entry land
outside the root file system, not even in a race, so every path is resolved by the kernel with the image's
root as `/` (`man 2 openat2`, "RESOLVE_IN_ROOT"; Linux 5.6 and newer). Rejected: resolving symlinks in user
space and checking the result, which needs the tree to stand still.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import struct

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


def syncfs(fd: int) -> None:
    """Write the file system behind `fd` to disk (`man 2 syncfs`)."""
    if _libc.syncfs(ctypes.c_int(fd)) != 0:
        err = ctypes.get_errno()
        raise OSError(err, f"syncfs: {os.strerror(err)}")
