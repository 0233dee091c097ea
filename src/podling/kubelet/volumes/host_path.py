"""hostPath volumes: check or make the path as the volume's type asks.

Kubernetes documentation, "Volumes", "hostPath volume types"; texts of upstream's `pkg/volume/hostpath`.
"""

from __future__ import annotations

import stat
from pathlib import Path

from podling.api import core_v1
from podling.kubelet.volumes.payload import VolumeError

_CHECKS = {
    "Directory": (stat.S_ISDIR, "directory"),
    "DirectoryOrCreate": (stat.S_ISDIR, "directory"),
    "File": (stat.S_ISREG, "file"),
    "FileOrCreate": (stat.S_ISREG, "file"),
    "Socket": (stat.S_ISSOCK, "socket file"),
    "CharDevice": (stat.S_ISCHR, "character device"),
    "BlockDevice": (stat.S_ISBLK, "block device"),
}


def ensure_host_path(source: core_v1.HostPathVolumeSource) -> Path:
    """Return the path once it is what the type says. Raises VolumeError."""
    path = Path(source.path)
    kind = source.type or ""
    try:
        if kind == "DirectoryOrCreate" or (not kind and not path.exists()):
            # Without a type upstream leaves a missing path to the runtime, and containerd makes it.
            path.mkdir(mode=0o755, parents=True, exist_ok=True)
        elif kind == "FileOrCreate" and not path.exists():
            path.touch(mode=0o644)
        if kind in _CHECKS:
            check, word = _CHECKS[kind]
            if not check(path.stat().st_mode):
                raise VolumeError(f"hostPath type check failed: {path} is not a {word}")
    except FileNotFoundError as err:
        word = _CHECKS[kind][1] if kind in _CHECKS else "directory"
        raise VolumeError(f"hostPath type check failed: {path} is not a {word}") from err
    except OSError as err:
        raise VolumeError(f"hostPath {path}: {err.strerror}") from err
    return path
