"""What the node's machine is: processors, memory, disk, kernel, identity. Read once at start."""

from __future__ import annotations

import os
import platform
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from podling.api import core_v1

ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "i686": "386"}


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineInfo:
    cpus: int
    memory_bytes: int
    swap_bytes: int
    disk_bytes: int
    """Size of the file system that holds the kubelet's root directory."""
    hugepages: Mapping[str, int]
    """Bytes set aside by page size as resource names write it: `2Mi`, `1Gi`."""
    architecture: str
    kernel_version: str
    os_image: str
    machine_id: str
    system_uuid: str
    boot_id: str


def read_machine_info(root_dir: Path) -> MachineInfo:
    memory = _meminfo()
    machine_id = _read("/etc/machine-id")
    return MachineInfo(
        # What this process may use, not what the machine has: a node may be confined to some processors.
        cpus=len(os.sched_getaffinity(0)),
        memory_bytes=memory.get("MemTotal", 0) * 1024,
        swap_bytes=memory.get("SwapTotal", 0) * 1024,
        disk_bytes=shutil.disk_usage(root_dir).total,
        hugepages=_hugepages(),
        architecture=ARCHITECTURES.get(platform.machine(), platform.machine()),
        kernel_version=platform.release(),
        os_image=_os_image(),
        machine_id=machine_id,
        system_uuid=_read("/sys/class/dmi/id/product_uuid") or _uuid_of(machine_id),
        boot_id=_read("/proc/sys/kernel/random/boot_id"),
    )


def capacity(info: MachineInfo, *, max_pods: int) -> dict[str, str]:
    """As `status.capacity` lists it."""
    result = {
        "cpu": str(info.cpus),
        "ephemeral-storage": f"{info.disk_bytes // 1024}Ki",
        "memory": f"{info.memory_bytes // 1024}Ki",
        "pods": str(max_pods),
    }
    return result | {f"hugepages-{size}": str(total) for size, total in info.hugepages.items()}


def system_info(info: MachineInfo, *, runtime_version: str, kubelet_version: str) -> core_v1.NodeSystemInfo:
    return core_v1.NodeSystemInfo(
        architecture=info.architecture,
        boot_id=info.boot_id,
        container_runtime_version=runtime_version,
        kernel_version=info.kernel_version,
        kube_proxy_version="",
        kubelet_version=kubelet_version,
        machine_id=info.machine_id,
        operating_system="linux",
        os_image=info.os_image,
        system_uuid=info.system_uuid,
        swap=core_v1.NodeSwapStatus(capacity=info.swap_bytes) if info.swap_bytes else None,
    )


def _read(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


def _uuid_of(machine_id: str) -> str:
    """Containers and some clouds hide the firmware's UUID; the machine ID is as good an identity."""
    try:
        return str(uuid.UUID(machine_id))
    except ValueError:
        return machine_id


def _meminfo() -> dict[str, int]:
    """`/proc/meminfo` in KiB."""
    pairs = (line.split(":", 1) for line in _read("/proc/meminfo").splitlines())
    return {key: int(value.split()[0]) for key, value in pairs}


def _hugepages() -> dict[str, int]:
    sizes: dict[str, int] = {}
    base = Path("/sys/kernel/mm/hugepages")
    for entry in base.iterdir() if base.is_dir() else ():
        kib = int(entry.name.removeprefix("hugepages-").removesuffix("kB"))
        name = f"{kib // (1024 * 1024)}Gi" if kib >= 1024 * 1024 else f"{kib // 1024}Mi"
        if kib >= 1024:
            sizes[name] = int(_read(str(entry / "nr_hugepages")) or "0") * kib * 1024
    return sizes


def _os_image() -> str:
    for line in _read("/etc/os-release").splitlines():
        if line.startswith("PRETTY_NAME="):
            return line.partition("=")[2].strip('"')
    return "Linux"
