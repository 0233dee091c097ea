"""The informers all controllers of a process share: one watch a kind, however many read it."""

from __future__ import annotations

import asyncio

from podling.api.apps_v1 import Deployment, ReplicaSet
from podling.api.certificates_v1 import CertificateSigningRequest
from podling.api.coordination_v1 import Lease
from podling.api.core_v1 import (
    ConfigMap,
    Endpoints,
    Namespace,
    Node,
    Pod,
    ReplicationController,
    Service,
    ServiceAccount,
)
from podling.api.discovery_v1 import EndpointSlice
from podling.api.rbac_v1 import ClusterRole
from podling.client.client import Client
from podling.client.informer import Informer

NODE_LEASE_NAMESPACE = "kube-node-lease"
ROOT_CA_CONFIG_MAP = "kube-root-ca.crt"
DEFAULT_SERVICE_ACCOUNT = "default"


class Informers:
    """Only what the controllers ask for is watched: of service accounts and config maps one name each."""

    def __init__(self, client: Client) -> None:
        self.cluster_roles = Informer(client, ClusterRole)
        self.config_maps = Informer(client, ConfigMap, field_selector=f"metadata.name={ROOT_CA_CONFIG_MAP}")
        self.deployments = Informer(client, Deployment)
        self.endpoint_slices = Informer(client, EndpointSlice)
        self.endpoints = Informer(client, Endpoints)
        self.leases = Informer(client, Lease, NODE_LEASE_NAMESPACE)
        self.namespaces = Informer(client, Namespace)
        self.nodes = Informer(client, Node)
        self.pods = Informer(client, Pod)
        self.replica_sets = Informer(client, ReplicaSet)
        self.replication_controllers = Informer(client, ReplicationController)
        self.service_accounts = Informer(
            client, ServiceAccount, field_selector=f"metadata.name={DEFAULT_SERVICE_ACCOUNT}"
        )
        self.services = Informer(client, Service)
        self.signing_requests = Informer(client, CertificateSigningRequest)

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for name, informer in vars(self).items():
                tasks.create_task(informer.run(), name=f"informer-{name}")
