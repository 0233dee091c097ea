"""How much of the machine an image may take, and watching that it does not take more."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass

from podling.runtime.images.errors import InvalidImageError

_LOOK_EVERY_BYTES = 16 << 20
_LOOK_EVERY_ENTRIES = 1000
_HEADER_BYTES = 3 << 9  # a tar entry's header, padding and, often, its extended header


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds of one image, all its layers together."""

    max_bytes: int = 64 << 30
    """Unpacked bytes. Default 64 GiB: above any sane image, below what wedges a machine."""
    max_entries: int = 2_000_000
    max_name_bytes: int = 256 << 20
    """Of all names together, which are kept in memory while a layer is unpacked."""
    min_free_bytes: int = 256 << 20
    """Free space to leave. Default 256 MiB, so that a bomb does not take the node with it."""
    min_free_inodes: int = 10_000
    """Likewise; of file systems that have a fixed number."""

    @property
    def max_stream_bytes(self) -> int:
        """Of a tar stream that holds no more than that."""
        return self.max_bytes + self.max_entries * _HEADER_BYTES


class Room:
    """Looks at the disk while it is being filled. Raises OSError (ENOSPC) while there is still some left,
    and `InvalidImageError` when an image takes more than any may."""

    def __init__(self, place: str | os.PathLike[str] | int, limits: Limits) -> None:
        """`place`: a path or an open directory of the file system."""
        self._place = place
        self._limits = limits
        self._taken = 0
        self._unseen_bytes = _LOOK_EVERY_BYTES  # the first time at once
        self._unseen_entries = 0

    def take(self, size_bytes: int) -> None:
        """About to write so much, in a new file or an old one."""
        self._taken += size_bytes
        if self._taken > self._limits.max_bytes:
            raise InvalidImageError(f"image takes more than {self._limits.max_bytes} bytes")
        self._unseen_bytes += size_bytes
        self._unseen_entries += 1
        if self._unseen_bytes >= _LOOK_EVERY_BYTES or self._unseen_entries >= _LOOK_EVERY_ENTRIES:
            self._unseen_bytes = self._unseen_entries = 0
            self._look(size_bytes)

    def _look(self, size_bytes: int) -> None:
        space = os.statvfs(self._place)
        if space.f_bavail * space.f_frsize - size_bytes < self._limits.min_free_bytes:
            raise OSError(errno.ENOSPC, f"no space left on device ({size_bytes} bytes more)")
        if space.f_files and space.f_favail < self._limits.min_free_inodes:
            raise OSError(errno.ENOSPC, "no space left on device (inodes)")
