"""POST to a collection."""

from __future__ import annotations

from podling.apiserver import bodies, errors, options, registry, render
from podling.apiserver.cluster import Cluster
from podling.apiserver.negotiation import accepted
from podling.apiserver.objects import Object
from podling.apiserver.request import Answer, Request
from podling.apiserver.requestinfo import RequestInfo
from podling.apiserver.resource import Resource
from podling.apiserver.strategies.namespace import check_accepts_new


async def handle(cluster: Cluster, request: Request, info: RequestInfo, resource: Resource) -> Answer:
    if info.name:
        raise errors.method_not_allowed()
    accept = accepted(request.accept)
    dry_run = options.dry_run(request, "CreateOptions")
    obj = bodies.read_object(request, bodies.Kind(resource.kind, resource.group, resource.version))
    if guard := await resource.strategy.guard(cluster, request.user, info.namespace):
        guard(obj, None)
    outcome = await create(cluster, info, resource, obj, dry_run=dry_run)
    return render.one(resource, outcome.wire(resource), accept, request, status=201)


async def create(
    cluster: Cluster, info: RequestInfo, resource: Resource, obj: Object, *, dry_run: bool
) -> registry.Outcome:
    """Check what must hold before an object comes into being, then store it."""
    metadata = obj["metadata"]
    if resource.namespaced:
        if not info.namespace:
            raise errors.method_not_allowed()
        if metadata.get("namespace") not in (None, "", info.namespace):
            raise errors.bad_request(
                "the namespace of the provided object does not match the namespace sent on the request"
            )
        name = metadata.get("name") or metadata.get("generateName") or ""
        await check_accepts_new(cluster, info.namespace, resource.qualified, name)
    if metadata.pop("resourceVersion", None):
        raise errors.APIError(500, "", "resourceVersion should not be set on objects to be created")
    await resource.strategy.admit_references(cluster, info.namespace, obj)
    return await registry.create(cluster, resource, info.namespace, obj, dry_run=dry_run)
