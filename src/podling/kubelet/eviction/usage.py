"""What the pods of the node use of what may run short: memory, disk, inodes and processes."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from podling.api import core_v1
from podling.kubelet import names
from podling.kubelet.config import KubeletConfig
from podling.linux.disk_usage import disk_usage
from podling.runtime.cri import messages as cri
from podling.runtime.cri.service import RuntimeService

_ON_DISK = {"empty_dir": "empty-dir", "config_map": "configmap"}
"""Volumes of the pod's own that take disk space; the others are kept in memory."""


@dataclass(frozen=True, slots=True)
class DiskUse:
    size: int = 0
    """Bytes."""
    inodes: int = 0

    def __add__(self, other: DiskUse) -> DiskUse:
        return DiskUse(self.size + other.size, self.inodes + other.inodes)


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerUse:
    memory_bytes: int = 0
    """Working set."""
    layer: DiskUse = field(default_factory=DiskUse)
    logs: DiskUse = field(default_factory=DiskUse)

    @property
    def disk(self) -> DiskUse:
        return self.layer + self.logs


@dataclass(frozen=True, slots=True, kw_only=True)
class PodUse:
    containers: Mapping[str, ContainerUse] = field(default_factory=dict)
    volumes: Mapping[str, DiskUse] = field(default_factory=dict)
    """By name: emptyDirs (also those in memory) and what else lies on disk."""
    memory_volumes: frozenset[str] = frozenset()
    """Those of `volumes` that are in memory and take no disk."""
    processes: int = 0

    @property
    def memory_bytes(self) -> int:
        return sum(container.memory_bytes for container in self.containers.values())

    @property
    def layers(self) -> DiskUse:
        return sum((container.layer for container in self.containers.values()), DiskUse())

    @property
    def local(self) -> DiskUse:
        """Logs and volumes."""
        logs = sum((container.logs for container in self.containers.values()), DiskUse())
        return sum((use for name, use in self.volumes.items() if name not in self.memory_volumes), logs)


async def read_usage(
    config: KubeletConfig, runtime: RuntimeService, pods: Iterable[core_v1.Pod]
) -> dict[names.PodUID, PodUse]:
    """Of each of `pods`; what the runtime does not know counts nothing. Raises CRIError, OSError."""
    listed = await runtime.list_pod_sandbox_stats(cri.ListPodSandboxStatsRequest())
    stats = {
        item.attributes.metadata.uid: item.linux or cri.LinuxPodSandboxStats()
        for item in listed.stats
        if item.attributes is not None and item.attributes.metadata is not None
    }
    wanted = list(pods)
    return await asyncio.to_thread(
        lambda: {
            names.pod_uid(pod): _pod_use(
                config, pod, stats.get(names.pod_uid(pod), cri.LinuxPodSandboxStats())
            )
            for pod in wanted
        }
    )


def _pod_use(config: KubeletConfig, pod: core_v1.Pod, stats: cri.LinuxPodSandboxStats) -> PodUse:
    told = {_name(container): container for container in stats.containers}
    spec = names.pod_spec(pod)
    every: list[names.AnyContainer] = [*spec.init_containers, *spec.containers, *spec.ephemeral_containers]
    logs = names.log_directory(config, pod)
    containers = {}
    for name in (container.name for container in every):
        item = told.get(name, cri.ContainerStats())
        layer = item.writable_layer or cri.FilesystemUsage()
        containers[name] = ContainerUse(
            memory_bytes=(item.memory.working_set_bytes if item.memory else 0) or 0,
            layer=DiskUse(layer.used_bytes or 0, layer.inodes_used or 0),
            logs=DiskUse(*disk_usage(logs / name)),
        )
    volumes = {}
    in_memory = set()
    for volume in spec.volumes:
        for kind, plugin in _ON_DISK.items():
            if getattr(volume, kind) is not None:
                path = names.volume_dir(config, names.pod_uid(pod), plugin, volume.name)
                volumes[volume.name] = DiskUse(*disk_usage(path))
        if volume.empty_dir is not None and volume.empty_dir.medium == "Memory":
            in_memory.add(volume.name)
    return PodUse(
        containers=containers,
        volumes=volumes,
        memory_volumes=frozenset(in_memory),
        processes=(stats.process.process_count if stats.process else 0) or 0,
    )


def _name(stats: cri.ContainerStats) -> str:
    return stats.attributes.metadata.name if stats.attributes and stats.attributes.metadata else ""
