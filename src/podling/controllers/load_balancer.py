"""Gives services of type LoadBalancer an address of a pool, and takes it back.

What a cloud's controller does (Kubernetes documentation, "Service", "type: LoadBalancer"), for clusters
whose nodes share a network with their clients: the agents answer for these addresses
(`network/load_balancer`). A service with a loadBalancerClass is somebody else's. An address that
`spec.loadBalancerIP` asks for is given if it is free. What is given stands in the services' status alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network

from podling.api.core_v1 import Service
from podling.client.client import Client
from podling.client.errors import ClientError, NotFoundError
from podling.client.events import EventRecorder
from podling.client.informer import object_key
from podling.controllers.informers import Informers

RETRY_S = 1.0


class LoadBalancerController:
    def __init__(
        self, client: Client, informers: Informers, events: EventRecorder, pool: IPv4Network
    ) -> None:
        self._client = client
        self._services = informers.services
        self._events = events
        self._pool = pool
        self._changed = asyncio.Event()
        self._told: set[str] = set()
        self._last_write: str | None = None

    async def run(self) -> None:
        await self._services.wait_synced()
        self._services.add_handler(self._on_service)
        while True:
            self._changed.clear()
            try:
                await self._reconcile()
            except ClientError:
                await asyncio.sleep(RETRY_S)
                continue
            await self._changed.wait()

    def _on_service(self, old: Service | None, new: Service | None) -> None:
        if any(service is not None and (is_ours(service) or given(service)) for service in (old, new)):
            self._changed.set()

    async def _reconcile(self) -> None:
        if not self._services.has_seen(self._last_write):
            return  # it tells of our own writes soon; until then a service might get two addresses
        services = sorted(self._services.store.values(), key=object_key)
        for service in services:
            if not is_ours(service) and any(ip in self._pool for ip in given(service)):
                await self._write(service, None)
        taken = {ip for service in services if is_ours(service) for ip in given(service)}
        for service in services:
            if not is_ours(service) or given(service):
                continue
            address = choose(service, self._pool, taken)
            if address is None:
                self._tell(service, taken)
                continue
            taken.add(address)
            await self._write(service, address)
            self._events.event(service, "Normal", "EnsuredLoadBalancer", f"Ensured load balancer: {address}")

    async def _write(self, service: Service, address: IPv4Address | None) -> None:
        ingress = [{"ip": str(address), "ipMode": "VIP"}] if address is not None else None
        name, namespace = service.metadata.name or "", service.metadata.namespace
        try:
            written = await self._client.patch(
                Service,
                name,
                {"status": {"loadBalancer": {"ingress": ingress}}},
                namespace,
                subresource="status",
            )
        except NotFoundError:
            return
        self._last_write = written.metadata.resource_version

    def _tell(self, service: Service, taken: Iterable[IPv4Address]) -> None:
        uid = service.metadata.uid or ""
        if uid in self._told:
            return
        self._told.add(uid)
        wanted = wanted_address(service)
        if wanted is not None:
            whose = "belongs to another service" if wanted in set(taken) else f"is not one of {self._pool}"
            text = f"loadBalancerIP {wanted} {whose}"
        else:
            text = f"no address is left in {self._pool}"
        self._events.event(
            service, "Warning", "SyncLoadBalancerFailed", f"Error syncing load balancer: {text}"
        )


def is_ours(service: Service) -> bool:
    spec = service.spec
    return (
        spec is not None
        and spec.type == "LoadBalancer"
        and not spec.load_balancer_class
        and not service.metadata.deletion_timestamp
    )


def given(service: Service) -> list[IPv4Address]:
    """The addresses in the service's status."""
    balancer = service.status.load_balancer if service.status else None
    return [IPv4Address(i.ip) for i in (balancer.ingress if balancer else []) if i.ip and ":" not in i.ip]


def wanted_address(service: Service) -> IPv4Address | None:
    text = service.spec.load_balancer_ip if service.spec else None
    try:
        return IPv4Address(text) if text else None
    except ValueError:
        return None


def choose(service: Service, pool: IPv4Network, taken: set[IPv4Address]) -> IPv4Address | None:
    """The address asked for, or the first that is free; None when it cannot be had."""
    wanted = wanted_address(service)
    if wanted is not None:
        return wanted if wanted in pool and wanted not in taken else None
    # The last address of a network is its broadcast address, and the pool may be a network's end.
    return next((ip for ip in pool.hosts() if ip not in taken), None)
