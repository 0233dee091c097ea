"""Who a container runs as: names looked up in the image's own passwd and group files.

The files are written by the image's author, so they are opened as if the root file system were `/`
(`openat2`, RESOLVE_IN_ROOT): a symlink cannot reach the machine's own. Numbers need no file, names do.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from podling.runtime.images.inroot import open_in_root

MAX_FILE_BYTES = 4 << 20
"""An image cannot make us read more."""


class UnknownUserError(ValueError):
    """A name that the image does not know."""


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    uid: int
    gid: int
    groups: tuple[int, ...]
    """Supplemental, sorted; with the primary one, as runc and containerd have it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """A line of /etc/passwd."""

    name: str
    uid: int
    gid: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """A line of /etc/group."""

    name: str
    gid: int
    members: frozenset[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class UserRequest:
    image_user: str = ""
    """As in the image's config: `name`, `uid`, `name:group`, `uid:gid` or empty."""
    uid: int | None = None
    username: str = ""
    gid: int | None = None
    groups: Sequence[int] = ()
    merge_image_groups: bool = True
    """Add the groups that list the user in the image's /etc/group (CRI, `SupplementalGroupsPolicy`)."""


def resolve(rootfs: Path, wanted: UserRequest) -> User:
    """Raises `UnknownUserError` with runc's words. Reads at most two small files."""
    who, _, group = wanted.image_user.partition(":")
    if wanted.uid is not None:
        who, group = str(wanted.uid), ""
    elif wanted.username:
        who, group = wanted.username, ""
    account = _account(rootfs, who)
    gid = account.gid
    if wanted.gid is not None:
        gid = wanted.gid
    elif group:
        gid = _gid(rootfs, group)
    groups = {gid, *wanted.groups}
    if wanted.merge_image_groups and account.name:
        groups |= {entry.gid for entry in read_groups(rootfs) if account.name in entry.members}
    return User(uid=account.uid, gid=gid, groups=tuple(sorted(groups)))


def _account(rootfs: Path, who: str) -> Account:
    if not who:
        who = "0"
    number = int(who) if who.isdecimal() else None
    for entry in read_accounts(rootfs):
        if entry.name == who or entry.uid == number:
            return entry
    if number is None:
        raise UnknownUserError(f"unable to find user {who}: no matching entries in passwd file")
    return Account(name="", uid=number, gid=0)


def _gid(rootfs: Path, group: str) -> int:
    if group.isdecimal():
        return int(group)
    for entry in read_groups(rootfs):
        if entry.name == group:
            return entry.gid
    raise UnknownUserError(f"unable to find group {group}: no matching entries in group file")


def read_accounts(rootfs: Path) -> Iterator[Account]:
    for fields in _lines(rootfs, "etc/passwd", 4):
        if fields[2].isdecimal() and fields[3].isdecimal():
            yield Account(name=fields[0], uid=int(fields[2]), gid=int(fields[3]))


def read_groups(rootfs: Path) -> Iterator[Group]:
    for fields in _lines(rootfs, "etc/group", 4):
        if fields[2].isdecimal():
            yield Group(name=fields[0], gid=int(fields[2]), members=frozenset(fields[3].split(",")))


def _lines(rootfs: Path, name: str, fields: int) -> Iterator[list[str]]:
    """Split at colons; lines that are not of the form are skipped, and so is a file that is not there."""
    try:
        root = os.open(rootfs, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        # Not blocking: a fifo in the place of the file must not hold us up.
        fd = open_in_root(root, name, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return
    finally:
        os.close(root)
    with os.fdopen(fd, "rb") as file:
        text = file.read(MAX_FILE_BYTES).decode(errors="replace")
    for line in text.splitlines():
        parts = line.strip().split(":")
        if len(parts) >= fields and not line.startswith("#"):
            yield parts
