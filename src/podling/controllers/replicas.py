"""Keeps as many pods as an object wants, of one template: what replica sets and replication controllers do.

A change of the object or of a pod it controls (or could adopt) makes it reconcile: claim the pods its
selector matches, create what is missing, delete what is too much, write the status. Between a write and
its echo on the watch the number of pods is not known, and acting on the old one would make pods twice. So
after creating, a set waits until the pods' informer has reached the resourceVersion of the last pod
created; pods it has deleted do not count, whatever the informer still says.

Differs from upstream: there, a counter of expected events with a timeout of five minutes.

Source: Kubernetes concepts, "ReplicaSet"; pkg/controller/replicaset/replica_set.go.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Generic, TypeVar

from podling.api.apps_v1 import ReplicaSet
from podling.api.core_v1 import Pod, PodTemplateSpec, ReplicationController
from podling.api.meta_v1 import LabelSelector, ObjectMeta
from podling.api.pods import is_deleting, is_terminal
from podling.api.selectors import match_label_selector
from podling.api.times import now_rfc3339
from podling.client.client import Client
from podling.client.errors import ApiError, ClientError, ConflictError, NotFoundError
from podling.client.events import EventRecorder
from podling.client.informer import Informer, Key, object_key
from podling.client.workqueue import WorkQueue, run_workers
from podling.controllers.ownership import OwnedIndex, claim, controller_of, controller_reference
from podling.controllers.replica_plan import choose_to_delete, count_replicas, slow_start

S = TypeVar("S", ReplicaSet, ReplicationController)

BURST = 500
"""Most pods created or deleted in one go, as upstream's."""
WORKERS = 5
CATCH_UP_S = 1.0
"""When to look again should the echo of a creation never come as an event: a list can hide it."""

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Written:
    """What we know of a set's pods before the informer does."""

    created: int = 0
    """The resourceVersion of the last pod created."""
    deleted: set[str] | None = None
    """UIDs of pods asked to go."""


class ReplicaController(Generic[S]):
    """Keyed by the set's (namespace, name)."""

    def __init__(
        self,
        client: Client,
        sets: Informer[S],
        pods: Informer[Pod],
        events: EventRecorder,
        *,
        kind: type[S],
        selector: Callable[[S], LabelSelector | None],
    ) -> None:
        self._client = client
        self._sets: Informer[S] = sets
        self._pods = pods
        self._events = events
        self._kind: type[S] = kind
        self._selector: Callable[[S], LabelSelector | None] = selector
        self._name = kind.__name__
        self._index = OwnedIndex(pods)
        self._written: dict[Key, _Written] = {}
        self._queue: WorkQueue[Key] = WorkQueue()

    async def run(self) -> None:
        await self._pods.wait_synced()
        await self._sets.wait_synced()
        self._pods.add_handler(self._index.observe)
        self._sets.add_handler(self._on_set)
        self._pods.add_handler(self._on_pod)
        await run_workers(self._queue, self._reconcile, name=self._name.lower(), workers=WORKERS)

    def _on_set(self, old: S | None, new: S | None) -> None:
        changed = new or old
        assert changed is not None
        self._queue.add(object_key(changed))

    def _on_pod(self, old: Pod | None, new: Pod | None) -> None:
        for pod in (old, new):
            if pod is None:
                continue
            ref = controller_of(pod)
            if ref is None:
                if pod is new and not is_deleting(pod):
                    self._add_matching(pod)
            elif ref.kind == self._name:
                key = (pod.metadata.namespace or "", ref.name)
                if new is None or is_deleting(new):
                    self._forget_deleted(key, pod)
                self._queue.add(key)

    def _add_matching(self, pod: Pod) -> None:
        """An orphan: whoever selects it may want it."""
        for key, candidate in self._sets.store.items():
            if key[0] == pod.metadata.namespace and self._matches(candidate, pod):
                self._queue.add(key)

    def _forget_deleted(self, key: Key, pod: Pod) -> None:
        written = self._written.get(key)
        if written is not None and written.deleted:
            written.deleted.discard(pod.metadata.uid or "")

    def _matches(self, obj: S, pod: Pod) -> bool:
        selector = self._selector(obj)
        if selector is None or not (selector.match_labels or selector.match_expressions):
            return False
        return match_label_selector(selector, pod.metadata.labels)

    async def _reconcile(self, key: Key) -> None:
        obj = self._sets.store.get(key)
        if obj is None:
            self._written.pop(key, None)
            return
        written = self._written.setdefault(key, _Written())
        if not self._pods.has_seen(str(written.created)):
            self._queue.add_after(key, CATCH_UP_S)
            return
        claimed = await claim(self._client, obj, self._index, lambda pod: self._matches(obj, pod))
        deleted = written.deleted or set()
        active = [
            pod
            for pod in claimed
            if not is_terminal(pod) and not is_deleting(pod) and pod.metadata.uid not in deleted
        ]
        failure: ClientError | None = None
        if obj.metadata.deletion_timestamp is None:
            try:
                await self._scale(key, obj, active, written)
            except ClientError as err:
                failure = err
        await self._write_status(obj, active, failure)
        if failure is not None:
            raise failure

    async def _scale(self, key: Key, obj: S, active: list[Pod], written: _Written) -> None:
        spec = obj.spec
        wanted = spec.replicas if spec and spec.replicas is not None else 1
        missing = wanted - len(active)
        if missing > 0 and spec is not None and spec.template is not None:
            for size in slow_start(min(missing, BURST)):
                tasks = (self._create(obj, spec.template, written) for _ in range(size))
                _raise_first(await asyncio.gather(*tasks, return_exceptions=True))
        elif missing < 0:
            doomed = choose_to_delete(active, min(-missing, BURST))
            tasks = (self._delete(obj, pod, written) for pod in doomed)
            _raise_first(await asyncio.gather(*tasks, return_exceptions=True))

    async def _create(self, obj: S, template: PodTemplateSpec, written: _Written) -> None:
        namespace, name = object_key(obj)
        meta = template.metadata or ObjectMeta()
        pod = Pod(
            metadata=ObjectMeta(
                generate_name=f"{name}-",
                labels=meta.labels,
                annotations=meta.annotations,
                finalizers=meta.finalizers,
                owner_references=[controller_reference(obj)],
            ),
            spec=template.spec,
        )
        try:
            created = await self._client.create(pod, namespace)
        except ApiError as err:
            if not _is_terminating(err):
                self._events.event(obj, "Warning", "FailedCreate", f"Error creating: {err}")
            raise
        written.created = max(written.created, int(created.metadata.resource_version or 0))
        self._events.event(obj, "Normal", "SuccessfulCreate", f"Created pod: {created.metadata.name}")

    async def _delete(self, obj: S, pod: Pod, written: _Written) -> None:
        namespace, name = object_key(pod)
        uid = pod.metadata.uid or ""
        if written.deleted is None:
            written.deleted = set()
        written.deleted.add(uid)
        try:
            await self._client.delete(Pod, name, namespace, uid=uid)
        except (NotFoundError, ConflictError):
            return  # gone already, which is what we wanted
        except ClientError as err:
            written.deleted.discard(uid)
            if isinstance(err, ApiError):
                self._events.event(obj, "Warning", "FailedDelete", f"Error deleting: {err}")
            raise
        self._events.event(obj, "Normal", "SuccessfulDelete", f"Deleted pod: {name}")

    async def _write_status(self, obj: S, active: list[Pod], failure: ClientError | None) -> None:
        spec = obj.spec
        template = spec.template if spec else None
        counts = count_replicas(
            active,
            template.metadata.labels if template and template.metadata else {},
            (spec.min_ready_seconds if spec else None) or 0,
            datetime.now(UTC),
        )
        namespace, name = object_key(obj)
        if counts.next_available_s is not None:
            self._queue.add_after((namespace, name), counts.next_available_s)
        status: dict[str, Any] = {
            "replicas": counts.replicas,
            # Null removes: zeroes are absent on the wire.
            "fullyLabeledReplicas": counts.fully_labeled or None,
            "readyReplicas": counts.ready or None,
            "availableReplicas": counts.available or None,
            "observedGeneration": obj.metadata.generation,
            "conditions": _conditions(obj, failure),
        }
        current = obj.status
        if current is not None and (
            current.replicas,
            current.fully_labeled_replicas,
            current.ready_replicas,
            current.available_replicas,
            current.observed_generation,
            [(c.type, c.message) for c in current.conditions],
        ) == (
            counts.replicas,
            *(status[key] for key in ("fullyLabeledReplicas", "readyReplicas", "availableReplicas")),
            obj.metadata.generation,
            [(c["type"], c["message"]) for c in status["conditions"] or ()],
        ):
            return
        patch = {"metadata": {"uid": obj.metadata.uid}, "status": status}
        try:
            await self._client.patch(self._kind, name, patch, namespace, subresource="status")
        except (NotFoundError, ConflictError):
            return


def _conditions(
    obj: ReplicaSet | ReplicationController, failure: ClientError | None
) -> list[dict[str, Any]] | None:
    """The condition ReplicaFailure while pods cannot be made; no other is a set's."""
    if failure is None or (isinstance(failure, ApiError) and _is_terminating(failure)):
        return None
    before = (
        next((c for c in obj.status.conditions if c.type == "ReplicaFailure"), None) if obj.status else None
    )
    since = before.last_transition_time if before is not None else None
    return [
        {
            "type": "ReplicaFailure",
            "status": "True",
            "lastTransitionTime": since or now_rfc3339(),
            "reason": "FailedCreate",
            "message": str(failure),
        }
    ]


def _is_terminating(err: ApiError) -> bool:
    """The namespace is being deleted: nobody misses the pod."""
    details = err.status.details
    return details is not None and any(c.reason == "NamespaceTerminating" for c in details.causes)


def _raise_first(results: list[BaseException | None]) -> None:
    for result in results:
        if result is not None:
            raise result
