"""Deployments: one replica set a pod template, and the way from the old one to the new.

Each reconciliation does one step: make the replica set of the current template, let it grow, let the old
ones shrink, or tidy up; then it writes the status. What the replica sets' controller does of it comes
back as changes of their status, and with them the next step. A step is taken only on replica sets as new
as our own last write to them.

Source: Kubernetes concepts, "Deployments"; pkg/controller/deployment.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import msgspec
from msgspec import structs

from podling.api.apps_v1 import Deployment, DeploymentStatus, ReplicaSet, ReplicaSetSpec
from podling.api.core_v1 import Pod
from podling.api.meta_v1 import LabelSelector, ObjectMeta
from podling.api.pods import is_terminal
from podling.api.selectors import match_label_selector
from podling.client.client import Client
from podling.client.errors import AlreadyExistsError, ApiError, ConflictError, NotFoundError
from podling.client.events import EventRecorder
from podling.client.informer import Key, object_key
from podling.client.workqueue import WorkQueue, run_workers
from podling.controllers import deployment_status as statuses
from podling.controllers import rollout
from podling.controllers.informers import Informers
from podling.controllers.ownership import OwnedIndex, claim, controller_of, controller_reference
from podling.controllers.rollout import Sizes, replicas, revision, spec_of, wanted

WORKERS = 5
CATCH_UP_S = 1.0
"""When to look again should the echo of our own write not come as an event."""
_COUNTS = (
    "observedGeneration", "replicas", "updatedReplicas", "readyReplicas", "availableReplicas",
    "unavailableReplicas", "collisionCount",
)  # fmt: skip


@dataclass(slots=True)
class _Sets:
    """A deployment's replica sets as a step sees them."""

    new: ReplicaSet | None
    old: list[ReplicaSet]
    created: bool = False
    """`new` was made in this step."""

    @property
    def all(self) -> list[ReplicaSet]:
        return [*self.old, *([self.new] if self.new else [])]


class DeploymentController:
    """Keyed by deployment (namespace, name)."""

    def __init__(self, client: Client, informers: Informers, events: EventRecorder) -> None:
        self._client = client
        self._deployments = informers.deployments
        self._sets = informers.replica_sets
        self._pods = informers.pods
        self._events = events
        self._index = OwnedIndex(informers.replica_sets)
        self._pod_index = OwnedIndex(informers.pods)
        self._written: dict[Key, int] = {}
        """The resourceVersion of our last write to a deployment."""
        self._written_sets: dict[Key, int] = {}
        """The same of its replica sets."""
        self._queue: WorkQueue[Key] = WorkQueue()

    async def run(self) -> None:
        for informer in (self._deployments, self._sets, self._pods):
            await informer.wait_synced()
        self._sets.add_handler(self._index.observe)
        self._pods.add_handler(self._pod_index.observe)
        self._deployments.add_handler(self._on_deployment)
        self._sets.add_handler(self._on_set)
        self._pods.add_handler(self._on_pod)
        await run_workers(self._queue, self._reconcile, name="deployment", workers=WORKERS)

    def _on_deployment(self, old: Deployment | None, new: Deployment | None) -> None:
        changed = new or old
        assert changed is not None
        self._queue.add(object_key(changed))

    def _on_set(self, old: ReplicaSet | None, new: ReplicaSet | None) -> None:
        for rs in (old, new):
            if rs is None:
                continue
            ref = controller_of(rs)
            if ref is not None and ref.kind == "Deployment":
                self._queue.add((rs.metadata.namespace or "", ref.name))
            elif ref is None and rs is new:
                for key, deployment in self._deployments.store.items():
                    if key[0] == rs.metadata.namespace and _matches(deployment, rs):
                        self._queue.add(key)

    def _on_pod(self, old: Pod | None, new: Pod | None) -> None:
        """Recreate waits for the last old pod to be gone, which no replica set tells."""
        if new is not None or old is None:
            return
        ref = controller_of(old)
        rs = self._sets.get(ref.name, old.metadata.namespace or "") if ref else None
        owner = controller_of(rs) if rs is not None else None
        if owner is not None:
            deployment = self._deployments.get(owner.name, old.metadata.namespace or "")
            if deployment is not None and not rollout.is_rolling(deployment):
                self._queue.add(object_key(deployment))

    async def _reconcile(self, key: Key) -> None:
        deployment = self._deployments.store.get(key)
        if deployment is None:
            self._written.pop(key, None)
            self._written_sets.pop(key, None)
            return
        written, written_sets = str(self._written.get(key, 0)), str(self._written_sets.get(key, 0))
        if not (self._deployments.has_seen(written) and self._sets.has_seen(written_sets)):
            self._queue.add_after(key, CATCH_UP_S)
            return
        spec = spec_of(deployment)
        if spec.selector is None or spec.selector == LabelSelector():
            text = "This deployment is selecting all pods. A non-empty selector is required."
            self._events.event(deployment, "Warning", "SelectingAll", text)
            return
        owned = await claim(self._client, deployment, self._index, lambda rs: _matches(deployment, rs))
        sets = _split(deployment, owned)
        if deployment.metadata.deletion_timestamp is not None:
            await self._write_counts(deployment, sets)
        elif spec.paused or rollout.was_scaled(deployment, sets.all):
            await self._scale_only(deployment, sets)
        elif rollout.is_rolling(deployment):
            await self._roll(deployment, sets)
        else:
            await self._recreate(deployment, sets)

    # Steps

    async def _roll(self, deployment: Deployment, sets: _Sets) -> None:
        number = await self._ensure_new(deployment, sets)
        if sets.new is None:
            return
        size = rollout.new_size(deployment, sets.all, replicas(sets.new))
        if not await self._resize(deployment, sets, {sets.new.metadata.name or "": size}):
            await self._resize(deployment, sets, rollout.shrink_old(deployment, sets.new, sets.old))
        await self._finish(deployment, sets, number)

    async def _recreate(self, deployment: Deployment, sets: _Sets) -> None:
        number: int | None = None
        down = {rs.metadata.name or "": 0 for rs in sets.old}
        if not await self._resize(deployment, sets, down) and not self._old_pods_run(sets):
            number = await self._ensure_new(deployment, sets)
            if sets.new is None:
                return
            await self._resize(deployment, sets, {sets.new.metadata.name or "": wanted(deployment)})
        await self._finish(deployment, sets, number)

    async def _scale_only(self, deployment: Deployment, sets: _Sets) -> None:
        """The template does not move: while paused, or before a rollout goes on at another size."""
        number = await self._annotate_new(deployment, sets)
        await self._resize(deployment, sets, rollout.scale_sizes(deployment, sets.new, sets.old))
        if spec_of(deployment).paused:
            await self._forget(deployment, sets.old)
        await self._write_counts(deployment, sets, number)

    async def _finish(self, deployment: Deployment, sets: _Sets, number: int | None) -> None:
        now = datetime.now(UTC)
        status = statuses.rolled(deployment, sets.all, sets.new, now, created=sets.created)
        await self._write_status(deployment, status, number)
        if statuses.is_complete(deployment, status):
            await self._forget(deployment, sets.old)
        left_s = statuses.deadline_left_s(deployment, status, now)
        if left_s is not None:
            # Times have whole seconds: one more, or we come too early and never again.
            self._queue.add_after(object_key(deployment), left_s + 1)

    async def _write_counts(self, deployment: Deployment, sets: _Sets, number: int | None = None) -> None:
        now = datetime.now(UTC)
        status = statuses.counted(deployment, sets.all, sets.new, now)
        await self._write_status(deployment, status, number)

    def _old_pods_run(self, sets: _Sets) -> bool:
        return any(
            not is_terminal(pod)
            for rs in sets.old
            for pod in self._pod_index.owned(rs.metadata.namespace or "", rs.metadata.uid or "")
        )

    # The replica set of the current template

    async def _ensure_new(self, deployment: Deployment, sets: _Sets) -> int | None:
        """Make it if there is none; its revision. None when that has to wait for the next time."""
        if sets.new is not None:
            return await self._annotate_new(deployment, sets)
        number = _next_revision(sets.old)
        made = await self._create(deployment, sets, number)
        if made is None:
            return None
        sets.new, sets.created = made, True
        return number

    async def _annotate_new(self, deployment: Deployment, sets: _Sets) -> int | None:
        """Give the newest replica set the newest revision, the deployment's annotations and readiness."""
        new = sets.new
        if new is None or new.spec is None:
            return None
        number = max(_next_revision(sets.old), revision(new.metadata.annotations))
        before = new.metadata.annotations
        annotations = rollout.set_annotations(deployment, before, number, exists=True)
        ready_s = spec_of(deployment).min_ready_seconds or 0
        if annotations != before or (new.spec.min_ready_seconds or 0) != ready_s:
            patch = {"metadata": {"annotations": annotations}, "spec": {"minReadySeconds": ready_s}}
            sets.new = await self._patch_set(deployment, new, patch)
        return number

    async def _create(self, deployment: Deployment, sets: _Sets, number: int) -> ReplicaSet | None:
        spec, status = spec_of(deployment), deployment.status or DeploymentStatus()
        assert spec.template is not None
        assert spec.selector is not None
        template_hash = rollout.template_hash(spec.template, status.collision_count or 0)
        namespace, name = object_key(deployment)
        labels = spec.template.metadata.labels if spec.template.metadata else {}
        selector = structs.replace(
            spec.selector, match_labels={**spec.selector.match_labels, rollout.HASH_LABEL: template_hash}
        )
        rs = ReplicaSet(
            metadata=ObjectMeta(
                name=f"{name}-{template_hash}",
                namespace=namespace,
                labels={**labels, rollout.HASH_LABEL: template_hash},
                annotations=rollout.set_annotations(deployment, {}, number, exists=False),
                owner_references=[controller_reference(deployment)],
            ),
            spec=ReplicaSetSpec(
                replicas=rollout.new_size(deployment, sets.old, 0),
                min_ready_seconds=spec.min_ready_seconds,
                selector=selector,
                template=rollout.with_hash(spec.template, template_hash),
            ),
        )
        try:
            made = await self._client.create(rs, namespace)
        except AlreadyExistsError:
            return await self._same_or_collision(deployment, rs, status)
        except ApiError as err:
            await self._tell_failure(deployment, sets, rs, err)
            raise
        _note(self._written_sets, deployment, made.metadata)
        if replicas(made):
            text = f"Scaled up replica set {made.metadata.name} from 0 to {replicas(made)}"
            self._events.event(deployment, "Normal", "ScalingReplicaSet", text)
        return made

    async def _same_or_collision(
        self, deployment: Deployment, rs: ReplicaSet, status: DeploymentStatus
    ) -> ReplicaSet | None:
        """The name is taken: by ourselves a moment ago, or by a template of the same hash."""
        namespace, name = object_key(rs)
        found = await self._client.get(ReplicaSet, name, namespace)
        ref = controller_of(found)
        if ref is not None and ref.uid == deployment.metadata.uid and rollout.find_new(deployment, [found]):
            return found
        patch = {"status": {"collisionCount": (status.collision_count or 0) + 1}}
        await self._patch_status(deployment, patch)
        return None

    async def _tell_failure(self, deployment: Deployment, sets: _Sets, rs: ReplicaSet, err: ApiError) -> None:
        text = f'Failed to create new replica set "{rs.metadata.name}": {err}'
        self._events.event(deployment, "Warning", "ReplicaSetCreateError", text)
        if statuses.has_deadline(deployment):
            now = datetime.now(UTC)
            status = statuses.counted(deployment, sets.all, None, now)
            kind, reason = statuses.PROGRESSING, "ReplicaSetCreateError"
            statuses.set_condition(status, kind, "False", reason, text, now)
            await self._write_status(deployment, status, None)

    # Writes

    async def _resize(self, deployment: Deployment, sets: _Sets, sizes: Sizes) -> bool:
        """Give replica sets other sizes; whether there was anything to do. `sets` has the result."""
        changed = False
        annotations = rollout.replica_annotations(deployment)
        for rs in sets.all:
            before, size = replicas(rs), sizes.get(rs.metadata.name or "", replicas(rs))
            stale = bool(before or size) and not annotations.items() <= rs.metadata.annotations.items()
            if size == before and not stale:
                continue
            patch = {"metadata": {"annotations": annotations}, "spec": {"replicas": size}}
            _replace(sets, rs, await self._patch_set(deployment, rs, patch))
            if size != before:
                changed = True
                way = "up" if size > before else "down"
                text = f"Scaled {way} replica set {rs.metadata.name} from {before} to {size}"
                self._events.event(deployment, "Normal", "ScalingReplicaSet", text)
        return changed

    async def _patch_set(self, deployment: Deployment, rs: ReplicaSet, patch: dict[str, Any]) -> ReplicaSet:
        namespace, name = object_key(rs)
        patch["metadata"]["uid"] = rs.metadata.uid
        changed = await self._client.patch(ReplicaSet, name, patch, namespace)
        _note(self._written_sets, deployment, changed.metadata)
        return changed

    async def _forget(self, deployment: Deployment, old: Sequence[ReplicaSet]) -> None:
        for rs in rollout.to_forget(deployment, old):
            namespace, name = object_key(rs)
            try:
                await self._client.delete(ReplicaSet, name, namespace, uid=rs.metadata.uid)
            except (NotFoundError, ConflictError):
                continue

    async def _write_status(
        self, deployment: Deployment, status: DeploymentStatus, number: int | None
    ) -> None:
        annotations = deployment.metadata.annotations
        renumber = number is not None and annotations.get(rollout.REVISION) != str(number)
        if status == deployment.status and not renumber:
            return
        found = msgspec.to_builtins(status)
        wire: dict[str, Any] = {key: found.get(key) for key in _COUNTS}
        wire["conditions"] = found.get("conditions")
        patch: dict[str, Any] = {"status": wire}
        if renumber:
            patch["metadata"] = {"annotations": {rollout.REVISION: str(number)}}
        await self._patch_status(deployment, patch)

    async def _patch_status(self, deployment: Deployment, patch: dict[str, Any]) -> None:
        namespace, name = object_key(deployment)
        patch.setdefault("metadata", {})["uid"] = deployment.metadata.uid
        try:
            changed = await self._client.patch(Deployment, name, patch, namespace, subresource="status")
        except (NotFoundError, ConflictError):
            return
        _note(self._written, deployment, changed.metadata)


def _note(written: dict[Key, int], deployment: Deployment, meta: ObjectMeta) -> None:
    key = object_key(deployment)
    written[key] = max(written.get(key, 0), int(meta.resource_version or 0))


def _matches(deployment: Deployment, rs: ReplicaSet) -> bool:
    return match_label_selector(spec_of(deployment).selector, rs.metadata.labels)


def _split(deployment: Deployment, owned: list[ReplicaSet]) -> _Sets:
    new = rollout.find_new(deployment, owned)
    return _Sets(new, [rs for rs in owned if rs is not new])


def _next_revision(old: Sequence[ReplicaSet]) -> int:
    return max((revision(rs.metadata.annotations) for rs in old), default=0) + 1


def _replace(sets: _Sets, before: ReplicaSet, after: ReplicaSet) -> None:
    if sets.new is before:
        sets.new = after
    else:
        sets.old = [after if rs is before else rs for rs in sets.old]
