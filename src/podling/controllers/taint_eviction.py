"""Deletes pods from nodes with NoExecute taints they do not tolerate, or no longer.

A pod that tolerates a taint for `tolerationSeconds` goes that long after the taint was added; the moment
is computed from the taint's `timeAdded`, so a restart neither forgets nor prolongs it. Each such pod has
one timer; a taint that goes away takes the timers with it.

Source: Kubernetes concepts, "Taints and Tolerations" (taint based evictions); pkg/controller/tainteviction.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from msgspec import structs

from podling.api.core_v1 import Node, Pod, Taint, Toleration
from podling.api.pods import is_deleting
from podling.api.taints import tolerates
from podling.api.times import now_rfc3339, parse_time
from podling.client.client import Client, PatchType
from podling.client.errors import ConflictError, NotFoundError
from podling.client.events import EventRecorder
from podling.client.informer import object_key
from podling.client.workqueue import WorkQueue, run_workers
from podling.controllers.informers import Informers

WORKERS = 8
Key = tuple[str, str]


def evict_in_s(taints: Sequence[Taint], tolerations: Sequence[Toleration], now: datetime) -> float | None:
    """Seconds until the pod must go for `taints` (NoExecute ones), zero or less for now, None for never."""
    soonest: float | None = None
    for taint in taints:
        covering = [t for t in tolerations if tolerates(t, taint)]
        if not covering:
            return 0.0
        limits = [t.toleration_seconds for t in covering if t.toleration_seconds is not None]
        if not limits:
            continue
        age_s = (now - parse_time(taint.time_added)).total_seconds() if taint.time_added else 0.0
        left_s = max(0, min(limits)) - age_s
        soonest = left_s if soonest is None else min(soonest, left_s)
    return soonest


class TaintEvictionController:
    """Keyed by pod (namespace, name)."""

    def __init__(self, client: Client, informers: Informers, events: EventRecorder) -> None:
        self._client = client
        self._informers = informers
        self._events = events
        self._taints: dict[str, list[Taint]] = {}
        """NoExecute taints of each node that has any, with the time we first saw them if they tell none."""
        self._queue: WorkQueue[Key] = WorkQueue()

    async def run(self) -> None:
        await self._informers.pods.wait_synced()
        await self._informers.nodes.wait_synced()
        self._informers.nodes.add_handler(self._on_node)
        self._informers.pods.add_handler(self._on_pod)
        await run_workers(self._queue, self._reconcile, name="taint-eviction", workers=WORKERS)

    def _on_node(self, old: Node | None, new: Node | None) -> None:
        changed = new or old
        assert changed is not None
        name = changed.metadata.name or ""
        before = self._taints.pop(name, [])
        since = {(t.key, t.value): t.time_added for t in before}
        taints = [
            # `kubectl taint` writes no time.
            t if t.time_added else structs.replace(t, time_added=since.get((t.key, t.value)) or now_rfc3339())
            for t in (new.spec.taints if new is not None and new.spec else [])
            if t.effect == "NoExecute"
        ]
        if taints:
            self._taints[name] = taints
        if taints == before:
            return
        for key, pod in self._informers.pods.store.items():
            if pod.spec is not None and pod.spec.node_name == name:
                # A timer set for the old taints must not hide a later moment.
                self._queue.cancel(key)
                self._queue.add(key)

    def _on_pod(self, old: Pod | None, new: Pod | None) -> None:
        if new is None:
            assert old is not None
            self._queue.cancel(object_key(old))
            return
        if new.spec is None or not new.spec.node_name or (old is not None and old.spec == new.spec):
            return
        if new.spec.node_name in self._taints:
            self._queue.add(object_key(new))

    async def _reconcile(self, key: Key) -> None:
        pod = self._informers.pods.store.get(key)
        if pod is None or pod.spec is None or is_deleting(pod):
            return
        taints = self._taints.get(pod.spec.node_name or "", [])
        left_s = evict_in_s(taints, pod.spec.tolerations, datetime.now(UTC))
        if left_s is None:
            return
        if left_s > 0:
            self._queue.add_after(key, left_s)
            return
        await self._evict(pod)

    async def _evict(self, pod: Pod) -> None:
        namespace, name = object_key(pod)
        condition = {
            "type": "DisruptionTarget",
            "status": "True",
            "reason": "DeletionByTaintManager",
            "message": "Taint manager: deleting due to NoExecute taint",
            "lastTransitionTime": now_rfc3339(),
        }
        self._events.event(
            pod, "Normal", "TaintManagerEviction", f"Marking for deletion Pod {namespace}/{name}"
        )
        try:
            await self._client.patch(
                Pod,
                name,
                {"metadata": {"uid": pod.metadata.uid}, "status": {"conditions": [condition]}},
                namespace,
                subresource="status",
                patch_type=PatchType.STRATEGIC,
            )
            await self._client.delete(Pod, name, namespace, uid=pod.metadata.uid)
        except (NotFoundError, ConflictError):
            return  # gone, or another pod of that name by now
