"""Which pods this node should run, and a worker for each.

The informer says what the API wants, manifests which static pods there are, the PLEG that something changed
in the runtime. Pods the runtime or the disk has but neither of the first two (deleted while the kubelet was
down) get a worker too, which only ends them; never before both have been heard in full, or a slow API server
would cost running pods their lives.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal

from msgspec import structs

from podling.api import core_v1, meta_v1
from podling.api.pods import host_ports, is_deleting, is_terminal, pod_requests, qos_class
from podling.kubelet import names
from podling.kubelet.admission import admit, admit_static
from podling.kubelet.pod_worker import PodWorker, WorkerState
from podling.kubelet.resize import refused
from podling.kubelet.runtime_state import list_pod_uids
from podling.kubelet.services import PodServices
from podling.kubelet.status import Failure
from podling.kubelet.tasks import guarded
from podling.runtime.cri import messages as cri

SHARE_DELAY_S = 1.0

log = logging.getLogger(__name__)


class PodManager:
    """Owns the workers; their tasks belong to the kubelet's task group."""

    def __init__(self, services: PodServices, tasks: asyncio.TaskGroup) -> None:
        self._services = services
        self._tasks = tasks
        self._workers: dict[names.PodUID, PodWorker] = {}
        self._requests: dict[names.PodUID, Mapping[str, Decimal]] = {}
        self._static: dict[str, dict[names.FullName, core_v1.Pod]] = {}
        self._static_names: dict[names.PodUID, names.FullName] = {}
        self._sharing = False
        self._synced = False
        self.on_static_changed: Callable[[names.FullName], None] = lambda key: None
        """Told of the name of a static pod that came, changed or went."""
        self.admit_under_pressure: Callable[[core_v1.Pod], Failure | None] = lambda pod: None
        """Asked whether the node, short of something, takes a pod."""

    # From the API

    def on_pod(self, old: core_v1.Pod | None, new: core_v1.Pod | None) -> None:
        """Informer handler."""
        if new is not None:
            worker = self._workers.get(names.pod_uid(new))
            if worker is None:
                self._add(new)
            else:
                worker.update(new)
                if old is not None and is_terminal(new) != is_terminal(old):
                    self._wake_deferred()
            return
        if old is not None and (gone := self._workers.get(names.pod_uid(old))) is not None:
            gone.removed()

    def pods(self) -> list[core_v1.Pod]:
        return [worker.pod for worker in self._workers.values()]

    def known(self) -> list[core_v1.Pod]:
        """Every pod with its newest status, whether or not the API has it already."""
        return [structs.replace(w.pod, status=w.status) for w in self._workers.values()]

    # From eviction

    def evictable(self) -> list[core_v1.Pod]:
        """The pods that run, or are about to."""
        return [
            worker.pod
            for worker in self._workers.values()
            if worker.state is WorkerState.RUNNING
            and not (worker.is_removed or is_deleting(worker.pod) or is_terminal(worker.pod))
        ]

    def evict(self, pod: core_v1.Pod, failure: Failure, *, grace_s: int) -> None:
        self._services.events.pod(pod, "Warning", failure.reason, failure.message)
        self._workers[names.pod_uid(pod)].evict(failure, grace_s=grace_s)

    def is_ending(self, uid: names.PodUID) -> bool:
        """Whether something of a pod that was evicted may still run."""
        worker = self._workers.get(uid)
        return worker is not None and worker.state in (WorkerState.RUNNING, WorkerState.TERMINATING)

    def has_ended(self, uid: names.PodUID) -> bool:
        """Whether the pod is known and has ended for good."""
        worker = self._workers.get(uid)
        return worker is not None and worker.state is WorkerState.TERMINATED

    # From manifests

    def set_static(self, source: str, pods: Sequence[core_v1.Pod]) -> None:
        """These are all the pods of this source now."""
        before = self._static.get(source, {})
        wanted = {names.full_name(pod): pod for pod in pods}
        self._static[source] = wanted
        for key in before.keys() | wanted.keys():
            self._settle_static(key)

    def static_pod(self, key: names.FullName) -> core_v1.Pod | None:
        """The one of that name that should run."""
        return next((pods[key] for pods in self._static.values() if key in pods), None)

    def has_static(self, key: names.FullName) -> bool:
        """Whether a static pod of that name runs, or still has something on the node."""
        return key in self._static_names.values()

    def on_mirror(self, static: core_v1.Pod, mirror: core_v1.Pod | None) -> None:
        """What the API has of a static pod."""
        uid = names.pod_uid(static)
        worker = self._workers.get(uid)
        if worker is None:
            return
        outdated = mirror is not None and mirror.status is not None and worker.remember(mirror.status)
        self._services.statuses.set_mirror(uid, mirror, outdated=outdated)

    def _settle_static(self, key: names.FullName) -> None:
        """One pod of a name at a time: a changed manifest's waits until its predecessor has ended."""
        wanted = self.static_pod(key)
        others = [uid for uid, name in self._static_names.items() if name == key]
        for uid in others:
            if wanted is None or uid != names.pod_uid(wanted):
                self._workers[uid].removed(hurry=False)
        if wanted is not None:
            worker = self._workers.get(names.pod_uid(wanted))
            if worker is not None and not worker.is_removed:
                worker.update(wanted)
            elif not others:
                self._add_static(key, wanted)
        self.on_static_changed(key)

    def _add_static(self, key: names.FullName, pod: core_v1.Pod) -> None:
        rejected = admit_static(
            pod,
            allow_privileged=self._services.config.allow_privileged,
            allowed_unsafe_sysctls=self._services.config.allowed_unsafe_sysctls,
            taken_ports=[port for other in self.pods() for port in host_ports(other)],
        )
        if rejected is not None:
            self._tell_rejected(pod, rejected)
        uid = names.pod_uid(pod)
        self._static_names[uid] = key
        self._services.statuses.await_mirror(pod)
        self._run(PodWorker(self._services, pod, rejected=rejected))

    def find(self, namespace: str, name: str) -> core_v1.Pod | None:
        """The pod of that name; of namesakes the one that is not being deleted."""
        found = [
            pod for pod in self.pods() if pod.metadata.name == name and names.pod_namespace(pod) == namespace
        ]
        return min(found, key=is_deleting, default=None)

    # From the runtime

    def on_runtime_change(self, uid: names.PodUID) -> None:
        """PLEG callback."""
        worker = self._workers.get(uid)
        if worker is not None:
            worker.wake()
        elif self._synced:
            self._tasks.create_task(guarded(self._end_orphans({uid}), "ending orphans"), name="orphans")

    def on_runtime_listed(self) -> None:
        """PLEG callback after a list: what was missed may be that something is gone altogether."""
        self.wake_all()

    def wake_all(self) -> None:
        for worker in self._workers.values():
            worker.wake()

    async def end_orphans(self) -> None:
        """Call once the informer has synced: whatever is not in the API by then is no one's."""
        self._synced = True
        uids = await list_pod_uids(self._services.runtime)
        if self._services.config.pods_dir.is_dir():
            uids |= {names.PodUID(path.name) for path in self._services.config.pods_dir.iterdir()}
        await self._end_orphans(uids)

    async def _end_orphans(self, uids: Iterable[names.PodUID]) -> None:
        unknown = [uid for uid in uids if uid not in self._workers]
        if not unknown:
            return
        listed = await self._services.runtime.list_pod_sandbox(cri.ListPodSandboxRequest())
        sandboxes = {s.metadata.uid: s.metadata for s in listed.items if s.metadata}
        for uid in unknown:
            if uid in self._workers:
                continue
            meta = sandboxes.get(uid) or cri.PodSandboxMetadata(uid=uid, name=uid, namespace="default")
            pod = core_v1.Pod(metadata=meta_v1.ObjectMeta(name=meta.name, namespace=meta.namespace, uid=uid))
            log.info("pod %s is not in the API: ending it", names.pod_full(pod))
            self._run(PodWorker(self._services, pod)).removed()

    # Workers

    def _add(self, pod: core_v1.Pod) -> None:
        rejected = None
        # A pod that has started before was admitted before: a restarted kubelet does not ask again.
        if not (is_deleting(pod) or is_terminal(pod) or (pod.status and pod.status.start_time)):
            living = {uid: worker.pod for uid, worker in self._workers.items() if not is_terminal(worker.pod)}
            rejected = admit(
                pod,
                [self._requests[uid] for uid in living],
                self._services.allocatable,
                allow_privileged=self._services.config.allow_privileged,
                allowed_unsafe_sysctls=self._services.config.allowed_unsafe_sysctls,
                taken_ports=(port for other in living.values() for port in host_ports(other)),
            ) or self.admit_under_pressure(pod)
        if rejected is not None:
            self._tell_rejected(pod, rejected)
        self._run(PodWorker(self._services, pod, rejected=rejected, grant=self._grant))

    def _grant(self, pod: core_v1.Pod) -> Failure | None:
        """A resized pod takes what it asks for, if the node has it."""
        uid = names.pod_uid(pod)
        others = [
            self._requests[other]
            for other, worker in self._workers.items()
            if other != uid and not is_terminal(worker.pod)
        ]
        failure = refused(pod, others, self._services.allocatable)
        if failure is None and uid in self._requests:
            self._requests[uid] = pod_requests(pod)
            self._share_processor()
            self._wake_deferred()
        return failure

    def _wake_deferred(self) -> None:
        """There may be room now for resizes that found none."""
        for worker in self._workers.values():
            if worker.waits_for_resources:
                worker.wake()

    def _tell_rejected(self, pod: core_v1.Pod, rejected: Failure) -> None:
        self._services.events.pod(pod, "Warning", rejected.reason, rejected.message)

    def _run(self, worker: PodWorker) -> PodWorker:
        uid = names.pod_uid(worker.pod)
        self._workers[uid] = worker
        self._requests[uid] = pod_requests(worker.pod)
        self._share_processor()
        what = f"worker of pod {names.pod_full(worker.pod)}"
        task = self._tasks.create_task(guarded(worker.run(), what), name=what)
        task.add_done_callback(self._forget(uid, worker))
        return worker

    def _forget(self, uid: names.PodUID, worker: PodWorker) -> Callable[[object], None]:
        def forget(_: object) -> None:
            if self._workers.get(uid) is worker:
                del self._workers[uid]
                del self._requests[uid]
                self._share_processor()
                self._wake_deferred()
                key = self._static_names.pop(uid, None)
                # Not when the kubelet ends, and with it all workers.
                if key is not None and worker.state is WorkerState.GONE:
                    self._settle_static(key)

        return forget

    def _share_processor(self) -> None:
        """Soon, once for many pods: the burstable class gets the weight its pods ask for together."""
        if not self._sharing:
            self._sharing = True
            asyncio.get_running_loop().call_later(SHARE_DELAY_S, self._share_processor_now)

    def _share_processor_now(self) -> None:
        self._sharing = False
        burstable = [
            self._requests[uid].get("cpu", Decimal(0))
            for uid, worker in self._workers.items()
            if qos_class(worker.pod) == "Burstable"
        ]
        try:
            self._services.cgroups.set_burstable(int(sum(burstable) * 1000))
        except OSError as err:
            log.warning("CPU weight of the burstable class: %s", err)
