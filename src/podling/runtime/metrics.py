"""ListMetricDescriptors and ListPodSandboxMetrics: cAdvisor's metrics, from the kernel's counters.

A kubelet with `PodAndContainerStatsFromCRI` shows them at /metrics/cadvisor as they are. Values are whole
numbers on this wire, so times are in seconds. The labels are CRI-O's: id, image, namespace, pod, container;
what belongs to a pod as a whole (its network) has the container `POD`.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from podling.linux.cgroup_usage import Usage, read_usage
from podling.linux.cgroups import Stats
from podling.linux.disk_usage import disk_usage
from podling.runtime.container_stats import read_interfaces
from podling.runtime.core import Container, Core, Sandbox, in_thread
from podling.runtime.cri import messages as cri
from podling.runtime.cri.messages import MetricType

LABELS = ("id", "image", "namespace", "pod", "container")
SECOND_NS = 1_000_000_000
COUNTER, GAUGE = MetricType.COUNTER, MetricType.GAUGE

Labelled = tuple[tuple[str, ...], int | None]
"""Values of the further labels, and the measure; None: this machine does not say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """What was read of one container, or of a pod's sandbox."""

    stats: Stats
    usage: Usage
    oom_kills: int = 0
    layer: tuple[int, int] = (0, 0)
    """Bytes and inodes of the writable layer."""
    file_system: Path = Path("/")
    """Where that lies."""
    pids: list[int] = field(default_factory=list)
    resources: cri.LinuxContainerResources = field(default_factory=cri.LinuxContainerResources)
    started_at: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    name: str
    help: str
    kind: MetricType
    read: Callable[[Sample], list[Labelled]]
    labels: tuple[str, ...] = ()


def _plain(name: str, kind: MetricType, help: str, read: Callable[[Sample], int | None]) -> Metric:
    return Metric(name=f"container_{name}", help=help, kind=kind, read=lambda sample: [((), read(sample))])


def _seconds(ns: int | None) -> int | None:
    return None if ns is None else ns // SECOND_NS


def _per_disk(name: str, help: str, attribute: str) -> Metric:
    def read(sample: Sample) -> list[Labelled]:
        return [((device,), getattr(io, attribute)) for device, io in sample.usage.disks.items()]

    return Metric(name=f"container_fs_{name}_total", help=help, kind=COUNTER, labels=("device",), read=read)


def _pressure(kind: str, stall: str, word: str) -> Metric:
    def read(sample: Sample) -> int | None:
        lines = sample.usage.pressure.get(kind)
        return lines[stall].total_us // 1_000_000 if lines and stall in lines else None

    help_ = f"Total time duration {'no tasks' if stall == 'full' else 'tasks'} in the container "
    help_ += f"{'could make progress' if stall == 'full' else 'have waited'} due to {kind} congestion."
    return _plain(f"pressure_{kind}_{word}_seconds_total", COUNTER, help_, read)


def _failures(sample: Sample) -> list[Labelled]:
    return [
        (("pgfault", "hierarchy"), sample.stats.page_faults),
        (("pgmajfault", "hierarchy"), sample.stats.major_page_faults),
    ]


def _open_files(sample: Sample) -> list[Labelled]:
    if not sample.pids:
        return []
    with suppress(OSError, StopIteration):
        lines = Path(f"/proc/{sample.pids[0]}/limits").read_text().splitlines()
        soft = next(line for line in lines if line.startswith("Max open files")).split()[3]
        return [(("max_open_files",), int(soft) if soft.isdecimal() else None)]
    return []


def _descriptors(sample: Sample, prefix: str = "") -> int:
    """Open descriptors of all processes whose target begins with `prefix`."""
    count = 0
    for pid in sample.pids:
        with suppress(OSError):
            names = os.listdir(f"/proc/{pid}/fd")
            count += sum(_target(pid, name).startswith(prefix) for name in names) if prefix else len(names)
    return count


def _target(pid: int, fd: str) -> str:
    with suppress(OSError):
        return os.readlink(f"/proc/{pid}/fd/{fd}")
    return ""


def _inodes(sample: Sample) -> os.statvfs_result:
    return os.statvfs(sample.file_system)


CONTAINER_METRICS = (
    _plain("last_seen", GAUGE, "Last time a container was seen by the exporter", lambda s: int(time.time())),
    _plain("start_time_seconds", GAUGE, "Start time of the container since unix epoch in seconds.",
           lambda s: s.started_at // SECOND_NS),
    # cpu
    Metric(name="container_cpu_usage_seconds_total", kind=COUNTER, labels=("cpu",),
           help="Cumulative cpu time consumed in seconds.",
           read=lambda s: [(("total",), _seconds(s.stats.cpu_usage_ns))]),
    _plain("cpu_user_seconds_total", COUNTER, "Cumulative user cpu time consumed in seconds.",
           lambda s: _seconds(s.usage.cpu_user_ns)),
    _plain("cpu_system_seconds_total", COUNTER, "Cumulative system cpu time consumed in seconds.",
           lambda s: _seconds(s.usage.cpu_system_ns)),
    _plain("cpu_cfs_periods_total", COUNTER, "Number of elapsed enforcement period intervals.",
           lambda s: s.usage.periods),
    _plain("cpu_cfs_throttled_periods_total", COUNTER, "Number of throttled period intervals.",
           lambda s: s.usage.throttled_periods),
    _plain("cpu_cfs_throttled_seconds_total", COUNTER, "Time the container has been throttled, in seconds.",
           lambda s: _seconds(s.usage.throttled_ns)),
    # memory
    _plain("memory_usage_bytes", GAUGE,
           "Current memory usage in bytes, including all memory regardless of when it was accessed",
           lambda s: s.stats.memory_usage_bytes),
    _plain("memory_max_usage_bytes", GAUGE, "Maximum memory usage recorded in bytes",
           lambda s: s.usage.max_memory_bytes),
    _plain("memory_working_set_bytes", GAUGE, "Current working set in bytes.",
           lambda s: s.stats.working_set_bytes),
    _plain("memory_rss", GAUGE, "Size of RSS in bytes.", lambda s: s.stats.rss_bytes),
    _plain("memory_cache", GAUGE, "Number of bytes of page cache memory.", lambda s: s.usage.cache_bytes),
    _plain("memory_mapped_file", GAUGE, "Size of memory mapped files in bytes.",
           lambda s: s.usage.mapped_file_bytes),
    _plain("memory_active_anon_bytes", GAUGE, "Current active anonymous memory in bytes.",
           lambda s: s.usage.active_anon_bytes),
    _plain("memory_inactive_anon_bytes", GAUGE, "Current inactive anonymous memory in bytes.",
           lambda s: s.usage.inactive_anon_bytes),
    _plain("memory_swap", GAUGE, "Container swap usage in bytes.", lambda s: s.stats.swap_bytes),
    _plain("memory_failcnt", COUNTER, "Number of memory usage hits limits", lambda s: s.usage.limit_hits),
    Metric(name="container_memory_failures_total", kind=COUNTER, labels=("failure_type", "scope"),
           help="Cumulative count of memory allocation failures.", read=_failures),
    _plain("oom_events_total", COUNTER, "Count of out of memory events observed for the container",
           lambda s: s.oom_kills),
    # disk
    _plain("fs_usage_bytes", GAUGE, "Number of bytes that the container takes of this file system.",
           lambda s: s.layer[0]),
    _plain("fs_limit_bytes", GAUGE, "Number of bytes that the container may take of this file system.",
           lambda s: shutil.disk_usage(s.file_system).total),
    _plain("fs_inodes_total", GAUGE, "Number of Inodes", lambda s: _inodes(s).f_files),
    _plain("fs_inodes_free", GAUGE, "Number of available Inodes", lambda s: _inodes(s).f_ffree),
    _per_disk("reads_bytes", "Cumulative count of bytes read", "read_bytes"),
    _per_disk("reads", "Cumulative count of reads completed", "reads"),
    _per_disk("writes_bytes", "Cumulative count of bytes written", "write_bytes"),
    _per_disk("writes", "Cumulative count of writes completed", "writes"),
    # processes
    _plain("processes", GAUGE, "Number of processes running inside the container.", lambda s: len(s.pids)),
    _plain("threads", GAUGE, "Number of threads running inside the container", lambda s: s.stats.pids),
    _plain("threads_max", GAUGE,
           "Maximum number of threads allowed inside the container, infinity if value is zero",
           lambda s: s.usage.pids_max or 0),
    _plain("file_descriptors", GAUGE, "Number of open file descriptors for the container.", _descriptors),
    _plain("sockets", GAUGE, "Number of open sockets for the container.",
           lambda s: _descriptors(s, "socket:")),
    Metric(name="container_ulimits_soft", kind=GAUGE, labels=("ulimit",), read=_open_files,
           help="Soft ulimit values for the container root process."),
    # what was asked for
    _plain("spec_cpu_period", GAUGE, "CPU period of the container.",
           lambda s: s.resources.cpu_period or None),
    _plain("spec_cpu_quota", GAUGE, "CPU quota of the container.",
           lambda s: s.resources.cpu_quota if s.resources.cpu_quota > 0 else None),
    _plain("spec_cpu_shares", GAUGE, "CPU share of the container.", lambda s: s.resources.cpu_shares or None),
    _plain("spec_memory_limit_bytes", GAUGE, "Memory limit for the container.",
           lambda s: s.resources.memory_limit_in_bytes),
    _plain("spec_memory_swap_limit_bytes", GAUGE, "Memory swap limit for the container.",
           lambda s: s.usage.swap_limit_bytes),
    *(_pressure(kind, stall, word) for kind in ("cpu", "memory", "io")
      for stall, word in (("full", "stalled"), ("some", "waiting"))),
)  # fmt: skip

_INTERFACE_COUNTERS = (
    ("receive_bytes", "Cumulative count of bytes received"),
    ("receive_packets", "Cumulative count of packets received"),
    ("receive_errors", "Cumulative count of errors encountered while receiving"),
    ("receive_packets_dropped", "Cumulative count of packets dropped while receiving"),
    ("transmit_bytes", "Cumulative count of bytes transmitted"),
    ("transmit_packets", "Cumulative count of packets transmitted"),
    ("transmit_errors", "Cumulative count of errors encountered while transmitting"),
    ("transmit_packets_dropped", "Cumulative count of packets dropped while transmitting"),
)
"""Named as the columns of `read_interfaces`."""


async def list_metric_descriptors(
    core: Core, request: cri.ListMetricDescriptorsRequest
) -> cri.ListMetricDescriptorsResponse:
    return cri.ListMetricDescriptorsResponse(descriptors=descriptors())


async def list_pod_sandbox_metrics(
    core: Core, request: cri.ListPodSandboxMetricsRequest
) -> cri.ListPodSandboxMetricsResponse:
    """Of what runs: as cAdvisor, which sees cgroups."""
    found = [
        await in_thread(of_sandbox, core, sandbox, [c for c in core.containers_of(sandbox.id) if c.running])
        for sandbox in list(core.sandboxes.values())
        if sandbox.ready
    ]
    return cri.ListPodSandboxMetricsResponse(pod_metrics=found)


def descriptors() -> list[cri.MetricDescriptor]:
    network = [
        cri.MetricDescriptor(
            name=f"container_network_{name}_total", help=help_, label_keys=[*LABELS, "interface"]
        )
        for name, help_ in _INTERFACE_COUNTERS
    ]
    own = [
        cri.MetricDescriptor(name=metric.name, help=metric.help, label_keys=[*LABELS, *metric.labels])
        for metric in CONTAINER_METRICS
    ]
    return own + network


def of_sandbox(core: Core, sandbox: Sandbox, containers: list[Container]) -> cri.PodSandboxMetrics:
    """Reads some dozens of files a container and walks its writable layer: call it in a thread."""
    metadata, now = sandbox.record.metadata, time.time_ns()
    own = [sandbox.id, "", metadata.namespace, metadata.name, "POD"]
    pause = sandbox.record.pause
    sample = Sample(
        stats=core.cgroups.stats(sandbox.record.cgroup),
        usage=read_usage(core.cgroups, sandbox.record.cgroup),
        file_system=core.paths.run,
        pids=[pause.pid] if pause else [],
        started_at=sandbox.record.created_at,
    )
    return cri.PodSandboxMetrics(
        pod_sandbox_id=sandbox.id,
        metrics=[*_measured(sample, own, now), *_network(sandbox, own, now)],
        container_metrics=[_of_container(core, sandbox, container, now) for container in containers],
    )


def _of_container(core: Core, sandbox: Sandbox, container: Container, now: int) -> cri.ContainerMetrics:
    record, metadata = container.record, sandbox.record.metadata
    linux = record.config.linux
    sample = Sample(
        stats=core.cgroups.stats(record.cgroup),
        usage=read_usage(core.cgroups, record.cgroup),
        oom_kills=core.cgroups.oom_kills(record.cgroup),
        layer=disk_usage(core.paths.layer(record.id) / "upper"),
        file_system=core.paths.containers,
        pids=core.cgroups.procs(record.cgroup),
        resources=(linux.resources if linux else None) or cri.LinuxContainerResources(),
        started_at=record.started_at,
    )
    labels = [record.id, record.image_name, metadata.namespace, metadata.name, record.metadata.name]
    return cri.ContainerMetrics(container_id=record.id, metrics=list(_measured(sample, labels, now)))


def _measured(sample: Sample, labels: list[str], now: int) -> Iterator[cri.Metric]:
    for metric in CONTAINER_METRICS:
        for further, value in metric.read(sample):
            if value is not None:
                yield cri.Metric(
                    name=metric.name,
                    timestamp=now,
                    metric_type=metric.kind,
                    label_values=[*labels, *further],
                    value=value,
                )


def _network(sandbox: Sandbox, labels: list[str], now: int) -> Iterator[cri.Metric]:
    for interface, counters in read_interfaces(sandbox).items():
        for name, _ in _INTERFACE_COUNTERS:
            yield cri.Metric(
                name=f"container_network_{name}_total",
                timestamp=now,
                metric_type=COUNTER,
                label_values=[*labels, interface],
                value=counters[name],
            )
