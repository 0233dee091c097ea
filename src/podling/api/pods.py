"""What follows from a pod's text alone: quality of service, requests, phase and conditions.

Read by API server, scheduler, kubelet and controllers, so that all of them agree.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any, Final, Literal

from podling.api.core_v1 import (
    Container,
    ContainerStatus,
    EphemeralContainer,
    Node,
    NodeCondition,
    Pod,
    PodCondition,
    PodStatus,
)
from podling.api.quantity import parse_quantity
from podling.api.times import now_rfc3339

QOSClass = Literal["Guaranteed", "Burstable", "BestEffort"]
Resources = dict[str, Decimal]

# Only these decide the class (Kubernetes concepts, "Pod Quality of Service Classes").
_QOS_RESOURCES: Final = ("cpu", "memory")
_MIRROR_ANNOTATION: Final = "kubernetes.io/config.mirror"
_SOURCE_ANNOTATION: Final = "kubernetes.io/config.source"


def pod_key(pod: Pod) -> str:
    """Return `namespace/name`."""
    return f"{pod.metadata.namespace}/{pod.metadata.name}"


def phase(pod: Pod) -> str:
    return (pod.status.phase if pod.status else None) or "Pending"


def is_terminal(pod: Pod) -> bool:
    """Say whether the pod has ended for good: Succeeded or Failed."""
    return phase(pod) in ("Succeeded", "Failed")


def is_deleting(pod: Pod) -> bool:
    return pod.metadata.deletion_timestamp is not None


def is_mirror(pod: Pod) -> bool:
    """Say whether the pod stands in the API for a static pod."""
    return _MIRROR_ANNOTATION in pod.metadata.annotations


def is_static(pod: Pod) -> bool:
    """Say whether the pod came from a manifest on the node and not from the API server."""
    return pod.metadata.annotations.get(_SOURCE_ANNOTATION, "api") != "api"


def is_sidecar(container: Container) -> bool:
    """Say whether an init container keeps running beside the others (restartPolicy Always)."""
    return container.restart_policy == "Always"


def containers(pod: Pod) -> Iterator[Container]:
    """Yield init containers, then containers: the order they start in."""
    if pod.spec is not None:
        yield from pod.spec.init_containers
        yield from pod.spec.containers


def find_container(pod: Pod, name: str) -> Container | EphemeralContainer | None:
    everything: list[Container | EphemeralContainer] = list(containers(pod))
    if pod.spec is not None:
        everything += pod.spec.ephemeral_containers
    return next((c for c in everything if c.name == name), None)


def container_statuses(pod: Pod) -> Iterator[ContainerStatus]:
    """Yield the statuses of init containers, containers and ephemeral containers."""
    if pod.status is not None:
        yield from pod.status.init_container_statuses
        yield from pod.status.container_statuses
        yield from pod.status.ephemeral_container_statuses


def container_status(pod: Pod, name: str) -> ContainerStatus | None:
    return next((s for s in container_statuses(pod) if s.name == name), None)


def host_ports(pod: Pod) -> Iterator[tuple[str, str, int]]:
    """Yield (address, protocol, port) the pod takes on its node; the address is 0.0.0.0 for any."""
    for container in containers(pod):
        for port in container.ports:
            if port.host_port:
                yield port.host_ip or "0.0.0.0", port.protocol or "TCP", port.host_port


def host_ports_clash(one: tuple[str, str, int], other: tuple[str, str, int]) -> bool:
    """Whether two ports of one node exclude each other: 0.0.0.0 is every address."""
    same_address = one[0] == other[0] or "0.0.0.0" in (one[0], other[0])
    return same_address and one[1:] == other[1:]


# Resources


def qos_class(pod: Pod) -> QOSClass:
    """Return the pod's quality of service class."""
    if pod.spec is None:
        return "BestEffort"
    if pod.spec.resources is not None:
        whole = pod.spec.resources
        return _qos([(whole.requests, whole.limits)])
    return _qos(
        (c.resources.requests, c.resources.limits) if c.resources else ({}, {}) for c in containers(pod)
    )


def qos_class_of(obj: Mapping[str, Any]) -> QOSClass:
    """The same for a pod that is plain JSON."""
    spec = obj.get("spec") or {}
    parts: Sequence[Mapping[str, Any]] = [spec]
    if not spec.get("resources"):
        parts = [*(spec.get("initContainers") or ()), *(spec.get("containers") or ())]
    resources = [part.get("resources") or {} for part in parts]
    return _qos((r.get("requests") or {}, r.get("limits") or {}) for r in resources)


def _qos(parts: Iterable[tuple[Mapping[str, str], Mapping[str, str]]]) -> QOSClass:
    requests: Resources = {}
    limits: Resources = {}
    guaranteed = True
    for requested, limited in parts:
        _add(requests, _positive(requested))
        found = _positive(limited)
        _add(limits, found)
        guaranteed = guaranteed and len(found) == len(_QOS_RESOURCES)
    if not requests and not limits:
        return "BestEffort"
    return "Guaranteed" if guaranteed and requests == limits else "Burstable"


def _positive(amounts: Mapping[str, str]) -> Resources:
    parsed = {name: parse_quantity(amounts[name]) for name in _QOS_RESOURCES if name in amounts}
    return {name: amount for name, amount in parsed.items() if amount > 0}


def pod_requests(pod: Pod) -> Resources:
    """Return what the scheduler must reserve, by resource name, in cores and bytes.

    The larger of the containers' sum and the greatest need while init containers run, sidecars
    counted from their own start on, plus overhead; requests of the pod as a whole replace both.
    """
    return _pod_amounts(pod, "requests")


def pod_limits(pod: Pod) -> Resources:
    """Return the pod's limits the same way; a resource that some container leaves open is absent."""
    found = _pod_amounts(pod, "limits")
    whole = pod.spec.resources.limits if pod.spec and pod.spec.resources else {}
    bounded = [
        set(c.resources.limits) if c.resources else set()
        for c in containers(pod)
        if pod.spec and (c in pod.spec.containers or is_sidecar(c))
    ]
    common = set.intersection(*bounded) if bounded else set()
    return {name: amount for name, amount in found.items() if name in common or name in whole}


def _pod_amounts(pod: Pod, which: Literal["requests", "limits"]) -> Resources:
    total: Resources = {}
    if pod.spec is None:
        return total
    for container in pod.spec.containers:
        _add(total, _amounts(container, which))
    sidecars: Resources = {}
    peak: Resources = {}
    for container in pod.spec.init_containers:
        amounts = _amounts(container, which)
        if is_sidecar(container):
            _add(sidecars, amounts)
            _add(total, amounts)
            amounts = dict(sidecars)
        else:
            _add(amounts, sidecars)
        _raise_to(peak, amounts)
    _raise_to(total, peak)
    if pod.spec.resources is not None:
        whole = pod.spec.resources.requests if which == "requests" else pod.spec.resources.limits
        total.update({name: parse_quantity(text) for name, text in whole.items()})
    overhead = {name: parse_quantity(text) for name, text in pod.spec.overhead.items()}
    _add(total, overhead if which == "requests" else {n: a for n, a in overhead.items() if n in total})
    return total


def _amounts(container: Container, which: Literal["requests", "limits"]) -> Resources:
    if container.resources is None:
        return {}
    texts = container.resources.requests if which == "requests" else container.resources.limits
    return {name: parse_quantity(text) for name, text in texts.items()}


def _add(total: Resources, amounts: Mapping[str, Decimal]) -> None:
    for name, amount in amounts.items():
        total[name] = total.get(name, Decimal(0)) + amount


def _raise_to(total: Resources, amounts: Mapping[str, Decimal]) -> None:
    for name, amount in amounts.items():
        if amount > total.get(name, Decimal(-1)):
            total[name] = amount


# Conditions


def get_condition(status: PodStatus | None, type_: str) -> PodCondition | None:
    return next((c for c in status.conditions if c.type == type_), None) if status else None


def set_condition(status: PodStatus, condition: PodCondition) -> bool:
    """Add or replace the condition of this type and say whether anything changed.

    `last_transition_time` moves only when `status` does, as the API conventions want it.
    """
    old = get_condition(status, condition.type)
    if condition.last_transition_time is None:
        same = old is not None and old.status == condition.status
        condition.last_transition_time = old.last_transition_time if same and old else now_rfc3339()
    if old == condition:
        return False
    if old is None:
        status.conditions = [*status.conditions, condition]
    else:
        status.conditions = [condition if c is old else c for c in status.conditions]
    return True


def is_ready(pod: Pod) -> bool:
    """Say whether the pod's Ready condition is true."""
    condition = get_condition(pod.status, "Ready")
    return condition is not None and condition.status == "True"


def get_node_condition(node: Node, type_: str) -> NodeCondition | None:
    return next((c for c in node.status.conditions if c.type == type_), None) if node.status else None


def is_node_ready(node: Node) -> bool:
    condition = get_node_condition(node, "Ready")
    return condition is not None and condition.status == "True"


def node_address(node: Node, type_: str = "InternalIP") -> str | None:
    addresses = node.status.addresses if node.status else []
    return next((a.address for a in addresses if a.type == type_), None)
