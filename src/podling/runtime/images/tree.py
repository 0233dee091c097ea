"""Files of a build as tar streams: the entries we add ourselves, and the finished layer.

Everything goes into the root file system by way of the unpacker, also what we make ourselves: a symlink in a
user's directory then cannot lead our writes to the host. Layers are reproducible: sorted names, no user
names, times clamped.
"""

from __future__ import annotations

import io
import os
import stat
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from podling.runtime.images.unpack import CAPABILITY_XATTR, XATTR_PREFIX, clean_name


class Entries:
    """A small tar in memory, filled entry by entry. Names are absolute paths of the image."""

    def __init__(self, epoch_s: int) -> None:
        self._epoch_s = epoch_s
        self._buffer = io.BytesIO()
        self._tar = tarfile.TarFile(fileobj=self._buffer, mode="w", format=tarfile.PAX_FORMAT)

    def directory(self, path: str, mode: int = 0o755, uid: int = 0, gid: int = 0) -> None:
        self._add(path, tarfile.DIRTYPE, mode, uid=uid, gid=gid)

    def symlink(self, path: str, target: str) -> None:
        self._add(path, tarfile.SYMTYPE, 0o777, target=target)

    def file(self, path: str, content: str | bytes, mode: int = 0o644, uid: int = 0, gid: int = 0) -> None:
        data = content.encode() if isinstance(content, str) else content
        self._add(path, tarfile.REGTYPE, mode, data=data, uid=uid, gid=gid)

    def _add(
        self,
        path: str,
        kind: bytes,
        mode: int,
        *,
        target: str = "",
        data: bytes = b"",
        uid: int = 0,
        gid: int = 0,
    ) -> None:
        info = tarfile.TarInfo(clean_name(path))
        info.type, info.mode, info.linkname, info.size = kind, mode, target, len(data)
        info.mtime, info.uid, info.gid = self._epoch_s, uid, gid
        self._tar.addfile(info, io.BytesIO(data))

    def stream(self) -> IO[bytes]:
        """The finished tar; add nothing afterwards."""
        self._tar.close()
        self._buffer.seek(0)
        return self._buffer


def write_copy(source: Path, destination: str, out: IO[bytes], *, mtime_s: int) -> None:
    """`--copy SRC:DST` as a tar.

    As with Docker's COPY a directory's content goes into DST, a file becomes DST, or goes into it when DST
    ends with a slash, and the owner becomes root. The time is `mtime_s`: a checkout has none worth keeping.
    """
    base = clean_name(destination)
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        if not source.is_dir():
            name = f"{base}/{source.name}".lstrip("/") if destination.endswith("/") or not base else base
            _add_path(tar, source, name, mtime_s=mtime_s, follow=True)
            return
        for path, relative in _walk(source):
            _add_path(tar, path, f"{base}/{relative}".strip("/"), mtime_s=mtime_s)


def _add_path(tar: tarfile.TarFile, path: Path, name: str, *, mtime_s: int, follow: bool = False) -> None:
    info = _describe(path, os.stat(path) if follow else os.lstat(path), name)
    if info is None:
        return
    info.uid = info.gid = 0
    info.mtime = mtime_s
    _write(tar, info, path)


def write_layer(root: Path, out: IO[bytes], *, epoch_s: int | None) -> int:
    """Write the tree below `root` as a layer. No time in it is after `epoch_s`; None means the newest file's
    own.

    Returns the epoch used, so that the image can be dated by it.
    """
    paths = list(_walk(root))
    if epoch_s is None:
        epoch_s = newest_file_s(root)
    links: dict[tuple[int, int], str] = {}
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for path, name in paths:
            found = os.lstat(path)
            info = _describe(path, found, name)
            if info is None:
                continue
            # A directory's time says when it was unpacked, which is different each time.
            info.mtime = epoch_s if info.isdir() else min(int(found.st_mtime), epoch_s)
            if info.isreg() and found.st_nlink > 1:
                first = links.setdefault((found.st_dev, found.st_ino), name)
                if first != name:
                    info.type, info.linkname, info.size = tarfile.LNKTYPE, first, 0
            _write(tar, info, path)
    return epoch_s


def newest_file_s(root: Path) -> int:
    """The latest change of a regular file at or below `root`, in seconds since 1970; 0 when there is none."""
    found = (os.lstat(path) for path, _ in (_walk(root) if root.is_dir() else [(root, "")]))
    return max((int(one.st_mtime) for one in found if stat.S_ISREG(one.st_mode)), default=0)


def _walk(root: Path) -> Iterator[tuple[Path, str]]:
    """Every path below `root` with its name relative to it, parents first, sorted; the root itself as ''."""
    yield root, ""
    pending = [(root, "")]
    while pending:
        directory, prefix = pending.pop()
        with os.scandir(directory) as scan:
            entries = sorted(scan, key=lambda entry: entry.name)
        inner = []
        for entry in entries:
            name = f"{prefix}{entry.name}"
            yield Path(entry.path), name
            if entry.is_dir(follow_symlinks=False):
                inner.append((Path(entry.path), f"{name}/"))
        pending += reversed(inner)


def _describe(path: Path, found: os.stat_result, name: str) -> tarfile.TarInfo | None:
    """The header, or None for what an image does not hold: sockets and devices."""
    info = tarfile.TarInfo(name or "./")
    info.mode, info.uid, info.gid = stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid
    info.mtime = int(found.st_mtime)
    if stat.S_ISDIR(found.st_mode):
        info.type = tarfile.DIRTYPE
    elif stat.S_ISLNK(found.st_mode):
        info.type, info.linkname = tarfile.SYMTYPE, os.readlink(path)
    elif stat.S_ISREG(found.st_mode):
        info.size = found.st_size
        if CAPABILITY_XATTR in os.listxattr(path):
            value = os.getxattr(path, CAPABILITY_XATTR)
            info.pax_headers = {XATTR_PREFIX + CAPABILITY_XATTR: value.decode("utf-8", "surrogateescape")}
    elif stat.S_ISFIFO(found.st_mode):
        info.type = tarfile.FIFOTYPE
    else:
        return None
    return info


def _write(tar: tarfile.TarFile, info: tarfile.TarInfo, path: Path) -> None:
    if info.isreg():
        with open(path, "rb") as file:
            tar.addfile(info, file)
    else:
        tar.addfile(info)
