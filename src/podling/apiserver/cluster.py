"""What handlers and strategies share: the store, the kinds, the allocators, the way to kubelets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from podling.apiserver.clusterip import ServiceAllocator
from podling.apiserver.config import APIServerConfig
from podling.apiserver.kubelets import Kubelets
from podling.apiserver.objects import View, view
from podling.apiserver.rbac.bindings import Bindings
from podling.apiserver.resource import Resource
from podling.apiserver.tokens import Tokens
from podling.store.interface import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    config: APIServerConfig
    store: Store
    resources: Mapping[tuple[str, str, str], Resource]
    """By group, version and plural."""
    services: ServiceAllocator
    kubelets: Kubelets
    bindings: Bindings
    """Who is bound to which rules."""
    tokens: Tokens | None = None
    """Signs service account tokens; None when there is no key for them."""

    def find(self, group: str, version: str, plural: str) -> Resource | None:
        return self.resources.get((group, version, plural))

    async def look(self, qualified: str, namespace: str, name: str) -> View | None:
        """The fields of one object that authorization and admission look at; newest state."""
        key = f"{qualified}/{namespace}/{name}" if namespace else f"{qualified}/{name}"
        entry = await self.store.newest(key)
        return view(entry) if entry is not None else None
