"""Notices nodes that have gone quiet, and marks nodes so that pods keep away from trouble.

A kubelet renews its lease every few seconds. When neither the lease nor the node's status has moved for
the grace period, by this process's own monotonic clock (so no clock of another machine and no suspended
laptop matters), the node's conditions become Unknown and its pods are marked not ready. Conditions become
taints: not-ready and unreachable (NoSchedule and NoExecute), pressure, cordon. What NoExecute does to pods
is `taint_eviction`'s business. One timer a node is set for the moment it would be late.

Source: Kubernetes concepts, "Nodes" (heartbeats) and "Taints and Tolerations" (taint nodes by condition).
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from podling.api.coordination_v1 import Lease
from podling.api.core_v1 import Node, Pod, Taint
from podling.api.pods import get_condition, get_node_condition, is_terminal
from podling.api.times import now_rfc3339
from podling.client.client import Client, PatchType
from podling.client.errors import ConflictError, NotFoundError
from podling.client.events import EventRecorder
from podling.client.workqueue import WorkQueue, run_workers
from podling.controllers.informers import Informers

TAINT_NOT_READY = "node.kubernetes.io/not-ready"
TAINT_UNREACHABLE = "node.kubernetes.io/unreachable"
TAINT_UNSCHEDULABLE = "node.kubernetes.io/unschedulable"
_PRESSURE_TAINTS = {
    "MemoryPressure": "node.kubernetes.io/memory-pressure",
    "DiskPressure": "node.kubernetes.io/disk-pressure",
    "PIDPressure": "node.kubernetes.io/pid-pressure",
    "NetworkUnavailable": "node.kubernetes.io/network-unavailable",
}
_OWN_TAINTS = {TAINT_NOT_READY, TAINT_UNREACHABLE, TAINT_UNSCHEDULABLE, *_PRESSURE_TAINTS.values()}
_KUBELET_CONDITIONS = ("Ready", "MemoryPressure", "DiskPressure", "PIDPressure")
WORKERS = 4

log = logging.getLogger(__name__)


class NodeLifecycleController:
    """Keyed by node name. A node is late after `grace_period_s` without a sign of life."""

    def __init__(
        self, client: Client, informers: Informers, events: EventRecorder, *, grace_period_s: float
    ) -> None:
        self._client = client
        self._informers = informers
        self._events = events
        self._grace_period_s = grace_period_s
        self._seen: dict[str, float] = {}
        """Loop time of the last sign of life."""
        self._queue: WorkQueue[str] = WorkQueue()

    async def run(self) -> None:
        await self._informers.pods.wait_synced()
        self._informers.nodes.add_handler(self._on_node)
        self._informers.leases.add_handler(self._on_lease)
        await run_workers(self._queue, self._reconcile, name="node-lifecycle", workers=WORKERS)

    def _on_lease(self, old: Lease | None, new: Lease | None) -> None:
        if new is None or (old is not None and old.spec == new.spec):
            return
        name = new.metadata.name or ""
        node = self._informers.nodes.get(name)
        self._seen[name] = asyncio.get_running_loop().time()
        if node is not None and _ready_status(node) == "Unknown":
            self._queue.add(name)

    def _on_node(self, old: Node | None, new: Node | None) -> None:
        changed = new or old
        assert changed is not None
        name = changed.metadata.name or ""
        if new is None:
            self._seen.pop(name, None)
            self._queue.cancel(name)
            return
        if old is None or (_ready_status(new) != "Unknown" and _heartbeat(old) != _heartbeat(new)):
            self._seen[name] = asyncio.get_running_loop().time()
        if old is None or new.spec != old.spec or _states(new) != _states(old):
            self._queue.add(name)

    async def _reconcile(self, name: str) -> None:
        node = self._informers.nodes.get(name)
        if node is None:
            return
        late_in_s = self._seen[name] + self._grace_period_s - asyncio.get_running_loop().time()
        if late_in_s > 0:
            self._queue.add_after(name, late_in_s)
        elif _ready_status(node) != "Unknown":
            await self._mark_unknown(node)
            return  # the change of the node brings us back for its taints
        await self._write_taints(node)
        if _ready_status(node) == "Unknown":
            await self._mark_pods_not_ready(node)

    async def _mark_unknown(self, node: Node) -> None:
        name = node.metadata.name or ""
        conditions = unknown_conditions(node, now_rfc3339())
        try:
            await self._client.patch(
                Node,
                name,
                {"status": {"conditions": conditions}},
                subresource="status",
                patch_type=PatchType.STRATEGIC,
            )
        except NotFoundError:
            return
        log.warning("node %s has given no sign of life for %s s", name, self._grace_period_s)
        self._events.event(node, "Normal", "NodeNotReady", f"Node {name} status is now: NodeNotReady")

    async def _write_taints(self, node: Node) -> None:
        old = node.spec.taints if node.spec else []
        new = wanted_taints(node, now_rfc3339())
        if new == old:
            return
        patch = {
            # The list is replaced whole: only if nobody has changed it since we looked.
            "metadata": {"resourceVersion": node.metadata.resource_version},
            "spec": {"taints": new or None},
        }
        try:
            await self._client.patch(Node, node.metadata.name or "", patch)
        except (ConflictError, NotFoundError):
            return  # the change that was in the way is on its way to us

    async def _mark_pods_not_ready(self, node: Node) -> None:
        """Nobody on that node will say that its pods are out of reach, so services would still use them.

        Differs from upstream: not for a node that is merely not ready. Its kubelet is alive, so what it
        says of each pod is better than what we would guess.
        """
        for pod in list(self._informers.pods.store.values()):
            if pod.spec is None or pod.spec.node_name != node.metadata.name or is_terminal(pod):
                continue
            ready = get_condition(pod.status, "Ready")
            if ready is None or ready.status != "True":
                continue
            condition = {"type": "Ready", "status": "False", "lastTransitionTime": now_rfc3339()}
            try:
                await self._client.patch(
                    Pod,
                    pod.metadata.name or "",
                    {"metadata": {"uid": pod.metadata.uid}, "status": {"conditions": [condition]}},
                    pod.metadata.namespace,
                    subresource="status",
                    patch_type=PatchType.STRATEGIC,
                )
            except (ConflictError, NotFoundError):
                continue
            self._events.event(pod, "Warning", "NodeNotReady", "Node is not ready")


def _ready_status(node: Node) -> str:
    """True, False or Unknown; empty before the kubelet has said anything."""
    condition = get_node_condition(node, "Ready")
    return condition.status if condition else ""


def _heartbeat(node: Node) -> tuple[str | None, str] | None:
    """What of a node's status only its kubelet moves; but for Unknown, which is our word."""
    condition = get_node_condition(node, "Ready")
    return (condition.last_heartbeat_time, condition.status) if condition else None


def _states(node: Node) -> dict[str, str]:
    return {c.type: c.status for c in node.status.conditions} if node.status else {}


def unknown_conditions(node: Node, now: str) -> list[dict[str, Any]]:
    """The conditions of a node nobody has heard of, in upstream's words."""
    conditions: list[dict[str, Any]] = []
    for type_ in _KUBELET_CONDITIONS:
        old = get_node_condition(node, type_)
        if old is not None and old.status == "Unknown":
            continue
        conditions.append(
            {
                "type": type_,
                "status": "Unknown",
                "reason": "NodeStatusUnknown" if old else "NodeStatusNeverUpdated",
                "message": f"Kubelet {'stopped' if old else 'never'} {'posting' if old else 'posted'}"
                " node status.",
                "lastHeartbeatTime": old.last_heartbeat_time if old else node.metadata.creation_timestamp,
                "lastTransitionTime": now,
            }
        )
    return conditions


def wanted_taints(node: Node, now: str) -> list[Taint]:
    """The node's taints as its state calls for them: foreign ones kept, ours added and removed."""
    spec = node.spec
    states = _states(node)
    wanted: list[tuple[str, str]] = []
    ready = states.get("Ready", "")
    if ready == "Unknown":
        wanted += [(TAINT_UNREACHABLE, "NoSchedule"), (TAINT_UNREACHABLE, "NoExecute")]
    elif ready == "False":
        wanted += [(TAINT_NOT_READY, "NoSchedule"), (TAINT_NOT_READY, "NoExecute")]
    elif not ready:
        # Before its first status nothing runs there that could be evicted.
        wanted.append((TAINT_NOT_READY, "NoSchedule"))
    wanted += [(key, "NoSchedule") for type_, key in _PRESSURE_TAINTS.items() if states.get(type_) == "True"]
    if spec is not None and spec.unschedulable:
        wanted.append((TAINT_UNSCHEDULABLE, "NoSchedule"))
    old = spec.taints if spec else []
    kept = [t for t in old if t.key not in _OWN_TAINTS or (t.key, t.effect) in wanted]
    have = {(t.key, t.effect) for t in kept}
    return kept + [Taint(key=k, effect=e, time_added=now) for k, e in wanted if (k, e) not in have]
