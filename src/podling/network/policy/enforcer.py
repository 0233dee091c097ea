"""`PolicyEnforcer`: keeps this node's nftables as the cluster's network policies want it.

Without a policy in the cluster it is one idle watch. With the first, pods and namespaces are watched too, and
each change of any of the three is one pass: the table is computed anew and the difference sent as one
transaction. The kubelet asks `admit` before it starts the first container of a pod: when that returns, the
kernel has the pod's rules. When somebody else touched the table it is written again.

Rules stay when the agent stops; the next one replaces them in one step.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

import msgspec

from podling.api.core_v1 import Namespace, Pod, PodIP, PodStatus
from podling.api.networking_v1 import NetworkPolicy
from podling.client.client import Client
from podling.client.events import EventRecorder
from podling.client.informer import Informer
from podling.linux.netlink import NetlinkError
from podling.linux.netlink.netfilter import Netfilter
from podling.linux.sysctl import ensure_sysctl
from podling.network.nft_watch import NftWatch
from podling.network.policy.model import Cluster, Rules, compute, pod_ips
from podling.network.policy.ruleset import TABLE, changes, remove_table, replace_table

KNOWN_TIMEOUT_S = 2.0
"""How long the start of a pod waits for the API server to say what policies there are."""
ADMIT_TIMEOUT_S = 10.0
"""How long it waits for its rules to be in the kernel."""
REPAIR_PAUSE_S = 1.0
RETRY_S = 1.0

log = logging.getLogger(__name__)


class PolicyEnforcer:
    """`run()` until cancelled."""

    def __init__(self, client: Client, node_name: str, events: EventRecorder) -> None:
        self._client = client
        self._node_name = node_name
        self._events = events
        self._policies = Informer(client, NetworkPolicy)
        self._pods = Informer(client, Pod)
        self._namespaces = Informer(client, Namespace)
        self._admitted: dict[str, Pod] = {}
        """Pods of this node whose addresses the API does not tell yet, by UID."""
        self._waiting: list[asyncio.Future[None]] = []
        self._wake = asyncio.Event()
        self._inputs: asyncio.Task[None] | None = None
        self._applied: Rules | None = None
        """What the kernel has; None when that is not known."""
        self._bridges_pass = True
        self._warned: set[str] = set()

    async def run(self) -> None:
        for informer in (self._policies, self._namespaces):
            informer.add_handler(lambda old, new: self._wake.set())
        self._pods.add_handler(self._on_pod)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._policies.run(), name="policy: policies")
            await self._policies.wait_synced()
            tasks.create_task(self._sync_forever(tasks), name="policy: sync")

    def _on_pod(self, old: Pod | None, new: Pod | None) -> None:
        if new is None and old is not None:
            self._admitted.pop(old.metadata.uid or "", None)
        self._wake.set()

    async def admit(self, pod: Pod, ips: Sequence[str]) -> None:
        """Return when the rules for a new pod of this node are in the kernel.

        Raises TimeoutError when they cannot be put there in time.
        """
        async with asyncio.timeout(KNOWN_TIMEOUT_S):
            await self._policies.wait_synced()
        if not self._policies.store:
            return
        async with asyncio.timeout(ADMIT_TIMEOUT_S):
            # Whoever had one of these addresses is gone, whatever we have heard.
            for uid, other in list(self._admitted.items()):
                if not set(ips).isdisjoint(pod_ips(other)):
                    del self._admitted[uid]
            status = msgspec.structs.replace(pod.status or PodStatus(), pod_i_ps=[PodIP(ip=ip) for ip in ips])
            self._admitted[pod.metadata.uid or ""] = msgspec.structs.replace(pod, status=status)
            done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(done)
            self._wake.set()
            await done

    async def _sync_forever(self, tasks: asyncio.TaskGroup) -> None:
        with Netfilter() as netfilter, NftWatch([TABLE], self._touched, own=netfilter):
            while True:
                self._wake.clear()
                waiting, self._waiting = self._waiting, []
                try:
                    await self._pass(netfilter, tasks)
                except NetlinkError as err:
                    log.warning("network policies: %s", err.strerror)
                    self._applied = None
                    self._waiting += waiting
                    await asyncio.sleep(RETRY_S)
                    continue
                for done in waiting:
                    if not done.done():
                        done.set_result(None)
                await self._wake.wait()

    async def _pass(self, netfilter: Netfilter, tasks: asyncio.TaskGroup) -> None:
        if not self._policies.store:
            self._admitted.clear()
            if self._applied != Rules():
                await asyncio.to_thread(netfilter.transact, remove_table())
                self._applied = Rules()
            return
        if self._inputs is None:
            await self._begin(tasks)
        local = self._local_pods()
        known = Cluster(
            self._policies.store.values(),
            self._namespaces.store.values(),
            [*self._pods.store.values(), *local],
        )
        wanted = compute(known, local)
        if self._applied is None or self._applied == Rules():
            requests = replace_table(wanted)
        else:
            requests = changes(self._applied, wanted)
        await asyncio.to_thread(netfilter.transact, requests)
        self._applied = wanted
        self._tell_what_is_not()

    async def _begin(self, tasks: asyncio.TaskGroup) -> None:
        """The first policy: from now on pods and namespaces matter."""
        self._inputs = tasks.create_task(self._pods.run(), name="policy: pods")
        tasks.create_task(self._namespaces.run(), name="policy: namespaces")
        await self._pods.wait_synced()
        await self._namespaces.wait_synced()
        try:
            ensure_sysctl("net.bridge.bridge-nf-call-iptables", 1)
        except FileNotFoundError:
            self._bridges_pass = False

    def _local_pods(self) -> list[Pod]:
        """This node's, as the API has them, and those it does not know the addresses of yet."""
        for uid, admitted in list(self._admitted.items()):
            seen = self._pods.get(admitted.metadata.name or "", admitted.metadata.namespace or "")
            # Not seen yet is no reason: this informer may be behind the kubelet's.
            if seen is not None and (seen.metadata.uid != uid or pod_ips(seen) == pod_ips(admitted)):
                del self._admitted[uid]
        stored = [
            pod
            for pod in self._pods.store.values()
            if pod.spec is not None
            and pod.spec.node_name == self._node_name
            and pod.metadata.uid not in self._admitted
        ]
        return [*stored, *self._admitted.values()]

    def _tell_what_is_not(self) -> None:
        """Once a policy, on the policy: what its author must know."""
        if self._bridges_pass:
            return
        for policy in self._policies.store.values():
            if policy.metadata.uid in self._warned:
                continue
            self._warned.add(policy.metadata.uid or "")
            text = (
                f"node {self._node_name} cannot hold pods of one bridge apart: "
                "its kernel has no br_netfilter (modprobe br_netfilter)"
            )
            log.warning("network policies: %s", text)
            self._events.event(policy, "Warning", "NotEnforcedOnBridge", text)

    def _touched(self, why: str) -> None:
        if self._applied is None or self._applied == Rules():
            return
        log.warning("network policies: %s; writing them again", why)
        self._applied = None
        asyncio.get_running_loop().call_later(REPAIR_PAUSE_S, self._wake.set)
