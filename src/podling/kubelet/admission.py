"""May this pod run here? The last word of the node after the scheduler's.

A scheduler decides on what it knew a moment ago, and `spec.nodeName` can be written by hand. Reasons and
texts are upstream's (`pkg/kubelet/lifecycle/predicate.go`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal

from podling.api import core_v1
from podling.api.pods import host_ports, host_ports_clash, pod_requests
from podling.api.quantity import parse_quantity
from podling.kubelet.admission_security import security_rejection
from podling.kubelet.status import Failure


def admit(
    pod: core_v1.Pod,
    others: Sequence[Mapping[str, Decimal]],
    allocatable: Mapping[str, str],
    *,
    allow_privileged: bool = True,
    allowed_unsafe_sysctls: Sequence[str] = (),
    taken_ports: Iterable[tuple[str, str, int]] = (),
) -> Failure | None:
    """None when it may. `others`: what each pod that holds resources on the node has asked for;
    `taken_ports`: the ports of the node they hold, as `host_ports` gives them."""
    refused = admit_static(
        pod,
        allow_privileged=allow_privileged,
        allowed_unsafe_sysctls=allowed_unsafe_sysctls,
        taken_ports=taken_ports,
    )
    if refused is not None:
        return refused
    max_pods = parse_quantity(allocatable["pods"])
    if len(others) + 1 > max_pods:
        return _rejection("pods", _lacking("pods", Decimal(1), Decimal(len(others)), max_pods))
    for name, amount in pod_requests(pod).items():
        text = lacking(name, amount, others, allocatable)
        if text is not None:
            return _rejection(name, text)
    return None


def lacking(
    name: str, amount: Decimal, others: Sequence[Mapping[str, Decimal]], allocatable: Mapping[str, str]
) -> str | None:
    """What the node says that has less than `amount` of a resource left; None when it has."""
    used = sum((other.get(name, Decimal(0)) for other in others), Decimal(0))
    capacity = parse_quantity(allocatable.get(name, "0"))
    return _lacking(name, amount, used, capacity) if amount > 0 and used + amount > capacity else None


def admit_static(
    pod: core_v1.Pod,
    *,
    allow_privileged: bool,
    allowed_unsafe_sysctls: Sequence[str] = (),
    taken_ports: Iterable[tuple[str, str, int]],
) -> Failure | None:
    """What holds for static pods too. Differs from upstream, which ends other pods where a static one finds
    no room: here it starts beside them."""
    spec = pod.spec or core_v1.PodSpec()
    if not allow_privileged and any(map(_is_privileged, [*spec.init_containers, *spec.containers])):
        text = f'pod with UID "{pod.metadata.uid}" specified privileged container, but is disallowed'
        return Failure(reason="Forbidden", message=f"Pod was rejected: {text}")
    wanted = list(host_ports(pod))
    if wanted and any(host_ports_clash(one, other) for other in taken_ports for one in wanted):
        return Failure(reason="NodePorts", message="Pod was rejected: Predicate NodePorts failed")
    return security_rejection(pod, allowed_unsafe_sysctls)


def _is_privileged(container: core_v1.Container) -> bool:
    return bool(container.security_context and container.security_context.privileged)


def _lacking(resource: str, requested: Decimal, used: Decimal, capacity: Decimal) -> str:
    # CPU is told in thousandths, as upstream's messages do.
    unit = 1000 if resource == "cpu" else 1
    numbers = (int(value * unit) for value in (requested, used, capacity))
    text = "Node didn't have enough resource: {}, requested: {}, used: {}, capacity: {}"
    return text.format(resource, *numbers)


def _rejection(resource: str, text: str) -> Failure:
    return Failure(reason=f"OutOf{resource}", message=f"Pod was rejected: {text}")
