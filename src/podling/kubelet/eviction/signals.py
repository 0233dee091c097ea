"""What is left on this node of memory, disk, inodes and process numbers: read from the kernel.

Kubernetes documentation, "Node-pressure Eviction", "Eviction signals".
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from podling.linux.cgroups import Cgroups

RESOURCE_OF = {
    "memory.available": "memory",
    "nodefs.available": "ephemeral-storage",
    "nodefs.inodesFree": "inodes",
    "imagefs.available": "ephemeral-storage",
    "imagefs.inodesFree": "inodes",
    "pid.available": "pids",
}
"""What pods are made to give back when the signal is low."""
CONDITION_OF = {
    "memory.available": "MemoryPressure",
    "nodefs.available": "DiskPressure",
    "nodefs.inodesFree": "DiskPressure",
    "imagefs.available": "DiskPressure",
    "imagefs.inodesFree": "DiskPressure",
    "pid.available": "PIDPressure",
}
"""Other signals are not observed, so that thresholds for them are never met: `containerfs.*` (writable layers
lie on imagefs here) and `allocatableMemory.available` (pods as a whole have no limit)."""


@dataclass(frozen=True, slots=True)
class Observation:
    """In bytes, inodes or processes."""

    available: int
    capacity: int


class NodeSignals:
    """Reads them; `image_fs` is set once the runtime has said where its images are."""

    def __init__(self, root_dir: Path) -> None:
        self._root_dir = root_dir
        self._cgroups = Cgroups()
        self.image_fs: Path | None = None

    @property
    def dedicated_image_fs(self) -> bool:
        """Whether images and writable layers lie on another disk than volumes and logs."""
        if self.image_fs is None:
            return False
        return os.stat(self.image_fs).st_dev != os.stat(self._root_dir).st_dev

    def read(self) -> dict[str, Observation]:
        """Raises OSError."""
        found = {"memory.available": self._memory(), "pid.available": _pids()}
        found |= _file_system("nodefs", self._root_dir)
        if self.image_fs is not None:
            found |= _file_system("imagefs", self.image_fs)
        return found

    def _memory(self) -> Observation:
        """Capacity less the working set, as upstream.

        Differs from upstream: never more than the kernel says there is. The root of a node that is a
        cgroup of a larger machine counts the node alone, and its memory is the machine's.
        """
        info = _meminfo()
        total, available = info["MemTotal"], info["MemAvailable"]
        working = self._cgroups.stats("/").working_set_bytes
        if working is not None:
            available = min(available, max(0, total - working))
        return Observation(available, total)


def _file_system(name: str, path: Path) -> dict[str, Observation]:
    found = os.statvfs(path)
    signals = {
        f"{name}.available": Observation(found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize)
    }
    # Some file systems (btrfs) make inodes as they need them, and count none.
    if found.f_files > 0:
        signals[f"{name}.inodesFree"] = Observation(found.f_favail, found.f_files)
    return signals


def _pids() -> Observation:
    """Threads count: they take numbers too."""
    limit = int(Path("/proc/sys/kernel/pid_max").read_text())
    used = int(Path("/proc/loadavg").read_text().split()[3].partition("/")[2])
    return Observation(max(0, limit - used), limit)


def _meminfo() -> dict[str, int]:
    """`/proc/meminfo` in bytes."""
    pairs = (line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    return {key: int(value.split()[0]) * 1024 for key, value in pairs}
