"""Answers for the addresses of LoadBalancer services on the nodes' own network.

Each address of the pool that a service has is held by one Ready node: it puts the address on the link of its
own address, answers ARP for it with that, and translates what arrives as every node does (`proxy`). All nodes
choose alike, by the least hash of node and address among those that may: with externalTrafficPolicy Local the
ones that have a ready endpoint. A node that takes an address over announces it; what a dead node held moves
as soon as the node is not Ready any more.

Addresses of the pool on the link are ours: what is not wanted, of an earlier life too, is taken off.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Interface, IPv4Network

from podling.api.core_v1 import Node, Service
from podling.client.client import Client
from podling.client.informer import Informer
from podling.linux import arp
from podling.linux.netlink import Netlink, NetlinkError
from podling.network.services import ServiceView

RETRY_S = 1.0
EXCLUDED_LABEL = "node.kubernetes.io/exclude-from-external-load-balancers"

log = logging.getLogger(__name__)


class LoadBalancerAnnouncer:
    """`run()` until cancelled; `view` is run by its owner."""

    def __init__(
        self, view: ServiceView, client: Client, node_name: str, *, node_ip: IPv4Address, pool: IPv4Network
    ) -> None:
        self._view = view
        self._nodes = Informer(client, Node)
        self._node_name = node_name
        self._node_ip = node_ip
        self._pool = pool
        self._changed = asyncio.Event()

    async def run(self) -> None:
        self._view.add_handler(lambda key: self._changed.set())
        self._nodes.add_handler(self._on_node)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._nodes.run(), name="load balancers: nodes")
            await self._nodes.wait_synced()
            await self._view.wait_synced()
            while True:
                self._changed.clear()
                try:
                    await asyncio.to_thread(apply, self._node_ip, self._pool, self._wanted())
                except (NetlinkError, OSError) as err:
                    log.warning("load balancer addresses: %s", err)
                    await asyncio.sleep(RETRY_S)
                    continue
                await self._changed.wait()

    def _on_node(self, old: Node | None, new: Node | None) -> None:
        if old is None or new is None or may_answer(old) != may_answer(new):
            self._changed.set()

    def _wanted(self) -> set[IPv4Address]:
        """The addresses this node is to hold."""
        able = [n.metadata.name or "" for n in self._nodes.store.values() if may_answer(n)]
        found = set()
        for key in self._view.service_keys():
            service = self._view.service(key)
            for address in _addresses(service, self._pool):
                nodes = able
                if service and service.spec and service.spec.external_traffic_policy == "Local":
                    with_backend = {e.node for e in self._view.endpoints(key) if e.ready}
                    nodes = [name for name in able if name in with_backend]
                if holder(address, nodes) == self._node_name:
                    found.add(address)
        return found


def _addresses(service: Service | None, pool: IPv4Network) -> list[IPv4Address]:
    balancer = service.status.load_balancer if service and service.status else None
    texts = [i.ip for i in (balancer.ingress if balancer else []) if i.ip and ":" not in i.ip]
    return [address for address in map(IPv4Address, texts) if address in pool]


def may_answer(node: Node) -> bool:
    """Ready, and not kept out of load balancing."""
    conditions = node.status.conditions if node.status else []
    ready = any(c.type == "Ready" and c.status == "True" for c in conditions)
    return ready and EXCLUDED_LABEL not in node.metadata.labels


def holder(address: IPv4Address, nodes: Iterable[str]) -> str | None:
    """Which of the nodes holds an address: when one goes, only what it held moves."""
    return min(nodes, key=lambda name: hashlib.sha256(f"{name} {address}".encode()).digest(), default=None)


def apply(node_ip: IPv4Address, pool: IPv4Network, wanted: set[IPv4Address]) -> None:
    """Make the link of `node_ip` hold exactly `wanted` of the pool. Raises NetlinkError, OSError."""
    with Netlink() as nl:
        present = nl.addr_list()
        index = next((a.index for a in present if a.interface.ip == node_ip), None)
        if index is None:
            raise OSError(f"no link of this node has its address {node_ip}")
        held = {a.interface.ip for a in present if a.index == index and a.interface.ip in pool}
        held.discard(node_ip)
        link = nl.link_get(index)
        for address in held - wanted:
            nl.addr_del(index, IPv4Interface(f"{address}/32"), missing_ok=True)
        for address in sorted(wanted - held):
            nl.addr_add(index, IPv4Interface(f"{address}/32"), exist_ok=True)
            log.info("load balancer address %s is on this node now", address)
    for address in sorted(wanted - held):
        arp.announce(link.name, link.mac, address)
