"""Which nodes a pod may go to: one pure function per rule, each with upstream's words for a refusal.

A filter returns the reasons why `pod` cannot be on `node`, none when it can. `FILTERS` is upstream's
order; the first filter that refuses speaks for the node. `find_feasible` runs them over all nodes, and
`unschedulable_message` is the text of the FailedScheduling event that `kubectl describe pod` shows
(Kubernetes, pkg/scheduler/framework, "FitError").
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from podling.api.core_v1 import Taint
from podling.api.pods import host_ports_clash
from podling.api.selectors import match_node_selector
from podling.api.taints import find_untolerated
from podling.scheduler.state import TAINT_UNSCHEDULABLE, NodeInfo, PodInfo

NO_NODES = "no nodes available to schedule pods"


@dataclass(frozen=True, slots=True)
class Refusal:
    reasons: tuple[str, ...]
    resolvable: bool = False
    """Removing pods from the node could change it."""


Filter = Callable[[PodInfo, NodeInfo], Refusal | None]

_UNSCHEDULABLE = Refusal(("node(s) were unschedulable",))
_WRONG_NAME = Refusal(("node(s) didn't match the requested node name",))
_TAINTED = Refusal(("node(s) had untolerated taint(s)",))
_AFFINITY = Refusal(("node(s) didn't match Pod's node affinity/selector",))
_PORTS = Refusal(("node(s) didn't have free ports for the requested pod ports",), resolvable=True)
_CORDON = Taint(key=TAINT_UNSCHEDULABLE, effect="NoSchedule")


def node_unschedulable(pod: PodInfo, node: NodeInfo) -> Refusal | None:
    """`kubectl cordon`; tolerated by who tolerates the taint it stands for."""
    spec = node.node.spec
    if spec is None or not spec.unschedulable:
        return None
    return _UNSCHEDULABLE if find_untolerated([_CORDON], pod.tolerations, ["NoSchedule"]) else None


def node_name(pod: PodInfo, node: NodeInfo) -> Refusal | None:
    return _WRONG_NAME if pod.node_name and pod.node_name != node.name else None


def taints(pod: PodInfo, node: NodeInfo) -> Refusal | None:
    """NoSchedule and NoExecute taints, and a node that is not ready (see `state._effective_taints`)."""
    return _TAINTED if find_untolerated(node.taints, pod.tolerations, ["NoSchedule", "NoExecute"]) else None


def node_affinity(pod: PodInfo, node: NodeInfo) -> Refusal | None:
    """nodeSelector, and node affinity that is required."""
    labels = node.node.metadata.labels
    if any(labels.get(key) != value for key, value in pod.node_selector.items()):
        return _AFFINITY
    if pod.required_affinity is not None and not match_node_selector(pod.required_affinity, node.node):
        return _AFFINITY
    return None


def node_ports(pod: PodInfo, node: NodeInfo) -> Refusal | None:
    if not pod.host_ports:
        return None
    taken = [port for other in node.pods.values() for port in other.host_ports]
    return _PORTS if any(host_ports_clash(want, have) for want in pod.host_ports for have in taken) else None


def resources_fit(pod: PodInfo, node: NodeInfo) -> Refusal | None:
    """The number of pods, and what they request, within what the node can give."""
    reasons: list[str] = []
    resolvable = True
    if len(node.pods) + 1 > node.max_pods:
        reasons.append("Too many pods")
    for name, amount in pod.requests.items():
        allocatable = node.allocatable.get(name, 0)
        if amount > allocatable - node.requested.get(name, 0):
            reasons.append(f"Insufficient {name}")
            resolvable = resolvable and amount <= allocatable
    return Refusal(tuple(reasons), resolvable) if reasons else None


FILTERS: tuple[Filter, ...] = (
    node_unschedulable,
    node_name,
    taints,
    node_affinity,
    node_ports,
    resources_fit,
)


def check_node(pod: PodInfo, node: NodeInfo) -> Refusal | None:
    """The first refusal, or None when the pod may go to the node."""
    for rule in FILTERS:
        refusal = rule(pod, node)
        if refusal is not None:
            return refusal
    return None


def find_feasible(pod: PodInfo, nodes: Iterable[NodeInfo]) -> tuple[list[NodeInfo], list[Refusal]]:
    """The nodes `pod` may go to, and the refusals of the others."""
    feasible: list[NodeInfo] = []
    refusals: list[Refusal] = []
    for node in nodes:
        refusal = check_node(pod, node)
        if refusal is None:
            feasible.append(node)
        else:
            refusals.append(refusal)
    return feasible, refusals


def unschedulable_message(pod: PodInfo, refusals: list[Refusal]) -> str:
    """`0/3 nodes are available: 1 node(s) had untolerated taint(s), 2 Insufficient cpu. preemption: ...`"""
    if not refusals:
        return NO_NODES
    total = len(refusals)
    why = _histogram(reason for refusal in refusals for reason in refusal.reasons)
    if not pod.preempts:
        preemption = "not eligible due to preemptionPolicy=Never."
    else:
        outcomes = _histogram(
            "No preemption victims found for incoming pod"
            if refusal.resolvable
            else "Preemption is not helpful for scheduling"
            for refusal in refusals
        )
        preemption = f"0/{total} nodes are available: {outcomes}."
    return f"0/{total} nodes are available: {why}. preemption: {preemption}"


def _histogram(reasons: Iterable[str]) -> str:
    """`2 Insufficient cpu, 1 Too many pods`, sorted as text like upstream, so that repeats are the same."""
    return ", ".join(sorted(f"{count} {reason}" for reason, count in Counter(reasons).items()))
