"""Who is bound to which rules, read from the stored roles and bindings.

Looked up anew for each request, so a binding counts from the moment it is stored; objects are decoded once
a revision. A cluster has a few dozen bindings, and a scan of them costs less than keeping an index right.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Generic, TypeVar

import msgspec

from podling.api.rbac_v1 import (
    ClusterRole,
    ClusterRoleBinding,
    PolicyRule,
    Role,
    RoleBinding,
    RoleRef,
    Subject,
)
from podling.apiserver.authn import SERVICE_ACCOUNT_PREFIX
from podling.apiserver.request import User
from podling.store.interface import Store

GROUP = "rbac.authorization.k8s.io"
T = TypeVar("T")


class _Collection(Generic[T]):
    """The objects below a prefix of the store, decoded."""

    def __init__(self, store: Store, plural: str, kind: type[T]) -> None:
        self._store = store
        self._prefix = f"{plural}.{GROUP}/"
        self._decode: Callable[[bytes], T] = msgspec.json.Decoder(kind).decode
        self._known: dict[str, tuple[int, T]] = {}

    async def all(self, namespace: str = "") -> list[T]:
        prefix = f"{self._prefix}{namespace}/" if namespace else self._prefix
        entries = (await self._store.list(prefix)).entries
        if len(self._known) > 2 * len(entries) + 256:
            self._known.clear()  # mostly of objects that are gone
        return [self._of(entry.key, entry.revision, entry.value) for entry in entries]

    async def get(self, *path: str) -> T | None:
        entry = await self._store.newest(self._prefix + "/".join(path))
        return None if entry is None else self._of(entry.key, entry.revision, entry.value)

    def _of(self, key: str, revision: int, value: bytes) -> T:
        known = self._known.get(key)
        if known is None or known[0] != revision:
            known = self._known[key] = (revision, self._decode(value))
        return known[1]


class Bindings:
    """Of one store; stateless but for what is decoded."""

    def __init__(self, store: Store) -> None:
        self._cluster_roles = _Collection(store, "clusterroles", ClusterRole)
        self._cluster_bindings = _Collection(store, "clusterrolebindings", ClusterRoleBinding)
        self._roles = _Collection(store, "roles", Role)
        self._bindings = _Collection(store, "rolebindings", RoleBinding)

    async def rules_of(self, user: User, namespace: str = "") -> list[PolicyRule]:
        """All that is granted to `user` in the whole cluster, and in `namespace` if it is given."""
        found: list[PolicyRule] = []
        for binding in await self._cluster_bindings.all():
            if _binds(binding.subjects, user, ""):
                found += await self.rules_behind(binding.role_ref, "")
        if namespace:
            for local in await self._bindings.all(namespace):
                if _binds(local.subjects, user, namespace):
                    found += await self.rules_behind(local.role_ref, namespace)
        return found

    async def rules_behind(self, ref: RoleRef | None, namespace: str) -> list[PolicyRule]:
        """The rules of the role a binding in `namespace` names; none if there is no such role."""
        role: Any = None
        if ref is not None and ref.kind == "ClusterRole":
            role = await self._cluster_roles.get(ref.name)
        elif ref is not None and ref.kind == "Role" and namespace:
            role = await self._roles.get(namespace, ref.name)
        return list(role.rules) if role is not None else []

    async def roles(self, namespace: str) -> dict[tuple[str, str], list[PolicyRule]]:
        """The rules of every role that a binding in `namespace` can name, by kind and name."""
        found = {("ClusterRole", r.metadata.name or ""): r.rules for r in await self._cluster_roles.all()}
        if namespace:
            found |= {("Role", r.metadata.name or ""): r.rules for r in await self._roles.all(namespace)}
        return found


def _binds(subjects: Iterable[Subject], user: User, namespace: str) -> bool:
    return any(
        name in user.groups if group else name == user.name for name, group in _named(subjects, namespace)
    )


def _named(subjects: Iterable[Subject], namespace: str) -> Iterator[tuple[str, bool]]:
    """Each subject as the name of a user or a group, and whether it is a group."""
    for subject in subjects:
        if subject.kind == "ServiceAccount":
            # One of a role binding may leave its namespace out only in old objects: then it is the binding's.
            yield f"{SERVICE_ACCOUNT_PREFIX}{subject.namespace or namespace}:{subject.name}", False
        else:
            yield subject.name, subject.kind == "Group"
