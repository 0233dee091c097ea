"""What a kind is to the API server: the types of a declaration.

`resources.py` holds one `Resource` a kind; everything else (paths, discovery, storage, watch, patch,
tables) follows from it. What a kind does differently from others is in its `Strategy`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from podling.apiserver.request import Answer, Request, User

if TYPE_CHECKING:
    from podling.apiserver.cluster import Cluster
    from podling.apiserver.requestinfo import RequestInfo

Object = dict[str, Any]

READ = ("get", "list", "watch")
ALL_VERBS = ("create", "delete", "deletecollection", "get", "list", "patch", "update", "watch")


Finish = Callable[[bool], None]
Guard = Callable[[Object, Object | None], None]
"""Looks at an object about to be written and at what it was (None: it is new); may raise APIError."""


class Strategy:
    """Hooks of a kind. The defaults suit a kind without status and without peculiarities."""

    generation = False
    """Count changes of `spec` in metadata.generation."""
    create_on_update = False
    """PUT of an object that is not there creates it."""
    unconditional_update = True
    """PUT may leave the resourceVersion out."""
    orphans_by_default = False
    """A DELETE that does not say what becomes of dependents leaves them be."""
    returns_deleted = False
    """DELETE answers with the object it removed, not with a Status."""

    async def guard(self, cluster: Cluster, user: User, namespace: str) -> Guard | None:
        """What must look at whatever `user` writes, where who writes makes a difference."""
        return None

    async def admit_references(self, cluster: Cluster, namespace: str, obj: Object) -> None:
        """First step of a create: complete `obj` from other objects it refers to; may raise APIError."""

    def prepare_create(self, cluster: Cluster, obj: Object) -> None:
        """Complete or reset fields before validation."""

    def prepare_update(self, cluster: Cluster, new: Object, old: Object) -> None:
        """Undo in `new` what a plain update may not change: the status, for kinds that have one."""
        _keep(new, old, "status")

    def prepare_status(self, cluster: Cluster, new: Object, old: Object) -> None:
        """Undo in `new` everything an update of the status may not change."""
        _keep(new, old, "spec")

    def prepare_subresource(self, cluster: Cluster, new: Object, old: Object, subresource: str) -> None:
        """Undo in `new` everything an update of another subresource than the status may not change."""

    def admit(self, cluster: Cluster, obj: Object, *, dry_run: bool) -> None:
        """Last step before a create is stored; may raise APIError, may take what `removed` gives back."""

    def admit_update(self, cluster: Cluster, new: Object, old: Object) -> Finish | None:
        """Last step before a change is stored; may raise APIError. What it returns is called afterwards,
        with whether the change was stored."""
        return None

    def removed(self, cluster: Cluster, obj: Object) -> None:
        """The object is gone from the store, or its create failed after `admit`."""

    def check_delete(self, obj: Object) -> None:
        """Raise APIError when this object must not be deleted."""

    def grace_period_s(self, obj: Object, requested: int | None) -> int | None:
        """Seconds between the request to delete and the deletion; None: the kind knows no such thing."""
        return None

    def deleting(self, obj: Object) -> None:
        """The object is being marked as deleted."""

    def has_finalizers(self, obj: Object) -> bool:
        return bool(obj["metadata"].get("finalizers"))


def _keep(new: Object, old: Object, field_name: str) -> None:
    if field_name in old:
        new[field_name] = old[field_name]
    else:
        new.pop(field_name, None)


Handler = Callable[["Cluster", Request, "RequestInfo", "Resource"], Awaitable[Answer]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Subresource:
    """`/status`, `/binding` and their like: a handler for each verb."""

    verbs: Mapping[str, Handler]
    kind: str = ""
    """Of body and answer, when it is not the parent's."""
    group: str = ""
    version: str = ""
    """Of `kind`, when they are not the parent's."""


@dataclass(frozen=True, kw_only=True)
class Resource:
    """One kind."""

    kind: str
    plural: str
    group: str = ""
    version: str = "v1"
    namespaced: bool = True
    short_names: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    verbs: tuple[str, ...] = ALL_VERBS
    subresources: Mapping[str, Subresource] = field(default_factory=dict)
    strategy: Strategy = field(default_factory=Strategy)
    handlers: Mapping[str, Handler] = field(default_factory=dict)
    """Verbs done otherwise than for every kind: reviews, which are created but never stored."""

    @cached_property
    def singular(self) -> str:
        return self.kind.lower()

    @cached_property
    def group_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    @cached_property
    def qualified(self) -> str:
        """As errors and storage name it: `pods`, `leases.coordination.k8s.io`."""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    @cached_property
    def head(self) -> bytes:
        """How every stored value of this kind begins."""
        return f'{{"kind":"{self.kind}","apiVersion":"{self.group_version}","metadata":{{'.encode()

    def prefix(self, namespace: str) -> str:
        """Of the store's keys; an empty `namespace` means all."""
        return f"{self.qualified}/{namespace}/" if namespace and self.namespaced else f"{self.qualified}/"

    def key(self, namespace: str, name: str) -> str:
        return f"{self.prefix(namespace)}{name}"
