"""A route for the service range on nodes that have no default route (clusters without egress).

A process can send a packet only where a route leads, and only then is it translated. The route leads to the
node's own link, where nobody answers for what no service is.
"""

from __future__ import annotations

import asyncio
import logging
from ipaddress import IPv4Address, IPv4Network

from podling.linux.netlink import Netlink, NetlinkError, Route
from podling.network.route_watch import RouteWatch

RTPROT_PODLING_SERVICES = 81
"""The route's mark; 80 are those to pods."""
AF_INET = 2

log = logging.getLogger(__name__)


async def keep_route(service_cidr: IPv4Network, node_ip: IPv4Address) -> None:
    """Until cancelled: made when it is missing, again when the kernel loses it."""
    changed = asyncio.Event()
    with RouteWatch(RTPROT_PODLING_SERVICES, changed) as watch:
        while True:
            changed.clear()
            try:
                watch.links = await asyncio.to_thread(_ensure_route, service_cidr, node_ip)
            except NetlinkError as err:
                log.warning("route to services: %s", err.strerror)
            await changed.wait()


def _ensure_route(service_cidr: IPv4Network, node_ip: IPv4Address) -> frozenset[int]:
    """Returns the link the node's address is on, none when it has none yet."""
    with Netlink() as nl:
        links = frozenset(a.index for a in nl.addr_list(family=AF_INET) if a.interface.ip == node_ip)
        present = nl.route_list(family=AF_INET)
        # A default route will do, as it does for kube-proxy.
        if links and not any(route.dst.prefixlen == 0 for route in present):
            oif = min(links)
            wanted = Route(dst=service_cidr, oif=oif, prefsrc=node_ip, protocol=RTPROT_PODLING_SERVICES)
            if not any((r.dst, r.oif, r.protocol) == (wanted.dst, oif, wanted.protocol) for r in present):
                nl.route_replace(wanted)
    return links
