"""Fills a ClusterRole that has an aggregationRule with the rules of those its selectors match.

Kubernetes documentation, "Using RBAC Authorization", "Aggregated ClusterRoles". A write only happens when
the rules differ, so roles that feed each other come to rest.
"""

from __future__ import annotations

from collections.abc import Iterable

from podling.api.rbac_v1 import ClusterRole, PolicyRule
from podling.api.selectors import match_label_selector
from podling.client.client import Client
from podling.client.errors import NotFoundError
from podling.client.workqueue import WorkQueue, run_workers
from podling.controllers.informers import Informers


class ClusterRoleAggregationController:
    """Keyed by the name of the aggregated role."""

    def __init__(self, client: Client, informers: Informers) -> None:
        self._client = client
        self._roles = informers.cluster_roles
        self._queue: WorkQueue[str] = WorkQueue()

    async def run(self) -> None:
        self._roles.add_handler(self._on_role)
        await self._roles.wait_synced()
        await run_workers(self._queue, self._reconcile, name="clusterrole-aggregation")

    def _on_role(self, old: ClusterRole | None, new: ClusterRole | None) -> None:
        # Any role may feed any other, and there are few that are fed.
        for role in self._roles.store.values():
            if role.aggregation_rule is not None:
                self._queue.add(role.metadata.name or "")

    async def _reconcile(self, name: str) -> None:
        role = self._roles.get(name)
        if role is None or role.aggregation_rule is None:
            return
        rules = aggregate(role, self._roles.store.values())
        if rules != role.rules:
            try:
                await self._client.patch(ClusterRole, name, {"rules": rules})
            except NotFoundError:
                return


def aggregate(role: ClusterRole, roles: Iterable[ClusterRole]) -> list[PolicyRule]:
    """The rules of all roles that `role` selects, in the order of their names, none twice."""
    assert role.aggregation_rule is not None
    found: list[PolicyRule] = []
    for other in sorted(roles, key=lambda r: r.metadata.name or ""):
        if other.metadata.name == role.metadata.name:
            continue
        if any(
            match_label_selector(selector, other.metadata.labels)
            for selector in role.aggregation_rule.cluster_role_selectors
        ):
            found += [rule for rule in other.rules if rule not in found]
    return found
