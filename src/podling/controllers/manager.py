"""Runs all controllers over shared informers, as kube-controller-manager does.

Each controller is a file of its own here, ignorant of the others: they meet in the API. `run()` ends only
by cancellation; errors of the API server are the work queues' business, which try again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from dataclasses import dataclass
from ipaddress import IPv4Network
from typing import Protocol

from podling.client.client import Client
from podling.client.events import EventRecorder
from podling.controllers.certificates import CertificateController, SigningCA
from podling.controllers.cluster_dns import ClusterDNSController
from podling.controllers.cluster_role_aggregation import ClusterRoleAggregationController
from podling.controllers.deployment import DeploymentController
from podling.controllers.endpoints import EndpointsController
from podling.controllers.endpointslice import EndpointSliceController
from podling.controllers.garbage import GarbageCollector
from podling.controllers.informers import Informers
from podling.controllers.load_balancer import LoadBalancerController
from podling.controllers.namespace import NamespaceController
from podling.controllers.node_ipam import NodeIPAMController
from podling.controllers.node_lifecycle import NodeLifecycleController
from podling.controllers.pod_gc import PodGCController
from podling.controllers.replicaset import replica_set_controller
from podling.controllers.replication import replication_controller
from podling.controllers.root_ca import RootCAController
from podling.controllers.serviceaccount import ServiceAccountController
from podling.controllers.taint_eviction import TaintEvictionController


@dataclass(frozen=True, slots=True, kw_only=True)
class ControllerConfig:
    """Defaults are kube-controller-manager's where it has them."""

    cluster_cidr: str = "10.244.0.0/16"
    """Range the pod subnets of nodes are taken from."""
    node_cidr_prefix: int = 24
    """Bits of a node's pod subnet: 254 addresses, above the 110 pods a kubelet takes."""
    node_grace_period_s: float = 40.0
    """Silence after which a node counts as lost: four missed lease renewals."""
    pod_gc_quarantine_s: float = 40.0
    """How long pods of a node that does not exist are spared: its kubelet may be registering."""
    ended_pods_limit: int = 12500
    """Ended pods kept for their logs and status; 0 keeps all."""
    cluster_dns: str = ""
    """Address of the service `kube-dns`; empty: somebody else makes it."""
    load_balancer_cidr: IPv4Network | None = None
    """Pool of addresses for services of type LoadBalancer; None: somebody else gives them."""
    root_ca: str = ""
    """PEM of the cluster's authority, published as `kube-root-ca.crt`; empty: not published."""
    signing_ca: SigningCA | None = None
    """What signs certificates of kubelets and clients; None: nobody here does."""


class Controller(Protocol):
    def run(self) -> Awaitable[None]: ...


class ControllerManager:
    def __init__(self, client: Client, config: ControllerConfig | None = None) -> None:
        self._client = client
        self._config = config or ControllerConfig()

    async def run(self) -> None:
        """Until cancelled."""
        client, config = self._client, self._config
        informers = Informers(client)
        recorders: list[EventRecorder] = []

        def recorder(component: str) -> EventRecorder:
            recorders.append(EventRecorder(client, component))
            return recorders[-1]

        garbage = GarbageCollector(client, informers)
        controllers: list[Controller] = [
            ClusterRoleAggregationController(client, informers),
            DeploymentController(client, informers, recorder("deployment-controller")),
            EndpointsController(client, informers),
            EndpointSliceController(client, informers),
            garbage,
            NamespaceController(client, informers),
            NodeIPAMController(
                client,
                informers,
                recorder("cidrAllocator"),
                cluster_cidr=config.cluster_cidr,
                node_prefix=config.node_cidr_prefix,
            ),
            NodeLifecycleController(
                client, informers, recorder("node-controller"), grace_period_s=config.node_grace_period_s
            ),
            PodGCController(
                client,
                informers,
                quarantine_s=config.pod_gc_quarantine_s,
                ended_limit=config.ended_pods_limit,
            ),
            replica_set_controller(client, informers, recorder("replicaset-controller")),
            replication_controller(client, informers, recorder("replication-controller")),
            ServiceAccountController(client, informers),
            TaintEvictionController(client, informers, recorder("taint-eviction-controller")),
        ]
        if config.cluster_dns:
            controllers.append(ClusterDNSController(client, informers, config.cluster_dns))
        if config.load_balancer_cidr is not None:
            controllers.append(
                LoadBalancerController(
                    client, informers, recorder("service-controller"), config.load_balancer_cidr
                )
            )
        if config.signing_ca:
            controllers.append(CertificateController(client, informers, config.signing_ca))
        if config.root_ca:
            controllers.append(RootCAController(client, informers, config.root_ca))
        runnables: list[Controller] = [informers, *garbage.informers, *recorders, *controllers]
        async with asyncio.TaskGroup() as tasks:
            for runnable in runnables:
                tasks.create_task(_run(runnable), name=type(runnable).__name__)


async def _run(controller: Controller) -> None:
    await controller.run()
