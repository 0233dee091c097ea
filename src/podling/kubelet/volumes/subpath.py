"""subPath mounts: a directory or file inside a volume, never anything outside it.

A container that can write to a volume could place a symlink there and have a later mount lead to the
node's files. So the path is resolved by the kernel with the volume as root (`openat2(2)`,
RESOLVE_IN_ROOT: `..` and absolute links stay inside), and what is mounted is the file behind the
descriptor, not its name: nobody can swap it in between. Upstream: `pkg/volume/util/subpath`.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from pathlib import Path, PurePosixPath

from podling.kubelet.volumes.payload import VolumeError
from podling.linux import syscalls

_SYS_OPENAT2 = 437  # the same number on every architecture (asm-generic/unistd.h)
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_IN_ROOT = 0x10

_libc = ctypes.CDLL(None, use_errno=True)


def open_in_root(root_fd: int, path: str, flags: int, mode: int = 0) -> int:
    """`openat2` below `root_fd` as if it were `/`; raises OSError. The descriptor is close-on-exec."""
    how = struct.pack("QQQ", flags | os.O_CLOEXEC, mode, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS)
    fd = _libc.syscall(
        _SYS_OPENAT2,
        ctypes.c_int(root_fd),
        os.fsencode(path),
        ctypes.c_char_p(how),
        ctypes.c_size_t(len(how)),
    )
    if fd < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), path)
    return int(fd)


def bind_sub_path(volume: Path, sub_path: str, target: Path) -> Path:
    """Bind `sub_path` of the volume to `target` and return `target`; a missing directory is made.

    Blocks on file systems: call it in a thread. Twice is fine: an existing mount is replaced, because a
    restarted container gets what the path names now. Raises VolumeError.
    """
    if ".." in PurePosixPath(sub_path).parts or PurePosixPath(sub_path).is_absolute():
        raise VolumeError(f'subPath "{sub_path}" must be relative and must not contain ".."')
    root = os.open(volume, os.O_PATH | os.O_CLOEXEC)
    try:
        fd = _open_or_make(root, sub_path)
        try:
            _mount_fd(fd, target)
        finally:
            os.close(fd)
    except OSError as err:
        raise VolumeError(f'failed to prepare subPath "{sub_path}": {err.strerror}') from err
    finally:
        os.close(root)
    return target


def _open_or_make(root: int, sub_path: str) -> int:
    try:
        return open_in_root(root, sub_path, os.O_PATH)
    except OSError as err:
        if err.errno != errno.ENOENT:
            raise
    current = "."
    for part in PurePosixPath(sub_path).parts:
        parent = open_in_root(root, current, os.O_PATH | os.O_DIRECTORY)
        try:
            os.mkdir(part, 0o750, dir_fd=parent)
        except FileExistsError:
            pass
        finally:
            os.close(parent)
        current = f"{current}/{part}"
    return open_in_root(root, sub_path, os.O_PATH)


def _mount_fd(fd: int, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    release_sub_path(target)
    if os.path.isdir(f"/proc/self/fd/{fd}"):
        target.mkdir(exist_ok=True)
    else:
        target.touch()
    syscalls.mount(f"/proc/self/fd/{fd}", target, flags=syscalls.MS_BIND)


def release_sub_path(target: Path) -> None:
    """Undo the mount, if there is one."""
    try:
        syscalls.umount(target, syscalls.MNT_DETACH | syscalls.UMOUNT_NOFOLLOW)
    except OSError as err:
        if err.errno not in (errno.EINVAL, errno.ENOENT):
            raise
