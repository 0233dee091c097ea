"""What the API says about services and who stands behind them: one watch for the proxy and the DNS server.

EndpointSlices are preferred; a service that has none is served from its Endpoints object (written by hand, or
for a service without a selector). Both become `Endpoint` values here, and nobody later sees a difference.

Handlers get the key of a service, whatever about it changed, after the stores have the new state.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable
from typing import NamedTuple, TypeAlias

from podling.api.core_v1 import EndpointAddress, Endpoints, Service
from podling.api.discovery_v1 import EndpointSlice
from podling.client.client import Client
from podling.client.informer import Informer, object_key

Key: TypeAlias = tuple[str, str]
"""Namespace and name of a service."""

SERVICE_NAME_LABEL = "kubernetes.io/service-name"
SLICES_WAIT_S = 2.0
"""How long the first answer waits for EndpointSlices: an API server may not have that kind."""

log = logging.getLogger(__name__)


class Endpoint(NamedTuple):
    """One address and port behind a port of a service."""

    port_name: str
    protocol: str
    address: str
    port: int
    ready: bool = True
    serving: bool = True
    terminating: bool = False
    node: str = ""
    hostname: str = ""
    pod: str = ""
    """Its name, empty when it is no pod."""


class ServiceView:
    """Run `run()` as a task; read `service` and `endpoints` on the event loop once `wait_synced` is over."""

    def __init__(self, client: Client) -> None:
        self._services = Informer(client, Service)
        self._endpoints = Informer(client, Endpoints)
        self._slices = Informer(client, EndpointSlice)
        self._slices_of: dict[Key, dict[str, EndpointSlice]] = {}
        self._handlers: list[Callable[[Key], None]] = []

    async def run(self) -> None:
        self._services.add_handler(self._on_service)
        self._endpoints.add_handler(self._on_endpoints)
        self._slices.add_handler(self._on_slice)
        async with asyncio.TaskGroup() as tasks:
            for informer in (self._services, self._endpoints, self._slices):
                tasks.create_task(informer.run(), name=f"services: {type(informer).__name__}")

    async def wait_synced(self) -> None:
        await self._services.wait_synced()
        await self._endpoints.wait_synced()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SLICES_WAIT_S):
                await self._slices.wait_synced()

    def add_handler(self, handler: Callable[[Key], None]) -> None:
        self._handlers.append(handler)

    def service_keys(self) -> list[Key]:
        return list(self._services.store)

    def service(self, key: Key) -> Service | None:
        return self._services.store.get(key)

    def endpoints(self, key: Key) -> list[Endpoint]:
        """In a stable order: by port name, then address."""
        slices = self._slices_of.get(key)
        if slices:
            found = from_slices(slices.values())
        else:
            obj = self._endpoints.store.get(key)
            found = from_endpoints(obj) if obj is not None else set()
        return sorted(found)

    def _on_service(self, old: Service | None, new: Service | None) -> None:
        either = new or old
        assert either is not None
        self._notify(object_key(either))

    def _on_endpoints(self, old: Endpoints | None, new: Endpoints | None) -> None:
        either = new or old
        assert either is not None
        key = object_key(either)
        if key not in self._slices_of:
            self._notify(key)

    def _on_slice(self, old: EndpointSlice | None, new: EndpointSlice | None) -> None:
        for obj, present in ((old, False), (new, True)):
            service = obj.metadata.labels.get(SERVICE_NAME_LABEL) if obj is not None else None
            if obj is None or not service:
                continue
            namespace, name = object_key(obj)
            slices = self._slices_of.setdefault((namespace, service), {})
            if present:
                slices[name] = obj
            else:
                slices.pop(name, None)
                if not slices:
                    del self._slices_of[(namespace, service)]
        touched = {
            (obj.metadata.namespace or "", obj.metadata.labels.get(SERVICE_NAME_LABEL, ""))
            for obj in (old, new)
            if obj is not None
        }
        for key in touched:
            self._notify(key)

    def _notify(self, key: Key) -> None:
        for handler in self._handlers:
            handler(key)


def from_slices(slices: Iterable[EndpointSlice]) -> set[Endpoint]:
    """IPv4 only; an address in two slices counts once (Kubernetes concepts, "Duplicate endpoints")."""
    found: dict[tuple[str, str, str, int], Endpoint] = {}
    for each in slices:
        if each.address_type != "IPv4":
            continue
        for endpoint in each.endpoints:
            conditions = endpoint.conditions
            # Unset means unknown, which counts as ready (API reference, EndpointConditions).
            ready = conditions is None or conditions.ready is not False
            serving = ready if conditions is None or conditions.serving is None else conditions.serving
            for port in each.ports:
                if port.port is None or not endpoint.addresses:
                    continue
                made = Endpoint(
                    port_name=port.name or "",
                    protocol=port.protocol or "TCP",
                    address=endpoint.addresses[0],
                    port=port.port,
                    ready=ready,
                    serving=serving,
                    terminating=conditions is not None and conditions.terminating is True,
                    node=endpoint.node_name or "",
                    hostname=endpoint.hostname or "",
                    pod=_pod_name(endpoint.target_ref),
                )
                found[made[:4]] = made
    return set(found.values())


def from_endpoints(obj: Endpoints) -> set[Endpoint]:
    found = set()
    for subset in obj.subsets:
        for port in subset.ports:
            for addresses, ready in ((subset.addresses, True), (subset.not_ready_addresses, False)):
                for address in addresses:
                    found.add(_endpoint(port.name or "", port.protocol or "TCP", port.port, address, ready))
    return found


def _endpoint(name: str, protocol: str, port: int, address: EndpointAddress, ready: bool) -> Endpoint:
    return Endpoint(
        port_name=name,
        protocol=protocol,
        address=address.ip,
        port=port,
        ready=ready,
        serving=ready,
        node=address.node_name or "",
        hostname=address.hostname or "",
        pod=_pod_name(address.target_ref),
    )


def _pod_name(reference: object) -> str:
    kind, name = getattr(reference, "kind", None), getattr(reference, "name", None)
    return str(name) if kind == "Pod" and name else ""
