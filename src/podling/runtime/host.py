"""What this machine lets the runtime give to containers: capabilities, OOM scores, devices."""

from __future__ import annotations

import logging
import os
import resource
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from podling.linux.cgroups import Cgroups, Layout
from podling.runtime.oci import Host

log = logging.getLogger(__name__)

# <linux/capability.h>, by number
CAPABILITIES = (
    "CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP",
    "LINUX_IMMUTABLE", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW", "IPC_LOCK", "IPC_OWNER",
    "SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT", "SYS_ADMIN", "SYS_BOOT", "SYS_NICE",
    "SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD", "LEASE", "AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP",
    "MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG", "WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ", "PERFMON", "BPF",
    "CHECKPOINT_RESTORE",
)  # fmt: skip

NOT_GIVEN = ("pts", "shm", "mqueue", "console", "fd", "core", "stdin", "stdout", "stderr", "ptmx")
"""Entries of /dev that a container has of its own."""


def read_host(cgroups: Cgroups) -> Host:
    """Look once. Says in the log, once, what cannot be applied here."""
    status = Path("/proc/self/status").read_text()
    effective = capability_set(status, "CapEff")
    floor = -1000
    if "CAP_SYS_RESOURCE" not in effective:
        # Our own value is what the kernel surely lets us write; a lower one it refuses (`man 5 proc`).
        floor = int(Path("/proc/self/oom_score_adj").read_text())
        log.warning("no CAP_SYS_RESOURCE: no container gets an oom_score_adj below our own (%d)", floor)
    given = capability_set(status, "CapBnd") & effective
    device_filter = _can_filter_devices(cgroups, effective)
    if not device_filter:
        log.warning(
            "no CAP_SYS_RESOURCE and a limit on locked memory: crun cannot load device filters, "
            "so no container gets CAP_MKNOD"
        )
        given -= {"CAP_MKNOD"}
    return Host(
        layout=cgroups.layout,
        capabilities=given,
        oom_score_adj_floor=floor,
        device_filter=device_filter,
        swap_limits=cgroups.limits_swap(),
        hugepage_limits=cgroups.has_controller("hugetlb"),
    )


def _can_filter_devices(cgroups: Cgroups, effective: frozenset[str]) -> bool:
    """On v2 a device filter is a BPF program, and crun lifts the limit on locked memory before it loads one."""  # noqa: E501
    if cgroups.layout is not Layout.V2 or "CAP_SYS_RESOURCE" in effective:
        return True
    return resource.getrlimit(resource.RLIMIT_MEMLOCK)[1] == resource.RLIM_INFINITY


def capability_set(status: str, kind: str) -> frozenset[str]:
    """A mask of /proc/PID/status as names; bits we have no name for are left out."""
    line = next(line for line in status.splitlines() if line.startswith(f"{kind}:"))
    mask = int(line.split()[1], 16)
    return frozenset(f"CAP_{name}" for bit, name in enumerate(CAPABILITIES) if mask >> bit & 1)


def host_devices() -> tuple[dict[str, Any], ...]:
    """Every device node of the machine, for privileged containers. Walks /dev: use a thread."""
    return tuple(_walk(Path("/dev")))


def devices(host_path: str, container_path: str, access: str) -> list[dict[str, Any]]:
    """The device, or all devices of a directory. Raises OSError, ValueError for what is neither."""
    path = Path(host_path)
    if path.is_dir():
        return [
            {**device, "path": container_path + device["path"].removeprefix(host_path), "access": access}
            for device in _walk(path)
        ]
    device = _device(path, path.stat())
    if device is None:
        raise ValueError(f"{host_path} is not a device")
    return [{**device, "path": container_path or host_path, "access": access or "rwm"}]


def _walk(folder: Path) -> Iterator[dict[str, Any]]:
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda e: e.name):
            if entry.name in NOT_GIVEN or entry.is_symlink():
                continue
            if entry.is_dir():
                yield from _walk(Path(entry.path))
            elif device := _device(Path(entry.path), entry.stat()):
                yield device


def _device(path: Path, status: os.stat_result) -> dict[str, Any] | None:
    kind = "c" if stat.S_ISCHR(status.st_mode) else "b" if stat.S_ISBLK(status.st_mode) else None
    if kind is None:
        return None
    return {
        "path": str(path),
        "type": kind,
        "major": os.major(status.st_rdev),
        "minor": os.minor(status.st_rdev),
        "fileMode": stat.S_IMODE(status.st_mode),
        "uid": status.st_uid,
        "gid": status.st_gid,
    }
