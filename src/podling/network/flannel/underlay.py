"""The external interface, by which a node reaches the others, and what must not overlap with pods."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from podling.linux.netlink import RTN_UNICAST, Netlink, Route
from podling.linux.netlink.addresses import RT_SCOPE_UNIVERSE
from podling.network.addresses import IPAddress, IPNetwork, overlap
from podling.network.route_table import RTPROT_PODLING


class FlannelError(Exception):
    """The network cannot be set up on this node as things are; the text says why and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Underlay:
    index: int
    name: str
    mtu: int
    addresses: tuple[ipaddress.IPv4Interface | ipaddress.IPv6Interface, ...]
    """Global ones only."""

    def address(self, version: int, preferred: Iterable[IPAddress]) -> IPAddress:
        """The preferred one if the link has it, else its first. Raises `FlannelError`."""
        own = [a.ip for a in self.addresses if a.version == version]
        chosen = [ip for ip in preferred if ip in own] or own
        if not chosen:
            raise FlannelError(f"interface {self.name} has no IPv{version} address to reach other nodes from")
        return chosen[0]

    def is_neighbour(self, address: IPAddress) -> bool:
        """Whether the address is on this link's own network, so that no router is in between."""
        return any(a.version == address.version and address in a.network for a in self.addresses)


def find_underlay(nl: Netlink, name: str | None, addresses: Collection[IPAddress]) -> Underlay:
    """By name, else the link that has one of `addresses`, else that of the default route."""
    if name is not None:
        link = nl.link_find(name)
        if link is None:
            raise FlannelError(f'no interface "{name}" on this node: name the one other nodes are reached by')
        index = link.index
    else:
        index = _link_with(nl, addresses) or _default_link(nl)
        if not index:
            wanted = ", ".join(map(str, addresses))
            what = f"no interface has the address {wanted}" if wanted else "there is no default route"
            raise FlannelError(f"{what}: name the interface other nodes are reached by (--iface)")
        link = nl.link_get(index)
    own = [a for a in nl.addr_list(index) if a.scope == RT_SCOPE_UNIVERSE and not a.tentative]
    return Underlay(
        index=index, name=link.name, mtu=link.mtu, addresses=tuple(address.interface for address in own)
    )


def _link_with(nl: Netlink, addresses: Collection[IPAddress]) -> int:
    return next((a.index for a in nl.addr_list() if a.interface.ip in addresses), 0)


def _default_link(nl: Netlink) -> int:
    defaults = [r for r in nl.route_list() if r.dst.prefixlen == 0 and r.kind == RTN_UNICAST and r.oif]
    return min(defaults, key=lambda route: route.priority).oif if defaults else 0


def check_overlap(
    nl: Netlink, networks: Iterable[IPNetwork], subnets: Collection[IPNetwork], underlay: Underlay
) -> None:
    """Raises `FlannelError` when this node already goes somewhere else for addresses of the pod network."""
    routes = nl.route_list()
    for network in networks:
        for address in underlay.addresses:
            if overlap(network, address.network):
                raise FlannelError(
                    f"the pod network {network} overlaps {address.network}, the network of {underlay.name}: "
                    "choose another range for pods"
                )
        found = conflicting(routes, network, subnets)
        if found is not None:
            link = f" dev {nl.link_get(found.oif).name}" if found.oif else ""
            raise FlannelError(
                f"the pod network {network} overlaps this node's route {found.dst}{link}: "
                "choose another range for pods, or remove the route"
            )


def conflicting(routes: Iterable[Route], network: IPNetwork, subnets: Collection[IPNetwork]) -> Route | None:
    """A route to a part of the network that is neither ours nor in this node's own subnets.

    Routes to more than the network (a default route, a company's 10.0.0.0/8) do not count: ours are the more
    specific ones.
    """
    for route in routes:
        inside = _within(route.dst, network)
        own = any(_within(route.dst, subnet) for subnet in subnets)
        if inside and not own and route.kind == RTN_UNICAST and route.protocol != RTPROT_PODLING:
            return route
    return None


def _within(part: IPNetwork, whole: IPNetwork) -> bool:
    return overlap(part, whole) and part.prefixlen >= whole.prefixlen
