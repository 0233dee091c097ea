"""Network namespaces: make, remove and enter them (`man 7 network_namespaces`).

A namespace is kept alive by a bind mount of its `/proc/.../ns/net` file at a path of the caller's choice,
as iproute2 and every container runtime do it. Entering one changes a thread for good, so work inside a
namespace runs on a thread that is started for it and ends with it; no thread that called `setns` is ever
given back. Threads are started with `_thread`: `threading` would add its import and about 50 us a start.

All functions block for well under a millisecond, except `create_netns`, whose `unshare` waits for the
kernel's namespace lock when many are made at once.
"""

from __future__ import annotations

import _socket
import _thread
import errno
import fcntl
import os
import struct

from podling.linux import syscalls
from podling.linux.setns import setns

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from typing import Any, ParamSpec, TypeVar

    P = ParamSpec("P")
    R = TypeVar("R")
    NetNS = Path | str | int  # a path, or a file descriptor that stays the caller's

CLONE_NEWNET = 0x40000000  # <sched.h>; that of `syscalls` would import ctypes
SIOCGIFFLAGS, SIOCSIFFLAGS = 0x8913, 0x8914  # <linux/sockios.h>
IFF_UP = 1

_nsfs: list[int] = []  # asked once: there is one nsfs for the life of a kernel


def create_netns(path: Path | str) -> None:
    """Make a network namespace with `lo` up and pin it at `path` (made, with its parents, when missing).

    Raises `FileExistsError` when the path exists: a namespace is never silently taken over.
    """
    os.makedirs(os.path.dirname(os.fspath(path)) or ".", exist_ok=True)
    os.close(os.open(path, os.O_RDONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o444))
    try:
        _on_own_thread(_unshare_and_pin, os.fspath(path))
    except BaseException:
        remove_netns(path)
        raise


def pin_netns(pid: int, path: Path | str) -> None:
    """Pin the network namespace of a process at `path`. Raises as `create_netns` does."""
    os.makedirs(os.path.dirname(os.fspath(path)) or ".", exist_ok=True)
    os.close(os.open(path, os.O_RDONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o444))
    try:
        # What of it is not up when a plugin comes would be missed by the pod for good.
        run_in_netns(f"/proc/{pid}/ns/net", _bring_lo_up)
        syscalls.mount(f"/proc/{pid}/ns/net", path, flags=syscalls.MS_BIND)
    except BaseException:
        remove_netns(path)
        raise


def _unshare_and_pin(path: str) -> None:
    syscalls.unshare(CLONE_NEWNET)
    _bring_lo_up()  # before the mount, so that whoever finds the path finds a finished namespace
    syscalls.mount("/proc/thread-self/ns/net", path, flags=syscalls.MS_BIND)


def _bring_lo_up() -> None:
    sock = _socket.socket(_socket.AF_INET, _socket.SOCK_DGRAM | _socket.SOCK_CLOEXEC)
    try:
        reply = fcntl.ioctl(sock.fileno(), SIOCGIFFLAGS, struct.pack("16sh22x", b"lo", 0))
        flags = struct.unpack_from("h", reply, 16)[0]
        fcntl.ioctl(sock.fileno(), SIOCSIFFLAGS, struct.pack("16sh22x", b"lo", flags | IFF_UP))
    finally:
        sock.close()


def remove_netns(path: Path | str) -> None:
    """Unpin the namespace at `path`. An absent path, and a path with nothing mounted on it, are success.

    The kernel destroys the namespace, with the veth ends in it, once no process and no descriptor holds it.
    """
    while True:
        try:
            syscalls.umount(path, syscalls.MNT_DETACH | syscalls.UMOUNT_NOFOLLOW)
        except OSError as err:
            if err.errno == errno.ENOENT:
                return
            if err.errno != errno.EINVAL:  # EINVAL: not (or no longer) a mount point
                raise
            break
    try:
        os.unlink(path)
    except FileNotFoundError:
        return


def is_netns(path: Path | str | int) -> bool:
    """Whether `path` is a namespace file and not, say, the empty file a reboot leaves behind."""
    try:
        # Every namespace file is an inode of the one nsfs.
        return os.stat(path).st_dev == nsfs_device()
    except FileNotFoundError:
        return False


def nsfs_device() -> int:
    """The `st_dev` of all namespace files."""
    if not _nsfs:
        _nsfs.append(os.stat("/proc/self/ns/net").st_dev)
    return _nsfs[0]


def run_in_netns(netns: NetNS, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
    """Call `fn` on a new thread inside the namespace, wait for it, and hand on its result or exception.

    `FileNotFoundError` when the path is gone: a missing namespace is an error, not a wish for a new one.
    """

    def inside() -> R:
        _enter(netns)
        return fn(*args, **kwargs)

    return _on_own_thread(inside)


def _enter(netns: NetNS) -> None:
    if isinstance(netns, int):
        setns(netns, CLONE_NEWNET)
        return
    fd = open_netns(netns)
    try:
        setns(fd, CLONE_NEWNET)
    except OSError as err:
        raise OSError(err.errno, f"not a network namespace: {err.strerror}", os.fspath(netns)) from err
    finally:
        os.close(fd)


def open_netns(path: Path | str) -> int:
    """A descriptor of the namespace at `path`, for `Netlink` and messages that name a namespace by fd."""
    return os.open(path, os.O_RDONLY | os.O_CLOEXEC)


def _on_own_thread(fn: Callable[..., R], *args: Any) -> R:
    finished = _thread.allocate_lock()
    finished.acquire()
    box: list[Any] = []

    def body() -> None:
        try:
            box.append(fn(*args))
        except BaseException as err:
            box.extend((None, err))
        finally:
            finished.release()

    _thread.start_new_thread(body, ())
    finished.acquire()
    if len(box) == 2:
        raise box[1]
    result: R = box[0]
    return result
