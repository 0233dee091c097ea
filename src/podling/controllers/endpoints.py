"""Keeps each service's Endpoints: the addresses of the pods its selector chooses, ready or not.

A change of a pod concerns the services whose selector matches it now or did before; each is computed
anew as one value and written when it differs. Services without a selector are left to whoever made them.

Source: Kubernetes concepts, "Service" (Endpoints); pkg/controller/endpoint.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from typing import Any

from podling.api.core_v1 import (
    EndpointAddress,
    EndpointPort,
    Endpoints,
    EndpointSubset,
    ObjectReference,
    Pod,
    Service,
    ServicePort,
)
from podling.api.meta_v1 import ObjectMeta
from podling.api.pods import is_deleting, is_ready, is_terminal
from podling.client.client import Client
from podling.client.errors import AlreadyExistsError, NotFoundError
from podling.client.informer import object_key
from podling.client.workqueue import WorkQueue, run_workers
from podling.controllers.informers import Informers
from podling.controllers.selection import ServiceSelection, matches

Key = tuple[str, str]
WORKERS = 16
"""Each waits for the disk most of the time, and the writes of all of them share a commit."""
_HEADLESS_LABEL = "service.kubernetes.io/headless"
_MANAGED_LABEL = "endpoints.kubernetes.io/managed-by"
_MANAGER = "endpoint-controller"


class EndpointsController:
    """Keyed by service (namespace, name)."""

    def __init__(self, client: Client, informers: Informers) -> None:
        self._client = client
        self._informers = informers
        self._selection = ServiceSelection(informers.services, informers.pods)
        self._queue: WorkQueue[Key] = WorkQueue()

    async def run(self) -> None:
        await self._informers.pods.wait_synced()
        await self._informers.endpoints.wait_synced()
        self._selection.observe()
        self._informers.services.add_handler(self._on_service)
        self._informers.pods.add_handler(self._on_pod)
        self._informers.endpoints.add_handler(self._on_endpoints)
        await run_workers(self._queue, self._reconcile, name="endpoints", workers=WORKERS)

    def _on_service(self, old: Service | None, new: Service | None) -> None:
        service = new or old
        assert service is not None
        self._queue.add(object_key(service))

    def _on_pod(self, old: Pod | None, new: Pod | None) -> None:
        if old is not None and new is not None and relevant(old) == relevant(new):
            return
        for pod in (old, new):
            for key in self._selection.services_of(pod) if pod is not None else ():
                self._queue.add(key)

    def _on_endpoints(self, old: Endpoints | None, new: Endpoints | None) -> None:
        changed = new or old
        assert changed is not None
        if object_key(changed) in self._informers.services.store:
            self._queue.add(object_key(changed))  # somebody else's change is put right

    async def _reconcile(self, key: Key) -> None:
        namespace, name = key
        service = self._informers.services.store.get(key)
        current = self._informers.endpoints.store.get(key)
        if service is None:
            if current is not None and current.metadata.labels.get(_MANAGED_LABEL) == _MANAGER:
                try:
                    await self._client.delete(Endpoints, name, namespace, uid=current.metadata.uid)
                except NotFoundError:
                    return
            return
        if service.spec is None or not service.spec.selector or service.spec.type == "ExternalName":
            return
        subsets = compute_subsets(service, self._selection.pods_of(service))
        labels = {**service.metadata.labels, _MANAGED_LABEL: _MANAGER}
        if service.spec.cluster_ip == "None":
            labels[_HEADLESS_LABEL] = ""
        if current is None:
            meta = ObjectMeta(name=name, namespace=namespace, labels=labels)
            try:
                await self._client.create(Endpoints(metadata=meta, subsets=subsets), namespace)
            except AlreadyExistsError:
                return  # the watch brings it, and us back
        elif current.subsets != subsets or current.metadata.labels != labels:
            gone = dict.fromkeys(current.metadata.labels.keys() - labels.keys())
            patch = {"metadata": {"labels": {**gone, **labels}}, "subsets": subsets or None}
            try:
                await self._client.patch(Endpoints, name, patch, namespace)
            except NotFoundError:
                return


def relevant(pod: Pod) -> tuple[object, ...]:
    """What of a pod shows in endpoints."""
    status, spec = pod.status, pod.spec
    return (
        pod.metadata.uid,
        pod.metadata.labels,
        status.pod_ip if status else None,
        spec.node_name if spec else None,
        is_ready(pod),
        is_terminal(pod),
        is_deleting(pod),
    )


def selects(service: Service, pod: Pod) -> bool:
    selector = service.spec.selector if service.spec else {}
    return service.metadata.namespace == pod.metadata.namespace and matches(selector, pod.metadata.labels)


def compute_subsets(service: Service, pods: Iterable[Pod]) -> list[EndpointSubset]:
    """The subsets of a service over `pods`: one per set of ports, addresses and ports in order.

    Pods without an address, ended or being deleted do not count, except the last ones when the service
    publishes addresses that are not ready.
    """
    spec = service.spec
    assert spec is not None
    grouped: dict[tuple[tuple[str, int, str], ...], tuple[list[Pod], list[Pod]]] = {}
    for pod in pods:
        if not selects(service, pod) or pod.status is None or not pod.status.pod_ip or is_terminal(pod):
            continue
        if is_deleting(pod) and not spec.publish_not_ready_addresses:
            continue
        ports = resolve_ports(spec.ports, pod)
        if spec.ports and not ports:
            continue
        ready, not_ready = grouped.setdefault(ports, ([], []))
        (ready if is_ready(pod) or spec.publish_not_ready_addresses else not_ready).append(pod)
    app_protocols: Mapping[str, Any] = {port.name or "": port.app_protocol for port in spec.ports}
    return [
        EndpointSubset(
            addresses=_addresses(ready),
            not_ready_addresses=_addresses(not_ready),
            ports=[
                EndpointPort(
                    name=name or None, port=port, protocol=protocol, app_protocol=app_protocols.get(name)
                )
                for name, port, protocol in ports
            ],
        )
        for ports, (ready, not_ready) in sorted(grouped.items())
    ]


def resolve_ports(ports: Iterable[ServicePort], pod: Pod) -> tuple[tuple[str, int, str], ...]:
    found = []
    for port in ports:
        protocol = port.protocol or "TCP"
        number = _target_port(port, protocol, pod)
        if number is not None:
            found.append((port.name or "", number, protocol))
    return tuple(sorted(found))


def _target_port(port: ServicePort, protocol: str, pod: Pod) -> int | None:
    """The number a target port has in `pod`; None when it is a name the pod does not know."""
    target = port.target_port
    if target is None or target == "" or target == 0:
        return port.port
    if isinstance(target, int):
        return target
    for container in pod.spec.containers if pod.spec else []:
        for candidate in container.ports:
            if candidate.name == target and (candidate.protocol or "TCP") == protocol:
                return candidate.container_port
    return None


def _addresses(pods: Iterable[Pod]) -> list[EndpointAddress]:
    found = [
        EndpointAddress(
            ip=pod.status.pod_ip or "",
            node_name=pod.spec.node_name if pod.spec else None,
            hostname=pod.spec.hostname if pod.spec and pod.spec.subdomain else None,
            target_ref=ObjectReference(
                kind="Pod",
                name=pod.metadata.name,
                namespace=pod.metadata.namespace,
                uid=pod.metadata.uid,
            ),
        )
        for pod in pods
        if pod.status is not None
    ]
    return sorted(found, key=lambda a: (ipaddress.ip_address(a.ip).packed, a.target_ref and a.target_ref.uid))
