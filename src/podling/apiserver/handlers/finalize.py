"""PUT namespaces/NAME/finalize: the namespace controller says that a namespace is empty."""

from __future__ import annotations

from podling.apiserver import bodies, options, registry, render
from podling.apiserver.cluster import Cluster
from podling.apiserver.handlers.update import check_name
from podling.apiserver.negotiation import accepted
from podling.apiserver.objects import Object
from podling.apiserver.request import Answer, Request
from podling.apiserver.requestinfo import RequestInfo
from podling.apiserver.resource import Resource


async def handle(cluster: Cluster, request: Request, info: RequestInfo, resource: Resource) -> Answer:
    accept = accepted(request.accept)
    dry_run = options.dry_run(request, "UpdateOptions")
    wanted = bodies.read_object(request, bodies.Kind("Namespace"))
    check_name(wanted, info)

    def change(current: Object) -> Object:
        current["metadata"] |= {
            key: wanted["metadata"][key] for key in ("uid", "resourceVersion") if wanted["metadata"].get(key)
        }
        current.setdefault("spec", {})["finalizers"] = (wanted.get("spec") or {}).get("finalizers") or []
        return current

    target = registry.Target(resource, "", info.name)
    outcome = await registry.update(cluster, target, change, subresource="finalize", dry_run=dry_run)
    return render.one(resource, outcome.wire(resource), accept, request)
