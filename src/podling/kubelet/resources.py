"""Resource requests and limits as the kernel counts them: CPU shares, quota, memory, OOM score.

The numbers are upstream's (`pkg/kubelet/cm/helpers_linux.go`, `pkg/kubelet/qos/policy.go`): they are
what people compare with on a real node.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from podling.api import core_v1
from podling.api.pods import pod_limits, pod_requests, qos_class
from podling.api.quantity import format_bytes, format_milli, to_bytes, to_milli
from podling.kubelet import names
from podling.runtime.cri import messages as cri

MIN_SHARES = 2
MAX_SHARES = 262144
SHARES_PER_CPU = 1024
QUOTA_PERIOD_US = 100_000
MIN_QUOTA_PERIOD_US = 1000

GUARANTEED_OOM_SCORE_ADJ = -997
BEST_EFFORT_OOM_SCORE_ADJ = 1000
SYSTEM_CRITICAL_PRIORITY = 2 * 1_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Amounts:
    """CPU in thousandths of a core, memory in bytes; None: not set."""

    cpu_milli: int | None = None
    memory_bytes: int | None = None


def amounts(values: dict[str, str]) -> Amounts:
    return Amounts(
        cpu_milli=to_milli(values["cpu"]) if "cpu" in values else None,
        memory_bytes=to_bytes(values["memory"]) if "memory" in values else None,
    )


def _requirements(container: names.AnyContainer) -> core_v1.ResourceRequirements:
    return container.resources or core_v1.ResourceRequirements()


def cpu_shares(milli: int) -> int:
    """Relative weight (cgroup v1 `cpu.shares`); the runtime turns it into `cpu.weight` on v2."""
    if milli <= 0:
        return MIN_SHARES
    return max(MIN_SHARES, min(MAX_SHARES, milli * SHARES_PER_CPU // 1000))


def cpu_quota_us(milli: int) -> int:
    """Microseconds of CPU per period of 100 ms; 0 for no limit."""
    if milli <= 0:
        return 0
    return max(MIN_QUOTA_PERIOD_US, milli * QUOTA_PERIOD_US // 1000)


def oom_score_adj(pod: core_v1.Pod, container: names.AnyContainer, node_memory_bytes: int) -> int:
    """Who the kernel kills first: best effort at 1000, burstable the less the more they ask for."""
    if (names.pod_spec(pod).priority or 0) >= SYSTEM_CRITICAL_PRIORITY:
        return GUARANTEED_OOM_SCORE_ADJ
    quality = qos_class(pod)
    if quality == "Guaranteed":
        return GUARANTEED_OOM_SCORE_ADJ
    if quality == "BestEffort":
        return BEST_EFFORT_OOM_SCORE_ADJ
    needs = _requirements(container)
    request = to_bytes(needs.requests.get("memory", needs.limits.get("memory", "0")))
    adjust = 1000 - (1000 * request) // max(1, node_memory_bytes)
    # Never as safe as guaranteed, never as exposed as best effort.
    return max(1000 + GUARANTEED_OOM_SCORE_ADJ, min(adjust, BEST_EFFORT_OOM_SCORE_ADJ - 1))


def container_resources(
    pod: core_v1.Pod,
    container: names.AnyContainer,
    node_memory_bytes: int,
    unified: Mapping[str, str] | None = None,
    page_sizes: Iterable[str] = (),
) -> cri.LinuxContainerResources:
    """`unified`: cgroup v2 files to set besides, none on v1. `page_sizes`: the node's huge pages as resources
    (`hugepages-2Mi`); of those that a container does not ask for it gets none."""
    needs = _requirements(container)
    requests, limits = amounts(needs.requests), amounts(needs.limits)
    # A limit without a request is also the request (the API server defaults it; be sure).
    shares_from = requests.cpu_milli if requests.cpu_milli is not None else limits.cpu_milli
    return cri.LinuxContainerResources(
        cpu_period=QUOTA_PERIOD_US,
        cpu_quota=cpu_quota_us(limits.cpu_milli or 0),
        cpu_shares=cpu_shares(shares_from or 0),
        memory_limit_in_bytes=limits.memory_bytes or 0,
        oom_score_adj=oom_score_adj(pod, container, node_memory_bytes),
        hugepage_limits=[
            cri.HugepageLimit(page_size=page_size(name), limit=to_bytes(needs.limits.get(name, "0")))
            for name in page_sizes
        ],
        unified=dict(unified or {}),
    )


def page_size(resource: str) -> str:
    """`hugepages-2Mi` as the cgroup's files have it: 2MB."""
    size = to_bytes(resource.removeprefix("hugepages-"))
    for unit, name in ((1 << 30, "GB"), (1 << 20, "MB"), (1 << 10, "KB")):
        if size >= unit:
            return f"{size // unit}{name}"
    return f"{size}B"


def pod_resources(pod: core_v1.Pod) -> cri.LinuxContainerResources:
    """Limits of the pod's own cgroup; a CPU or memory limit holds only when every container has one."""
    requests, limits = pod_requests(pod), pod_limits(pod)
    return cri.LinuxContainerResources(
        cpu_period=QUOTA_PERIOD_US,
        cpu_quota=cpu_quota_us(int(limits.get("cpu", 0) * 1000)),
        cpu_shares=cpu_shares(int(requests.get("cpu", 0) * 1000)),
        memory_limit_in_bytes=int(limits.get("memory", 0)),
    )


def wider(
    one: cri.LinuxContainerResources, other: cri.LinuxContainerResources
) -> cri.LinuxContainerResources:
    """The larger of each; 0 is no limit."""

    def larger(a: int, b: int) -> int:
        return max(a, b) if a and b else 0

    return cri.LinuxContainerResources(
        cpu_period=one.cpu_period,
        cpu_quota=larger(one.cpu_quota, other.cpu_quota),
        cpu_shares=max(one.cpu_shares, other.cpu_shares),
        memory_limit_in_bytes=larger(one.memory_limit_in_bytes, other.memory_limit_in_bytes),
    )


def actual_resources(
    container: core_v1.Container, limits: cri.LinuxContainerResources
) -> core_v1.ResourceRequirements | None:
    """What a container has, as its status tells it: the runtime's limits in the words of the spec where they
    are the same. A memory request has no counterpart in the kernel."""
    asked = container.resources
    if asked is None:
        return None
    requests, given = amounts(asked.requests), amounts(asked.limits)
    found = core_v1.ResourceRequirements(requests=dict(asked.requests), limits=dict(asked.limits))
    if requests.cpu_milli and cpu_shares(requests.cpu_milli) != limits.cpu_shares:
        found.requests["cpu"] = format_milli(-(-limits.cpu_shares * 1000 // SHARES_PER_CPU))
    if given.cpu_milli and limits.cpu_quota and cpu_quota_us(given.cpu_milli) != limits.cpu_quota:
        period = limits.cpu_period or QUOTA_PERIOD_US
        found.limits["cpu"] = format_milli(limits.cpu_quota * 1000 // period)
    memory = limits.memory_limit_in_bytes
    if given.memory_bytes and memory and given.memory_bytes != memory:
        found.limits["memory"] = format_bytes(memory)
    return found
