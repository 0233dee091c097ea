"""Keeps each service's EndpointSlices: the pods its selector chooses, and what state they are in.

Unlike in Endpoints, a pod that is being deleted stays as long as it runs, marked as terminating, so that
a proxy can let its last connections end. Endpoints stay in the slice they are in: a change writes the
slices it concerns and no others, and watchers of ten thousand endpoints see a hundred.

Source: Kubernetes concepts, "EndpointSlices"; pkg/controller/endpointslice.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from msgspec import structs

from podling.api.core_v1 import ObjectReference, Pod, Service
from podling.api.discovery_v1 import Endpoint, EndpointConditions, EndpointPort, EndpointSlice
from podling.api.meta_v1 import ObjectMeta
from podling.api.pods import is_deleting, is_ready, is_terminal
from podling.client.client import Client
from podling.client.errors import ConflictError, NotFoundError
from podling.client.informer import Key, object_key
from podling.client.workqueue import WorkQueue, run_workers
from podling.controllers.endpoints import relevant, resolve_ports, selects
from podling.controllers.informers import Informers
from podling.controllers.ownership import controller_reference
from podling.controllers.selection import ServiceSelection

WORKERS = 16
"""Each waits for the disk most of the time, and the writes of all of them share a commit."""
MAX_ENDPOINTS = 100
"""Of a slice, as kube-controller-manager's default."""
CATCH_UP_S = 1.0
SERVICE_LABEL = "kubernetes.io/service-name"
MANAGED_LABEL = "endpointslice.kubernetes.io/managed-by"
MANAGER = "endpointslice-controller.k8s.io"
_HEADLESS_LABEL = "service.kubernetes.io/headless"

Ports = tuple[tuple[str, int, str], ...]
Group = tuple[str, Ports]
"""What the endpoints of a slice have in common: address type, and ports as (name, number, protocol)."""


class EndpointSliceController:
    """Keyed by service (namespace, name)."""

    def __init__(self, client: Client, informers: Informers) -> None:
        self._client = client
        self._informers = informers
        self._selection = ServiceSelection(informers.services, informers.pods)
        self._slices: dict[Key, set[str]] = {}
        """Names of our slices by service."""
        self._written: dict[Key, int] = {}
        """The resourceVersion of our last slice of a service."""
        self._queue: WorkQueue[Key] = WorkQueue()

    async def run(self) -> None:
        await self._informers.pods.wait_synced()
        await self._informers.endpoint_slices.wait_synced()
        self._selection.observe()
        self._informers.endpoint_slices.add_handler(self._on_slice)
        self._informers.services.add_handler(self._on_service)
        self._informers.pods.add_handler(self._on_pod)
        await run_workers(self._queue, self._reconcile, name="endpointslice", workers=WORKERS)

    def _on_service(self, old: Service | None, new: Service | None) -> None:
        changed = new or old
        assert changed is not None
        self._queue.add(object_key(changed))

    def _on_pod(self, old: Pod | None, new: Pod | None) -> None:
        if old is not None and new is not None and relevant(old) == relevant(new):
            return
        for pod in (old, new):
            for key in self._selection.services_of(pod) if pod is not None else ():
                self._queue.add(key)

    def _on_slice(self, old: EndpointSlice | None, new: EndpointSlice | None) -> None:
        for found in (old, new):
            if found is None or found.metadata.labels.get(MANAGED_LABEL) != MANAGER:
                continue
            namespace, name = object_key(found)
            service = (namespace, found.metadata.labels.get(SERVICE_LABEL, ""))
            names = self._slices.setdefault(service, set())
            (names.add if found is new else names.discard)(name)
            self._queue.add(service)  # somebody else's change is put right

    async def _reconcile(self, key: Key) -> None:
        service = self._informers.services.store.get(key)
        if service is None or service.spec is None or service.metadata.deletion_timestamp is not None:
            self._written.pop(key, None)
            if not self._slices.get(key):
                self._slices.pop(key, None)
            return  # the garbage collector takes what a service leaves
        if not service.spec.selector or service.spec.type == "ExternalName":
            return
        slices = self._informers.endpoint_slices
        if not slices.has_seen(str(self._written.get(key, 0))):
            self._queue.add_after(key, CATCH_UP_S)
            return
        namespace = key[0]
        current = [s for name in sorted(self._slices.get(key, ())) if (s := slices.get(name, namespace))]
        plan = plan_slices(service, self._selection.pods_of(service), current)
        for wanted in plan.create:
            made = await self._client.create(wanted, namespace)
            self._note(key, made)
        for wanted in plan.update:
            await self._update(key, wanted)
        for gone in plan.delete:
            try:
                name = gone.metadata.name or ""
                await self._client.delete(EndpointSlice, name, namespace, uid=gone.metadata.uid)
            except (NotFoundError, ConflictError):
                continue

    async def _update(self, key: Key, wanted: EndpointSlice) -> None:
        patch = {
            "metadata": {"uid": wanted.metadata.uid, "labels": wanted.metadata.labels},
            "endpoints": wanted.endpoints or None,
            "ports": wanted.ports or None,
        }
        try:
            name = wanted.metadata.name or ""
            self._note(key, await self._client.patch(EndpointSlice, name, patch, key[0]))
        except (NotFoundError, ConflictError):
            return

    def _note(self, key: Key, written: EndpointSlice) -> None:
        version = int(written.metadata.resource_version or 0)
        self._written[key] = max(self._written.get(key, 0), version)


@dataclass(slots=True)
class Plan:
    """What to write so that the slices are right."""

    create: list[EndpointSlice] = field(default_factory=list)
    update: list[EndpointSlice] = field(default_factory=list)
    delete: list[EndpointSlice] = field(default_factory=list)


def plan_slices(service: Service, pods: Iterable[Pod], current: Sequence[EndpointSlice]) -> Plan:
    """Compare the endpoints a service should have with the slices it has."""
    wanted = compute_endpoints(service, pods)
    families = (service.spec.ip_families if service.spec else []) or ["IPv4"]
    if not wanted:
        # One empty slice says that we have looked and there is nothing.
        wanted[families[0], ()] = {}
    labels = _labels(service)
    plan = Plan()
    for group in sorted(wanted.keys() | {_group(s) for s in current}):
        endpoints = dict(wanted.get(group, {}))
        having = [s for s in current if _group(s) == group]
        filled: list[tuple[EndpointSlice, list[Endpoint]]] = []
        for endpoint_slice in having:
            kept = [endpoints.pop(i) for e in endpoint_slice.endpoints if (i := _identity(e)) in endpoints]
            filled.append((endpoint_slice, kept))
        new = [endpoints[identity] for identity in sorted(endpoints)]
        for _, kept in sorted(filled, key=lambda pair: -len(pair[1])):
            room = MAX_ENDPOINTS - len(kept)
            kept += new[:room]
            new = new[room:]
        # The last slice of a group stays, empty, while the group is wanted at all.
        spare = not any(kept for _, kept in filled) and group in wanted
        for endpoint_slice, kept in filled:
            if not kept and not spare:
                plan.delete.append(endpoint_slice)
                continue
            spare = spare and bool(kept)
            if kept != endpoint_slice.endpoints or endpoint_slice.metadata.labels != labels:
                meta = structs.replace(endpoint_slice.metadata, labels=labels)
                plan.update.append(structs.replace(endpoint_slice, metadata=meta, endpoints=kept))
        for start in range(0, len(new), MAX_ENDPOINTS):
            plan.create.append(_make(service, group, new[start : start + MAX_ENDPOINTS], labels))
        if group in wanted and not filled and not new:
            plan.create.append(_make(service, group, [], labels))
    return plan


def compute_endpoints(service: Service, pods: Iterable[Pod]) -> dict[Group, dict[str, Endpoint]]:
    """The endpoints of a service, by group and identity."""
    spec = service.spec
    assert spec is not None
    found: dict[Group, dict[str, Endpoint]] = {}
    for pod in pods:
        if not selects(service, pod) or pod.status is None or is_terminal(pod):
            continue
        ports = resolve_ports(spec.ports, pod)
        if spec.ports and not ports:
            continue
        for family in spec.ip_families or ["IPv4"]:
            address = _address(pod, family)
            if address:
                endpoint = _endpoint(service, pod, address)
                found.setdefault((family, ports), {})[_identity(endpoint)] = endpoint
    return found


def _address(pod: Pod, family: str) -> str | None:
    status = pod.status
    if status is None:
        return None
    addresses = [a.ip for a in status.pod_i_ps] or ([status.pod_ip] if status.pod_ip else [])
    return next((a for a in addresses if a and f"IPv{ipaddress.ip_address(a).version}" == family), None)


def _endpoint(service: Service, pod: Pod, address: str) -> Endpoint:
    serving, terminating = is_ready(pod), is_deleting(pod)
    published = bool(service.spec and service.spec.publish_not_ready_addresses)
    spec = pod.spec
    named = spec is not None and spec.hostname and spec.subdomain == service.metadata.name
    return Endpoint(
        addresses=[address],
        conditions=EndpointConditions(
            ready=published or (serving and not terminating), serving=serving, terminating=terminating
        ),
        hostname=spec.hostname if spec and named else None,
        node_name=spec.node_name if spec else None,
        target_ref=ObjectReference(
            kind="Pod", name=pod.metadata.name, namespace=pod.metadata.namespace, uid=pod.metadata.uid
        ),
    )


def _identity(endpoint: Endpoint) -> str:
    ref = endpoint.target_ref
    return f"{ref.uid if ref else ''}/{endpoint.addresses[0] if endpoint.addresses else ''}"


def _group(endpoint_slice: EndpointSlice) -> Group:
    ports = ((p.name or "", p.port or 0, p.protocol or "TCP") for p in endpoint_slice.ports)
    return endpoint_slice.address_type, tuple(sorted(ports))


def _labels(service: Service) -> dict[str, str]:
    labels = {key: value for key, value in service.metadata.labels.items() if key != _HEADLESS_LABEL}
    if service.spec is not None and service.spec.cluster_ip == "None":
        labels[_HEADLESS_LABEL] = ""
    return {**labels, SERVICE_LABEL: service.metadata.name or "", MANAGED_LABEL: MANAGER}


def _make(service: Service, group: Group, endpoints: list[Endpoint], labels: dict[str, str]) -> EndpointSlice:
    family, ports = group
    protocols = {p.name or "": p.app_protocol for p in service.spec.ports} if service.spec else {}
    return EndpointSlice(
        metadata=ObjectMeta(
            generate_name=f"{service.metadata.name}-",
            namespace=service.metadata.namespace,
            labels=labels,
            owner_references=[controller_reference(service)],
        ),
        address_type=family,
        endpoints=endpoints,
        ports=[
            EndpointPort(name=name, port=port, protocol=protocol, app_protocol=protocols.get(name))
            for name, port, protocol in ports
        ],
    )
