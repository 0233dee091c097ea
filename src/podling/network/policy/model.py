"""What the policies of a cluster mean for the pods of one node, as plain values.

`compute` is the whole of NetworkPolicy's semantics (networking.k8s.io/v1; Kubernetes documentation, "Network
Policies"): a pod that any policy selects for a direction is isolated in it, and then reaches or is reached by
what the rules of all policies that select it allow together. The result names each chain and each set of
peers by what it is made from, so that pods with the same rules share them and a change of one pod's address
is a change of a few set elements.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from ipaddress import IPv4Network, ip_network

import msgspec

from podling.api.core_v1 import Namespace, Pod
from podling.api.networking_v1 import NetworkPolicy, NetworkPolicyPeer, NetworkPolicyPort
from podling.api.pods import is_terminal
from podling.api.selectors import match_label_selector

PROTOCOLS = {"TCP": 6, "UDP": 17, "SCTP": 132}
MAX_PORT = 65535


class Direction(StrEnum):
    INGRESS = "ingress"
    EGRESS = "egress"


@dataclass(frozen=True, slots=True, order=True)
class Ports:
    """A protocol, and a range of its ports."""

    protocol: int
    first: int = 0
    last: int = MAX_PORT


@dataclass(frozen=True, slots=True, order=True)
class Block:
    """Addresses of a range less those of others."""

    network: IPv4Network
    excluded: tuple[IPv4Network, ...] = ()


@dataclass(frozen=True, slots=True, order=True)
class Allow:
    """One thing that is allowed: peers (a set by name, or a block, or anybody), on ports (none: any)."""

    peers: str = ""
    block: Block | None = None
    ports: tuple[Ports, ...] = ()


Chain = tuple[Allow, ...]
"""What an isolated pod may in one direction; all else is dropped."""


@dataclass(frozen=True, slots=True)
class Rules:
    """The table of one node."""

    chains: Mapping[str, Chain] = field(default_factory=dict)
    isolated: Mapping[Direction, Mapping[str, str]] = field(default_factory=dict)
    """By direction and address of a pod of this node: its chain."""
    peers: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """The addresses in each set of peers."""


class Cluster:
    """The state of the API that policies are about."""

    def __init__(
        self, policies: Iterable[NetworkPolicy], namespaces: Iterable[Namespace], pods: Iterable[Pod]
    ) -> None:
        self.policies = list(policies)
        self.namespaces = {n.metadata.name or "": n for n in namespaces}
        self.pods = [pod for pod in pods if _has_network(pod)]

    @cached_property
    def pods_by_namespace(self) -> dict[str, list[Pod]]:
        found: dict[str, list[Pod]] = {}
        for pod in self.pods:
            found.setdefault(pod.metadata.namespace or "", []).append(pod)
        return found


def _has_network(pod: Pod) -> bool:
    """A pod whose addresses are its own. One of the host's network is to policies what the node is."""
    return bool(pod.spec and not pod.spec.host_network and pod_ips(pod)) and not is_terminal(pod)


def pod_ips(pod: Pod) -> list[str]:
    """The pod's IPv4 addresses."""
    status = pod.status
    ips = [entry.ip for entry in status.pod_i_ps if entry.ip] if status else []
    if not ips and status and status.pod_ip:
        ips = [status.pod_ip]
    return [ip for ip in ips if ":" not in ip]


def compute(cluster: Cluster, local: Iterable[Pod]) -> Rules:
    """The table for a node whose pods are `local`; others need them in `cluster` to name them as peers."""
    builder = _Builder(cluster)
    isolated: dict[Direction, dict[str, str]] = {direction: {} for direction in Direction}
    for pod in local:
        if not _has_network(pod):
            continue
        for direction in Direction:
            chain = builder.chain_for(pod, direction)
            if chain is not None:
                isolated[direction].update(dict.fromkeys(pod_ips(pod), chain))
    return Rules(builder.chains, isolated, builder.peers)


class _Builder:
    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self.chains: dict[str, Chain] = {}
        self.peers: dict[str, frozenset[str]] = {}
        self._matching: dict[str, list[Pod]] = {}

    def chain_for(self, pod: Pod, direction: Direction) -> str | None:
        """The name of the pod's chain; None when nothing isolates it."""
        policies = [p for p in self._cluster.policies if _selects(p, pod, direction)]
        if not policies:
            return None
        allowed = {allow for policy in policies for allow in self._allowed(policy, pod, direction)}
        chain = tuple(sorted(allowed, key=_order))
        name = f"{direction}-{_digest(repr(chain))}"
        self.chains[name] = chain
        return name

    def _allowed(self, policy: NetworkPolicy, pod: Pod, direction: Direction) -> Iterator[Allow]:
        spec = policy.spec
        assert spec is not None
        namespace = policy.metadata.namespace or ""
        if direction is Direction.INGRESS:
            for rule in spec.ingress:
                ports = [wanted for port in rule.ports for wanted in _ports_of(port, pod)]
                if rule.ports and not ports:
                    continue  # a port by a name the pod does not have
                for peers in self._peers(namespace, rule.from_):
                    yield Allow(peers.set, peers.block, tuple(sorted(ports)))
        else:
            for outgoing in spec.egress:
                for peers in self._peers(namespace, outgoing.to):
                    yield from self._egress(peers, outgoing.ports)

    def _egress(self, peers: _Peers, ports: list[NetworkPolicyPort]) -> Iterator[Allow]:
        """A port by name means another number for each pod it leads to."""
        numbered = [p for port in ports if not isinstance(port.port, str) for p in _numbered(port)]
        if numbered or not ports:
            yield Allow(peers.set, peers.block, tuple(sorted(numbered)))
        for port in ports:
            if not isinstance(port.port, str):
                continue
            by_number: dict[Ports, list[Pod]] = {}
            for pod in peers.pods if peers.set else self._cluster.pods if peers.block is None else ():
                for number in _ports_of(port, pod):
                    by_number.setdefault(number, []).append(pod)
            for number, pods in by_number.items():
                key = f"{peers.set or 'all'} {port.protocol} {port.port} {number.first}"
                yield Allow(self._name(key, pods), None, (number,))

    def _peers(self, namespace: str, peers: list[NetworkPolicyPeer]) -> Iterator[_Peers]:
        if not peers:
            yield _Peers()
        for peer in peers:
            if peer.ip_block is not None:
                network = ip_network(peer.ip_block.cidr, strict=False)
                excluded = tuple(ip_network(cidr, strict=False) for cidr in peer.ip_block.except_)
                if isinstance(network, IPv4Network):
                    kept = tuple(sorted(e for e in excluded if isinstance(e, IPv4Network)))
                    yield _Peers(block=Block(network, kept))
                continue
            key = f"{namespace} {msgspec.json.encode(peer).decode()}"
            pods = self._select(key, namespace, peer)
            yield _Peers(set=self._name(key, pods), pods=pods)

    def _select(self, key: str, namespace: str, peer: NetworkPolicyPeer) -> list[Pod]:
        if key in self._matching:
            return self._matching[key]
        if peer.namespace_selector is None:
            namespaces = [namespace]
        else:
            selector = peer.namespace_selector
            namespaces = [
                name
                for name, found in self._cluster.namespaces.items()
                if match_label_selector(selector, found.metadata.labels)
            ]
        by_namespace = self._cluster.pods_by_namespace
        pods = [pod for name in namespaces for pod in by_namespace.get(name, ())]
        if peer.pod_selector is not None:
            pods = [pod for pod in pods if match_label_selector(peer.pod_selector, pod.metadata.labels)]
        self._matching[key] = pods
        return pods

    def _name(self, key: str, pods: Iterable[Pod]) -> str:
        name = f"peers-{_digest(key)}"
        self.peers[name] = frozenset(ip for pod in pods for ip in pod_ips(pod))
        return name


@dataclass(frozen=True, slots=True)
class _Peers:
    """Whom a rule is about; neither set nor block: anybody."""

    set: str = ""
    pods: list[Pod] = field(default_factory=list)
    block: Block | None = None


def _selects(policy: NetworkPolicy, pod: Pod, direction: Direction) -> bool:
    spec = policy.spec
    if spec is None or policy.metadata.namespace != pod.metadata.namespace:
        return False
    wanted = "Ingress" if direction is Direction.INGRESS else "Egress"
    types = spec.policy_types or ["Ingress", *(["Egress"] if spec.egress else [])]
    return wanted in types and match_label_selector(spec.pod_selector, pod.metadata.labels)


def _ports_of(port: NetworkPolicyPort, pod: Pod) -> list[Ports]:
    """What a rule's port means for connections to `pod`."""
    if not isinstance(port.port, str):
        return _numbered(port)
    protocol = port.protocol or "TCP"
    containers = [*pod.spec.containers, *pod.spec.init_containers] if pod.spec else []
    found = (
        declared.container_port
        for container in containers
        for declared in container.ports
        if declared.name == port.port and (declared.protocol or "TCP") == protocol
    )
    number = next(found, None)
    return [] if number is None else [Ports(PROTOCOLS[protocol], number, number)]


def _numbered(port: NetworkPolicyPort) -> list[Ports]:
    protocol = PROTOCOLS.get(port.protocol or "TCP")
    if protocol is None:
        return []
    if port.port is None:
        return [Ports(protocol)]
    first = int(port.port)
    return [Ports(protocol, first, port.end_port or first)]


def _order(allow: Allow) -> tuple[str, str, tuple[Ports, ...]]:
    return (allow.peers, str(allow.block or ""), allow.ports)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
