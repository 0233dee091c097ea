"""GET /stats/summary: what the node and its pods use (upstream's `pkg/apis/stats/v1alpha1`)."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from podling.api import core_v1
from podling.kubelet import names
from podling.kubelet.config import KubeletConfig
from podling.linux.cgroups import Cgroups
from podling.runtime.cri import messages as cri
from podling.runtime.cri.service import ImageService, RuntimeService

Stats = dict[str, Any]


class NodeUsage:
    """What the node as a whole uses; remembers the last look, for the rate of CPU use."""

    def __init__(self, config: KubeletConfig) -> None:
        self._config = config
        self._cgroups = Cgroups()
        self._started = _stamp(time.time_ns())
        self._last: tuple[float, int, int] | None = None
        """When, CPU nanoseconds then, and cores (in billionths) used before."""

    def read(self) -> Stats:
        stats = self._cgroups.stats("/")
        now = _stamp(time.time_ns())
        memory = _meminfo()
        total = memory.get("MemTotal", 0)
        working = stats.working_set_bytes
        if working is None:  # the root of cgroup v2 does not say
            working = total - memory.get("MemAvailable", 0)
        cpu = stats.cpu_usage_ns if stats.cpu_usage_ns is not None else _cpu_of_machine_ns()
        usage = stats.memory_usage_bytes if stats.memory_usage_bytes is not None else working
        return {
            "nodeName": self._config.node_name,
            "startTime": self._started,
            "cpu": {"time": now, "usageNanoCores": self._rate(cpu), "usageCoreNanoSeconds": cpu},
            "memory": _present(
                time=now,
                availableBytes=max(0, total - working),
                usageBytes=usage,
                workingSetBytes=working,
                rssBytes=stats.rss_bytes,
                pageFaults=stats.page_faults,
                majorPageFaults=stats.major_page_faults,
            ),
            "fs": file_system(self._config.root_dir),
            "rlimit": {"time": now, "maxpid": _pid_max(), "curproc": _processes()},
        }

    def _rate(self, cpu_ns: int) -> int:
        now = time.monotonic()
        if self._last is None:
            self._last = now, cpu_ns, 0
            return 0
        then, before_ns, rate = self._last
        if now - then < 1.0:
            return rate
        rate = max(0, int((cpu_ns - before_ns) / (now - then)))
        self._last = now, cpu_ns, rate
        return rate


async def summary(
    node: NodeUsage,
    config: KubeletConfig,
    runtime: RuntimeService,
    images: ImageService,
    pods: Iterable[core_v1.Pod],
) -> Stats:
    """The document. Raises CRIError."""
    known = {names.pod_uid(pod): pod for pod in pods}
    listed, image_fs = await asyncio.gather(
        runtime.list_pod_sandbox_stats(cri.ListPodSandboxStatsRequest()),
        images.image_fs_info(cri.ImageFsInfoRequest()),
    )
    whole = await asyncio.to_thread(node.read)
    whole["runtime"] = {"imageFs": _image_fs(image_fs)}
    logs = await asyncio.to_thread(_log_sizes, config, list(known.values()))
    items = []
    for sandbox in listed.stats:
        meta = sandbox.attributes.metadata if sandbox.attributes else None
        pod = known.get(names.PodUID(meta.uid)) if meta else None
        if pod is not None and sandbox.linux is not None:
            items.append(_pod_stats(pod, sandbox.linux, logs))
    return {"node": whole, "pods": items}


def _pod_stats(pod: core_v1.Pod, stats: cri.LinuxPodSandboxStats, logs: Mapping[str, int]) -> Stats:
    uid = names.pod_uid(pod)
    containers = [_container_stats(pod, container, logs) for container in stats.containers]
    used = sum(c["rootfs"].get("usedBytes", 0) + c["logs"]["usedBytes"] for c in containers)
    now = _stamp(time.time_ns())
    return {
        "podRef": {"name": pod.metadata.name, "namespace": names.pod_namespace(pod), "uid": uid},
        "startTime": pod.status.start_time if pod.status else None,
        "containers": containers,
        "cpu": _cpu(stats.cpu),
        "memory": _memory(stats.memory),
        **({"network": _network(stats.network)} if stats.network else {}),
        "ephemeral-storage": {"time": now, "usedBytes": used},
        **(
            {"process_stats": {"process_count": stats.process.process_count or 0}}
            if stats.process is not None
            else {}
        ),
    }


def _container_stats(pod: core_v1.Pod, stats: cri.ContainerStats, logs: Mapping[str, int]) -> Stats:
    name = stats.attributes.metadata.name if stats.attributes and stats.attributes.metadata else ""
    statuses = [*pod.status.init_container_statuses, *pod.status.container_statuses] if pod.status else []
    state = next((s.state for s in statuses if s.name == name), None)
    now = _stamp(time.time_ns())
    layer = stats.writable_layer or cri.FilesystemUsage()
    return {
        "name": name,
        "startTime": state.running.started_at if state and state.running else None,
        "cpu": _cpu(stats.cpu),
        "memory": _memory(stats.memory),
        "rootfs": _present(time=now, usedBytes=layer.used_bytes, inodesUsed=layer.inodes_used),
        "logs": {"time": now, "usedBytes": logs.get(f"{names.pod_uid(pod)}/{name}", 0)},
        **({"swap": _swap(stats.swap)} if stats.swap else {}),
    }


def _cpu(usage: cri.CpuUsage | None) -> Stats:
    usage = usage or cri.CpuUsage()
    return _present(
        time=_stamp(usage.timestamp),
        usageNanoCores=usage.usage_nano_cores,
        usageCoreNanoSeconds=usage.usage_core_nano_seconds,
    )


def _memory(usage: cri.MemoryUsage | None) -> Stats:
    usage = usage or cri.MemoryUsage()
    return _present(
        time=_stamp(usage.timestamp),
        availableBytes=usage.available_bytes,
        usageBytes=usage.usage_bytes,
        workingSetBytes=usage.working_set_bytes,
        rssBytes=usage.rss_bytes,
        pageFaults=usage.page_faults,
        majorPageFaults=usage.major_page_faults,
    )


def _swap(usage: cri.SwapUsage) -> Stats:
    return _present(
        time=_stamp(usage.timestamp),
        swapAvailableBytes=usage.swap_available_bytes,
        swapUsageBytes=usage.swap_usage_bytes,
    )


def _network(usage: cri.NetworkUsage) -> Stats:
    def interface(item: cri.NetworkInterfaceUsage) -> Stats:
        return _present(
            name=item.name,
            rxBytes=item.rx_bytes,
            rxErrors=item.rx_errors,
            txBytes=item.tx_bytes,
            txErrors=item.tx_errors,
        )

    default = interface(usage.default_interface) if usage.default_interface else {}
    everything = usage.interfaces or ([usage.default_interface] if usage.default_interface else [])
    return {"time": _stamp(usage.timestamp), **default, "interfaces": [interface(i) for i in everything]}


def file_system(path: Path) -> Stats:
    """The file system `path` lies on."""
    found = os.statvfs(path)
    return {
        "time": _stamp(time.time_ns()),
        "availableBytes": found.f_bavail * found.f_frsize,
        "capacityBytes": found.f_blocks * found.f_frsize,
        "usedBytes": (found.f_blocks - found.f_bfree) * found.f_frsize,
        "inodesFree": found.f_favail,
        "inodes": found.f_files,
        "inodesUsed": found.f_files - found.f_ffree,
    }


def _image_fs(response: cri.ImageFsInfoResponse) -> Stats:
    usage = next(iter(response.image_filesystems), None)
    if usage is None:
        return {}
    place = Path(usage.fs_id.mountpoint if usage.fs_id else "/")
    whole = file_system(place) if place.exists() else {}
    return whole | _present(usedBytes=usage.used_bytes, inodesUsed=usage.inodes_used)


def _log_sizes(config: KubeletConfig, pods: Iterable[core_v1.Pod]) -> dict[str, int]:
    """Bytes of the logs of each container, by `UID/name`."""
    sizes: dict[str, int] = {}
    for pod in pods:
        directory = names.log_directory(config, pod)
        for base, _, files in os.walk(directory):
            if Path(base) == directory:
                continue
            key = f"{names.pod_uid(pod)}/{Path(base).relative_to(directory).parts[0]}"
            for name in files:
                try:
                    size = os.stat(os.path.join(base, name)).st_size
                except FileNotFoundError:  # rotated away this moment
                    continue
                sizes[key] = sizes.get(key, 0) + size
    return sizes


def _present(**values: Any) -> Stats:
    return {key: value for key, value in values.items() if value is not None}


def _stamp(ns: int) -> str:
    return datetime.fromtimestamp(ns / 1e9, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _meminfo() -> dict[str, int]:
    """`/proc/meminfo` in bytes."""
    pairs = (line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    return {key: int(value.split()[0]) * 1024 for key, value in pairs}


def _cpu_of_machine_ns() -> int:
    """Of /proc/stat: everything but idle and waiting."""
    fields = [int(n) for n in Path("/proc/stat").read_text().splitlines()[0].split()[1:]]
    busy = sum(fields[:8]) - fields[3] - fields[4]
    return busy * 1_000_000_000 // os.sysconf("SC_CLK_TCK")


def _pid_max() -> int:
    return int(Path("/proc/sys/kernel/pid_max").read_text())


def _processes() -> int:
    return int(Path("/proc/loadavg").read_text().split()[3].partition("/")[2])
