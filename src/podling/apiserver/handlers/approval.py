"""PUT and PATCH of a certificate signing request's `approval`: `kubectl certificate approve | deny`."""

from __future__ import annotations

from podling.apiserver import bodies, objects, options, registry, render
from podling.apiserver.cluster import Cluster
from podling.apiserver.handlers.patch import patching
from podling.apiserver.handlers.update import check_name
from podling.apiserver.negotiation import accepted
from podling.apiserver.objects import Object
from podling.apiserver.request import Answer, Request
from podling.apiserver.requestinfo import RequestInfo
from podling.apiserver.resource import Resource
from podling.apiserver.strategies.certificates import approved_by


async def handle(cluster: Cluster, request: Request, info: RequestInfo, resource: Resource) -> Answer:
    accept = accepted(request.accept)
    patch = info.verb == "patch"
    wanted = patching(request, info, resource) if patch else _replacing(request, info, resource)

    def change(current: Object) -> Object:
        before = objects.decode(objects.encode(current))
        return approved_by(wanted(current), before)

    outcome = await registry.update(
        cluster,
        registry.Target(resource, info.namespace, info.name),
        change,
        subresource=info.subresource,
        dry_run=options.dry_run(request, "PatchOptions" if patch else "UpdateOptions"),
    )
    return render.one(resource, outcome.wire(resource), accept, request)


def _replacing(request: Request, info: RequestInfo, resource: Resource) -> registry.Change:
    """Raises APIError 400."""
    obj = bodies.read_object(request, bodies.Kind(resource.kind, resource.group, resource.version))
    check_name(obj, info)
    return lambda current: obj
