"""ContainerStats, PodSandboxStats and their lists: from cgroups and the writable layers.

Sizes of writable layers are walked in a thread; everything else is a few small files.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from podling.linux.cgroup_usage import Usage, read_usage
from podling.linux.cgroups import Stats
from podling.linux.disk_usage import disk_usage
from podling.runtime.core import Container, Core, CpuMeter, Sandbox, in_thread
from podling.runtime.cri import messages as cri
from podling.runtime.sandbox_list import has_labels


async def container_stats(core: Core, request: cri.ContainerStatsRequest) -> cri.ContainerStatsResponse:
    return cri.ContainerStatsResponse(stats=await _of_container(core, core.container(request.container_id)))


async def list_container_stats(
    core: Core, request: cri.ListContainerStatsRequest
) -> cri.ListContainerStatsResponse:
    wanted = request.filter or cri.ContainerStatsFilter()
    chosen = [
        container
        for container in core.containers.values()
        if container.running
        and container.id.startswith(wanted.id)
        and container.record.sandbox_id.startswith(wanted.pod_sandbox_id)
        and has_labels(container.record.config.labels, wanted.label_selector)
    ]
    return cri.ListContainerStatsResponse(stats=[await _of_container(core, c) for c in chosen])


async def pod_sandbox_stats(core: Core, request: cri.PodSandboxStatsRequest) -> cri.PodSandboxStatsResponse:
    return cri.PodSandboxStatsResponse(stats=await _of_sandbox(core, core.sandbox(request.pod_sandbox_id)))


async def list_pod_sandbox_stats(
    core: Core, request: cri.ListPodSandboxStatsRequest
) -> cri.ListPodSandboxStatsResponse:
    wanted = request.filter or cri.PodSandboxStatsFilter()
    chosen = [
        sandbox
        for sandbox in core.sandboxes.values()
        if sandbox.ready
        and sandbox.id.startswith(wanted.id)
        and has_labels(sandbox.record.config.labels, wanted.label_selector)
    ]
    return cri.ListPodSandboxStatsResponse(stats=[await _of_sandbox(core, s) for s in chosen])


async def _of_container(core: Core, container: Container) -> cri.ContainerStats:
    record = container.record
    now = time.time_ns()
    stats, usage = core.cgroups.stats(record.cgroup), read_usage(core.cgroups, record.cgroup)
    upper = core.paths.layer(record.id) / "upper"
    used, inodes = await in_thread(disk_usage, upper)
    return cri.ContainerStats(
        attributes=cri.ContainerAttributes(
            id=record.id,
            metadata=record.config.metadata,
            labels=record.config.labels,
            annotations=record.config.annotations,
        ),
        cpu=_cpu(container.cpu, stats, usage, now),
        memory=_memory(stats, usage, now),
        writable_layer=cri.FilesystemUsage(
            timestamp=now,
            fs_id=cri.FilesystemIdentifier(mountpoint=str(core.paths.containers)),
            used_bytes=used,
            inodes_used=inodes,
        ),
        swap=_swap(stats, usage, now),
        io=_io(usage, now),
    )


async def _of_sandbox(core: Core, sandbox: Sandbox) -> cri.PodSandboxStats:
    record = sandbox.record
    now = time.time_ns()
    # The pod's own cgroup counts pause and all containers, and what they left behind.
    pod = str(Path(record.cgroup).parent)
    stats, usage = core.cgroups.stats(pod), read_usage(core.cgroups, pod)
    containers = [c for c in core.containers_of(sandbox.id) if c.running]
    network = await asyncio.to_thread(_network, sandbox, now)
    return cri.PodSandboxStats(
        attributes=cri.PodSandboxAttributes(
            id=record.id,
            metadata=record.config.metadata,
            labels=record.config.labels,
            annotations=record.config.annotations,
        ),
        linux=cri.LinuxPodSandboxStats(
            cpu=_cpu(sandbox.cpu, stats, usage, now),
            memory=_memory(stats, usage, now),
            network=network,
            process=cri.ProcessUsage(timestamp=now, process_count=stats.pids),
            containers=[await _of_container(core, c) for c in containers],
            io=_io(usage, now),
        ),
    )


def _cpu(meter: CpuMeter, stats: Stats, usage: Usage, now: int) -> cri.CpuUsage:
    return cri.CpuUsage(
        timestamp=now,
        usage_core_nano_seconds=stats.cpu_usage_ns,
        usage_nano_cores=meter.rate(stats.cpu_usage_ns, now),
        psi=_psi(usage, "cpu"),
    )


def _swap(stats: Stats, usage: Usage, now: int) -> cri.SwapUsage:
    available = None
    if usage.swap_limit_bytes is not None and stats.swap_bytes is not None:
        available = max(0, usage.swap_limit_bytes - stats.swap_bytes)
    return cri.SwapUsage(timestamp=now, swap_usage_bytes=stats.swap_bytes, swap_available_bytes=available)


def _io(usage: Usage, now: int) -> cri.IoUsage | None:
    psi = _psi(usage, "io")
    return cri.IoUsage(timestamp=now, psi=psi) if psi else None


def _psi(usage: Usage, kind: str) -> cri.PsiStats | None:
    """Pressure stall information; cgroup v1 has none."""
    lines = usage.pressure.get(kind)
    if not lines:
        return None
    return cri.PsiStats(
        **{
            name: cri.PsiData(total=s.total_us, avg10=s.avg10, avg60=s.avg60, avg300=s.avg300)
            for name, s in lines.items()
        }
    )


async def layers_usage(core: Core) -> cri.FilesystemUsage:
    """Of all writable layers together: `container_filesystems` of ImageFsInfo."""
    layers = [core.paths.layer(container_id) / "upper" for container_id in list(core.containers)]
    used = [await in_thread(disk_usage, layer) for layer in layers]
    return cri.FilesystemUsage(
        timestamp=time.time_ns(),
        fs_id=cri.FilesystemIdentifier(mountpoint=str(core.paths.containers)),
        used_bytes=sum(size for size, _ in used),
        inodes_used=sum(inodes for _, inodes in used),
    )


def _memory(stats: Stats, usage: Usage, now: int) -> cri.MemoryUsage:
    available = None
    if stats.memory_limit_bytes is not None and stats.working_set_bytes is not None:
        available = max(0, stats.memory_limit_bytes - stats.working_set_bytes)
    return cri.MemoryUsage(
        timestamp=now,
        working_set_bytes=stats.working_set_bytes,
        available_bytes=available,
        usage_bytes=stats.memory_usage_bytes,
        rss_bytes=stats.rss_bytes,
        page_faults=stats.page_faults,
        major_page_faults=stats.major_page_faults,
        psi=_psi(usage, "memory"),
    )


def _network(sandbox: Sandbox, now: int) -> cri.NetworkUsage | None:
    if not sandbox.record.netns:
        return None
    interfaces = [
        cri.NetworkInterfaceUsage(
            name=name,
            rx_bytes=counted["receive_bytes"],
            rx_errors=counted["receive_errors"],
            tx_bytes=counted["transmit_bytes"],
            tx_errors=counted["transmit_errors"],
        )
        for name, counted in read_interfaces(sandbox).items()
    ]
    return cri.NetworkUsage(
        timestamp=now,
        default_interface=next((i for i in interfaces if i.name == "eth0"), None),
        interfaces=interfaces,
    )


def read_interfaces(sandbox: Sandbox) -> dict[str, dict[str, int]]:
    """Counters of every interface of the pod by name; pause's view of /proc/net/dev is the namespace's."""
    pause = sandbox.record.pause
    if not sandbox.record.netns or pause is None:
        return {}
    try:
        return parse_net_dev(Path(f"/proc/{pause.pid}/net/dev").read_text())
    except OSError:
        return {}


_COLUMNS = ("bytes", "packets", "errors", "packets_dropped")


def parse_net_dev(text: str) -> dict[str, dict[str, int]]:
    """`man 5 proc`, "/proc/net/dev"; without lo."""
    found = {}
    for line in text.splitlines()[2:]:
        name, _, numbers = line.partition(":")
        columns = list(map(int, numbers.split()))
        received = {f"receive_{what}": columns[i] for i, what in enumerate(_COLUMNS)}
        sent = {f"transmit_{what}": columns[8 + i] for i, what in enumerate(_COLUMNS)}
        if name.strip() != "lo":
            found[name.strip()] = received | sent
    return found
