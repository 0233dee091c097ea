"""Telling a bridge's neighbours who has an address now: it may have been another container's a moment ago.

Who has the former owner's MAC address in its table would send there for up to a minute: the node first of
all, which probes its pods. So the node is told by netlink. The other containers are told by the kernel, with
an ARP announcement (`arp_notify`, as the reference plugin sets it): but not when the container's link comes
up, which is before the bridge forwards for it. So the link is given the MAC address it has, afterwards. Other
containers with IPv6 find out by themselves, as they do with the reference.
"""

from __future__ import annotations

from podling.linux.netlink import links, neighbours
from podling.linux.netlink.neighbours import NUD_STALE, Neighbour

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from podling.cni.types import IPAddress
    from podling.linux.netlink import Link, Netlink


def introduce(
    container: Link, addresses: Sequence[IPAddress], *, inside: Netlink, host: Netlink, bridge: Link
) -> None:
    """Once the container's link is a port that forwards."""
    if any(address.version == 4 for address in addresses):
        inside.execute(
            links.set_arp_notify(container.index), links.set_link(container.index, mac=container.mac)
        )
    known = [
        Neighbour(index=bridge.index, mac=container.mac, dst=address, state=NUD_STALE)
        for address in addresses
    ]
    if known:
        host.execute(*map(neighbours.replace_neighbour, known))
