"""Empties namespaces that are being deleted, then lets them go.

`kubectl delete namespace` only sets a deletionTimestamp. This controller deletes everything in it, of
every kind that discovery lists; when nothing is left it removes the `kubernetes` finalizer and the API
server removes the namespace. Pods take their grace period, so it waits for the pods' own deletion events;
for objects held by finalizers of others it looks again with back-off, and says in the namespace's
conditions what it waits for.

Source: Kubernetes concepts, "Namespaces" and "Finalizers"; pkg/controller/namespace.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from podling.api.core_v1 import Namespace, Pod
from podling.api.times import now_rfc3339
from podling.client.client import Client, PatchType
from podling.client.errors import ApiError, ClientError, ConflictError, NotFoundError
from podling.client.workqueue import WorkQueue, run_workers
from podling.controllers.informers import Informers

FINALIZER = "kubernetes"
LOOK_AGAIN_MIN_S = 0.25
LOOK_AGAIN_MAX_S = 15.0
WORKERS = 4

log = logging.getLogger(__name__)


def is_active(namespace: Namespace | None) -> bool:
    """It exists and is not being deleted."""
    return namespace is not None and namespace.metadata.deletion_timestamp is None


@dataclass(frozen=True, slots=True)
class Resource:
    """A namespaced resource that can be listed and deleted."""

    group: str
    version: str
    plural: str
    verbs: frozenset[str]

    @property
    def qualified(self) -> str:
        """`pods.`, `leases.coordination.k8s.io`: as upstream writes it in conditions."""
        return f"{self.plural}.{self.group}"

    def path(self, namespace: str) -> str:
        prefix = f"/apis/{self.group}" if self.group else "/api"
        return f"{prefix}/{self.version}/namespaces/{namespace}/{self.plural}"


class _RemainingError(ClientError):
    """Not an error of anybody: something is still there, look again."""


class NamespaceController:
    """Keyed by namespace name."""

    def __init__(self, client: Client, informers: Informers) -> None:
        self._client = client
        self._informers = informers
        self._queue: WorkQueue[str] = WorkQueue(retry_min_s=LOOK_AGAIN_MIN_S, retry_max_s=LOOK_AGAIN_MAX_S)

    async def run(self) -> None:
        self._informers.namespaces.add_handler(self._on_namespace)
        self._informers.pods.add_handler(self._on_pod)
        await run_workers(self._queue, self._reconcile, name="namespace", workers=WORKERS)

    def _on_namespace(self, old: Namespace | None, new: Namespace | None) -> None:
        # Only the first sight of the deletion: our own writes to it must not start us again.
        if new is not None and not is_active(new) and (old is None or is_active(old)):
            self._queue.add(new.metadata.name or "")

    def _on_pod(self, old: Pod | None, new: Pod | None) -> None:
        if new is not None or old is None:
            return
        name = old.metadata.namespace or ""
        namespace = self._informers.namespaces.get(name)
        if namespace is not None and not is_active(namespace):
            self._queue.add(name)

    async def _reconcile(self, name: str) -> None:
        try:
            namespace = await self._client.raw("GET", f"/api/v1/namespaces/{name}")
        except NotFoundError:
            return
        if not namespace["metadata"].get("deletionTimestamp"):
            return
        if FINALIZER not in (namespace.get("spec") or {}).get("finalizers", ()):
            return
        remaining = await self._delete_content(name)
        if remaining.counts:
            await self._write_conditions(name, namespace, remaining)
            if remaining.only_pods:
                return  # `_on_pod` continues
            raise _RemainingError(f"{sum(remaining.counts.values())} objects remain")
        await self._finalize(name, namespace)

    async def _delete_content(self, name: str) -> _Remaining:
        counts: Counter[str] = Counter()
        finalizers: Counter[str] = Counter()
        for resource in await self._discover():
            path = resource.path(name)
            if "deletecollection" in resource.verbs:
                # Whatever the kind's own default: nothing of a namespace outlives it.
                await self._client.raw("DELETE", path, query={"propagationPolicy": "Background"})
            for obj in await self._items(path):
                meta = obj["metadata"]
                if "deletecollection" not in resource.verbs:
                    await self._delete(f"{path}/{meta['name']}")
                counts[resource.qualified] += 1
                finalizers.update(meta.get("finalizers") or ())
        return _Remaining(dict(counts), dict(finalizers))

    async def _items(self, path: str) -> list[dict[str, Any]]:
        answer = await self._client.raw("GET", path)
        return answer.get("items") or []

    async def _delete(self, path: str) -> None:
        try:
            await self._client.raw("DELETE", path)
        except NotFoundError:
            return

    async def _discover(self) -> list[Resource]:
        """Every resource that can be in a namespace, of the version each group prefers."""
        groups = (await self._client.raw("GET", "/apis")).get("groups") or []
        preferred = [("", "v1")] + [(g["name"], g["preferredVersion"]["version"]) for g in groups]
        found: list[Resource] = []
        for group, version in preferred:
            path = f"/apis/{group}/{version}" if group else f"/api/{version}"
            listing = await self._client.raw("GET", path)
            found += deletable(group, version, listing.get("resources") or [])
        return found

    async def _write_conditions(self, name: str, namespace: dict[str, Any], remaining: _Remaining) -> None:
        """Say what is waited for, unless that is what the conditions say already."""
        old = {c["type"]: c for c in (namespace.get("status") or {}).get("conditions") or ()}
        wanted = remaining.conditions()
        if all((old.get(c["type"]) or {}).get("message") == c["message"] for c in wanted):
            return
        now = now_rfc3339()
        for condition in wanted:
            before = old.get(condition["type"]) or {}
            same = before.get("status") == condition["status"]
            condition["lastTransitionTime"] = before.get("lastTransitionTime") if same else now
        try:
            await self._client.patch(
                Namespace,
                name,
                {"status": {"conditions": wanted}},
                subresource="status",
                patch_type=PatchType.STRATEGIC,
            )
        except ApiError as err:
            log.debug("conditions of namespace %s: %s", name, err)

    async def _finalize(self, name: str, namespace: dict[str, Any]) -> None:
        namespace["spec"]["finalizers"] = [f for f in namespace["spec"]["finalizers"] if f != FINALIZER]
        try:
            await self._client.raw("PUT", f"/api/v1/namespaces/{name}/finalize", body=namespace)
        except NotFoundError:
            return
        except ConflictError:
            # We changed its conditions meanwhile, or somebody its labels: with the newest state again.
            self._queue.add(name)


def deletable(group: str, version: str, resources: Iterable[dict[str, Any]]) -> list[Resource]:
    """Of an APIResourceList the resources that are namespaced, no subresource, and can be emptied."""
    found = [
        Resource(group, version, r["name"], frozenset(r.get("verbs") or ()))
        for r in resources
        if r.get("namespaced") and "/" not in r["name"]
    ]
    return [r for r in found if {"list", "delete"} <= r.verbs]


@dataclass(frozen=True, slots=True)
class _Remaining:
    counts: dict[str, int]
    """Objects left by resource."""
    finalizers: dict[str, int]
    """Objects left by each finalizer they have."""

    @property
    def only_pods(self) -> bool:
        """Nothing is left but pods that end by themselves."""
        return set(self.counts) == {"pods."} and not self.finalizers

    def conditions(self) -> list[dict[str, Any]]:
        """In upstream's words (pkg/controller/namespace/deletion/status_condition_utils.go)."""
        resources = ", ".join(
            f"{resource} has {count} resource instances" for resource, count in sorted(self.counts.items())
        )
        content = {
            "type": "NamespaceContentRemaining",
            "status": "True",
            "reason": "SomeResourcesRemain",
            "message": f"Some resources are remaining: {resources}",
        }
        holders = ", ".join(
            f"{finalizer} in {count} resource instances"
            for finalizer, count in sorted(self.finalizers.items())
        )
        held = {
            "type": "NamespaceFinalizersRemaining",
            "status": "True" if holders else "False",
            "reason": "SomeFinalizersRemain" if holders else "ContentHasNoFinalizers",
            "message": f"Some content in the namespace has finalizers remaining: {holders}"
            if holders
            else "All content-preserving finalizers finished",
        }
        return [content, held]
