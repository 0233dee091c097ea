"""What the scheduler knows: nodes, the pods on them, and what is left of each node.

`PodInfo` and `NodeInfo` are digests of API objects, made once per change, so that filters and scores
compare integers. CPU is in thousandths of a core, everything else in whole units (bytes, pods).

A pod the scheduler has decided on is *assumed* on its node before the API server confirms it, so that
the next decision already counts it. The assumption ends when the watch shows the pod assigned, or when
binding fails (`forget`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import ROUND_CEILING

from podling.api.core_v1 import Node, NodeSelector, Pod, PreferredSchedulingTerm, Taint, Toleration
from podling.api.pods import get_node_condition, host_ports, pod_requests
from podling.api.quantity import QuantityError, to_bytes, to_milli

TAINT_NOT_READY = "node.kubernetes.io/not-ready"
TAINT_UNREACHABLE = "node.kubernetes.io/unreachable"
TAINT_UNSCHEDULABLE = "node.kubernetes.io/unschedulable"

# What a pod that requests nothing counts as when nodes are compared, or all of them would go to one node
# (the values of upstream's pkg/scheduler/util).
DEFAULT_CPU_MILLI = 100
DEFAULT_MEMORY_BYTES = 200 * 1024 * 1024

Amounts = dict[str, int]
HostPort = tuple[str, str, int]
"""(address, protocol, port); the address 0.0.0.0 stands for all of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PodInfo:
    key: tuple[str, str]
    """(namespace, name)"""
    uid: str
    node_name: str
    """Where it is, or where it wants to be; empty when that is for the scheduler to say."""
    requests: Amounts
    scoring_cpu_milli: int
    scoring_memory_bytes: int
    host_ports: tuple[HostPort, ...]
    tolerations: tuple[Toleration, ...]
    node_selector: Mapping[str, str]
    required_affinity: NodeSelector | None
    preferred_affinity: tuple[PreferredSchedulingTerm, ...]
    owner_uid: str
    """Of the controller that made it; empty for a pod somebody made by hand."""
    priority: int
    preempts: bool


def pod_info(pod: Pod) -> PodInfo:
    """The scheduler's digest of `pod`."""
    spec = pod.spec
    assert spec is not None  # the API server accepts no pod without one
    requests: Amounts = {}
    for name, amount in pod_requests(pod).items():
        scaled = amount * 1000 if name == "cpu" else amount
        requests[name] = int(scaled.to_integral_value(ROUND_CEILING))
    affinity = spec.affinity.node_affinity if spec.affinity else None
    owner = next((o.uid for o in pod.metadata.owner_references if o.controller), "")
    return PodInfo(
        key=(pod.metadata.namespace or "", pod.metadata.name or ""),
        uid=pod.metadata.uid or "",
        node_name=spec.node_name or "",
        requests={name: amount for name, amount in requests.items() if amount},
        scoring_cpu_milli=requests.get("cpu") or DEFAULT_CPU_MILLI,
        scoring_memory_bytes=requests.get("memory") or DEFAULT_MEMORY_BYTES,
        host_ports=tuple(host_ports(pod)),
        tolerations=tuple(spec.tolerations),
        node_selector=spec.node_selector,
        required_affinity=affinity.required_during_scheduling_ignored_during_execution if affinity else None,
        preferred_affinity=tuple(affinity.preferred_during_scheduling_ignored_during_execution)
        if affinity
        else (),
        owner_uid=owner,
        priority=spec.priority or 0,
        preempts=spec.preemption_policy != "Never",
    )


@dataclass(slots=True, kw_only=True)
class NodeInfo:
    """A node and the sums over its pods. Only `ClusterState` changes it."""

    name: str
    node: Node
    allocatable: Amounts
    taints: tuple[Taint, ...]
    pods: dict[tuple[str, str], PodInfo] = field(default_factory=dict)
    requested: Amounts = field(default_factory=dict)
    scoring_cpu_milli: int = 0
    scoring_memory_bytes: int = 0

    @property
    def max_pods(self) -> int:
        return self.allocatable.get("pods", 0)

    def add(self, pod: PodInfo) -> None:
        self.pods[pod.key] = pod
        self._count(pod, 1)

    def remove(self, pod: PodInfo) -> None:
        del self.pods[pod.key]
        self._count(pod, -1)

    def _count(self, pod: PodInfo, sign: int) -> None:
        for name, amount in pod.requests.items():
            self.requested[name] = self.requested.get(name, 0) + sign * amount
        self.scoring_cpu_milli += sign * pod.scoring_cpu_milli
        self.scoring_memory_bytes += sign * pod.scoring_memory_bytes


def node_info(node: Node) -> NodeInfo:
    """The digest of a node without its pods."""
    allocatable: Amounts = {}
    for name, text in (node.status.allocatable if node.status else {}).items():
        try:
            allocatable[name] = to_milli(text) if name == "cpu" else to_bytes(text)
        except QuantityError:
            continue  # a node may say what it likes; what cannot be read is not there
    return NodeInfo(
        name=node.metadata.name or "", node=node, allocatable=allocatable, taints=_effective_taints(node)
    )


def _effective_taints(node: Node) -> tuple[Taint, ...]:
    """The node's taints, and those its state calls for but no controller has written yet.

    Upstream relies on admission and the node lifecycle controller to write them in time; deciding by the
    state itself closes the gap between a node going away and its taint.
    """
    taints = list(node.spec.taints) if node.spec else []
    ready = get_node_condition(node, "Ready")
    if ready is None or ready.status == "False":
        taints.append(Taint(key=TAINT_NOT_READY, effect="NoSchedule"))
    elif ready.status != "True":
        taints.append(Taint(key=TAINT_UNREACHABLE, effect="NoSchedule"))
    return tuple(taints)


class ClusterState:
    """All nodes, and where each pod counts. Pods of a node that is not (yet, or any more) known are kept."""

    def __init__(self) -> None:
        self.nodes: dict[str, NodeInfo] = {}
        self._pods: dict[tuple[str, str], PodInfo] = {}
        self._by_node: dict[str, dict[tuple[str, str], PodInfo]] = {}

    def set_node(self, node: Node) -> NodeInfo:
        """Take in a new or changed node."""
        new = node_info(node)
        for pod in self._by_node.get(new.name, {}).values():
            new.add(pod)
        self.nodes[new.name] = new
        return new

    def remove_node(self, name: str) -> None:
        self.nodes.pop(name, None)

    def set_pod(self, pod: PodInfo) -> None:
        """Count `pod` on `pod.node_name`, and nowhere else; for a pod assigned or assumed."""
        self.remove_pod(pod.key)
        self._pods[pod.key] = pod
        self._by_node.setdefault(pod.node_name, {})[pod.key] = pod
        if pod.node_name in self.nodes:
            self.nodes[pod.node_name].add(pod)

    def remove_pod(self, key: tuple[str, str], uid: str | None = None) -> str | None:
        """Count the pod no more (only if it is the one with `uid`); return the node it was on."""
        pod = self._pods.get(key)
        if pod is None or (uid is not None and pod.uid != uid):
            return None
        del self._pods[key]
        on_node = self._by_node[pod.node_name]
        del on_node[key]
        if not on_node:
            del self._by_node[pod.node_name]
        if pod.node_name in self.nodes:
            self.nodes[pod.node_name].remove(pod)
        return pod.node_name

    def get_pod(self, key: tuple[str, str]) -> PodInfo | None:
        return self._pods.get(key)
