"""Pods that use more local storage than they may: pure.

Kubernetes documentation, "Local ephemeral storage", "How Pods with ephemeral-storage limits run": the size
limit of an emptyDir, the sum of the containers' limits for the pod, and each container's own. Checked in
this order, as upstream does.
"""

from __future__ import annotations

from podling.api import core_v1
from podling.api.pods import is_sidecar
from podling.api.quantity import to_bytes
from podling.kubelet import names
from podling.kubelet.eviction import messages
from podling.kubelet.eviction.usage import PodUse

STORAGE = "ephemeral-storage"


def has_local_limit(pod: core_v1.Pod) -> bool:
    spec = names.pod_spec(pod)
    return any(volume.empty_dir and volume.empty_dir.size_limit for volume in spec.volumes) or any(
        to_bytes(_limit(container)) for container in (*spec.init_containers, *spec.containers)
    )


def exceeded(pod: core_v1.Pod, used: PodUse) -> str | None:
    """Why the pod has to go; None when it keeps its limits."""
    spec = names.pod_spec(pod)
    for volume in spec.volumes:
        limit = volume.empty_dir.size_limit if volume.empty_dir else None
        if limit and to_bytes(limit) and used.volumes[volume.name].size > to_bytes(limit):
            return messages.empty_dir(volume.name, limit)
    whole = _pod_limit(spec)
    if whole and (used.layers + used.local).size > whole:
        return messages.pod_storage(whole)
    for container in (*spec.init_containers, *spec.containers):
        own = _limit(container)
        if to_bytes(own) and used.containers[container.name].disk.size > to_bytes(own):
            return messages.container_storage(container.name, own)
    return None


def _pod_limit(spec: core_v1.PodSpec) -> int:
    """0 for none. Of containers that run together the sum, of others the largest."""
    together = [*spec.containers, *(c for c in spec.init_containers if is_sidecar(c))]
    before = (to_bytes(_limit(c)) for c in spec.init_containers if not is_sidecar(c))
    return max(sum(to_bytes(_limit(c)) for c in together), max(before, default=0))


def _limit(container: core_v1.Container) -> str:
    return container.resources.limits.get(STORAGE, "0") if container.resources else "0"
