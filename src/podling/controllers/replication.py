"""Replication controllers: what replica sets were before they were called so (see `replicas`)."""

from __future__ import annotations

from podling.api.core_v1 import ReplicationController
from podling.api.meta_v1 import LabelSelector
from podling.client.client import Client
from podling.client.events import EventRecorder
from podling.controllers.informers import Informers
from podling.controllers.replicas import ReplicaController


def replication_controller(
    client: Client, informers: Informers, events: EventRecorder
) -> ReplicaController[ReplicationController]:
    return ReplicaController(
        client,
        informers.replication_controllers,
        informers.pods,
        events,
        kind=ReplicationController,
        selector=lambda obj: LabelSelector(match_labels=obj.spec.selector) if obj.spec else None,
    )
