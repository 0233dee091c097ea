"""Roles and bindings: whoever writes one must hold what it gives."""

from __future__ import annotations

from podling.apiserver.cluster import Cluster
from podling.apiserver.rbac.escalation import binding_guard, role_guard
from podling.apiserver.request import User
from podling.apiserver.resource import Guard, Strategy


class RoleStrategy(Strategy):
    create_on_update = True

    def __init__(self, plural: str) -> None:
        self._plural = plural

    async def guard(self, cluster: Cluster, user: User, namespace: str) -> Guard | None:
        return await role_guard(cluster.bindings, user, self._plural, namespace)


class RoleBindingStrategy(RoleStrategy):
    async def guard(self, cluster: Cluster, user: User, namespace: str) -> Guard | None:
        return await binding_guard(cluster.bindings, user, self._plural, namespace)
