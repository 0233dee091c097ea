"""Gives each node without one a pod subnet: the lowest free one of the cluster's pod range.

Kubelets of `podling up` bring theirs along at registration; a node that joins by other means gets its
subnet here. One worker, so that no subnet is given twice.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from ipaddress import IPv4Network, IPv6Network, ip_network

from podling.api.core_v1 import Node
from podling.client.client import Client
from podling.client.errors import NotFoundError
from podling.client.events import EventRecorder
from podling.client.workqueue import WorkQueue, run_workers
from podling.controllers.informers import Informers

IPNetwork = IPv4Network | IPv6Network

log = logging.getLogger(__name__)


def lowest_free(cluster: IPNetwork, prefix: int, taken: Collection[IPNetwork]) -> IPNetwork | None:
    """The first subnet of `cluster` with `prefix` bits that overlaps none of `taken`; None when full."""
    for subnet in cluster.subnets(new_prefix=prefix):
        if not any(subnet.version == other.version and subnet.overlaps(other) for other in taken):
            return subnet
    return None


class NodeIPAMController:
    """Keyed by node name. `node_prefix` is the length of a node's subnet prefix in bits."""

    def __init__(
        self,
        client: Client,
        informers: Informers,
        events: EventRecorder,
        *,
        cluster_cidr: str,
        node_prefix: int,
    ) -> None:
        self._client = client
        self._informers = informers
        self._events = events
        self._cluster = ip_network(cluster_cidr)
        self._prefix = node_prefix
        self._taken: dict[str, IPNetwork] = {}
        self._queue: WorkQueue[str] = WorkQueue()

    async def run(self) -> None:
        # First know every subnet in use, or one of them might be given away.
        await self._informers.nodes.wait_synced()
        self._informers.nodes.add_handler(self._on_node)
        await run_workers(self._queue, self._reconcile, name="node-ipam")

    def _on_node(self, old: Node | None, new: Node | None) -> None:
        if new is None:
            assert old is not None
            if self._taken.pop(old.metadata.name or "", None) is not None:
                self._retry_waiting()
            return
        name = new.metadata.name or ""
        cidr = new.spec.pod_cidr if new.spec else None
        if not cidr:
            if old is None:
                self._queue.add(name)
            return
        try:
            self._taken[name] = ip_network(cidr)
        except ValueError:
            log.warning("node %s: podCIDR %r is not a network", name, cidr)

    def _retry_waiting(self) -> None:
        """A subnet is free again: for a node that found none left."""
        for (_, name), node in self._informers.nodes.store.items():
            if not (node.spec and node.spec.pod_cidr):
                self._queue.add(name)

    async def _reconcile(self, name: str) -> None:
        node = self._informers.nodes.get(name)
        if node is None or (node.spec and node.spec.pod_cidr):
            return
        subnet = self._taken.get(name) or lowest_free(self._cluster, self._prefix, self._taken.values())
        if subnet is None:
            message = f"Node {name} status is now: CIDRNotAvailable"
            self._events.event(node, "Normal", "CIDRNotAvailable", message)
            return
        self._taken[name] = subnet
        patch = {"spec": {"podCIDR": str(subnet), "podCIDRs": [str(subnet)]}}
        try:
            await self._client.patch(Node, name, patch)
        except NotFoundError:
            self._taken.pop(name, None)
