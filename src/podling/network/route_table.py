"""The routes to other nodes' pods in the kernel: every route of the main table whose protocol number is
`RTPROT_PODLING`, and no other. `RouteTable.sync` makes them those wanted.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Iterable

from podling.linux.netlink import Netlink, NetlinkError, Route
from podling.linux.netlink.routes import RTPROT_KERNEL
from podling.network.addresses import IPNetwork

RTPROT_PODLING = 80
"""In `rtm_protocol`, where `ip route` shows "proto 80". Free in iproute2's rt_protos; above RTPROT_STATIC, so
the kernel only stores it."""

log = logging.getLogger(__name__)


class RouteTable:
    """Remembers what it has complained of already."""

    def __init__(self) -> None:
        self._refused: dict[IPNetwork, Route] = {}

    def sync(self, nl: Netlink, wanted: Iterable[Route]) -> frozenset[int] | None:
        """Returns the links the routes use, None when the kernel knows no way to a gateway (now).

        A subnet that this node is itself on is left to the kernel's own route: of two routes to one subnet
        the kernel takes the older, so ours would cut the node off its pods.
        """
        connected = {route.dst for route in nl.route_list(protocol=RTPROT_KERNEL)}
        routes = {route.dst: route for route in wanted if route.dst not in connected}
        present = nl.route_list(protocol=RTPROT_PODLING)
        kept = {route.dst: route for route in present}
        for route in present:
            if route.dst not in routes:
                nl.route_del(route, missing_ok=True)
                log.info("removed route %s", route)
        refused = {
            dst: route
            for dst, route in routes.items()
            if not _same(kept.get(dst), route) and not self._replace(nl, route)
        }
        self._refused = refused
        used = frozenset(route.oif for route in nl.route_list(protocol=RTPROT_PODLING))
        return None if refused else used

    def _replace(self, nl: Netlink, route: Route) -> bool:
        """False when the kernel knows no way to the gateway (now)."""
        try:
            nl.route_replace(route)
        except NetlinkError as err:
            if err.errno not in (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EINVAL, errno.ENETDOWN):
                raise
            if self._refused.get(route.dst) != route:
                log.warning("%s; nodes must share a network, or use an overlay", err.strerror)
            return False
        log.info("routed %s", route)
        return True


def _same(present: Route | None, wanted: Route) -> bool:
    """Whether the kernel has the route; a link that was left to its choice may be any."""
    return (
        present is not None
        and present.gateway == wanted.gateway
        and wanted.oif in (0, present.oif)
        and present.onlink == wanted.onlink
    )
