"""What one service means on one node, as a value: `compute_rules`.

A service is a set of *frontends* (an address, protocol and port that packets are sent to; a node port has no
address of its own) and for each frontend a numbered list of *backends*. The kernel picks a number at random:

    services   address . protocol . port           -> the chain for this many backends
    backends   address . protocol . port . number  -> address . port

So there are no chains or rules of a service's own, only elements of two maps: a packet pays for two look-ups
however many services there are, and a change costs the elements it changes.

Source: Kubernetes reference, "Virtual IPs and Service Proxies"; pkg/proxy/topology.go.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from podling.api.core_v1 import Service, ServicePort, ServiceSpec
from podling.network.services import Endpoint

PROTOCOLS = {"TCP": 6, "UDP": 17, "SCTP": 132}
DEFAULT_AFFINITY_S = 10800
NO_ADDRESS = "0.0.0.0"
"""In the place of the address of a node port's backends."""
OUTSIDE = 0x10000
"""Added to the numbers of backends that packets from outside the cluster are given to, when they differ."""


class Kind(StrEnum):
    """How a chain treats its packets; also the beginning of its name."""

    CLUSTER = "cluster"
    """A cluster IP: masqueraded unless a pod sends."""
    EXTERNAL = "external"
    """An external IP: masqueraded, so that the answer comes back this way."""
    EXTERNAL_LOCAL = "external-local"
    """externalTrafficPolicy Local: from outside to this node's backends only, the sender's address kept."""
    NODE_PORT = "node-port"
    NODE_PORT_LOCAL = "node-port-local"


@dataclass(frozen=True, slots=True, order=True)
class Chain:
    """A chain that spreads over `count` backends; made when a service needs it, shared by all that do."""

    kind: Kind
    count: int
    local: int = 0
    """Backends for packets from outside, where the kind tells them apart."""
    sticky_s: int = 0
    """sessionAffinity: how long a client keeps its backend after its last connection; 0: not at all."""

    @property
    def name(self) -> str:
        name = f"{self.kind}-{self.count}"
        if self.kind in (Kind.EXTERNAL_LOCAL, Kind.NODE_PORT_LOCAL):
            name += f"-{self.local}"
        return f"{name}-sticky-{self.sticky_s}" if self.sticky_s else name


class Refusal(StrEnum):
    REJECT = "reject"
    """No endpoints anywhere: whoever connects is told at once."""
    DROP = "drop"
    """None on this node for a policy that allows no others: a load balancer is to try the next node."""


class Frontend(NamedTuple):
    address: str
    """`NO_ADDRESS` for a node port."""
    protocol: int
    port: int


class Backend(NamedTuple):
    address: str
    port: int


@dataclass(frozen=True, slots=True)
class ServiceRules:
    services: dict[Frontend, Chain | Refusal] = field(default_factory=dict)
    backends: dict[tuple[Frontend, int], Backend] = field(default_factory=dict)
    hairpin: frozenset[str] = frozenset()
    """This node's backends: a packet of theirs that comes back to them must not carry their own address."""


NO_RULES = ServiceRules()


def compute_rules(service: Service | None, endpoints: Sequence[Endpoint], node_name: str) -> ServiceRules:
    """Headless services, external names and addresses that are not IPv4 have none."""
    spec = service.spec if service is not None else None
    if service is None or spec is None or spec.type == "ExternalName":
        return NO_RULES
    if not spec.cluster_ip or spec.cluster_ip == "None":
        return NO_RULES
    rules = ServiceRules()
    local: set[str] = set()
    for port in spec.ports:
        protocol = PROTOCOLS.get(port.protocol or "TCP")
        if protocol is None:
            continue
        behind = [
            e
            for e in endpoints
            if e.port_name == (port.name or "") and e.protocol == (port.protocol or "TCP")
        ]
        _add_port(rules, service, port, protocol, behind, node_name)
        local.update(e.address for e in behind if e.node == node_name)
    used = {backend.address for backend in rules.backends.values()}
    return ServiceRules(rules.services, rules.backends, frozenset(local & used))


def _add_port(
    rules: ServiceRules,
    service: Service,
    port: ServicePort,
    protocol: int,
    behind: Sequence[Endpoint],
    node_name: str,
) -> None:
    spec = service.spec
    assert spec is not None
    here = [e for e in behind if e.node == node_name]
    everywhere = usable(behind)
    sticky_s = affinity_s(spec)

    internal_local = spec.internal_traffic_policy == "Local"
    inside = usable(here) if internal_local else everywhere
    for address in _ipv4([spec.cluster_ip or ""]):
        frontend = Frontend(address, protocol, port.port)
        _add(
            rules, frontend, Chain(Kind.CLUSTER, len(inside), sticky_s=sticky_s), inside, anywhere=everywhere
        )

    local = spec.external_traffic_policy == "Local"
    outside = usable(here) if local else []
    external = [Frontend(address, protocol, port.port) for address in external_addresses(service)]
    if port.node_port:
        external.append(Frontend(NO_ADDRESS, protocol, port.node_port))
    for frontend in external:
        plain, only_local = (
            (Kind.NODE_PORT, Kind.NODE_PORT_LOCAL)
            if frontend.address == NO_ADDRESS
            else (Kind.EXTERNAL, Kind.EXTERNAL_LOCAL)
        )
        chain = Chain(only_local if local else plain, len(everywhere), len(outside), sticky_s)
        _add(rules, frontend, chain, everywhere, anywhere=everywhere)
        for number, endpoint in enumerate(outside):
            rules.backends[frontend, OUTSIDE + number] = Backend(endpoint.address, endpoint.port)


def _add(
    rules: ServiceRules,
    frontend: Frontend,
    chain: Chain,
    chosen: Sequence[Endpoint],
    *,
    anywhere: Sequence[Endpoint],
) -> None:
    if not chosen:
        rules.services[frontend] = Refusal.DROP if anywhere else Refusal.REJECT
        return
    rules.services[frontend] = chain
    for number, endpoint in enumerate(chosen):
        rules.backends[frontend, number] = Backend(endpoint.address, endpoint.port)


def usable(endpoints: Iterable[Endpoint]) -> list[Endpoint]:
    """Those that are ready; where none is, those that still serve while they end (KEP-1669)."""
    listed = [e for e in endpoints if _is_ipv4(e.address)]
    ready = [e for e in listed if e.ready]
    return ready or [e for e in listed if e.serving and e.terminating]


def affinity_s(spec: ServiceSpec) -> int:
    if spec.session_affinity != "ClientIP":
        return 0
    config = spec.session_affinity_config
    seconds = config.client_ip.timeout_seconds if config and config.client_ip else None
    return seconds or DEFAULT_AFFINITY_S


def external_addresses(service: Service) -> list[str]:
    """externalIPs, and what a load balancer gave the service and leaves to the nodes to translate."""
    assert service.spec is not None
    status = service.status.load_balancer if service.status else None
    balanced = [i.ip or "" for i in (status.ingress if status else []) if i.ip_mode != "Proxy"]
    return list(dict.fromkeys(_ipv4([*service.spec.external_i_ps, *balanced])))


def _ipv4(addresses: Iterable[str]) -> list[str]:
    return [address for address in addresses if _is_ipv4(address)]


def _is_ipv4(address: str) -> bool:
    try:
        socket.inet_pton(socket.AF_INET, address)  # a tenth of what `ipaddress` takes
    except OSError:
        return False
    return True
