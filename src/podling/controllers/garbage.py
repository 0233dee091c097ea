"""Garbage collection: what has owners goes when the last of them is gone.

A graph of owner references over every kind is kept from watches; kinds that no other controller watches
whole are watched for their metadata. Work is keyed by UID and decided from the newest state:

- an object of which all owners are gone is deleted;
- one being deleted with the finalizer `orphan` lets go of its dependents first, then of the finalizer;
- one with `foregroundDeletion` has its dependents deleted, and goes when those that block it are gone.

That an owner is gone is only believed after asking the API server: watches of two kinds do not run in
step. Source: Kubernetes concepts, "Garbage Collection"; pkg/controller/garbagecollector.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from dataclasses import dataclass
from functools import partial
from typing import Any

from podling.api.core_v1 import Event
from podling.api.meta_v1 import OwnerReference
from podling.api.resources import RESOURCES, Object, info, metadata_only
from podling.client.client import Client, PatchType
from podling.client.errors import ConflictError, NotFoundError
from podling.client.informer import Informer
from podling.client.workqueue import WorkQueue, run_workers
from podling.controllers.informers import Informers

ORPHAN = "orphan"
FOREGROUND = "foregroundDeletion"
WORKERS = 10
ABSENT_LIMIT = 500
"""How many owners are remembered as gone, so that a thousand dependents ask for each but once."""
_NOT_WATCHED = (Event,)
"""Events have no owners, come in great number, and expire by themselves."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Node:
    """An object as the watch last showed it."""

    kind: type[Any]
    obj: Object

    @property
    def namespace(self) -> str:
        return self.obj.metadata.namespace or ""

    @property
    def name(self) -> str:
        return self.obj.metadata.name or ""

    @property
    def uid(self) -> str:
        return self.obj.metadata.uid or ""

    @property
    def deleting(self) -> bool:
        return self.obj.metadata.deletion_timestamp is not None

    @property
    def owners(self) -> list[OwnerReference]:
        return self.obj.metadata.owner_references

    @property
    def sense(self) -> tuple[object, ...]:
        """All that matters here: other changes, which are most, need no thought."""
        return self.owners, self.deleting, self.obj.metadata.finalizers

    def has(self, finalizer: str) -> bool:
        return finalizer in self.obj.metadata.finalizers

    @property
    def waits_for_dependents(self) -> bool:
        return self.deleting and self.has(FOREGROUND)


@dataclass(slots=True)
class _Owners:
    """A dependent's references by what became of the owners."""

    solid: list[OwnerReference]
    waiting: list[OwnerReference]
    """Being deleted in the foreground: this dependent is to go first."""
    gone: list[OwnerReference]


class GarbageCollector:
    """Keyed by UID. It runs the informers of the kinds that `informers` does not have."""

    def __init__(self, client: Client, informers: Informers) -> None:
        self._client = client
        self._kinds: dict[tuple[str, str], type[Any]] = {}
        self._sources: list[tuple[type[Any], Informer[Any]]] = []
        self._own: list[Informer[Any]] = []
        whole: dict[type[Any], Informer[Any]] = {i.kind: i for i in vars(informers).values() if i.is_complete}
        for kind in RESOURCES:
            if kind in _NOT_WATCHED:
                continue
            example: Any = kind()
            self._kinds[example.api_version, example.kind] = kind
            source = whole.get(kind)
            if source is None:
                source = Informer(client, metadata_only(kind))
                self._own.append(source)
            self._sources.append((kind, source))
        self._nodes: dict[str, _Node] = {}
        self._dependents: dict[str, set[str]] = {}
        """UIDs of dependents by the UID of the owner, whether or not that is there."""
        self._absent: OrderedDict[tuple[str, str], None] = OrderedDict()
        """(namespace of the dependent, UID) of owners found to be gone."""
        self._queue: WorkQueue[str] = WorkQueue()

    @property
    def informers(self) -> list[Informer[Any]]:
        """To be run beside the collector."""
        return self._own

    async def run(self) -> None:
        for kind, source in self._sources:
            source.add_handler(partial(self._on_object, kind))
        for _, source in self._sources:
            await source.wait_synced()
        await run_workers(self._queue, self._reconcile, name="garbage", workers=WORKERS)

    def _on_object(self, kind: type[Any], old: Object | None, new: Object | None) -> None:
        changed = new or old
        assert changed is not None
        uid = changed.metadata.uid or ""
        before = self._nodes.get(uid)
        if new is None:
            self._forget(uid, before)
            return
        node = _Node(kind, new)
        self._nodes[uid] = node
        known = {ref.uid for ref in before.owners} if before else set()
        owners = {ref.uid for ref in node.owners}
        for owner in known - owners:
            self._unlink(owner, uid)
        for owner in owners - known:
            self._dependents.setdefault(owner, set()).add(uid)
        if before is not None and before.sense == node.sense:
            return
        if node.owners or node.deleting:
            self._queue.add(uid)
        if node.waits_for_dependents:
            for dependent in self._dependents.get(uid, ()):
                self._queue.add(dependent)

    def _forget(self, uid: str, before: _Node | None) -> None:
        self._nodes.pop(uid, None)
        for dependent in self._dependents.get(uid, ()):
            self._queue.add(dependent)
        for owner in before.owners if before is not None else ():
            self._unlink(owner.uid, uid)

    def _unlink(self, owner: str, dependent: str) -> None:
        found = self._dependents.get(owner, set())
        found.discard(dependent)
        if not found:
            self._dependents.pop(owner, None)
        holder = self._nodes.get(owner)
        if holder is not None and holder.deleting:
            self._queue.add(owner)

    async def _reconcile(self, uid: str) -> None:
        node = self._nodes.get(uid)
        if node is None:
            return
        if node.deleting and node.has(ORPHAN):
            await self._orphan(node)
        elif node.waits_for_dependents:
            await self._continue_foreground(node)
        elif not node.deleting and node.owners:
            await self._check_owners(node)

    # An object that is being deleted

    async def _orphan(self, node: _Node) -> None:
        """Let the dependents go, then the object."""
        for dependent in self._dependents_of(node):
            await self._drop_references(dependent, [node.uid])
        await self._drop_finalizer(node, ORPHAN)

    async def _continue_foreground(self, node: _Node) -> None:
        blocking = [
            dependent
            for dependent in self._dependents_of(node)
            if any(ref.uid == node.uid and ref.block_owner_deletion for ref in dependent.owners)
        ]
        if not blocking:
            await self._drop_finalizer(node, FOREGROUND)
            return
        for dependent in blocking:
            if not dependent.deleting:
                self._queue.add(dependent.uid)

    def _dependents_of(self, node: _Node) -> list[_Node]:
        return [self._nodes[uid] for uid in sorted(self._dependents.get(node.uid, ())) if uid in self._nodes]

    # An object with owners

    async def _check_owners(self, node: _Node) -> None:
        owners = await self._classify(node)
        if owners.solid:
            if stale := [ref.uid for ref in (*owners.gone, *owners.waiting)]:
                await self._drop_references(node, stale)
        elif owners.waiting and (dependents := self._dependents_of(node)):
            if any(d.waits_for_dependents for d in dependents):
                # A circle of objects that wait for each other: nobody may block.
                await self._unblock(node)
            await self._delete(node, "Foreground")
        elif owners.waiting or owners.gone:
            policy = "Orphan" if node.has(ORPHAN) else "Foreground" if node.has(FOREGROUND) else "Background"
            await self._delete(node, policy)

    async def _classify(self, node: _Node) -> _Owners:
        found = _Owners([], [], [])
        for ref in node.owners:
            owner = await self._owner(node, ref)
            if owner is None:
                found.gone.append(ref)
            elif owner is _UNKNOWN or not owner.waits_for_dependents:
                found.solid.append(ref)
            else:
                found.waiting.append(ref)
        return found

    async def _owner(self, node: _Node, ref: OwnerReference) -> _Node | None:
        """The owner as it is; None when it is gone for sure, `_UNKNOWN` when nobody can tell."""
        kind = self._kinds.get((ref.api_version, ref.kind))
        if kind is None or (info(kind).namespaced and not node.namespace):
            return _UNKNOWN
        namespace = node.namespace if info(kind).namespaced else ""
        owner = self._nodes.get(ref.uid)
        if owner is not None and owner.namespace == namespace and owner.name == ref.name:
            return owner
        if (node.namespace, ref.uid) in self._absent:
            return None
        try:
            live = await self._client.get(metadata_only(kind), ref.name, namespace or None)
        except NotFoundError:
            live = None
        if live is not None and live.metadata.uid == ref.uid:
            return _Node(kind, live)
        self._absent[node.namespace, ref.uid] = None
        while len(self._absent) > ABSENT_LIMIT:
            self._absent.popitem(last=False)
        return None

    # Writes

    async def _delete(self, node: _Node, policy: str) -> None:
        meta = node.obj.metadata
        log.info("deleting %s %s/%s: its owners are gone", node.kind.__name__, node.namespace, node.name)
        try:
            await self._client.delete(
                metadata_only(node.kind),
                node.name,
                node.namespace or None,
                uid=meta.uid,
                # It may have found another owner since.
                resource_version=meta.resource_version,
                propagation=policy,
            )
        except NotFoundError:
            return

    async def _drop_references(self, node: _Node, owners: list[str]) -> None:
        gone = [{"$patch": "delete", "uid": uid} for uid in owners]
        await self._patch(node, {"ownerReferences": gone}, PatchType.STRATEGIC)

    async def _unblock(self, node: _Node) -> None:
        free = [{"uid": ref.uid, "blockOwnerDeletion": False} for ref in node.owners]
        await self._patch(node, {"ownerReferences": free}, PatchType.STRATEGIC)

    async def _drop_finalizer(self, node: _Node, finalizer: str) -> None:
        meta = node.obj.metadata
        kept = [f for f in meta.finalizers if f != finalizer]
        change = {"resourceVersion": meta.resource_version, "finalizers": kept}
        await self._patch(node, change, PatchType.MERGE)

    async def _patch(self, node: _Node, metadata: dict[str, Any], patch_type: PatchType) -> None:
        patch = {"metadata": {"uid": node.uid, **metadata}}
        try:
            await self._client.patch(
                metadata_only(node.kind), node.name, patch, node.namespace or None, patch_type=patch_type
            )
        except NotFoundError:
            return
        except ConflictError:
            if node.uid in self._nodes:
                raise  # changed since: again with the newest state


_UNKNOWN = _Node(object, Event())
"""Stands for an owner of a kind we do not serve: nothing is ever deleted for want of it."""
