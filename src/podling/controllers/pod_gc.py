"""Removes pods that nobody else will: those of nodes that are gone, and the oldest of very many ended ones.

A pod whose node does not exist waits out a quarantine, then the API server itself is asked for the node
before the pod is deleted without grace: a watch that lags must not cost anyone a pod. A pod that is being
deleted and was never assigned goes at once.

Source: Kubernetes concepts, "Pod Lifecycle" (garbage collection of Pods); pkg/controller/podgc.
"""

from __future__ import annotations

import logging

from podling.api.core_v1 import Node, Pod
from podling.api.pods import is_deleting, is_terminal
from podling.api.times import now_rfc3339
from podling.client.client import Client, PatchType
from podling.client.errors import ConflictError, NotFoundError
from podling.client.informer import object_key
from podling.client.workqueue import WorkQueue, run_workers
from podling.controllers.informers import Informers

Key = tuple[str, str]

log = logging.getLogger(__name__)


class PodGCController:
    """Keyed by pod (namespace, name). `ended_limit`: how many ended pods may stay, 0 for any number."""

    def __init__(
        self, client: Client, informers: Informers, *, quarantine_s: float, ended_limit: int
    ) -> None:
        self._client = client
        self._informers = informers
        self._quarantine_s = quarantine_s
        self._ended_limit = ended_limit
        self._ended: dict[Key, str] = {}
        """Ended pods and when they were created."""
        self._excess: set[Key] = set()
        self._queue: WorkQueue[Key] = WorkQueue()

    async def run(self) -> None:
        await self._informers.nodes.wait_synced()
        await self._informers.pods.wait_synced()
        self._informers.nodes.add_handler(self._on_node)
        self._informers.pods.add_handler(self._on_pod)
        await run_workers(self._queue, self._reconcile, name="pod-gc")

    def _on_node(self, old: Node | None, new: Node | None) -> None:
        if new is not None:
            return
        assert old is not None
        for key, pod in self._informers.pods.store.items():
            if pod.spec is not None and pod.spec.node_name == old.metadata.name:
                self._queue.add_after(key, self._quarantine_s)

    def _on_pod(self, old: Pod | None, new: Pod | None) -> None:
        pod = new or old
        assert pod is not None
        key = object_key(pod)
        if new is None:
            self._ended.pop(key, None)
            self._excess.discard(key)
            self._queue.cancel(key)
            return
        node_name = new.spec.node_name if new.spec else None
        if node_name:
            moved = old is None or old.spec is None or old.spec.node_name != node_name
            if moved and self._informers.nodes.get(node_name) is None:
                self._queue.add_after(key, self._quarantine_s)
        elif is_deleting(new):
            self._queue.add(key)
        if is_terminal(new) and key not in self._ended:
            self._ended[key] = new.metadata.creation_timestamp or ""
            self._trim_ended()

    def _trim_ended(self) -> None:
        over = len(self._ended) - len(self._excess) - self._ended_limit
        if not self._ended_limit or over <= 0:
            return
        staying = [key for key in self._ended if key not in self._excess]
        for key in sorted(staying, key=lambda k: (self._ended[k], k))[:over]:
            self._excess.add(key)
            self._queue.add(key)

    async def _reconcile(self, key: Key) -> None:
        pod = self._informers.pods.store.get(key)
        if pod is None or pod.spec is None:
            return
        if key in self._excess:
            await self._delete(pod, "too many pods have ended")
        elif not pod.spec.node_name:
            if is_deleting(pod):
                await self._delete(pod, "it was never assigned")
        elif await self._node_is_gone(pod.spec.node_name):
            if not is_terminal(pod):
                await self._fail(pod)
            await self._delete(pod, f"node {pod.spec.node_name} does not exist")

    async def _node_is_gone(self, name: str) -> bool:
        if self._informers.nodes.get(name) is not None:
            return False
        try:
            await self._client.get(Node, name)
        except NotFoundError:
            return True
        return False

    async def _fail(self, pod: Pod) -> None:
        """The pod has ended, and its owner should see why before it is gone."""
        condition = {
            "type": "DisruptionTarget",
            "status": "True",
            "reason": "DeletionByPodGC",
            "message": "PodGC: node no longer exists",
            "lastTransitionTime": now_rfc3339(),
        }
        patch = {
            "metadata": {"uid": pod.metadata.uid},
            "status": {"phase": "Failed", "conditions": [condition]},
        }
        namespace, name = object_key(pod)
        try:
            await self._client.patch(
                Pod, name, patch, namespace, subresource="status", patch_type=PatchType.STRATEGIC
            )
        except (NotFoundError, ConflictError):
            return

    async def _delete(self, pod: Pod, why: str) -> None:
        namespace, name = object_key(pod)
        log.info("deleting pod %s/%s: %s", namespace, name, why)
        try:
            await self._client.delete(Pod, name, namespace, grace_period_s=0, uid=pod.metadata.uid)
        except (NotFoundError, ConflictError):
            return
