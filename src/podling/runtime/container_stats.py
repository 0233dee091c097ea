"""ContainerStats, PodSandboxStats and their lists: from cgroups and the writable layers.

Sizes of writable layers are walked in a thread; everything else is a few small files.
"""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

from podling.linux.cgroups import Stats
from podling.runtime.core import Container, Core, Sandbox, in_thread
from podling.runtime.cri import messages as cri
from podling.runtime.sandbox_list import has_labels

BLOCK_BYTES = 512
"""Unit of st_blocks (`man 2 stat`)."""


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
    stats = core.cgroups.stats(record.cgroup)
    upper = core.paths.layer(record.id) / "upper"
    used, inodes = await in_thread(disk_usage, upper)
    return cri.ContainerStats(
        attributes=cri.ContainerAttributes(
            id=record.id,
            metadata=record.config.metadata,
            labels=record.config.labels,
            annotations=record.config.annotations,
        ),
        cpu=cri.CpuUsage(timestamp=now, usage_core_nano_seconds=stats.cpu_usage_ns),
        memory=_memory(stats, now),
        writable_layer=cri.FilesystemUsage(
            timestamp=now,
            fs_id=cri.FilesystemIdentifier(mountpoint=str(core.paths.containers)),
            used_bytes=used,
            inodes_used=inodes,
        ),
        swap=cri.SwapUsage(timestamp=now, swap_usage_bytes=stats.swap_bytes),
    )


async def _of_sandbox(core: Core, sandbox: Sandbox) -> cri.PodSandboxStats:
    record = sandbox.record
    now = time.time_ns()
    # The pod's own cgroup counts pause and all containers, and what they left behind.
    stats = core.cgroups.stats(str(Path(record.cgroup).parent))
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
            cpu=cri.CpuUsage(timestamp=now, usage_core_nano_seconds=stats.cpu_usage_ns),
            memory=_memory(stats, now),
            network=network,
            process=cri.ProcessUsage(timestamp=now, process_count=stats.pids),
            containers=[await _of_container(core, c) for c in containers],
        ),
    )


def _memory(stats: Stats, now: int) -> cri.MemoryUsage:
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
    )


def _network(sandbox: Sandbox, now: int) -> cri.NetworkUsage | None:
    """Counters of every interface of the pod; pause's view of /proc/net/dev is the namespace's."""
    pause = sandbox.record.pause
    if not sandbox.record.netns or pause is None:
        return None
    try:
        text = Path(f"/proc/{pause.pid}/net/dev").read_text()
    except OSError:
        return None
    interfaces = parse_net_dev(text)
    return cri.NetworkUsage(
        timestamp=now,
        default_interface=next((i for i in interfaces if i.name == "eth0"), None),
        interfaces=interfaces,
    )


def parse_net_dev(text: str) -> list[cri.NetworkInterfaceUsage]:
    """`man 5 proc`, "/proc/net/dev"; without lo."""
    found = []
    for line in text.splitlines()[2:]:
        name, _, numbers = line.partition(":")
        rx_bytes, _, rx_errors, *_, tx_bytes, _, tx_errors = map(int, numbers.split()[:11])
        if name.strip() != "lo":
            found.append(
                cri.NetworkInterfaceUsage(
                    name=name.strip(),
                    rx_bytes=rx_bytes,
                    rx_errors=rx_errors,
                    tx_bytes=tx_bytes,
                    tx_errors=tx_errors,
                )
            )
    return found


def disk_usage(folder: Path) -> tuple[int, int]:
    """(bytes on disk, inodes) of a tree; what disappears meanwhile does not count."""
    used = inodes = 0
    for base, folders, files in os.walk(folder):
        for name in (*folders, *files):
            try:
                status = os.lstat(os.path.join(base, name))
            except FileNotFoundError:
                continue
            used += status.st_blocks * BLOCK_BYTES
            inodes += 1
    return used, inodes
