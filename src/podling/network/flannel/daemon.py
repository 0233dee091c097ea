"""`Flannel`: the daemon that gives a node its part of the pod network, as flanneld does.

Node objects say who has which subnet (`spec.podCIDRs`) and where the others are (flannel's annotations,
`lease`). From them follows what the kernel must have (`node`, and one module a backend). A sync runs when a
Node changes in a way that matters and when somebody changes the kernel's state (`watch`); it looks at what is
there and mends what differs. What this node tells the others is patched into its own Node when it changed.
/run/flannel/subnet.env is what the flannel CNI plugin wires pods by.

The kernel's state stays when the daemon stops: a restart cuts no connection, except with the udp backend,
whose packets pass a program of the daemon's.
"""

from __future__ import annotations

import asyncio
import logging

from podling.api.core_v1 import Node
from podling.client.client import Client
from podling.client.errors import ClientError
from podling.client.events import EventRecorder
from podling.client.informer import Informer
from podling.linux.nft import NFTError
from podling.network.addresses import IPAddress, IPNetwork, pod_cidrs
from podling.network.flannel.lease import (
    Lease,
    compute_annotations,
    compute_remotes,
    overwritten_ip,
    own_mac,
    stale_annotations,
)
from podling.network.flannel.masquerade import TABLES
from podling.network.flannel.node import FlannelConfig, FlannelNode, Synced, View
from podling.network.flannel.underlay import FlannelError
from podling.network.flannel.watch import KernelWatch
from podling.network.nft_watch import NftWatch

RETRY_MIN_S, RETRY_MAX_S = 0.2, 10.0
ANSWER_TIMEOUT_S = 5.0
"""How long an answer of the API server is waited for before another connection is tried."""
REPAIR_PAUSE_S = 0.02
"""Between two syncs, which gathers changes: someone who deletes in a loop shall not keep us busy."""

log = logging.getLogger(__name__)


class Flannel:
    """`prepare()` may be called once before `run()`, which ends only by cancellation."""

    def __init__(
        self,
        config: FlannelConfig,
        node_name: str,
        *,
        expected_subnets: tuple[IPNetwork, ...] = (),
    ) -> None:
        """`expected_subnets`: what this node is about to get, used until the API says so or otherwise."""
        self._config = config
        self._node_name = node_name
        self._node = FlannelNode(config)
        self._expected = expected_subnets
        self._changed = asyncio.Event()
        self._addresses: frozenset[object] = frozenset()
        self._said = ""

    def prepare(self) -> None:
        """Blocks for some milliseconds: device and subnet.env, before anyone asks the API anything.

        Raises nothing: what cannot be done now is said by `run`.
        """
        # After a restart all is there already, and the others' routes are not to be taken for stale.
        if not self._expected or self._config.subnet_file.exists():
            return
        try:
            self._node.sync(View(subnets=self._expected))
        except (FlannelError, NFTError, OSError) as err:
            log.debug("flannel: not yet: %s", err)

    async def run(self, client: Client, events: EventRecorder | None = None) -> None:
        nodes: Informer[Node] = Informer(client, Node)
        nodes.add_handler(self._node_changed)
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(nodes.run(), name="flannel: nodes")
                tasks.create_task(self._sync_forever(client, nodes, events), name="flannel: sync")
        finally:
            self._node.close()

    def _node_changed(self, old: Node | None, new: Node | None) -> None:
        # Heartbeats change a Node every few seconds; what matters here hardly ever.
        if _relevant(old) != _relevant(new):
            self._changed.set()

    def _touched(self, what: str) -> None:
        self._node.masquerade.dirty = True
        self._changed.set()

    async def _sync_forever(
        self, client: Client, nodes: Informer[Node], events: EventRecorder | None
    ) -> None:
        # Not before all nodes are known: what is not wanted yet would be taken for stale.
        await nodes.wait_synced()
        retry_s = RETRY_MIN_S
        with KernelWatch(self._changed) as watch, NftWatch(TABLES.values(), self._touched):
            while True:
                self._changed.clear()
                own = nodes.get(self._node_name)
                if own is None or not pod_cidrs(own):
                    log.info("node %s has no subnet (spec.podCIDRs) yet", self._node_name)
                    await self._changed.wait()
                    continue
                try:
                    synced = await asyncio.to_thread(self._node.sync, self._view(own, nodes))
                    watch.links, watch.devices = synced.links, synced.devices
                    watch.external = synced.external
                    if self._addresses - synced.addresses:
                        await client.reconnect()
                    self._addresses = synced.addresses
                    await self._announce(client, own, synced)
                except (FlannelError, NFTError, OSError, ClientError) as err:
                    self._complain(err, own, events)
                    # Sooner when something changes: the error may be about just that.
                    try:
                        async with asyncio.timeout(retry_s):
                            await self._changed.wait()
                    except TimeoutError:
                        retry_s = min(retry_s * 2, RETRY_MAX_S)
                    await asyncio.sleep(REPAIR_PAUSE_S)
                    continue
                retry_s, self._said = RETRY_MIN_S, ""
                await self._changed.wait()
                await asyncio.sleep(REPAIR_PAUSE_S)

    def _view(self, own: Node, nodes: Informer[Node]) -> View:
        backend = self._config.net_conf.backend.type
        others = nodes.store.values()
        return View(
            subnets=tuple(pod_cidrs(own)),
            remotes={v: tuple(compute_remotes(others, self._node_name, v, backend)) for v in (4, 6)},
            macs=own_mac(own),
            overwritten={v: ip for v in (4, 6) if (ip := overwritten_ip(own, v)) is not None},
        )

    async def _announce(self, client: Client, own: Node, synced: Synced) -> None:
        patch = stale_annotations(own.metadata.annotations, compute_annotations(synced.leases))
        if patch:
            try:
                async with asyncio.timeout(ANSWER_TIMEOUT_S):
                    await client.patch(Node, self._node_name, {"metadata": {"annotations": patch}})
            except TimeoutError:
                # Its answer may have been for an address that this node has lost since.
                await client.reconnect()
                self._changed.set()
                return
            log.info("told the others: %s", ", ".join(map(_words, synced.leases)))

    def _complain(self, err: Exception, own: Node | None, events: EventRecorder | None) -> None:
        text = str(err.strerror or err) if isinstance(err, OSError) else str(err)
        if text == self._said:
            return
        self._said = text
        log.warning("flannel: %s", text)
        if events is not None and own is not None and isinstance(err, FlannelError):
            events.event(own, "Warning", "FlannelFailed", text)


def _relevant(node: Node | None) -> object:
    if node is None:
        return None
    said = {key: value for key, value in node.metadata.annotations.items() if key.startswith("flannel.")}
    return pod_cidrs(node), said


def _words(lease: Lease) -> str:
    public_ip: IPAddress = lease.public_ip
    return f"{lease.subnet} by {lease.backend} at {public_ip}" + (f" ({lease.mac})" if lease.mac else "")
