"""DELETE of one object."""

from __future__ import annotations

from podling.apiserver import errors, options, registry, render
from podling.apiserver.cluster import Cluster
from podling.apiserver.negotiation import accepted
from podling.apiserver.objects import encode
from podling.apiserver.request import Answer, Request
from podling.apiserver.requestinfo import RequestInfo
from podling.apiserver.resource import Resource


async def handle(cluster: Cluster, request: Request, info: RequestInfo, resource: Resource) -> Answer:
    accept = accepted(request.accept)
    target = registry.Target(resource, info.namespace, info.name)
    deleted = await registry.delete(cluster, target, options.delete_options(request))
    if deleted.gone and not resource.strategy.returns_deleted:
        uid = deleted.object["metadata"]["uid"]
        return render.json_response(200, _success(resource, info.name, uid), accept)
    return render.one(resource, encode(deleted.object), accept, request)


def _success(resource: Resource, name: str, uid: str) -> dict[str, object]:
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Success",
        "details": errors.details(resource.qualified, name, uid=uid),
    }
