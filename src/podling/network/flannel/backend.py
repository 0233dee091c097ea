"""What a backend is: it makes this node's device and says which entries the kernel must have.

`Wanted` is a plain value, computed from the other nodes' leases; `apply` makes the kernel have it. Of the
device's neighbours and forwarding entries every permanent one is ours.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from typing import Protocol

from podling.linux.netlink import Link, Neighbour, Netlink, Route
from podling.linux.netlink.neighbours import NTF_SELF, NUD_PERMANENT
from podling.network.addresses import IPAddress, IPNetwork
from podling.network.flannel.lease import Lease, Remote
from podling.network.flannel.underlay import Underlay

ALIAS = "podling: flannel"
"""IFLA_IFALIAS of the links we make, by which one of another backend or VNI is known later."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """This node's part of the network in one address family."""

    network: IPNetwork
    subnet: IPNetwork
    local: IPAddress
    """Our address that packets to other nodes come from."""
    underlay: Underlay
    remotes: tuple[Remote, ...]
    mac: str = ""
    """The device's hardware address as told to others before, if any."""

    @property
    def version(self) -> int:
        return self.network.version


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    device: int = 0
    """ifindex; 0: the backend has none."""
    routes: tuple[Route, ...] = ()
    neighbours: frozenset[tuple[IPAddress, str]] = frozenset()
    """Who has an address on the device: by hardware address."""
    forwarding: frozenset[tuple[str, IPAddress]] = frozenset()
    """Behind which node a hardware address is: by the node's public address."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    lease: Lease
    wanted: Wanted
    mtu: int
    """What a packet of a pod may have."""
    device_names: frozenset[str] = field(default=frozenset())


class Backend(Protocol):
    def build(self, nl: Netlink, family: Family) -> Built:
        """Make or mend the device. Raises `FlannelError` or `OSError`."""

    def close(self) -> None:
        """End what runs in this process' name; the kernel's state stays."""


def mend_link(nl: Netlink, link: Link, *, mtu: int) -> None:
    """Up, marked as ours, and of the right MTU."""
    if link.mtu != mtu or link.alias != ALIAS or not link.up:
        nl.link_set(link.index, mtu=mtu, alias=ALIAS, up=True)


def ensure_address(nl: Netlink, link: Link, subnet: IPNetwork) -> None:
    """The first address of the subnet, and no other that is not link-local."""
    address = subnet.network_address
    wanted = ipaddress.ip_interface(f"{address}/{address.max_prefixlen}")
    present = [a.interface for a in nl.addr_list(link.index) if not a.interface.ip.is_link_local]
    for other in present:
        if other != wanted:
            nl.addr_del(link.index, other, missing_ok=True)
    if wanted not in present:
        nl.addr_add(link.index, wanted, exist_ok=True)


def put_entries(nl: Netlink, wanted: Wanted) -> None:
    """Add what is missing of neighbours and forwarding entries: to be done before the routes."""
    if not wanted.device:
        return
    neighbours, forwarding = _present(nl, wanted.device)
    for address, mac in wanted.neighbours - neighbours:
        nl.neigh_replace(Neighbour(index=wanted.device, dst=address, mac=mac))
    for mac, public_ip in wanted.forwarding - forwarding:
        nl.neigh_replace(_forwarding_entry(wanted.device, mac, public_ip))


def drop_entries(nl: Netlink, wanted: Wanted) -> None:
    """Remove neighbours and forwarding entries nobody wants: to be done after the routes."""
    if not wanted.device:
        return
    neighbours, forwarding = _present(nl, wanted.device)
    for address, mac in neighbours - wanted.neighbours:
        nl.neigh_del(Neighbour(index=wanted.device, dst=address, mac=mac), missing_ok=True)
    for mac, public_ip in forwarding - wanted.forwarding:
        nl.neigh_del(_forwarding_entry(wanted.device, mac, public_ip), missing_ok=True)


def _forwarding_entry(device: int, mac: str, public_ip: IPAddress) -> Neighbour:
    return Neighbour(index=device, mac=mac, dst=public_ip, flags=NTF_SELF)


def _present(nl: Netlink, device: int) -> tuple[set[tuple[IPAddress, str]], set[tuple[str, IPAddress]]]:
    neighbours = {
        (entry.dst, entry.mac)
        for entry in nl.neigh_list(device)
        if entry.state & NUD_PERMANENT and entry.dst is not None and entry.index == device
    }
    forwarding = {
        (entry.mac, entry.dst)
        for entry in nl.fdb_list(port=device)
        if entry.index == device and entry.dst is not None
    }
    return neighbours, forwarding
