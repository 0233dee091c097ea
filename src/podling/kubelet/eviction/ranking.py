"""Which pod goes first: pure.

Kubernetes documentation, "Node-pressure Eviction", "Pod selection for kubelet eviction": whether its use
exceeds its request, then its priority, then by how much. For inodes and processes nothing can be requested:
the first then decides nothing, or nobody.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from podling.api import core_v1
from podling.api.pods import is_mirror, is_static, pod_requests
from podling.kubelet import names
from podling.kubelet.eviction.usage import DiskUse, PodUse
from podling.kubelet.resources import SYSTEM_CRITICAL_PRIORITY


def is_critical(pod: core_v1.Pod) -> bool:
    """Never evicted: static pods, and those whose priority is the system's."""
    return is_static(pod) or is_mirror(pod) or (names.pod_spec(pod).priority or 0) >= SYSTEM_CRITICAL_PRIORITY


def rank(
    pods: Sequence[core_v1.Pod],
    usage: Mapping[names.PodUID, PodUse],
    signal: str,
    *,
    dedicated_image_fs: bool = False,
) -> list[core_v1.Pod]:
    """The first is to be evicted first."""

    def key(pod: core_v1.Pod) -> tuple[bool, int, int]:
        used = usage.get(names.pod_uid(pod), PodUse())
        priority = names.pod_spec(pod).priority or 0
        if signal == "pid.available":
            return False, priority, -used.processes
        amount = amount_used(used, signal, dedicated_image_fs=dedicated_image_fs)
        above = amount - requested(pod, signal)
        return above <= 0, priority, -above

    return sorted(pods, key=key)


def amount_used(used: PodUse, signal: str, *, dedicated_image_fs: bool) -> int:
    """Of what the signal measures, in its unit."""
    if signal == "memory.available":
        return used.memory_bytes
    where = DiskUse()
    if signal.startswith("imagefs") or not dedicated_image_fs:
        where += used.layers
    if signal.startswith("nodefs") or not dedicated_image_fs:
        where += used.local
    return where.inodes if signal.endswith(".inodesFree") else where.size


def requested(pod: core_v1.Pod, signal: str) -> int:
    if signal.endswith(".inodesFree"):
        return 0
    name = "memory" if signal == "memory.available" else "ephemeral-storage"
    return int(pod_requests(pod).get(name, 0))
