"""The scale subresource: the replicas of any kind that has them, as `autoscaling/v1 Scale`."""

from __future__ import annotations

from podling.api.selectors import format_label_selector
from podling.api.validation import FieldError
from podling.apiserver import bodies, errors, objects, options, registry, render
from podling.apiserver.cluster import Cluster
from podling.apiserver.handlers.patch import patching
from podling.apiserver.handlers.update import check_name
from podling.apiserver.negotiation import accepted
from podling.apiserver.objects import Object
from podling.apiserver.request import Answer, Request
from podling.apiserver.requestinfo import RequestInfo
from podling.apiserver.resource import Resource

SCALE = Resource(kind="Scale", plural="scales", group="autoscaling")
_KIND = bodies.Kind(SCALE.kind, SCALE.group, SCALE.version)
_IDENTITY = ("name", "namespace", "uid", "resourceVersion", "creationTimestamp")


async def handle_get(cluster: Cluster, request: Request, info: RequestInfo, resource: Resource) -> Answer:
    accept = accepted(request.accept)
    entry = await registry.read(cluster, registry.Target(resource, info.namespace, info.name))
    return render.one(SCALE, objects.encode(to_scale(objects.from_entry(entry))), accept, request)


async def handle_update(cluster: Cluster, request: Request, info: RequestInfo, resource: Resource) -> Answer:
    wanted = bodies.read_object(request, _KIND)
    check_name(wanted, info)
    return await _write(cluster, request, info, resource, lambda current: wanted, "UpdateOptions")


async def handle_patch(cluster: Cluster, request: Request, info: RequestInfo, resource: Resource) -> Answer:
    change = patching(request, info, SCALE)
    return await _write(cluster, request, info, resource, change, "PatchOptions")


async def _write(
    cluster: Cluster,
    request: Request,
    info: RequestInfo,
    resource: Resource,
    change: registry.Change,
    options_kind: str,
) -> Answer:
    accept = accepted(request.accept)
    dry_run = options.dry_run(request, options_kind)

    def scaled(current: Object) -> Object:
        wanted = change(to_scale(current))
        replicas = (wanted.get("spec") or {}).get("replicas") or 0
        _check(replicas, info.name)
        # Preconditions of the client, checked with every update.
        for key in ("uid", "resourceVersion"):
            current["metadata"][key] = wanted["metadata"].get(key) or current["metadata"][key]
        current.setdefault("spec", {})["replicas"] = replicas
        return current

    target = registry.Target(resource, info.namespace, info.name)
    outcome = await registry.update(cluster, target, scaled, subresource="scale", dry_run=dry_run)
    obj = objects.from_entry(outcome.entry) if outcome.entry is not None else outcome.object
    return render.one(SCALE, objects.encode(to_scale(obj)), accept, request)


def _check(replicas: int, name: str) -> None:
    """Raises APIError 422."""
    if replicas < 0:
        fault = FieldError(
            field="spec.replicas",
            reason="FieldValueInvalid",
            message=f"Invalid value: {replicas}: must be greater than or equal to 0",
        )
        raise errors.invalid(SCALE.kind, name, [fault], group=SCALE.group)


def to_scale(obj: Object) -> Object:
    """The Scale of an object with replicas."""
    spec, status, metadata = obj.get("spec") or {}, obj.get("status") or {}, obj["metadata"]
    selector = spec.get("selector") or {}
    if obj.get("kind") == "ReplicationController":
        selector = {"matchLabels": selector}
    scale_status: Object = {"replicas": status.get("replicas", 0)}
    if text := format_label_selector(selector):
        scale_status["selector"] = text
    return {
        "kind": SCALE.kind,
        "apiVersion": SCALE.group_version,
        "metadata": {key: metadata[key] for key in _IDENTITY if key in metadata},
        "spec": {"replicas": spec["replicas"]} if spec.get("replicas") else {},
        "status": scale_status,
    }
