"""Questions about oneself (`kubectl auth can-i`, `whoami`): asked by creating what is never stored."""

from __future__ import annotations

from podling.apiserver import authz, errors, render
from podling.apiserver.bodies import read_options
from podling.apiserver.cluster import Cluster
from podling.apiserver.negotiation import accepted
from podling.apiserver.objects import Object, encode
from podling.apiserver.request import Answer, Request
from podling.apiserver.requestinfo import RequestInfo
from podling.apiserver.resource import Resource


async def handle_access(cluster: Cluster, request: Request, info: RequestInfo, resource: Resource) -> Answer:
    review = read_options(request, "SelfSubjectAccessReview")
    spec = review.get("spec") or {}
    asked = spec.get("resourceAttributes")
    if isinstance(asked, dict):
        wanted = RequestInfo(
            path="",
            verb=asked.get("verb") or "",
            group=asked.get("group") or "",
            resource=asked.get("resource") or "",
            namespace=asked.get("namespace") or "",
            name=asked.get("name") or "",
            subresource=asked.get("subresource") or "",
        )
        allowed = authz.may(request.user, wanted)
    elif isinstance(asked := spec.get("nonResourceAttributes"), dict):
        wanted = RequestInfo(path=asked.get("path") or "", verb=asked.get("verb") or "")
        allowed = authz.may_path(request.user, wanted)
    else:
        raise errors.bad_request(
            "spec.resourceAttributes: exactly one of nonResourceAttributes or resourceAttributes is required"
        )
    return _answer(request, resource, {"spec": spec, "status": {"allowed": allowed}})


async def handle_self(cluster: Cluster, request: Request, info: RequestInfo, resource: Resource) -> Answer:
    user = {"username": request.user.name, "groups": list(request.user.groups)}
    return _answer(request, resource, {"status": {"userInfo": user}})


def _answer(request: Request, resource: Resource, fields: Object) -> Answer:
    review = {"kind": resource.kind, "apiVersion": resource.group_version, "metadata": {}, **fields}
    return render.one(resource, encode(review), accepted(request.accept), request, status=201)
