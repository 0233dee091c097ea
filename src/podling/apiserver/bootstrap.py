"""What a cluster has from its first second: the standard namespaces and the way to the API server itself."""

from __future__ import annotations

from podling.api.defaults import apply_defaults
from podling.apiserver import errors, objects, registry
from podling.apiserver.cluster import Cluster
from podling.apiserver.objects import Object
from podling.apiserver.resource import Resource
from podling.apiserver.strategies.service import recall
from podling.apiserver.strategies.service_account_admission import DEFAULT_ACCOUNT

NAMESPACES = ("default", "kube-system", "kube-public", "kube-node-lease")


async def bootstrap(cluster: Cluster, port: int) -> None:
    """Rebuild what is derived from the store, then make what is missing; repeated at every start."""
    await _recall_services(cluster)
    for name in NAMESPACES:
        await _ensure(cluster, "namespaces", "", _object("Namespace", name))
        # The controller would make it too, a moment later; the first pod need not wait for it.
        await _ensure(cluster, "serviceaccounts", name, _object("ServiceAccount", DEFAULT_ACCOUNT))
    await _ensure_kubernetes_service(cluster, port)
    await _ensure_kubernetes_endpoints(cluster, port)
    await _ensure_kubernetes_slice(cluster, port)


async def _recall_services(cluster: Cluster) -> None:
    page = await cluster.store.list("services/")
    for entry in page.entries:
        recall(cluster.services, objects.from_entry(entry))


async def _ensure(cluster: Cluster, plural: str, namespace: str, obj: Object) -> None:
    resource = next(r for r in cluster.resources.values() if r.plural == plural)
    if await cluster.store.get(resource.key(namespace, obj["metadata"]["name"])) is None:
        apply_defaults(resource.kind, obj)
        await registry.create(cluster, resource, namespace, obj)


async def _ensure_kubernetes_service(cluster: Cluster, port: int) -> None:
    service = _object("Service", "kubernetes", labels={"component": "apiserver", "provider": "kubernetes"})
    service["spec"] = {
        "type": "ClusterIP",
        "clusterIP": str(cluster.services.kubernetes_ip),
        "sessionAffinity": "None",
        "ports": [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": port}],
    }
    await _ensure(cluster, "services", "default", service)


async def _ensure_kubernetes_endpoints(cluster: Cluster, port: int) -> None:
    """Its one endpoint is this server, wherever the last one was."""
    subsets = [
        {
            "addresses": [{"ip": str(cluster.config.advertise_address)}],
            "ports": [{"name": "https", "port": port, "protocol": "TCP"}],
        }
    ]
    endpoints = _object("Endpoints", "kubernetes", labels={"endpointslice.kubernetes.io/skip-mirror": "true"})
    endpoints["subsets"] = subsets
    await _ensure(cluster, "endpoints", "default", endpoints)
    await _change(cluster, cluster.find("", "v1", "endpoints"), {"subsets": subsets})


async def _ensure_kubernetes_slice(cluster: Cluster, port: int) -> None:
    address = str(cluster.config.advertise_address)
    contents: Object = {
        "addressType": "IPv6" if ":" in address else "IPv4",
        "endpoints": [{"addresses": [address], "conditions": {"ready": True}}],
        "ports": [{"name": "https", "port": port, "protocol": "TCP"}],
    }
    endpoint_slice = _object(
        "EndpointSlice", "kubernetes", labels={"kubernetes.io/service-name": "kubernetes"}
    )
    await _ensure(cluster, "endpointslices", "default", {**endpoint_slice, **contents})
    await _change(cluster, cluster.find("discovery.k8s.io", "v1", "endpointslices"), contents)


async def _change(cluster: Cluster, resource: Resource | None, contents: Object) -> None:
    """Put `contents` into the object `default/kubernetes`, if there is one."""
    assert resource is not None
    target = registry.Target(resource, "default", "kubernetes")
    try:
        await registry.update(cluster, target, lambda current: {**current, **contents})
    except errors.APIError as err:
        if err.code != 404:
            raise


def _object(kind: str, name: str, labels: dict[str, str] | None = None) -> Object:
    metadata: Object = {"name": name}
    if labels:
        metadata["labels"] = labels
    return {"kind": kind, "apiVersion": "v1", "metadata": metadata}
