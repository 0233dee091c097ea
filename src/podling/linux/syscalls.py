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
