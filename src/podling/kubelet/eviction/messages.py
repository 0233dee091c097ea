"""What the status and the event of an evicted pod say, in upstream's words (`eviction/helpers.go`).

Each sentence ends with a space, as upstream's do.
"""

from __future__ import annotations

from decimal import Decimal

from podling.api import core_v1
from podling.api.pods import containers
from podling.api.quantity import canonicalize, format_bytes, format_decimal, to_bytes
from podling.kubelet.eviction.pressure import Rule
from podling.kubelet.eviction.signals import RESOURCE_OF, Observation
from podling.kubelet.eviction.usage import PodUse

REASON = "Evicted"


def node_low(rule: Rule, seen: Observation, pod: core_v1.Pod, used: PodUse) -> str:
    """Why a pod goes when the node runs short, and which of its containers use more than they asked for."""
    resource = RESOURCE_OF[rule.signal]
    threshold = rule.threshold.text
    if threshold.endswith("%"):
        threshold = _amount(rule.signal, rule.threshold.amount(seen.capacity))
    else:
        threshold = canonicalize(threshold)
    text = f"The node was low on resource: {resource}. "
    text += f"Threshold quantity: {threshold}, available: {_amount(rule.signal, seen.available)}. "
    if resource not in ("memory", "ephemeral-storage"):
        return text
    for container in containers(pod):
        found = used.containers.get(container.name)
        if found is None:
            continue
        amount = found.memory_bytes if resource == "memory" else found.disk.size
        request = container.resources.requests.get(resource, "0") if container.resources else "0"
        if amount > to_bytes(request):
            text += (
                f"Container {container.name} was using {format_bytes(amount)}, request is {request}, "
                f"has larger consumption of {resource}. "
            )
    return text


def node_condition(conditions: frozenset[str]) -> str:
    return f"The node had condition: [{' '.join(sorted(conditions))}]. "


def empty_dir(volume: str, limit: str) -> str:
    return f'Usage of EmptyDir volume "{volume}" exceeds the limit "{canonicalize(limit)}". '


def container_storage(container: str, limit: str) -> str:
    return f'Container {container} exceeded its local ephemeral storage limit "{canonicalize(limit)}". '


def pod_storage(limit_bytes: int) -> str:
    return (
        "Pod ephemeral local storage usage exceeds the total limit of containers "
        f"{format_bytes(limit_bytes)}. "
    )


def _amount(signal: str, value: int) -> str:
    if signal.endswith(".inodesFree") or signal == "pid.available":
        return format_decimal(Decimal(value))
    return format_bytes(value)
