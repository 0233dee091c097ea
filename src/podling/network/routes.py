"""Routes to the pods of other nodes: one per node and address family, via the node's InternalIP ("host-gw").

Owns the routes of `route_table`. The wanted ones follow from the Node objects (`spec.podCIDRs`,
`status.addresses`); a sync compares them with the kernel's and changes what differs. It runs when a Node
changes and when the kernel loses one of our routes: deleted by hand, or with a link that went down and came
back. Routes stay when the agent stops, so that a restart cuts no connection.

A node that is not a neighbour on this machine's network cannot be reached this way: its route is refused by
the kernel, which is said once, and tried again when addresses or links change. A subnet that this node is
itself on (someone gave it another CNI configuration) is left to the kernel's own route.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable

from podling.api.core_v1 import Node
from podling.client.client import Client
from podling.client.informer import Informer
from podling.linux.netlink import Netlink, Route
from podling.network.addresses import IPAddress, IPNetwork, internal_ips, overlap, pod_cidrs
from podling.network.route_table import RTPROT_PODLING, RouteTable
from podling.network.route_watch import RouteWatch

RETRY_MIN_S, RETRY_MAX_S = 0.2, 10.0  # after an error of netlink itself, which is not expected

log = logging.getLogger(__name__)


def compute_routes(nodes: Iterable[Node], node_name: str) -> dict[IPNetwork, IPAddress]:
    """Pod subnet to gateway, for every node but `node_name`.

    A node without an address of the subnet's family, or with a malformed one, has no route. Of two nodes that
    claim one subnet the first by name has it; ours is never routed away.
    """
    ordered = sorted(nodes, key=lambda node: node.metadata.name or "")
    own = [cidr for node in ordered if node.metadata.name == node_name for cidr in pod_cidrs(node)]
    wanted: dict[IPNetwork, IPAddress] = {}
    for node in ordered:
        if node.metadata.name == node_name:
            continue
        gateways = {address.version: address for address in reversed(internal_ips(node))}
        for cidr in pod_cidrs(node):
            gateway = gateways.get(cidr.version)
            if gateway is not None and not any(overlap(cidr, other) for other in own):
                wanted.setdefault(cidr, gateway)
    return wanted


class RouteSync:
    """Run `run()` as a task; it ends only by cancellation."""

    def __init__(self, client: Client, node_name: str) -> None:
        self._nodes: Informer[Node] = Informer(client, Node)
        self._node_name = node_name
        self._changed = asyncio.Event()
        self._table = RouteTable()

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
        routes = [Route(dst=dst, gateway=via, protocol=RTPROT_PODLING) for dst, via in wanted.items()]
        with Netlink() as nl:
            return self._table.sync(nl, routes)
