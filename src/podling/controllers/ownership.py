"""Who controls what: owner references, and finding, adopting and letting go of what a controller owns.

An object has at most one owner reference with `controller: true`. A controller adopts orphans that its
selector matches and lets go of what it no longer matches; what another controls it leaves alone, so two
with overlapping selectors do not fight.

Source: Kubernetes concepts, "Garbage Collection" (ownership); pkg/controller/controller_ref_manager.go.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from podling.api.meta_v1 import OwnerReference
from podling.api.resources import Object
from podling.client.client import Client, PatchType
from podling.client.errors import ConflictError, InvalidError, NotFoundError
from podling.client.informer import Informer, Key, object_key

T = TypeVar("T", bound=Object)


def controller_of(obj: Object) -> OwnerReference | None:
    return next((ref for ref in obj.metadata.owner_references if ref.controller), None)


def is_controlled_by(obj: Object, owner: Object) -> bool:
    ref = controller_of(obj)
    return ref is not None and ref.uid == owner.metadata.uid


def controller_reference(owner: Object) -> OwnerReference:
    """What an object made by the controller of `owner` carries."""
    return OwnerReference(
        api_version=owner.api_version,
        kind=owner.kind,
        name=owner.metadata.name or "",
        uid=owner.metadata.uid or "",
        controller=True,
        block_owner_deletion=True,
    )


class OwnedIndex(Generic[T]):
    """The objects of an informer by the UID of their controller, orphans under the empty one."""

    def __init__(self, informer: Informer[T]) -> None:
        self._informer = informer
        self._keys: dict[tuple[str, str], set[Key]] = {}

    def observe(self, old: T | None, new: T | None) -> None:
        """A handler of the informer; add it before those that use the index."""
        if old is not None:
            where = self._where(old)
            self._keys.get(where, set()).discard(object_key(old))
            if not self._keys.get(where):
                self._keys.pop(where, None)
        if new is not None:
            self._keys.setdefault(self._where(new), set()).add(object_key(new))

    def owned(self, namespace: str, uid: str) -> Iterator[T]:
        """Objects whose controller has this UID; the empty UID for those without a controller."""
        for key in sorted(self._keys.get((namespace, uid), ())):
            yield self._informer.store[key]

    def _where(self, obj: T) -> tuple[str, str]:
        ref = controller_of(obj)
        return obj.metadata.namespace or "", ref.uid if ref is not None else ""


async def claim(client: Client, owner: Object, index: OwnedIndex[T], matches: Callable[[T], bool]) -> list[T]:
    """What `owner` controls, after adopting orphans and letting go of what no longer matches."""
    namespace, uid = owner.metadata.namespace or "", owner.metadata.uid or ""
    going = owner.metadata.deletion_timestamp is not None
    claimed: list[T] = []
    for obj in list(index.owned(namespace, uid)):
        if matches(obj):
            claimed.append(obj)
        elif not going:
            await _release(client, owner, obj)
    if going:
        return claimed
    checked = False
    for obj in list(index.owned(namespace, "")):
        if obj.metadata.deletion_timestamp is not None or not matches(obj):
            continue
        if not checked:
            # Our copy may be old: an owner on its way out must not adopt what it has just let go of.
            live = await client.get(type(owner), owner.metadata.name or "", namespace)
            if live.metadata.uid != uid or live.metadata.deletion_timestamp is not None:
                return claimed
            checked = True
        adopted = await _adopt(client, owner, obj)
        if adopted is not None:
            claimed.append(adopted)
    return claimed


async def _adopt(client: Client, owner: Object, obj: T) -> T | None:
    ref = controller_reference(owner)
    return await _patch(client, obj, {"uid": obj.metadata.uid, "ownerReferences": [ref]})


async def _release(client: Client, owner: Object, obj: T) -> None:
    gone = {"$patch": "delete", "uid": owner.metadata.uid}
    await _patch(client, obj, {"uid": obj.metadata.uid, "ownerReferences": [gone]})


async def _patch(client: Client, obj: T, metadata: dict[str, object]) -> T | None:
    """None when it is gone, is another of that name, or another controller was faster."""
    namespace, name = object_key(obj)
    try:
        return await client.patch(
            type(obj), name, {"metadata": metadata}, namespace, patch_type=PatchType.STRATEGIC
        )
    except (NotFoundError, ConflictError, InvalidError):
        return None
