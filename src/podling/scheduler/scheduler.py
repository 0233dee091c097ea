"""The scheduler: gives every pod without a node the best node that can take it.

Two informers (nodes, and pods that have not ended) keep a `ClusterState`; each unassigned pod passes
filters, scores and binding, one decision at a time, bindings in the background. A decision counts at once
(the pod is *assumed* on its node), so a burst of pods need not wait for the watch in between. A pod that
fits nowhere is parked with the reasons as its PodScheduled condition and a FailedScheduling event, and is
tried again when a node or a pod changes in a way that matters to it. Nothing polls.

Source: Kubernetes concepts, "Kubernetes Scheduler" and "Scheduling Framework".
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from dataclasses import replace

from podling.api.core_v1 import Node, Pod
from podling.api.pods import get_condition, is_terminal
from podling.api.times import now_rfc3339
from podling.client.client import Client, PatchType
from podling.client.errors import ClientError, ConflictError, NotFoundError
from podling.client.events import EventRecorder
from podling.client.informer import Informer
from podling.scheduler.filters import check_node, find_feasible, unschedulable_message
from podling.scheduler.queue import Key, PodQueue
from podling.scheduler.scores import best_node
from podling.scheduler.state import ClusterState, PodInfo, node_info, pod_info

DEFAULT_SCHEDULER_NAME = "default-scheduler"
BINDINGS_IN_FLIGHT = 16
"""Enough to keep the API server's group commit filled, few enough not to starve it of loop time."""
NOT_ENDED = "status.phase!=Succeeded,status.phase!=Failed"

log = logging.getLogger(__name__)


class Scheduler:
    """`run()` until cancelled; one instance per `name`."""

    def __init__(self, client: Client, name: str = DEFAULT_SCHEDULER_NAME) -> None:
        self._client = client
        self._name = name
        self._pods = Informer(client, Pod, field_selector=NOT_ENDED)
        self._nodes = Informer(client, Node)
        self._events = EventRecorder(client, name)
        self._state = ClusterState()
        self._queue = PodQueue()
        self._slots = asyncio.Semaphore(BINDINGS_IN_FLIGHT)
        self._nodes.add_handler(self._on_node)
        self._pods.add_handler(self._on_pod)

    async def run(self) -> None:
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._nodes.run(), name="scheduler-nodes")
                tasks.create_task(self._pods.run(), name="scheduler-pods")
                tasks.create_task(self._events.run(), name="scheduler-events")
                # Deciding before all pods are counted would overfill nodes.
                await self._nodes.wait_synced()
                await self._pods.wait_synced()
                while True:
                    await self._schedule_next(tasks)
        finally:
            self._queue.close()

    async def _schedule_next(self, tasks: asyncio.TaskGroup) -> None:
        key = await self._queue.get()
        # Before the decision, not after: while all bindings are busy, newer facts may come in.
        await self._slots.acquire()
        try:
            work = self._decide(key)
        except Exception:  # a pod that confuses us must not stop the others
            log.exception("scheduling %s/%s", *key)
            self._queue.retry_later(key)
            work = None
        if work is None:
            self._slots.release()
            return
        task = tasks.create_task(work, name=f"scheduler-{key[0]}/{key[1]}")
        task.add_done_callback(lambda _: self._slots.release())

    def _decide(self, key: Key) -> Coroutine[None, None, None] | None:
        """Choose a node for the pod; what remains to be written about the choice is returned."""
        pod = self._pods.store.get(key)
        if pod is None or not self._is_ours(pod):
            return None
        info = pod_info(pod)
        feasible, refusals = find_feasible(info, self._state.nodes.values())
        if not feasible:
            self._queue.park(key)
            return self._report_unschedulable(pod, unschedulable_message(info, refusals))
        node_name = best_node(info, feasible).name
        self._state.set_pod(replace(info, node_name=node_name))
        return self._bind(pod, info, node_name)

    async def _bind(self, pod: Pod, info: PodInfo, node_name: str) -> None:
        namespace, name = info.key
        try:
            await self._client.bind(namespace, name, info.uid, node_name)
        except ClientError as err:
            self._forget(info)
            if isinstance(err, NotFoundError | ConflictError):
                # Gone, or assigned by somebody else: the watch tells, and knows better.
                log.info("binding %s/%s to %s: %s", namespace, name, node_name, err)
                return
            log.warning("binding %s/%s to %s: %s", namespace, name, node_name, err)
            self._queue.retry_later(info.key, info.priority)
            return
        message = f"Successfully assigned {namespace}/{name} to {node_name}"
        self._events.event(pod, "Normal", "Scheduled", message)

    def _forget(self, info: PodInfo) -> None:
        """Take back an assumption, unless the watch has confirmed it in the meantime."""
        pod = self._pods.store.get(info.key)
        if pod is None or not pod.spec or not pod.spec.node_name:
            node_name = self._state.remove_pod(info.key, info.uid)
            if node_name is not None:
                self._node_has_room(node_name)

    async def _report_unschedulable(self, pod: Pod, message: str) -> None:
        self._events.event(pod, "Warning", "FailedScheduling", message)
        old = get_condition(pod.status, "PodScheduled")
        if old is not None and (old.status, old.reason, old.message) == ("False", "Unschedulable", message):
            return
        condition = {
            "type": "PodScheduled",
            "status": "False",
            "reason": "Unschedulable",
            "message": message,
            "lastTransitionTime": old.last_transition_time
            if old is not None and old.status == "False"
            else now_rfc3339(),
        }
        try:
            await self._client.patch(
                Pod,
                pod.metadata.name or "",
                {"metadata": {"uid": pod.metadata.uid}, "status": {"conditions": [condition]}},
                pod.metadata.namespace,
                subresource="status",
                patch_type=PatchType.STRATEGIC,
            )
        except NotFoundError:
            pass
        except ClientError as err:
            log.warning("condition of pod %s/%s: %s", pod.metadata.namespace, pod.metadata.name, err)

    # What the informers report

    def _is_ours(self, pod: Pod) -> bool:
        """The pod waits for this scheduler: unassigned, staying, not gated, and by name."""
        spec = pod.spec
        return (
            spec is not None
            and not spec.node_name
            and pod.metadata.deletion_timestamp is None
            and not spec.scheduling_gates
            and (spec.scheduler_name or DEFAULT_SCHEDULER_NAME) == self._name
        )

    def _on_pod(self, old: Pod | None, new: Pod | None) -> None:
        pod = new or old
        assert pod is not None
        key = (pod.metadata.namespace or "", pod.metadata.name or "")
        if new is None or is_terminal(new):
            self._queue.remove(key)
            node_name = self._state.remove_pod(key)
            if node_name is not None:
                self._node_has_room(node_name)
            return
        if old is not None and old.spec == new.spec and not new.metadata.deletion_timestamp:
            return  # a status moved, which decides nothing here
        if new.spec is not None and new.spec.node_name:
            self._queue.remove(key)
            self._state.set_pod(pod_info(new))
            return
        if not self._is_ours(new):
            self._queue.remove(key)
            return
        assumed = self._state.get_pod(key)
        if assumed is None or assumed.uid != new.metadata.uid:
            self._queue.add(key, self._priority(key))

    def _on_node(self, old: Node | None, new: Node | None) -> None:
        if new is None:
            assert old is not None
            self._state.remove_node(old.metadata.name or "")
            changed = True
        elif old is None:
            self._state.set_node(new)
            changed = True
        else:
            before, after = node_info(old), node_info(new)
            changed = (
                before.allocatable != after.allocatable
                or before.taints != after.taints
                or old.metadata.labels != new.metadata.labels
                or (old.spec and old.spec.unschedulable) != (new.spec and new.spec.unschedulable)
            )
            if changed:  # otherwise a heartbeat
                self._state.set_node(new)
        if not changed:
            return
        if new is not None:
            self._node_has_room(new.metadata.name or "")
        # Those it does not help may still have other reasons to show.
        for key in self._queue.parked:
            self._queue.retry_later(key, self._priority(key))

    def _node_has_room(self, node_name: str) -> None:
        """Try the parked pods that fit the node as it is now."""
        node = self._state.nodes.get(node_name)
        if node is None:
            return
        for key in self._queue.parked:
            pod = self._pods.store.get(key)
            if pod is not None and check_node(pod_info(pod), node) is None:
                self._queue.add(key, self._priority(key))

    def _priority(self, key: Key) -> int:
        pod = self._pods.store.get(key)
        return (pod.spec.priority if pod is not None and pod.spec is not None else 0) or 0
