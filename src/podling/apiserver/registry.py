"""Reading and changing stored objects, the same for every kind.

This is upstream's generic registry: what must hold whenever an object is created, changed or deleted
(identity, resourceVersion, finalizers, graceful deletion), around the hooks of the kind's `Strategy`.
Changes are computed from the newest proposed state within one step of the event loop, so a conflict is
only ever the client's; `RevisionConflictError` is caught all the same, for stores on other machines.
"""

from __future__ import annotations

import copy
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from podling.api.names import generate_name
from podling.api.times import format_time, now_rfc3339, parse_time
from podling.api.validation import FieldError, validate_create, validate_update
from podling.apiserver import errors, objects
from podling.apiserver.cluster import Cluster
from podling.apiserver.objects import Object
from podling.apiserver.resource import Guard, Resource
from podling.store.interface import Entry, RevisionConflictError, WriteFailedError

ORPHAN = "orphan"
FOREGROUND = "foregroundDeletion"
GENERATE_ATTEMPTS = 8
"""Tries to find a free name for generateName, as upstream's."""


@dataclass(frozen=True, slots=True)
class Target:
    """Which object a request is about."""

    resource: Resource
    namespace: str
    name: str

    @property
    def key(self) -> str:
        return self.resource.key(self.namespace, self.name)


@dataclass(frozen=True, slots=True)
class Outcome:
    """An object after a change. `entry` is None when nothing was stored (dry run)."""

    object: Object
    entry: Entry | None = None
    created: bool = False

    def wire(self, resource: Resource) -> bytes:
        if self.entry is not None:
            return objects.wire(resource, self.entry)
        return objects.encode(self.object)


async def read(cluster: Cluster, target: Target) -> Entry:
    """The durable state. Raises APIError 404."""
    entry = await cluster.store.get(target.key)
    if entry is None:
        raise errors.not_found(target.resource.qualified, target.name)
    return entry


# --- create ------------------------------------------------------------------------------------------


async def create(
    cluster: Cluster, resource: Resource, namespace: str, obj: Object, *, dry_run: bool = False
) -> Outcome:
    """Store a new object. `obj` is changed in place."""
    metadata = obj["metadata"]
    generated = not metadata.get("name") and bool(metadata.get("generateName"))
    if generated:
        metadata["name"] = generate_name(metadata["generateName"])
    _prepare_create(cluster, resource, namespace, obj)
    if faults := validate_create(resource.kind, obj):
        raise errors.invalid(resource.kind, metadata.get("name") or "", faults, group=resource.group)
    for attempt in range(GENERATE_ATTEMPTS):
        target = Target(resource, namespace, metadata["name"])
        try:
            return await _store_new(cluster, target, obj, dry_run=dry_run)
        except errors.APIError as err:
            if err.reason != "AlreadyExists" or not generated or attempt + 1 == GENERATE_ATTEMPTS:
                raise
        metadata["name"] = generate_name(metadata["generateName"])
    raise AssertionError("the last attempt raises")


def _prepare_create(cluster: Cluster, resource: Resource, namespace: str, obj: Object) -> None:
    metadata = obj["metadata"]
    if resource.namespaced:
        metadata["namespace"] = namespace
    else:
        metadata.pop("namespace", None)
    for name in ("deletionTimestamp", "deletionGracePeriodSeconds", "selfLink", "managedFields"):
        metadata.pop(name, None)
    metadata["uid"] = str(uuid.uuid4())
    metadata["creationTimestamp"] = now_rfc3339()
    metadata.pop("generation", None)
    if resource.strategy.generation:
        metadata["generation"] = 1
    resource.strategy.prepare_create(cluster, obj)


async def _store_new(cluster: Cluster, target: Target, obj: Object, *, dry_run: bool) -> Outcome:
    resource, store = target.resource, cluster.store
    if await store.newest(target.key) is not None:
        await store.settle()
        raise errors.already_exists(resource.qualified, target.name)
    resource.strategy.admit(cluster, obj, dry_run=dry_run)
    if dry_run:
        return Outcome(obj, created=True)
    try:
        entry = await store.put(target.key, objects.to_value(resource, obj), expected=0)
    except RevisionConflictError as err:
        resource.strategy.removed(cluster, obj)
        raise errors.already_exists(resource.qualified, target.name) from err
    except WriteFailedError:
        resource.strategy.removed(cluster, obj)
        raise
    return Outcome(obj, entry, created=True)


# --- update ------------------------------------------------------------------------------------------

Change = Callable[[Object], Object]
"""From the current object (its to keep) to the wanted one; raises APIError."""


def guarded(change: Change, guard: Guard | None) -> Change:
    """`change`, with a look of `guard` at what comes out."""
    if guard is None:
        return change

    def checked(current: Object) -> Object:
        before = copy.deepcopy(current)
        new = change(current)
        guard(new, before)
        return new

    return checked


async def update(
    cluster: Cluster,
    target: Target,
    change: Change,
    *,
    subresource: str = "",
    dry_run: bool = False,
) -> Outcome:
    """Change an object that exists. `subresource` is "status", or one whose handler knows what it does."""
    store, resource = cluster.store, target.resource
    while True:
        entry = await store.newest(target.key)
        if entry is None:
            await store.settle()
            raise errors.not_found(resource.qualified, target.name)
        old = objects.from_entry(entry)
        new = change(objects.from_entry(entry))
        _check_identity(target, new, old, entry)
        _prepare_update(cluster, resource, new, old, subresource)
        if faults := validate_update(resource.kind, new, old, subresource):
            raise errors.invalid(resource.kind, target.name, faults, group=resource.group)
        finish = resource.strategy.admit_update(cluster, new, old)
        stored = False
        try:
            if dry_run:
                return Outcome(new)
            outcome = await _store_changed(cluster, target, new, entry)
            stored = True
            return outcome
        except RevisionConflictError:
            continue
        finally:
            if finish is not None:
                finish(stored)


async def _store_changed(cluster: Cluster, target: Target, new: Object, entry: Entry) -> Outcome:
    store, resource = cluster.store, target.resource
    if _finished(resource, new):
        await store.delete(target.key, expected=entry.revision)
        resource.strategy.removed(cluster, new)
        return Outcome(new)
    value = objects.to_value(resource, new)
    if value == entry.value:
        # Not our write, but the answer must not be ahead of the disk.
        await store.settle()
        return Outcome(new, entry)
    return Outcome(new, await store.put(target.key, value, expected=entry.revision))


def _check_identity(target: Target, new: Object, old: Object, entry: Entry) -> None:
    """The change is to the object the client thinks of."""
    resource, metadata = target.resource, new["metadata"]
    uid = metadata.get("uid")
    if uid and uid != old["metadata"]["uid"]:
        why = f"Precondition failed: UID in precondition: {uid}, UID in object meta: {old['metadata']['uid']}"
        raise errors.conflict(resource.qualified, target.name, why)
    version = metadata.get("resourceVersion") or "0"
    if version != "0":
        if not version.isascii() or not version.isdigit():
            raise errors.bad_request(f'invalid resource version "{version}"')
        if int(version) != entry.revision:
            raise errors.modified(resource.qualified, target.name)
    elif not resource.strategy.unconditional_update:
        fault = FieldError(
            field="metadata.resourceVersion",
            reason="FieldValueInvalid",
            message="Invalid value: 0: must be specified for an update",
        )
        raise errors.invalid(resource.kind, target.name, [fault], group=resource.group)


def _prepare_update(cluster: Cluster, resource: Resource, new: Object, old: Object, subresource: str) -> None:
    strategy, before = resource.strategy, old["metadata"]
    metadata = new["metadata"]
    for name in (
        "name", "namespace", "uid", "creationTimestamp", "generation", "deletionTimestamp",
        "deletionGracePeriodSeconds", "generateName", "resourceVersion",
    ):  # fmt: skip
        if name in before:
            metadata[name] = before[name]
        else:
            metadata.pop(name, None)
    metadata.pop("managedFields", None)
    metadata.pop("selfLink", None)
    if subresource == "status":
        strategy.prepare_status(cluster, new, old)
    elif not subresource:
        strategy.prepare_update(cluster, new, old)
    else:
        strategy.prepare_subresource(cluster, new, old, subresource)
    if strategy.generation and new.get("spec") != old.get("spec"):
        metadata["generation"] = before.get("generation", 0) + 1


def _finished(resource: Resource, obj: Object) -> bool:
    """Only waited for its finalizers, and the last is gone."""
    metadata = obj["metadata"]
    return (
        bool(metadata.get("deletionTimestamp"))
        and not metadata.get("deletionGracePeriodSeconds")
        and not resource.strategy.has_finalizers(obj)
    )


# --- delete ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class DeleteOptions:
    grace_period_s: int | None = None
    uid: str = ""
    resource_version: str = ""
    dry_run: bool = False
    propagation: str = ""
    """What becomes of dependents: Orphan, Background, Foreground; empty: as the kind has it."""


@dataclass(frozen=True, slots=True)
class Deleted:
    object: Object
    gone: bool
    """False: marked, and waiting for its grace period or finalizers."""


async def delete(cluster: Cluster, target: Target, options: DeleteOptions) -> Deleted:
    """Delete an object, or mark it as deleted while its kubelet or its finalizers need time."""
    store, resource = cluster.store, target.resource
    while True:
        entry = await store.newest(target.key)
        if entry is None:
            await store.settle()
            raise errors.not_found(resource.qualified, target.name)
        obj = objects.from_entry(entry)
        _check_preconditions(target, obj, options)
        resource.strategy.check_delete(obj)
        marked = _set_propagation(resource, obj, options)
        marked = _mark_deleted(resource, obj, options) or marked
        gone = _finished(resource, obj)
        if options.dry_run or not (marked or gone):
            await store.settle()
            return Deleted(obj, gone)
        try:
            if gone:
                event = await store.delete(target.key, expected=entry.revision)
                resource.strategy.removed(cluster, obj)
                obj["metadata"]["resourceVersion"] = str(event.revision)
            else:
                entry = await store.put(target.key, objects.to_value(resource, obj), expected=entry.revision)
                obj["metadata"]["resourceVersion"] = str(entry.revision)
            return Deleted(obj, gone)
        except RevisionConflictError:
            continue


def _check_preconditions(target: Target, obj: Object, options: DeleteOptions) -> None:
    metadata, resource = obj["metadata"], target.resource
    if options.uid and options.uid != metadata["uid"]:
        why = (
            f"the UID in the precondition ({options.uid}) does not match the UID in record "
            f"({metadata['uid']}). The object might have been deleted and then recreated"
        )
        raise errors.conflict(resource.qualified, target.name, why)
    if options.resource_version and options.resource_version != metadata["resourceVersion"]:
        why = (
            f"the ResourceVersion in the precondition ({options.resource_version}) does not match the "
            f"ResourceVersion in record ({metadata['resourceVersion']}). The object might have been modified"
        )
        raise errors.conflict(resource.qualified, target.name, why)


def _set_propagation(resource: Resource, obj: Object, options: DeleteOptions) -> bool:
    """Have the garbage collector come before the object goes; False when it was to come already.

    It takes the finalizer away when the dependents are let go, or gone. Without one it looks for them
    afterwards (Kubernetes concepts, "Garbage Collection").
    """
    metadata = obj["metadata"]
    finalizers = metadata.get("finalizers") or []
    wanted = [f for f in finalizers if f not in (ORPHAN, FOREGROUND)]
    match options.propagation:
        case "Orphan":
            wanted.append(ORPHAN)
        case "Foreground":
            wanted.append(FOREGROUND)
        case "Background":
            pass
        case _ if ORPHAN in finalizers or FOREGROUND in finalizers:
            return False
        case _ if resource.strategy.orphans_by_default:
            wanted.append(ORPHAN)
    if wanted == finalizers:
        return False
    if wanted:
        metadata["finalizers"] = wanted
    else:
        metadata.pop("finalizers", None)
    return True


def _mark_deleted(resource: Resource, obj: Object, options: DeleteOptions) -> bool:
    """Set the deletion's time and grace period in `obj`; False when that changes nothing.

    Upstream's BeforeDelete: a later delete may only shorten the grace period.
    """
    metadata: dict[str, Any] = obj["metadata"]
    grace = resource.strategy.grace_period_s(obj, options.grace_period_s)
    if metadata.get("deletionTimestamp"):
        pending = metadata.get("deletionGracePeriodSeconds") or 0
        if options.grace_period_s is None or grace is None or grace >= pending:
            return False
    else:
        resource.strategy.deleting(obj)
        if "generation" in metadata:
            metadata["generation"] += 1
    metadata["deletionTimestamp"] = _deletion_time(metadata, grace or 0)
    metadata["deletionGracePeriodSeconds"] = grace or 0
    return True


def _deletion_time(metadata: dict[str, Any], grace_s: int) -> str:
    """When the grace period ends, counted from the first request to delete."""
    if metadata.get("deletionTimestamp"):
        asked = parse_time(metadata["deletionTimestamp"]) - timedelta(
            seconds=metadata.get("deletionGracePeriodSeconds") or 0
        )
    else:
        asked = datetime.now(UTC)
    return format_time(asked + timedelta(seconds=grace_s))
