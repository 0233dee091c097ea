"""PUT of an object or of its status."""

from __future__ import annotations

from podling.apiserver import bodies, errors, objects, options, registry, render
from podling.apiserver.cluster import Cluster
from podling.apiserver.handlers.create import create
from podling.apiserver.negotiation import accepted
from podling.apiserver.objects import Object
from podling.apiserver.request import Answer, Request
from podling.apiserver.requestinfo import RequestInfo
from podling.apiserver.resource import Resource


async def handle(cluster: Cluster, request: Request, info: RequestInfo, resource: Resource) -> Answer:
    if not info.name:
        raise errors.method_not_allowed()
    accept = accepted(request.accept)
    dry_run = options.dry_run(request, "UpdateOptions")
    obj = bodies.read_object(request, bodies.Kind(resource.kind, resource.group, resource.version))
    check_name(obj, info)
    target = registry.Target(resource, info.namespace, info.name)
    wanted = objects.encode(obj)
    guard = await resource.strategy.guard(cluster, request.user, info.namespace)
    try:
        outcome = await registry.update(
            cluster,
            target,
            registry.guarded(lambda current: objects.decode(wanted), guard),
            subresource=info.subresource,
            dry_run=dry_run,
        )
    except errors.APIError as err:
        if err.code != 404 or info.subresource or not resource.strategy.create_on_update:
            raise
        if guard is not None:
            guard(obj, None)
        outcome = await create(cluster, info, resource, obj, dry_run=dry_run)
    status = 201 if outcome.created else 200
    return render.one(resource, outcome.wire(resource), accept, request, status=status)


def check_name(obj: Object, info: RequestInfo) -> None:
    """The body names the object of the URL. Raises APIError 400."""
    metadata = obj["metadata"]
    name, namespace = metadata.get("name") or "", metadata.get("namespace")
    if name != info.name:
        raise errors.bad_request(
            f"the name of the object ({name}) does not match the name on the URL ({info.name})"
        )
    if namespace and info.namespace and namespace != info.namespace:
        raise errors.bad_request(
            f"the namespace of the object ({namespace}) does not match the namespace on the request "
            f"({info.namespace})"
        )
