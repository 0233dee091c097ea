"""End a pod: containers by signal and grace period, sandbox, directory, cgroup, and its API object.

Owned by the pod's worker, which calls the steps in order and repeats them after failures: each is
idempotent. Kubernetes documentation, "Pod Lifecycle", "Termination of Pods".
"""

from __future__ import annotations

import asyncio
import shutil

from podling.api import core_v1
from podling.api.pods import is_sidecar
from podling.kubelet import names
from podling.kubelet.container_stop import stop_record
from podling.kubelet.runtime_state import ContainerRecord, PodRuntime
from podling.kubelet.services import PodServices
from podling.kubelet.volumes.manager import remove_pod_dir
from podling.runtime.cri import messages as cri
from podling.runtime.cri.errors import Code, CRIError

DEFAULT_GRACE_S = 30
FORCED_GRACE_S = 1
"""For a pod that is gone from the API already (deleted with grace 0): upstream's minimum."""


class PodTermination:
    """How one pod ends. `update` and `hurry` may shorten the grace period while it runs."""

    def __init__(self, services: PodServices, pod: core_v1.Pod) -> None:
        self._services = services
        self._pod = pod
        self._forced = False
        self._limit_s: int | None = None
        self._shortened = asyncio.Event()
        self._promised_s: int | None = None
        self._runtime = PodRuntime()
        self.removed = False
        """Nothing of the pod is left on the node, and the API server was told."""

    @property
    def grace_s(self) -> int:
        if self._forced:
            return FORCED_GRACE_S
        wanted = self._pod.metadata.deletion_grace_period_seconds
        if wanted is None or self._pod.metadata.deletion_timestamp is None:
            wanted = names.pod_spec(self._pod).termination_grace_period_seconds
        wanted = DEFAULT_GRACE_S if wanted is None else wanted
        return max(FORCED_GRACE_S, wanted if self._limit_s is None else min(wanted, self._limit_s))

    def update(self, pod: core_v1.Pod) -> None:
        self._pod = pod
        self._check_shortened()

    def hurry(self) -> None:
        self._forced = True
        self._check_shortened()

    def limit(self, grace_s: int) -> None:
        """At most this long, whatever the pod asked for."""
        self._limit_s = grace_s
        self._check_shortened()

    def _check_shortened(self) -> None:
        if self._promised_s is not None and self.grace_s < self._promised_s:
            self._promised_s = self.grace_s
            self._shortened.set()

    def stopped(self, runtime: PodRuntime) -> bool:
        """No process and no network of the pod is left."""
        ready = any(s.state is cri.PodSandboxState.SANDBOX_READY for s in runtime.sandboxes)
        return not ready and not runtime.any_running

    def note_runtime(self, runtime: PodRuntime) -> None:
        self._runtime = runtime

    async def stop_all(self) -> None:
        """Regular containers first, then sidecars in reverse order of start, then the sandbox."""
        self._promised_s = self.grace_s
        order = {c.name: i for i, c in enumerate(names.pod_spec(self._pod).init_containers) if is_sidecar(c)}
        running = [record for record in self._runtime.containers if record.running]
        await asyncio.gather(*(self._stop(record) for record in running if record.name not in order))
        sidecars = [record for record in running if record.name in order]
        for record in sorted(sidecars, key=lambda r: order[r.name], reverse=True):
            await self._stop(record)
        for sandbox in self._runtime.sandboxes:
            await self._services.runtime.stop_pod_sandbox(
                cri.StopPodSandboxRequest(pod_sandbox_id=sandbox.id)
            )

    async def _stop(self, record: ContainerRecord) -> None:
        """Stop one container, sooner when the grace period is shortened meanwhile."""
        grace_s = self._promised_s or FORCED_GRACE_S
        stop = asyncio.ensure_future(stop_record(self._services, self._pod, record, grace_s=grace_s))
        try:
            while not stop.done():
                shortened = asyncio.ensure_future(self._shortened.wait())
                await asyncio.wait({stop, shortened}, return_when=asyncio.FIRST_COMPLETED)
                shortened.cancel()
                if not stop.done():
                    # The first request goes on in the runtime; a second one with less time overtakes it.
                    timeout = self._promised_s or FORCED_GRACE_S
                    await self._services.runtime.stop_container(
                        cri.StopContainerRequest(container_id=record.id, timeout=timeout)
                    )
                    return
            await stop
        finally:
            stop.cancel()

    async def remove(self, *, in_api: bool) -> None:
        """Remove what the pod has on this node, then the pod from the API. Raises what is worth a retry."""
        uid = names.pod_uid(self._pod)
        await self._services.statuses.wait_written(uid)
        await self._remove_from_runtime()
        self._services.cgroups.remove(self._pod)
        await remove_pod_dir(self._services.config, uid)
        logs = names.log_directory(self._services.config, self._pod)
        if logs.exists():
            await asyncio.to_thread(shutil.rmtree, logs, ignore_errors=True)
        self._services.backoff.forget_pod(uid)
        self._services.images.forget_pod(uid)
        self._services.tokens.forget(uid)
        self._services.probe_counts.forget_pod(uid)
        if in_api:
            await self._services.statuses.delete_pod(self._pod)
        self.removed = True

    async def _remove_from_runtime(self) -> None:
        runtime = self._services.runtime
        for record in self._runtime.containers:
            await runtime.remove_container(cri.RemoveContainerRequest(container_id=record.id))
        for sandbox in self._runtime.sandboxes:
            try:
                await runtime.remove_pod_sandbox(cri.RemovePodSandboxRequest(pod_sandbox_id=sandbox.id))
            except CRIError as err:
                if err.code is not Code.NOT_FOUND:
                    raise
