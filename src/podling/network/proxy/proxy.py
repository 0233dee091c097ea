"""`ServiceProxy`: keeps this node's nftables as the services and their endpoints want it.

Changes of the API mark services dirty; a pass computes their rules and sends the difference as one
transaction. A pass takes what has gathered while the one before ran, so that a thousand changes are a few
transactions. The kernel tells of changes others make: when our table was touched or flushed it is written
again, whole, in one transaction. Rules stay when the agent stops; the next one replaces them in one step.

Nodes without a default route (clusters without egress) get a route for the service range (`route`).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network

from podling.api.core_v1 import Service
from podling.client.events import EventRecorder
from podling.linux.netlink import NetlinkError
from podling.linux.netlink.netfilter import Netfilter
from podling.linux.netlink.wire import Request
from podling.linux.sysctl import ensure_sysctl
from podling.network.nft_watch import NftWatch
from podling.network.proxy import ruleset, stale
from podling.network.proxy.route import keep_route
from podling.network.proxy.rules import compute_rules
from podling.network.proxy.table import Table
from podling.network.services import Key, ServiceView

REPAIR_PAUSE_S = 1.0
"""Between two repairs: someone who flushes in a loop shall not keep us busy."""
RETRY_S = 1.0
SERVICES_AT_A_TIME = 100

log = logging.getLogger(__name__)


class ServiceProxy:
    """`run()` until cancelled. `view` is run by its owner."""

    def __init__(
        self,
        view: ServiceView,
        node_name: str,
        *,
        node_ip: IPv4Address | None = None,
        cluster_cidr: IPv4Network | None = None,
        service_cidr: IPv4Network | None = None,
        events: EventRecorder | None = None,
    ) -> None:
        """`cluster_cidr`: the range of all pods; `service_cidr`: that of cluster IPs."""
        self._view = view
        self._node_name = node_name
        self._node_ip = node_ip
        self._service_cidr = service_cidr
        self._events = events
        self._table = Table(cluster_cidr, service_cidr)
        self._dirty: set[Key] = set()
        self._wake = asyncio.Event()
        self._reload = True
        self._told: set[tuple[Key, object]] = set()
        self.synced = asyncio.Event()
        """Set once the kernel has what the API said at the start."""

    async def run(self) -> None:
        self._view.add_handler(self._on_change)
        await self._view.wait_synced()
        self._dirty.update(self._view.service_keys())
        await asyncio.to_thread(_prepare_node)
        async with asyncio.TaskGroup() as tasks:
            if self._service_cidr is not None and self._node_ip is not None:
                route = keep_route(self._service_cidr, self._node_ip)
                tasks.create_task(route, name="services: route")
            tasks.create_task(self._sync_forever(), name="services: sync")

    async def _sync_forever(self) -> None:
        with Netfilter() as netfilter, NftWatch([ruleset.TABLE], self._wants_reload, own=netfilter):
            while True:
                await self._pass(netfilter)
                self.synced.set()
                await self._wake.wait()

    def _on_change(self, key: Key) -> None:
        self._dirty.add(key)
        self._wake.set()

    def _wants_reload(self, why: str) -> None:
        if not self._reload:
            log.warning("services: %s; writing them again", why)
        self._reload = True
        self._wake.set()

    async def _pass(self, netfilter: Netfilter) -> None:
        self._wake.clear()
        dirty, self._dirty = self._dirty, set()
        started = time.monotonic()
        for done, key in enumerate(sorted(dirty), 1):
            if done % SERVICES_AT_A_TIME == 0:
                await asyncio.sleep(0)  # others of this process have work too
            service = self._view.service(key)
            self._table.take(key, compute_rules(service, self._view.endpoints(key), self._node_name))
            self._tell_conflicts(key, service)
        reload, self._reload = self._reload, False
        requests = self._table.everything() if reload else self._table.changes()
        try:
            await asyncio.to_thread(self._apply, netfilter, requests)
        except NetlinkError as err:
            # The kernel does not have what we believed: someone was faster than the event that tells of it.
            log.warning("services: %s", err.strerror)
            self._reload = True
            self._wake.set()
            await asyncio.sleep(RETRY_S)
            return
        self._table.done()
        log.debug("services: %d changed, %.1f ms", len(dirty), (time.monotonic() - started) * 1000)
        if reload and self.synced.is_set():
            await asyncio.sleep(REPAIR_PAUSE_S)

    def _apply(self, netfilter: Netfilter, requests: Sequence[Request]) -> None:
        netfilter.transact(requests)
        table = self._table
        if table.udp_frontends:
            try:
                stale.forget_udp_flows(netfilter, {f: table.backends(f) for f in table.udp_frontends})
            except NetlinkError as err:
                # An improvement only, which a kernel without CONFIG_NF_CT_NETLINK does not have.
                log.warning("services: UDP flows to backends that are gone stay: %s", err.strerror)
        if table.sticky_lost:
            stale.forget_clients(netfilter, table.ids)

    def _tell_conflicts(self, key: Key, service: Service | None) -> None:
        for frontend in self._table.refused(key):
            if (key, frontend) in self._told or service is None:
                continue
            self._told.add((key, frontend))
            text = f"{frontend.address}:{frontend.port} already belongs to another service"
            log.warning("service %s/%s: %s", *key, text)
            if self._events is not None:
                self._events.event(service, "Warning", "AddressInUse", text)


def _prepare_node() -> None:
    ensure_sysctl("net.ipv4.ip_forward", 1)
    try:
        # Answers of a backend on the sender's own bridge must pass the translation on their way back.
        ensure_sysctl("net.bridge.bridge-nf-call-iptables", 1)
    except FileNotFoundError:
        log.warning("services: no net.bridge.bridge-nf-call-iptables: modprobe br_netfilter")
