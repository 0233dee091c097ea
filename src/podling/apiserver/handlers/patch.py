"""PATCH: JSON patch, JSON merge patch and strategic merge patch, of an object or of its status."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from podling.api.patch import PatchError, json_patch, merge_patch, strategic_merge_patch
from podling.api.schema import schema
from podling.apiserver import bodies, errors, options, registry, render
from podling.apiserver.cluster import Cluster
from podling.apiserver.handlers.update import check_name
from podling.apiserver.negotiation import accepted
from podling.apiserver.objects import Object
from podling.apiserver.request import Answer, Request
from podling.apiserver.requestinfo import RequestInfo
from podling.apiserver.resource import Resource

JSON_PATCH = "application/json-patch+json"
MERGE_PATCH = "application/merge-patch+json"
STRATEGIC_PATCH = "application/strategic-merge-patch+json"
ACCEPTED = (JSON_PATCH, MERGE_PATCH, STRATEGIC_PATCH)
# Differs from upstream: server-side apply (application/apply-patch+yaml) is not served yet, and says so.


async def handle(cluster: Cluster, request: Request, info: RequestInfo, resource: Resource) -> Answer:
    if not info.name:
        raise errors.method_not_allowed()
    accept = accepted(request.accept)
    dry_run = options.dry_run(request, "PatchOptions")
    target = registry.Target(resource, info.namespace, info.name)
    guard = await resource.strategy.guard(cluster, request.user, info.namespace)
    change = registry.guarded(patching(request, info, resource), guard)
    outcome = await registry.update(cluster, target, change, subresource=info.subresource, dry_run=dry_run)
    return render.one(resource, outcome.wire(resource), accept, request)


def patching(request: Request, info: RequestInfo, resource: Resource) -> registry.Change:
    """What the request's patch makes of an object of `resource`. Raises APIError 400, 415."""
    apply = _patcher(request, resource)
    level = bodies.field_validation(request)
    kind = bodies.Kind(resource.kind, resource.group, resource.version)

    def change(current: Object) -> Object:
        try:
            patched = apply(current)
        except PatchError as err:
            reason = {400: "BadRequest", 413: "RequestEntityTooLarge", 422: "Invalid"}.get(err.code, "")
            raise errors.APIError(err.code, reason, err.message) from err
        if not isinstance(patched, dict) or not isinstance(patched.get("metadata"), dict):
            raise errors.bad_request(f"the patch does not leave an object of kind {resource.kind}")
        bodies.check_kind(patched, kind)
        bodies.conform(request, patched, kind, level=level)
        check_name(patched, info)
        return patched

    return change


def _patcher(request: Request, resource: Resource) -> Callable[[Object], Any]:
    """The patch of the request's body, ready to be applied any number of times. Raises APIError 400, 415."""
    media_type = request.content_type.partition(";")[0].strip().lower()
    if media_type not in ACCEPTED:
        raise errors.unsupported_media_type(ACCEPTED)
    try:
        patch = bodies.parse_json(request.body)
    except ValueError as err:
        raise errors.bad_request(f"error decoding patch: {err}") from err
    if media_type == JSON_PATCH:
        return lambda current: json_patch(current, patch)
    if not isinstance(patch, dict):
        raise errors.bad_request("error decoding patch: the patch is not a JSON object")
    if media_type == MERGE_PATCH:
        return lambda current: merge_patch(current, patch)
    ref = schema().ref(resource.group_version, resource.kind)
    if ref is None:
        raise errors.unsupported_media_type((JSON_PATCH, MERGE_PATCH))
    return lambda current: strategic_merge_patch(current, patch, schema(), ref)
