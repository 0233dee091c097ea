"""Keeps the service `kube-dns`: the one address of DNS in a cluster whose nodes each answer their own pods.

Its endpoints are the agents' DNS servers, on the nodes' own addresses, and internalTrafficPolicy Local leads
every query to the one of its own node. A service somebody gave a selector (to run CoreDNS) is left alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
from collections.abc import Iterable

from podling.api.core_v1 import (
    EndpointAddress,
    EndpointPort,
    Endpoints,
    EndpointSubset,
    Node,
    Service,
    ServicePort,
    ServiceSpec,
)
from podling.api.meta_v1 import ObjectMeta
from podling.client.client import Client
from podling.client.errors import AlreadyExistsError, ClientError, NotFoundError
from podling.client.informer import object_key
from podling.controllers.informers import Informers

NAMESPACE, NAME = "kube-system", "kube-dns"
NODE_PORT = 10053
"""Where agents answer; see podling.network.dns.server."""
METRICS_PORT = 9153
RETRY_S = 1.0
_PORTS = (
    ("dns", "UDP", 53, NODE_PORT),
    ("dns-tcp", "TCP", 53, NODE_PORT),
    ("metrics", "TCP", 9153, METRICS_PORT),
)
"""As kubeadm has them: name, protocol, port of the service and of the node."""


class ClusterDNSController:
    def __init__(self, client: Client, informers: Informers, address: str) -> None:
        """`address`: the cluster IP the service is to have."""
        self._client = client
        self._informers = informers
        self._address = address
        self._changed = asyncio.Event()

    async def run(self) -> None:
        await self._informers.nodes.wait_synced()
        await self._informers.services.wait_synced()
        await self._informers.endpoints.wait_synced()
        self._informers.nodes.add_handler(self._on_node)
        self._informers.services.add_handler(self._on_own)
        self._informers.endpoints.add_handler(self._on_own)
        while True:
            self._changed.clear()
            try:
                await self._reconcile()
            except ClientError:
                await asyncio.sleep(RETRY_S)
                continue
            await self._changed.wait()

    def _on_node(self, old: Node | None, new: Node | None) -> None:
        if compute_addresses([old] if old else []) != compute_addresses([new] if new else []):
            self._changed.set()

    def _on_own(self, old: Service | Endpoints | None, new: Service | Endpoints | None) -> None:
        either = new or old
        if either is not None and object_key(either) == (NAMESPACE, NAME):
            self._changed.set()  # what somebody deleted or changed is put right

    async def _reconcile(self) -> None:
        service = self._informers.services.get(NAME, NAMESPACE)
        if service is None:
            with contextlib.suppress(AlreadyExistsError):
                await self._client.create(make_service(self._address), NAMESPACE)
        elif service.spec is not None and service.spec.selector:
            return
        wanted = [
            EndpointSubset(
                addresses=compute_addresses(self._informers.nodes.store.values()),
                ports=[EndpointPort(name=name, port=port, protocol=proto) for name, proto, _, port in _PORTS],
            )
        ]
        current = self._informers.endpoints.get(NAME, NAMESPACE)
        if current is not None and current.subsets == wanted:
            return
        try:
            await self._client.patch(Endpoints, NAME, {"subsets": wanted}, NAMESPACE)
        except NotFoundError:
            meta = ObjectMeta(name=NAME, namespace=NAMESPACE)
            await self._client.create(Endpoints(metadata=meta, subsets=wanted), NAMESPACE)


def make_service(address: str) -> Service:
    labels = {"k8s-app": "kube-dns", "kubernetes.io/cluster-service": "true", "kubernetes.io/name": "CoreDNS"}
    return Service(
        metadata=ObjectMeta(name=NAME, namespace=NAMESPACE, labels=labels),
        spec=ServiceSpec(
            cluster_ip=address,
            internal_traffic_policy="Local",
            ports=[
                ServicePort(name=name, port=port, protocol=proto, target_port=target)
                for name, proto, port, target in _PORTS
            ],
        ),
    )


def compute_addresses(nodes: Iterable[Node]) -> list[EndpointAddress]:
    """The nodes' InternalIPs, in order."""
    found = [
        EndpointAddress(ip=address.address, node_name=node.metadata.name)
        for node in nodes
        if node.status is not None
        for address in node.status.addresses
        if address.type == "InternalIP" and ":" not in address.address
    ]
    return sorted(found, key=lambda each: ipaddress.ip_address(each.ip).packed)
