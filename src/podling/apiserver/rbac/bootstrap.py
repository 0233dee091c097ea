"""Puts the default roles and bindings into the store, and what somebody took out of them back.

At every start, as upstream's reconciliation: whoever wants a default role changed for good sets the
annotation `rbac.authorization.kubernetes.io/autoupdate` of it to "false".
"""

from __future__ import annotations

import asyncio
from typing import Any

from podling.apiserver import errors, registry
from podling.apiserver.cluster import Cluster
from podling.apiserver.objects import Object
from podling.apiserver.rbac import policy
from podling.apiserver.rbac.bindings import GROUP
from podling.apiserver.resource import Resource


async def ensure_policy(cluster: Cluster) -> None:
    """Returns when all of it is stored; the store takes the writes together."""
    wanted = [*_of(cluster, "clusterroles", policy.cluster_roles())]
    wanted += _of(cluster, "clusterrolebindings", policy.cluster_role_bindings())
    await asyncio.gather(*(_ensure(cluster, resource, obj) for resource, obj in wanted))


def _of(cluster: Cluster, plural: str, objects: Any) -> list[tuple[Resource, Object]]:
    resource = cluster.find(GROUP, "v1", plural)
    assert resource is not None
    return [(resource, obj) for obj in objects]


async def _ensure(cluster: Cluster, resource: Resource, obj: Object) -> None:
    try:
        await registry.create(cluster, resource, "", obj)
    except errors.APIError as err:
        if err.reason != "AlreadyExists":
            raise
        target = registry.Target(resource, "", obj["metadata"]["name"])
        await registry.update(cluster, target, lambda current: _repaired(current, obj))


def _repaired(current: Object, wanted: Object) -> Object:
    annotations = current["metadata"].get("annotations") or {}
    if annotations.get(policy.AUTO_UPDATE) == "true":
        for field in ("rules", "subjects"):
            present = current.get(field) or []
            missing = [item for item in wanted.get(field) or [] if item not in present]
            if missing:
                current[field] = [*present, *missing]
    return current
