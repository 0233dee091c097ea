"""Mounts: overlay, bind, tmpfs, and what is mounted where. No policy.

All calls block for well under a millisecond on local file systems; unmounting a file system that still has
dirty pages may take longer, so callers with an event loop use a thread for that.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from podling.linux import syscalls as sc

_OCTAL = re.compile(r"\\([0-7]{3})")
PAGE = 4096


@dataclass(frozen=True, slots=True)
class MountInfo:
    """One line of /proc/PID/mountinfo (`man 5 proc`)."""

    mount_id: int
    parent_id: int
    root: str
    """Which directory of the file system is mounted."""
    target: str
    options: frozenset[str]
    propagation: frozenset[str]
    """`shared:N`, `master:N` ...; empty for a private mount."""
    fstype: str
    source: str
    super_options: frozenset[str]


def parse_mountinfo(text: str) -> Iterator[MountInfo]:
    for line in text.splitlines():
        left, _, right = line.partition(" - ")
        mount_id, parent_id, _device, root, target, options, *propagation = left.split(" ")
        fstype, source, super_options = right.split(" ", 2)
        yield MountInfo(
            int(mount_id),
            int(parent_id),
            _unescape(root),
            _unescape(target),
            frozenset(options.split(",")),
            frozenset(propagation),
            fstype,
            _unescape(source),
            frozenset(super_options.split(",")),
        )


def read_mountinfo(pid: int | str = "self") -> list[MountInfo]:
    return list(parse_mountinfo(Path(f"/proc/{pid}/mountinfo").read_text()))


def _unescape(text: str) -> str:
    """Blanks, tabs, newlines and backslashes are written in octal."""
    return _OCTAL.sub(lambda m: chr(int(m[1], 8)), text) if "\\" in text else text


def mount_overlay(target: Path, *, lower: Sequence[Path], upper: Path, work: Path) -> None:
    """Mount an overlay; `lower` has the topmost layer first. The directories must exist.

    `upper` and `work` must share a file system that is not itself an overlay (EINVAL). Options longer than a
    page are refused by the kernel, and so here, by name (OSError E2BIG).
    """
    layers = ":".join(_overlay_path(path) for path in lower)
    data = f"lowerdir={layers},upperdir={_overlay_path(upper)},workdir={_overlay_path(work)}"
    # With an index the kernel refuses (ESTALE) an upper directory that a crash left mounted or was copied.
    data += ",index=off"
    if len(data) >= PAGE:
        raise OSError(errno.E2BIG, "overlay: options exceed a page, too many or too long layers", str(target))
    sc.mount("overlay", target, "overlay", 0, data)


def _overlay_path(path: Path) -> str:
    r"""Commas end an option and colons a layer, unless preceded by `\`."""
    return re.sub(r"([\\,:])", r"\\\1", os.fspath(path))


def bind(source: Path | str, target: Path | str, *, recursive: bool = False, read_only: bool = False) -> None:
    flags = sc.MS_BIND | (sc.MS_REC if recursive else 0)
    sc.mount(source, target, flags=flags)
    if read_only:
        # A bind mount takes its flags only from a second call (`man 2 mount`, "Remounting").
        sc.mount("none", target, flags=sc.MS_BIND | sc.MS_REMOUNT | sc.MS_RDONLY)


def bind_idmapped(source: Path | str, target: Path | str, userns: Path | str) -> None:
    """Bind `source` and what is mounted below it at `target`, with owners as a user namespace has them.

    A file of owner N on the disk is owned by whatever N means in the namespace at the path `userns`, and what
    is written there as N lands as N (`man 2 mount_setattr`, "ID-mapped mounts"; Linux 5.12). Raises OSError;
    EINVAL means that a file system in there cannot do it, and names it.
    """
    namespace = os.open(userns, os.O_RDONLY | os.O_CLOEXEC)
    try:
        tree = sc.open_tree(source, sc.OPEN_TREE_CLONE | sc.OPEN_TREE_CLOEXEC | sc.AT_RECURSIVE)
        try:
            sc.mount_setattr(tree, attr_set=sc.MOUNT_ATTR_IDMAP, userns_fd=namespace, recursive=True)
            sc.move_mount(tree, target)
        finally:
            os.close(tree)
    except OSError as err:
        if err.errno != errno.EINVAL:
            raise
        kinds = ", ".join(sorted({mount.fstype for mount in mounts_of(source)}))
        raise OSError(
            errno.EINVAL, f"this kernel cannot map the owners of a mount of {kinds}", str(source)
        ) from err
    finally:
        os.close(namespace)


def can_idmap() -> bool:
    """Whether the kernel knows ID-mapped mounts at all; whether a file system does, only trying tells."""
    try:
        sc.mount_setattr(-1, attr_set=sc.MOUNT_ATTR_IDMAP)
    except OSError as err:
        return err.errno != errno.ENOSYS
    return True


def mounts_of(path: Path | str) -> list[MountInfo]:
    """The mount that `path` lies on and those below `path`."""
    wanted = os.path.realpath(path)
    below = [m for m in read_mountinfo() if m.target.startswith(f"{wanted.rstrip('/')}/")]
    above = [m for m in read_mountinfo() if f"{wanted}/".startswith(f"{m.target.rstrip('/')}/")]
    return [*sorted(above, key=lambda mount: len(mount.target))[-1:], *below]


def mount_tmpfs(
    target: Path | str, *, size_bytes: int, mode: int = 0o1777, owner: tuple[int, int] = (0, 0)
) -> None:
    flags = sc.MS_NOSUID | sc.MS_NODEV | sc.MS_NOEXEC
    data = f"mode={mode:o},size={size_bytes}"
    if owner != (0, 0):
        data += ",uid={},gid={}".format(*owner)
    sc.mount("shm", target, "tmpfs", flags, data)


def unmount(target: Path | str) -> bool:
    """Take away every mount on exactly this path, lazily. False when there was none."""
    found = False
    while True:
        try:
            sc.umount(target, sc.MNT_DETACH | sc.UMOUNT_NOFOLLOW)
        except OSError as err:
            if err.errno in (errno.EINVAL, errno.ENOENT):
                return found
            raise
        found = True


def unmount_below(folder: Path | str) -> int:
    """Unmount everything on or under `folder`, newest first; returns how many mounts that were."""
    prefix = os.fspath(folder).rstrip("/")
    targets = [m.target for m in read_mountinfo() if m.target == prefix or m.target.startswith(f"{prefix}/")]
    return sum(unmount(target) for target in reversed(targets))


def is_mount_point(path: Path | str) -> bool:
    wanted = os.path.abspath(path)
    return any(mount.target == wanted for mount in read_mountinfo())
