"""What a node may create: the mirrors of its own static pods, and nothing else.

Upstream's NodeRestriction admission (`plugin/pkg/admission/noderestriction`), whose words these are. What a
node may read and change is in `authz.py`.
"""

from __future__ import annotations

from collections.abc import Callable

from podling.api.references import referenced_resources
from podling.apiserver import errors
from podling.apiserver.cluster import Cluster
from podling.apiserver.objects import Object
from podling.apiserver.resource import Guard

Refuse = Callable[[str], errors.APIError]

MIRROR = "kubernetes.io/config.mirror"
_IN_WORDS = {"serviceaccounts": "a service account"}


async def pod_guard(cluster: Cluster, node: str) -> Guard:
    """What looks at the pods that the kubelet of `node` creates."""
    found = await cluster.look("nodes", "", node)
    uid = found["metadata"]["uid"] if found is not None else ""

    def check(new: Object, old: Object | None) -> None:
        if old is None:
            _check_pod(node, uid, new)

    return check


def _check_pod(node: str, node_uid: str, pod: Object) -> None:
    """Raises APIError 403."""
    metadata, spec = pod["metadata"], pod.get("spec") or {}
    name = metadata.get("name") or ""

    def refuse(why: str) -> errors.APIError:
        return errors.forbidden("pods", name, why)

    if MIRROR not in (metadata.get("annotations") or {}):
        raise refuse(f'pod does not have "{MIRROR}" annotation, node "{node}" can only create mirror pods')
    if spec.get("nodeName") != node:
        raise refuse(f'node "{node}" can only create pods with spec.nodeName set to itself')
    _check_owner(node, node_uid, metadata, refuse)
    for resource in referenced_resources(spec):
        what = _IN_WORDS.get(resource, resource)
        raise refuse(f'node "{node}" can not create pods that reference {what}')


def _check_owner(node: str, uid: str, metadata: Object, refuse: Refuse) -> None:
    owners = metadata.get("ownerReferences") or []
    if len(owners) > 1:
        raise refuse(f'node "{node}" can only create pods with a single owner reference set to itself')
    owner = owners[0] if owners else {}
    if (owner.get("apiVersion"), owner.get("kind"), owner.get("name")) != ("v1", "Node", node):
        raise refuse(f'node "{node}" can only create pods with an owner reference set to itself')
    if not owner.get("controller"):
        raise refuse(f'node "{node}" can only create pods with a controller owner reference set to itself')
    if owner.get("blockOwnerDeletion"):
        raise refuse(f'node "{node}" must not set blockOwnerDeletion on an owner reference')
    if owner.get("uid") != uid:
        raise refuse(f'node "{node}" UID mismatch: expected "{owner.get("uid")}" got "{uid}"')
