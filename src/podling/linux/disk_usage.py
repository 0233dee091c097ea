"""What a tree of files takes of its disk."""

from __future__ import annotations

import os
from pathlib import Path

BLOCK_BYTES = 512
"""Unit of st_blocks (`man 2 stat`)."""


def disk_usage(folder: Path) -> tuple[int, int]:
    """(bytes on disk, inodes) below `folder`; nothing when it is not there.

    A file with several names counts once, other file systems mounted below do not, nor does what disappears
    meanwhile.
    """
    used = inodes = 0
    linked: set[int] = set()
    try:
        device = os.lstat(folder).st_dev
    except FileNotFoundError:
        return 0, 0
    for base, folders, files in os.walk(folder):
        for name in (*folders, *files):
            try:
                status = os.lstat(os.path.join(base, name))
            except FileNotFoundError:
                continue
            if status.st_dev != device:
                if name in folders:
                    folders.remove(name)
                continue
            if status.st_nlink > 1 and name not in folders:
                if status.st_ino in linked:
                    continue
                linked.add(status.st_ino)
            used += status.st_blocks * BLOCK_BYTES
            inodes += 1
    return used, inodes
