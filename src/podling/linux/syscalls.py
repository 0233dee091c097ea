"""The few system calls Python 3.11 does not offer: unshare, setns, mount, umount2, pidfd helpers.

Constants carry their names from the kernel headers (`<sched.h>`, `<sys/mount.h>`). Each wrapper turns
errno into an `OSError` that names the call and its object, as `os` does.
"""

from __future__ import annotations

import ctypes
import os

TYPE_CHECKING = False
if TYPE_CHECKING:  # CNI plugins run as programs import this module, and pathlib would cost each run 9 ms
    from pathlib import Path

CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

MS_RDONLY = 1
MS_NOSUID = 2
MS_NODEV = 4
MS_NOEXEC = 8
MS_REMOUNT = 32
MS_BIND = 4096
MS_MOVE = 8192
MS_REC = 16384
MS_PRIVATE = 1 << 18
MS_SLAVE = 1 << 19
MS_SHARED = 1 << 20
MS_RELATIME = 1 << 21

SYS_OPEN_TREE, SYS_MOVE_MOUNT, SYS_MOUNT_SETATTR = 428, 429, 442
"""The same on every architecture (`include/uapi/asm-generic/unistd.h`); not every libc wraps them."""
OPEN_TREE_CLONE = 1
OPEN_TREE_CLOEXEC = 0o2000000
AT_FDCWD = -100
AT_EMPTY_PATH = 0x1000
AT_RECURSIVE = 0x8000
MOVE_MOUNT_F_EMPTY_PATH = 4
MOUNT_ATTR_IDMAP = 0x00100000

MNT_DETACH = 2
UMOUNT_NOFOLLOW = 8

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str, path: str | None = None) -> None:
    if result != 0:
        err = ctypes.get_errno()
        raise OSError(err, f"{what}: {os.strerror(err)}", path)


def unshare(flags: int) -> None:
    """Move the calling thread into new namespaces (`man 2 unshare`)."""
    _check(_libc.unshare(ctypes.c_int(flags)), f"unshare({flags:#x})")


def setns(fd: int, nstype: int = 0) -> None:
    """Move the calling thread into the namespace behind `fd` (`man 2 setns`).

    Never call this on a thread that will be reused: see `podling.linux.netns.run_in_netns`.
    """
    _check(_libc.setns(ctypes.c_int(fd), ctypes.c_int(nstype)), f"setns(fd {fd})")


def mount(
    source: str | Path, target: str | Path, fstype: str = "", flags: int = 0, data: str | None = None
) -> None:
    """`man 2 mount`."""
    _check(
        _libc.mount(
            os.fsencode(source),
            os.fsencode(target),
            fstype.encode() or None,
            ctypes.c_ulong(flags),
            data.encode() if data is not None else None,
        ),
        f"mount {fstype or source}" + (f" ({data})" if data else ""),
        str(target),
    )


def umount(target: str | Path, flags: int = 0) -> None:
    """`man 2 umount2`."""
    _check(_libc.umount2(os.fsencode(target), ctypes.c_int(flags)), "umount", str(target))


def open_tree(path: str | Path, flags: int) -> int:
    """`man 2 open_tree`: with OPEN_TREE_CLONE a copy of the mount at `path`, attached nowhere."""
    fd: int = _libc.syscall(
        ctypes.c_long(SYS_OPEN_TREE), ctypes.c_int(AT_FDCWD), os.fsencode(path), ctypes.c_uint(flags)
    )
    _check(0 if fd >= 0 else -1, "open_tree", str(path))
    return fd


def mount_setattr(fd: int, *, attr_set: int, userns_fd: int = 0, recursive: bool = False) -> None:
    """`man 2 mount_setattr`, on the mount behind `fd`."""
    attributes = (ctypes.c_uint64 * 4)(attr_set, 0, 0, userns_fd)
    flags = AT_EMPTY_PATH | (AT_RECURSIVE if recursive else 0)
    result = _libc.syscall(
        ctypes.c_long(SYS_MOUNT_SETATTR),
        ctypes.c_int(fd),
        b"",
        ctypes.c_uint(flags),
        attributes,
        ctypes.c_size_t(ctypes.sizeof(attributes)),
    )
    _check(result, f"mount_setattr(fd {fd})")


def move_mount(fd: int, target: str | Path) -> None:
    """`man 2 move_mount`: attach a mount that `open_tree` gave."""
    result = _libc.syscall(
        ctypes.c_long(SYS_MOVE_MOUNT),
        ctypes.c_int(fd),
        b"",
        ctypes.c_int(AT_FDCWD),
        os.fsencode(target),
        ctypes.c_uint(MOVE_MOUNT_F_EMPTY_PATH),
    )
    _check(result, "move_mount", str(target))
