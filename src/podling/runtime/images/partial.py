"""Blobs on their way into the store: `downloads/HEX` grows until it is whole, and is then renamed into place.
`downloads/HEX.done` keeps it there from being collected until an image names it.

Whoever fetches a blob holds a flock on its file, so that two pulls that share a layer fetch it once, in one
process or in two. What an interrupted pull leaves is not thrown away: the next one goes on behind it. The
digest decides in the end, whoever wrote the beginning.

All of it blocks; call it in a thread.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import time
from collections.abc import Iterable
from pathlib import Path

from podling.runtime.images.layout import is_at
from podling.runtime.images.oci import Descriptor

STALE_AFTER_S = 24 * 3600.0
"""A beginning that nobody went on with for a day is not worth its space."""
_CHUNK = 1 << 20


class PartialBlob:
    """A held download. Close it whatever happens; `commit` or `discard` first, or it stays for the next."""

    def __init__(self, fd: int, path: Path) -> None:
        self._fd = fd
        self._path = path
        self._sha256 = hashlib.sha256()
        self.size_bytes = 0
        while chunk := os.pread(fd, _CHUNK, self.size_bytes):
            self._sha256.update(chunk)
            self.size_bytes += len(chunk)

    @property
    def digest(self) -> str:
        return f"sha256:{self._sha256.hexdigest()}"

    def append(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            written = os.pwrite(self._fd, view, self.size_bytes)
            self._sha256.update(view[:written])
            self.size_bytes += written
            view = view[written:]

    def restart(self) -> None:
        """Forget what is there."""
        os.ftruncate(self._fd, 0)
        self._sha256 = hashlib.sha256()
        self.size_bytes = 0

    def commit(self, place: Path) -> None:
        """The caller has compared the digest."""
        os.fchmod(self._fd, 0o644)
        _marker(self._path).touch()
        os.rename(self._path, place)

    def discard(self) -> None:
        self._path.unlink(missing_ok=True)

    def close(self) -> None:
        os.close(self._fd)


def claim(downloads: Path, blob: Descriptor) -> PartialBlob | None:
    """The blob's file, held; None while somebody else fetches it."""
    path = downloads / blob.digest.removeprefix("sha256:")
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if is_at(fd, path):
                partial = PartialBlob(fd, path)
                if partial.size_bytes > blob.size:
                    partial.restart()
                return partial
        except BlockingIOError:
            os.close(fd)
            return None
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)  # renamed or removed between open and lock


def _marker(path: Path) -> Path:
    return path.with_name(f"{path.name}.done")


def unnamed(downloads: Path) -> set[str]:
    """Digests of whole blobs that no image names yet."""
    try:
        return {f"sha256:{name[:-5]}" for name in os.listdir(downloads) if name.endswith(".done")}
    except FileNotFoundError:
        return set()


def named(downloads: Path, blobs: Iterable[Descriptor]) -> None:
    """An image names them now."""
    for blob in blobs:
        _marker(downloads / blob.digest.removeprefix("sha256:")).unlink(missing_ok=True)


def sweep(downloads: Path, *, older_than_s: float = STALE_AFTER_S) -> int:
    """Remove beginnings that nobody holds and nobody went on with. Returns the bytes they took."""
    freed = 0
    try:
        names = os.listdir(downloads)
    except FileNotFoundError:
        return 0
    for name in names:
        path = downloads / name
        try:
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            found = os.fstat(fd)
            if time.time() - found.st_mtime >= older_than_s and is_at(fd, path):
                path.unlink()
                freed += found.st_blocks * 512
        except BlockingIOError:
            continue
        finally:
            os.close(fd)
    return freed
