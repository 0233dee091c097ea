"""The files of one container's log: the one being written, and older ones that `log_rotation` has put aside.

    0.log                       being written
    0.log.20250131-120000       the last one put aside: its writer may just have let go of it
    0.log.20250131-115000.gz    older ones

`LogChain` reads them as one: whoever follows a log and is slower than its writer loses nothing as long as the
files he has not come to are kept.
"""

from __future__ import annotations

import gzip
import os
import re
from pathlib import Path
from typing import BinaryIO, cast

_STAMP = re.compile(r"\.(\d{8}-\d{6})(\.gz)?$")
GZ = ".gz"


def rotated_files(log: Path) -> list[Path]:
    """Oldest first."""
    found = [path for path in log.parent.glob(f"{log.name}.*") if stamp_of(path)]
    return sorted(found, key=stamp_of)


def stamp_of(path: Path) -> str:
    """The time in a rotated file's name; empty for any other."""
    match = _STAMP.search(path.name)
    return match[1] if match else ""


def remove_log(log: Path) -> None:
    """With all that was put aside. Absent is success."""
    for path in (log, *rotated_files(log)):
        path.unlink(missing_ok=True)


class LogChain:
    """Reads from the file that is being written on, through all that come after it. Close it."""

    def __init__(self, log: Path) -> None:
        """Raises FileNotFoundError."""
        self._log = log
        self.file: BinaryIO = log.open("rb")
        self._last_look = False

    def close(self) -> None:
        self.file.close()

    def read(self, size: int) -> bytes:
        """Empty at the present end. Reads of a cached local file: no thread needed."""
        return self.file.read(size)

    def advance(self) -> bool:
        """Call it at the end of a file. True: there is more to read, or may be."""
        if not self._is_put_aside():
            return False
        if not self._last_look:
            # What came between our last read and the moment when its writer let go of it.
            self._last_look = True
            return True
        following = self._following()
        if following is None:
            return False
        self.file.close()
        self.file = following
        self._last_look = False
        return True

    def _is_put_aside(self) -> bool:
        try:
            return os.stat(self._log).st_ino != os.fstat(self.file.fileno()).st_ino
        except FileNotFoundError:
            return False  # between the renaming and the writer's new file

    def _following(self) -> BinaryIO | None:
        """The kernel knows the name of what we have open, also after it was renamed or removed."""
        own = stamp_of(Path(os.readlink(f"/proc/self/fd/{self.file.fileno()}").removesuffix(" (deleted)")))
        later = [path for path in rotated_files(self._log) if own and stamp_of(path) > own]
        for path in (*later, self._log):
            try:
                # A file that is compressed while we look has its other name by now.
                return open_log(path if path.exists() else path.with_name(path.name + GZ))
            except FileNotFoundError:
                continue  # removed meanwhile: what was in it is lost
        return None


def open_log(path: Path) -> BinaryIO:
    return cast("BinaryIO", gzip.open(path, "rb")) if path.name.endswith(GZ) else path.open("rb")
