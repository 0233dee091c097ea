"""Mirror pods: the static pods of this node as the API shows them.

A mirror is created by the kubelet, carries the static pod's hash and is owned by the Node. Somebody deletes
it: it comes back. The manifest changes: it is replaced. The static pod is gone from the node: so is it.
Upstream: `pkg/kubelet/pod/mirror_client.go`; Kubernetes documentation, "Create static Pods".
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from msgspec import structs

from podling.api import core_v1, meta_v1
from podling.api.pods import is_deleting, is_mirror
from podling.client.client import Client
from podling.client.errors import AlreadyExistsError, ConflictError, NotFoundError
from podling.client.workqueue import WorkQueue, run_workers
from podling.kubelet import names
from podling.kubelet.static_pods.manifest import HASH_ANNOTATION, MIRROR_ANNOTATION

RETRY_MIN_S = 0.1
RETRY_MAX_S = 10.0

log = logging.getLogger(__name__)


class MirrorPods:
    """`run()` is a task of the kubelet's group; it works from when the pods of this node are known."""

    def __init__(
        self,
        client: Client,
        node: str,
        *,
        static_pod: Callable[[names.FullName], core_v1.Pod | None],
        present: Callable[[names.FullName], bool],
        on_mirror: Callable[[core_v1.Pod, core_v1.Pod | None], None],
    ) -> None:
        """`static_pod`: the one of a name that should run; `present`: whether one of that name still does;
        `on_mirror`: told of each static pod's mirror, None when it is gone."""
        self._client = client
        self._node = node
        self._static_pod = static_pod
        self._present = present
        self._on_mirror = on_mirror
        self._mirrors: dict[names.FullName, core_v1.Pod] = {}
        self._queue: WorkQueue[names.FullName] = WorkQueue(retry_min_s=RETRY_MIN_S, retry_max_s=RETRY_MAX_S)

    async def run(self) -> None:
        await run_workers(self._queue, self._reconcile, name="mirror pods", workers=2)

    def look(self, key: names.FullName) -> None:
        """The static pod of this name has changed, started or ended."""
        self._queue.add(key)
        static, mirror = self._static_pod(key), self._mirrors.get(key)
        if static is not None:
            self._on_mirror(static, mirror if mirror and is_mirror_of(mirror, static) else None)

    def on_pod(self, old: core_v1.Pod | None, new: core_v1.Pod | None) -> None:
        """Of the informer, for pods that are mirrors."""
        pod = new or old
        assert pod is not None
        key = names.full_name(pod)
        if new is None:
            self._mirrors.pop(key, None)
        else:
            self._mirrors[key] = new
        self.look(key)

    async def _reconcile(self, key: names.FullName) -> None:
        static, mirror = self._static_pod(key), self._mirrors.get(key)
        if static is None:
            if mirror is not None and not self._present(key):
                await self._delete(mirror)
            return
        if mirror is not None:
            if not is_deleting(mirror) and is_mirror_of(mirror, static):
                return
            # The informer tells when it is gone, and that brings us here again.
            await self._delete(mirror)
            return
        await self._create(static)

    async def _create(self, static: core_v1.Pod) -> None:
        node = await self._client.get(core_v1.Node, self._node)
        try:
            await self._client.create(mirror_of(static, node))
        except AlreadyExistsError:
            mirror = await self._client.get(
                core_v1.Pod, static.metadata.name or "", names.pod_namespace(static)
            )
            if not is_mirror(mirror):
                log.warning("static pod %s: the API has another pod of that name", names.pod_full(static))
        else:
            log.info("mirror pod of %s was made", names.pod_full(static))

    async def _delete(self, mirror: core_v1.Pod) -> None:
        try:
            await self._client.delete(
                core_v1.Pod,
                mirror.metadata.name or "",
                names.pod_namespace(mirror),
                grace_period_s=0,
                uid=mirror.metadata.uid,
            )
        except (NotFoundError, ConflictError):
            log.debug("mirror pod %s was gone already", names.pod_full(mirror))


def is_mirror_of(mirror: core_v1.Pod, static: core_v1.Pod) -> bool:
    return mirror.metadata.annotations.get(MIRROR_ANNOTATION) == static.metadata.annotations[HASH_ANNOTATION]


def mirror_of(static: core_v1.Pod, node: core_v1.Node) -> core_v1.Pod:
    """The object to create: without the static pod's UID, the API server gives its own."""
    metadata = structs.replace(
        static.metadata,
        uid=None,
        annotations={
            **static.metadata.annotations,
            MIRROR_ANNOTATION: static.metadata.annotations[HASH_ANNOTATION],
        },
        owner_references=[
            meta_v1.OwnerReference(
                api_version="v1",
                kind="Node",
                name=node.metadata.name or "",
                uid=node.metadata.uid or "",
                controller=True,
            )
        ],
    )
    return core_v1.Pod(api_version="v1", kind="Pod", metadata=metadata, spec=static.spec)
