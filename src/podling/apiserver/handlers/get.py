"""GET of one object."""

from __future__ import annotations

from podling.apiserver import errors, objects, registry, render, versions
from podling.apiserver.cluster import Cluster
from podling.apiserver.negotiation import accepted
from podling.apiserver.request import Answer, Request
from podling.apiserver.requestinfo import RequestInfo
from podling.apiserver.resource import Resource


async def handle(cluster: Cluster, request: Request, info: RequestInfo, resource: Resource) -> Answer:
    accept = accepted(request.accept)
    wanted = versions.parse(request.query.get("resourceVersion"))
    if wanted > cluster.store.revision:
        raise errors.future_version(wanted, cluster.store.revision)
    entry = await registry.read(cluster, registry.Target(resource, info.namespace, info.name))
    return render.one(resource, objects.wire(resource, entry), accept, request)
