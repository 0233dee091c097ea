"""Namespaces: they stay Terminating until the namespace controller has emptied and finalized them."""

from __future__ import annotations

from podling.api.defaults import apply_defaults, initial_status
from podling.apiserver import errors
from podling.apiserver.cluster import Cluster
from podling.apiserver.resource import Object, Strategy

IMMORTAL = frozenset({"default", "kube-system", "kube-public"})


class NamespaceStrategy(Strategy):
    def prepare_create(self, cluster: Cluster, obj: Object) -> None:
        obj["status"] = initial_status("Namespace", obj)
        # Again, now that a generated name is known.
        apply_defaults("Namespace", obj)
        finalizers = obj.setdefault("spec", {}).setdefault("finalizers", [])
        if "kubernetes" not in finalizers:
            finalizers.append("kubernetes")

    def prepare_update(self, cluster: Cluster, new: Object, old: Object) -> None:
        super().prepare_update(cluster, new, old)
        # Only the finalize subresource changes them.
        if finalizers := (old.get("spec") or {}).get("finalizers"):
            new.setdefault("spec", {})["finalizers"] = finalizers
        elif "spec" in new:
            new["spec"].pop("finalizers", None)

    def check_delete(self, obj: Object) -> None:
        name = obj["metadata"]["name"]
        if name in IMMORTAL:
            raise errors.forbidden("namespaces", name, "this namespace may not be deleted")

    def deleting(self, obj: Object) -> None:
        obj.setdefault("status", {})["phase"] = "Terminating"

    def has_finalizers(self, obj: Object) -> bool:
        return super().has_finalizers(obj) or bool((obj.get("spec") or {}).get("finalizers"))


async def check_accepts_new(cluster: Cluster, namespace: str, resource: str, name: str) -> None:
    """Objects are created only in a namespace that exists and is not on its way out.

    Raises APIError 404, 403 (upstream's NamespaceLifecycle admission).
    """
    found = await cluster.look("namespaces", "", namespace)
    if found is None:
        raise errors.not_found("namespaces", namespace)
    if found["metadata"].get("deletionTimestamp"):
        why = f"unable to create new content in namespace {namespace} because it is being terminated"
        cause = {
            "reason": "NamespaceTerminating",
            "message": f"namespace {namespace} is being terminated",
            "field": "metadata.namespace",
        }
        raise errors.forbidden(resource, name, why, causes=[cause])
