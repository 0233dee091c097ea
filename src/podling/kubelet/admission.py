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
from podling.kubelet.status import Failure


def admit(
    pod: core_v1.Pod,
    others: Sequence[Mapping[str, Decimal]],
    allocatable: Mapping[str, str],
    *,
    max_pods: int,
    taken_ports: Iterable[tuple[str, str, int]] = (),
) -> Failure | None:
    """None when it may. `others`: what each pod that holds resources on the node has asked for;
    `taken_ports`: the ports of the node they hold, as `host_ports` gives them."""
    wanted = list(host_ports(pod))
    if wanted and any(host_ports_clash(one, other) for other in taken_ports for one in wanted):
        return Failure(reason="NodePorts", message="Pod was rejected: Predicate NodePorts failed")
    if len(others) + 1 > max_pods:
        return _rejection("pods", Decimal(1), Decimal(len(others)), Decimal(max_pods))
    for name, amount in pod_requests(pod).items():
        used = sum((other.get(name, Decimal(0)) for other in others), Decimal(0))
        capacity = parse_quantity(allocatable.get(name, "0"))
        if amount > 0 and used + amount > capacity:
            return _rejection(name, amount, used, capacity)
    return None


def _rejection(resource: str, requested: Decimal, used: Decimal, capacity: Decimal) -> Failure:
    # CPU is told in thousandths, as upstream's messages do.
    unit = 1000 if resource == "cpu" else 1
    numbers = (int(value * unit) for value in (requested, used, capacity))
    text = "Node didn't have enough resource: {}, requested: {}, used: {}, capacity: {}"
    return Failure(reason=f"OutOf{resource}", message="Pod was rejected: " + text.format(resource, *numbers))
