"""What logs and streams need first: the pod, its containers, and the node that runs it."""

from __future__ import annotations

from podling.apiserver import errors, objects, registry
from podling.apiserver.cluster import Cluster
from podling.apiserver.objects import Object
from podling.apiserver.requestinfo import RequestInfo


async def pod_of(cluster: Cluster, info: RequestInfo) -> Object:
    """Raises APIError 404."""
    pods = cluster.find("", "v1", "pods")
    assert pods is not None
    return objects.from_entry(await registry.read(cluster, registry.Target(pods, info.namespace, info.name)))


async def node_of(cluster: Cluster, pod: Object) -> Object | None:
    """The node a pod is assigned to; None when it is not. Raises APIError 404."""
    name = pod["spec"].get("nodeName")
    if not name:
        return None
    nodes = cluster.find("", "v1", "nodes")
    assert nodes is not None
    return objects.from_entry(await registry.read(cluster, registry.Target(nodes, "", name)))


async def assigned_node_of(cluster: Cluster, pod: Object) -> Object:
    """Raises APIError 400, 404."""
    node = await node_of(cluster, pod)
    if node is None:
        raise errors.bad_request(f"pod {pod['metadata']['name']} does not have a host assigned")
    return node


def container_names(pod: Object) -> tuple[list[str], list[str], list[str]]:
    """Containers, init containers, ephemeral containers."""
    spec = pod["spec"]
    plain, init, ephemeral = (
        [c["name"] for c in spec.get(field) or []]
        for field in ("containers", "initContainers", "ephemeralContainers")
    )
    return plain, init, ephemeral
