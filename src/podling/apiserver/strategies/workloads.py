"""Kinds that have replicas, and the rest of what stands behind services and volumes.

A status is empty at birth and the spec counts in generations; what else differs is below.
"""

from __future__ import annotations

from podling.api.defaults import initial_status
from podling.apiserver.cluster import Cluster
from podling.apiserver.resource import Object, Strategy


class StatusStrategy(Strategy):
    """A kind whose status belongs to a controller."""

    def __init__(self, kind: str, *, generation: bool = True) -> None:
        self._kind = kind
        self.generation = generation

    def prepare_create(self, cluster: Cluster, obj: Object) -> None:
        obj["status"] = initial_status(self._kind, obj) or {}


class ReplicationControllerStrategy(StatusStrategy):
    orphans_by_default = True
    """As before there was garbage collection: who deletes one through the old API keeps its pods."""


class DeploymentStrategy(StatusStrategy):
    def prepare_update(self, cluster: Cluster, new: Object, old: Object) -> None:
        super().prepare_update(cluster, new, old)
        # Its replica sets carry its annotations, so a change of them is a change of what is wanted.
        before = old["metadata"]
        if (new["metadata"].get("annotations") or {}) != (before.get("annotations") or {}):
            new["metadata"]["generation"] = before.get("generation", 0) + 1

    def prepare_status(self, cluster: Cluster, new: Object, old: Object) -> None:
        super().prepare_status(cluster, new, old)
        if "labels" in old["metadata"]:
            new["metadata"]["labels"] = old["metadata"]["labels"]
        else:
            new["metadata"].pop("labels", None)


class EndpointSliceStrategy(Strategy):
    generation = True

    def prepare_update(self, cluster: Cluster, new: Object, old: Object) -> None:
        if any(new.get(key) != old.get(key) for key in ("endpoints", "ports")):
            new["metadata"]["generation"] = old["metadata"].get("generation", 0) + 1
