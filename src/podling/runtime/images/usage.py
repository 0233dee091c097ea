"""What images take of the disk: unpacked root file systems, blobs, and downloads that are not done."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

_BLOCK = 512  # of st_blocks, whatever the file system's own size is (`man 2 stat`)


@dataclass(frozen=True, slots=True)
class Usage:
    disk_bytes: int = 0
    inodes: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(self.disk_bytes + other.disk_bytes, self.inodes + other.inodes)


def measure(top: Path) -> Usage:
    """A tree with everything below it; files with several names count once. What vanishes meanwhile counts
    for nothing."""
    total = Usage()
    seen: set[tuple[int, int]] = set()
    try:
        total += _of(os.lstat(top))
    except FileNotFoundError:
        return total
    pending = [os.fspath(top)]
    while pending:
        try:
            entries = list(os.scandir(pending.pop()))
        except OSError:
            continue
        for entry in entries:
            try:
                found = entry.stat(follow_symlinks=False)
            except OSError:
                continue
            if found.st_nlink > 1 and not entry.is_dir(follow_symlinks=False):
                if (found.st_dev, found.st_ino) in seen:
                    continue
                seen.add((found.st_dev, found.st_ino))
            total += _of(found)
            if entry.is_dir(follow_symlinks=False):
                pending.append(entry.path)
    return total


def _of(found: os.stat_result) -> Usage:
    return Usage(found.st_blocks * _BLOCK, 1)
