"""Pods: status reset at birth, graceful deletion, the spec counted in generations."""

from __future__ import annotations

from podling.api.defaults import initial_status
from podling.api.times import now_rfc3339
from podling.apiserver import authz, noderestriction
from podling.apiserver.cluster import Cluster
from podling.apiserver.request import User
from podling.apiserver.resource import Guard, Object, Strategy
from podling.apiserver.strategies.service_account_admission import admit

FINAL_PHASES = ("Succeeded", "Failed")


class PodStrategy(Strategy):
    generation = True
    returns_deleted = True

    async def guard(self, cluster: Cluster, user: User, namespace: str) -> Guard | None:
        node = authz.node_of(user)
        return await noderestriction.pod_guard(cluster, node) if node is not None else None

    async def admit_references(self, cluster: Cluster, namespace: str, obj: Object) -> None:
        await admit(cluster, namespace, obj)

    def prepare_create(self, cluster: Cluster, obj: Object) -> None:
        obj["status"] = initial_status("Pod", obj)

    def prepare_status(self, cluster: Cluster, new: Object, old: Object) -> None:
        super().prepare_status(cluster, new, old)
        _keep_metadata(new, old, "ownerReferences")
        status = new.setdefault("status", {})
        # The class follows from the spec: a kubelet that leaves it out does not erase it.
        qos = (old.get("status") or {}).get("qosClass")
        if qos and not status.get("qosClass"):
            status["qosClass"] = qos

    def prepare_subresource(self, cluster: Cluster, new: Object, old: Object, subresource: str) -> None:
        spec = new.get("spec") or {}
        match subresource:
            case "ephemeralcontainers":
                added = spec.get("ephemeralContainers")
                new["spec"] = {**old["spec"], **({"ephemeralContainers": added} if added else {})}
                if not added:
                    new["spec"].pop("ephemeralContainers", None)
            case "resize":
                new["spec"] = _only_resized(spec, old["spec"])
            case _:
                return
        new["status"] = old.get("status") or {}
        for name in ("labels", "annotations", "finalizers", "ownerReferences"):
            _keep_metadata(new, old, name)

    def grace_period_s(self, obj: Object, requested: int | None) -> int | None:
        spec = obj.get("spec") or {}
        if not spec.get("nodeName") or (obj.get("status") or {}).get("phase") in FINAL_PHASES:
            return 0
        period = requested if requested is not None else spec.get("terminationGracePeriodSeconds") or 0
        return period if period >= 0 else 1


def _only_resized(new: Object, old: Object) -> Object:
    """The old spec with the new containers' resources; what validation refuses by name is left as it came."""
    kept = dict(old)
    for key in ("containers", "initContainers"):
        before = {container.get("name"): container for container in old.get(key) or ()}
        after = []
        for container in new.get(key) or ():
            had = before.get(container.get("name"), container)
            bare = {name: value for name, value in had.items() if name != "resources"}
            resources = container.get("resources")
            after.append(bare | ({"resources": resources} if resources is not None else {}))
        if after or key in old:
            kept[key] = after
    return kept


def _keep_metadata(new: Object, old: Object, name: str) -> None:
    if name in old["metadata"]:
        new["metadata"][name] = old["metadata"][name]
    else:
        new["metadata"].pop(name, None)


def bind(obj: Object, node_name: str) -> None:
    """Assign `obj` to a node, as the binding subresource does."""
    obj["spec"]["nodeName"] = node_name
    status = obj.setdefault("status", {})
    status.pop("nominatedNodeName", None)
    condition = {
        "type": "PodScheduled",
        "status": "True",
        "lastProbeTime": None,
        "lastTransitionTime": now_rfc3339(),
    }
    if generation := obj["metadata"].get("generation"):
        condition["observedGeneration"] = generation
    others = [c for c in status.get("conditions") or [] if c.get("type") != "PodScheduled"]
    status["conditions"] = [*others, condition]
