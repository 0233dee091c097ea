"""Replica sets: so many pods of one template (see `replicas`)."""

from __future__ import annotations

from podling.api.apps_v1 import ReplicaSet
from podling.client.client import Client
from podling.client.events import EventRecorder
from podling.controllers.informers import Informers
from podling.controllers.replicas import ReplicaController


def replica_set_controller(
    client: Client, informers: Informers, events: EventRecorder
) -> ReplicaController[ReplicaSet]:
    return ReplicaController(
        client,
        informers.replica_sets,
        informers.pods,
        events,
        kind=ReplicaSet,
        selector=lambda obj: obj.spec.selector if obj.spec else None,
    )
