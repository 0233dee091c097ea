"""Routes to the pods of other nodes: one per node and address family, via the node's InternalIP ("host-gw").

Owns every route of the main table whose protocol number is `RTPROT_PODLING` and no other. The wanted routes
follow from the Node objects (`spec.podCIDRs`, `status.addresses`); a sync compares them with the kernel's and
changes what differs. It runs when a Node changes and when the kernel loses one of our routes: deleted by
hand, or with a link that went down and came back. Routes stay when the agent stops, so that a restart cuts
no connection.

A node that is not a neighbour on this machine's network cannot be reached this way: its route is refused by
the kernel, which is said once, and tried again when addresses or links change. A subnet that this node is
itself on (someone gave it another CNI configuration) is left to the kernel's own route.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import logging
from collections.abc import Iterable
from typing import TypeAlias

from podling.api.core_v1 import Node
from podling.client.client import Client
from podling.client.informer import Informer
from podling.linux.netlink import Netlink, NetlinkError, Route
from podling.linux.netlink.routes import RTPROT_KERNEL
from podling.network.route_watch import RouteWatch

RTPROT_PODLING = 80
"""In `rtm_protocol`, where `ip route` shows "proto 80". Free in iproute2's rt_protos; above RTPROT_STATIC, so
the kernel only stores it."""

IPAddress: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
IPNetwork: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

RETRY_MIN_S, RETRY_MAX_S = 0.2, 10.0  # after an error of netlink itself, which is not expected

log = logging.getLogger(__name__)


def compute_routes(nodes: Iterable[Node], node_name: str) -> dict[IPNetwork, IPAddress]:
    """Pod subnet to gateway, for every node but `node_name`.

    A node without an address of the subnet's family, or with a malformed one, has no route. Of two nodes that
    claim one subnet the first by name has it; ours is never routed away.
    """
    ordered = sorted(nodes, key=lambda node: node.metadata.name or "")
    own = [cidr for node in ordered if node.metadata.name == node_name for cidr in _pod_cidrs(node)]
    wanted: dict[IPNetwork, IPAddress] = {}
    for node in ordered:
        if node.metadata.name == node_name:
            continue
        gateways = {address.version: address for address in reversed(_internal_ips(node))}
        for cidr in _pod_cidrs(node):
            gateway = gateways.get(cidr.version)
            if gateway is not None and not any(_overlap(cidr, other) for other in own):
                wanted.setdefault(cidr, gateway)
    return wanted


def _overlap(one: IPNetwork, other: IPNetwork) -> bool:
    return one.version == other.version and one.overlaps(other)


def _pod_cidrs(node: Node) -> list[IPNetwork]:
    if node.spec is None:
        return []
    texts = node.spec.pod_cid_rs or ([node.spec.pod_cidr] if node.spec.pod_cidr else [])
    return [cidr for text in texts if (cidr := _network(text)) is not None]


def _network(text: str) -> IPNetwork | None:
    try:
        return ipaddress.ip_network(text)
    except ValueError:
        return None


def _internal_ips(node: Node) -> list[IPAddress]:
    found = []
    for entry in node.status.addresses if node.status else ():
        if entry.type == "InternalIP":
            try:
                found.append(ipaddress.ip_address(entry.address))
            except ValueError:
                continue
    return found


class RouteSync:
    """Run `run()` as a task; it ends only by cancellation."""

    def __init__(self, client: Client, node_name: str) -> None:
        self._nodes: Informer[Node] = Informer(client, Node)
        self._node_name = node_name
        self._changed = asyncio.Event()
        self._refused: dict[IPNetwork, IPAddress] = {}  # said already

    async def run(self) -> None:
        self._nodes.add_handler(self._node_changed)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._nodes.run(), name="routes: nodes")
            tasks.create_task(self._sync_forever(), name="routes: sync")

    def _node_changed(self, old: Node | None, new: Node | None) -> None:
        # Heartbeats change a Node every few seconds; its routes hardly ever.
        before = compute_routes([old] if old else [], self._node_name)
        after = compute_routes([new] if new else [], self._node_name)
        own = any(node is not None and node.metadata.name == self._node_name for node in (old, new))
        if before != after or (own and (old is None or new is None or old.spec != new.spec)):
            self._changed.set()

    async def _sync_forever(self) -> None:
        # Not before all nodes are known: what is not wanted yet would be taken for stale.
        await self._nodes.wait_synced()
        retry_s = RETRY_MIN_S
        with RouteWatch(RTPROT_PODLING, self._changed) as watch:
            while True:
                self._changed.clear()
                wanted = compute_routes(self._nodes.store.values(), self._node_name)
                try:
                    links = await asyncio.to_thread(self._sync, wanted)
                except OSError as err:
                    log.warning("pod routes: %s; trying again in %g s", err.strerror, retry_s)
                    await asyncio.sleep(retry_s)
                    retry_s = min(retry_s * 2, RETRY_MAX_S)
                    continue
                retry_s = RETRY_MIN_S
                watch.links = links
                await self._changed.wait()

    def _sync(self, wanted: dict[IPNetwork, IPAddress]) -> frozenset[int] | None:
        """Make the kernel's routes those wanted. Returns the links they use, None when some were refused."""
        refused: dict[IPNetwork, IPAddress] = {}
        with Netlink() as nl:
            # Of two routes to one subnet the kernel takes the older, so ours would cut the node off its pods.
            connected = {route.dst for route in nl.route_list(protocol=RTPROT_KERNEL)}
            wanted = {dst: gateway for dst, gateway in wanted.items() if dst not in connected}
            present = nl.route_list(protocol=RTPROT_PODLING)
            kept = {route.dst: route.gateway for route in present}
            for route in present:
                if route.dst not in wanted:
                    nl.route_del(route, missing_ok=True)
                    log.info("removed route %s", route)
            for dst, gateway in wanted.items():
                if kept.get(dst) != gateway and not self._replace(nl, dst, gateway):
                    refused[dst] = gateway
            self._refused = refused
            used = frozenset(route.oif for route in nl.route_list(protocol=RTPROT_PODLING))
        return None if refused else used

    def _replace(self, nl: Netlink, dst: IPNetwork, gateway: IPAddress) -> bool:
        """False when the kernel knows no way to the gateway (now)."""
        route = Route(dst=dst, gateway=gateway, protocol=RTPROT_PODLING)
        try:
            nl.route_replace(route)
        except NetlinkError as err:
            if err.errno not in (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EINVAL, errno.ENETDOWN):
                raise
            if self._refused.get(dst) != gateway:
                log.warning("%s; nodes must share a network, or use an overlay", err.strerror)
            return False
        log.info("routed %s", route)
        return True
