"""POST pods/NAME/eviction: a delete that asks first; `kubectl drain` uses it."""

from __future__ import annotations

from podling.apiserver import bodies, errors, options, registry, render
from podling.apiserver.cluster import Cluster
from podling.apiserver.request import Answer, Request
from podling.apiserver.requestinfo import RequestInfo
from podling.apiserver.resource import Resource

_CREATED = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}


async def handle(cluster: Cluster, request: Request, info: RequestInfo, resource: Resource) -> Answer:
    """There are no disruption budgets yet, so nothing speaks against it."""
    dry_run = options.dry_run(request, "CreateOptions")
    body = bodies.read_options(request, "Eviction", group="policy")
    name = (body.get("metadata") or {}).get("name") or info.name
    if name != info.name:
        raise errors.bad_request(f"name in URL does not match name in Eviction object: {info.name} {name}")
    wanted = options.parse_delete(body.get("deleteOptions") or {}, request, dry_run=dry_run)
    await registry.delete(cluster, registry.Target(resource, info.namespace, info.name), wanted)
    return render.json_response(201, _CREATED)
