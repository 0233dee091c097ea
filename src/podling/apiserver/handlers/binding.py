"""POST pods/NAME/binding: assign a pod to a node. The scheduler's one write."""

from __future__ import annotations

from podling.apiserver import bodies, errors, options, registry, render
from podling.apiserver.cluster import Cluster
from podling.apiserver.objects import Object
from podling.apiserver.request import Answer, Request
from podling.apiserver.requestinfo import RequestInfo
from podling.apiserver.resource import Resource
from podling.apiserver.strategies.pod import bind

_CREATED = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}


async def handle(cluster: Cluster, request: Request, info: RequestInfo, resource: Resource) -> Answer:
    """`pods/NAME/binding`, and the older `bindings`, which names the pod in the body."""
    dry_run = options.dry_run(request, "CreateOptions")
    binding = bodies.read_object(request, bodies.Kind("Binding"))
    metadata, target = binding["metadata"], binding.get("target") or {}
    name = info.name or metadata.get("name") or ""
    if metadata.get("name") not in (None, "", name):
        raise errors.bad_request(
            f"the name of the object ({metadata['name']}) does not match the name on the URL ({name})"
        )
    node = target.get("name")
    if target.get("kind") not in (None, "", "Node", "Minion") or not node:
        raise errors.bad_request('target.name: Required value, and target.kind must be "Node"')

    def assign(pod: Object) -> Object:
        _check(pod, name, node, uid=metadata.get("uid") or "", version=metadata.get("resourceVersion") or "")
        bind(pod, node)
        pod["metadata"].setdefault("annotations", {}).update(metadata.get("annotations") or {})
        if not pod["metadata"]["annotations"]:
            del pod["metadata"]["annotations"]
        return pod

    pods = cluster.find("", "v1", "pods")
    assert pods is not None
    await registry.update(
        cluster, registry.Target(pods, info.namespace, name), assign, subresource="binding", dry_run=dry_run
    )
    return render.json_response(201, _CREATED)


def _check(pod: Object, name: str, node: str, *, uid: str, version: str) -> None:
    """Raises APIError 409."""
    metadata = pod["metadata"]
    if uid and uid != metadata["uid"]:
        why = f"Precondition failed: UID in precondition: {uid}, UID in object meta: {metadata['uid']}"
        raise errors.conflict("pods", name, why)
    if version and version != metadata["resourceVersion"]:
        why = (
            f"Precondition failed: ResourceVersion in precondition: {version}, "
            f"ResourceVersion in object meta: {metadata['resourceVersion']}"
        )
        raise errors.conflict("pods", name, why)
    if metadata.get("deletionTimestamp"):
        why = f"pod {name} is being deleted, cannot be assigned to a host"
        raise errors.conflict("pods/binding", name, why)
    if pod["spec"].get("nodeName"):
        why = f'pod {name} is already assigned to node "{pod["spec"]["nodeName"]}"'
        raise errors.conflict("pods/binding", name, why)
    if gates := pod["spec"].get("schedulingGates"):
        why = f"pod {name} has non-empty .spec.schedulingGates"
        raise errors.conflict("pods/binding", name, why if gates else "")
