"""One worker per pod UID: compares what the API wants with what the runtime has, and closes the gap.

The worker is level-triggered. Anything may wake it (a changed pod, a runtime event, a probe, a timer, a
finished step), and each time it reads both sides afresh and decides anew. Slow steps (pulling an image,
starting a container, a grace period) run as tasks of their own, at most one a concern, so that the worker
always answers. States:

    RUNNING ──deleted, failed or finished──▶ TERMINATING ──all stopped──▶ TERMINATED ──gone from API──▶ GONE

A pod that ended by itself stays TERMINATED, with its dead containers kept for their logs, until it is
deleted; then everything it had is removed and the API server is told (DELETE with grace 0).
Killed at any point, the next kubelet comes to the same decisions, because nothing is remembered but
what the API and the runtime know.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Any

from podling.api import core_v1
from podling.api.durations import format_duration
from podling.api.pods import is_deleting, is_terminal
from podling.api.times import now_rfc3339, parse_time
from podling.client.errors import ClientError
from podling.kubelet import names
from podling.kubelet.container_start import (
    StartProblem,
    StartRequest,
    pull_for_container,
    run_post_start,
    start_container,
)
from podling.kubelet.container_stop import stop_record
from podling.kubelet.events import NORMAL, WARNING
from podling.kubelet.log_files import remove_log
from podling.kubelet.pod_actions import ContainerKill, PodActions, compute_actions
from podling.kubelet.pod_termination import PodTermination
from podling.kubelet.probes.manager import PodProbes
from podling.kubelet.resize import PodResize
from podling.kubelet.runtime_state import PodRuntime, read_pod_runtime
from podling.kubelet.sandbox_start import start_sandbox
from podling.kubelet.services import PodServices
from podling.kubelet.status import Failure, StatusInputs, Waiting, compute_status
from podling.kubelet.steps import RETRY_MAX_S, Steps
from podling.kubelet.termination_message import read_message
from podling.kubelet.volumes.pod_volumes import PodVolumes
from podling.runtime.cri import messages as cri
from podling.runtime.cri.errors import CRIError

FIRST_STATUS_DEFER_S = 0.5
"""A pod that runs sooner never reports ContainerCreating: one request less in every start."""
RESTART_STATUS_DEFER_S = 0.08
"""A container's end must be in the API within 100 ms, a restart is often faster than that."""
QUICK_DEATH_S = 5.0
QUICK_DEATHS_FREE = 3
"""How many sandboxes in a row may die within 5 s before the next one waits: people kill pause to see what
happens, but one that cannot live must not keep the node busy."""

log = logging.getLogger(__name__)


class WorkerState(StrEnum):
    RUNNING = "Running"
    TERMINATING = "Terminating"
    TERMINATED = "Terminated"
    GONE = "Gone"


class PodWorker:
    """Created by the pod manager when a pod appears; `run()` ends when nothing of the pod is left."""

    def __init__(
        self,
        services: PodServices,
        pod: core_v1.Pod,
        *,
        rejected: Failure | None = None,
        grant: Callable[[core_v1.Pod], Failure | None] = lambda pod: None,
    ) -> None:
        """`grant`: asks the node for what a resized pod wants (`PodResize`)."""
        self._services = services
        self._resize = PodResize(services, pod, grant)
        self._wanted = pod
        self._pod = self._resize.settle(pod)
        self._uid = names.pod_uid(pod)
        self._in_api = True
        self._remembers = False
        self._state = WorkerState.RUNNING
        self._failure = rejected
        self._wake = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._steps = Steps(self.wake)
        self._quick_deaths = 0
        self._waiting: dict[str, Waiting] = {}
        self._volumes = PodVolumes(services, pod)
        self._messages: dict[str, str] = {}
        self._told_backoff: set[str] = set()
        self._last_status = pod.status or core_v1.PodStatus()
        self._probes = PodProbes(services.runtime, services.events, self.wake, counts=services.probe_counts)
        self._termination = PodTermination(services, pod)

    # What the outside says

    @property
    def pod(self) -> core_v1.Pod:
        return self._pod

    @property
    def state(self) -> WorkerState:
        return self._state

    def update(self, pod: core_v1.Pod) -> None:
        """The API has a newer version of the pod."""
        old, self._wanted = self._wanted, pod
        self._pod = pod = self._resize.settle(pod)
        self._termination.update(pod)
        self._volumes.update(pod)
        if _concerns_worker(old, self._wanted):
            self.wake()

    @property
    def status(self) -> core_v1.PodStatus:
        """The newest, whether or not the API has it already."""
        return self._last_status

    @property
    def waits_for_resources(self) -> bool:
        """Whether a resize is deferred until other pods leave room."""
        return self._resize.pending

    @property
    def is_removed(self) -> bool:
        return not self._in_api

    def removed(self, *, hurry: bool = True) -> None:
        """Nobody wants the pod any more. One that is gone from the API is ended quickly, a static pod
        whose manifest is gone has the time it asked for (`hurry` off)."""
        self._in_api = False
        self._services.statuses.forget(self._uid)
        if hurry:
            self._termination.hurry()
        self.wake()

    def evict(self, failure: Failure, *, grace_s: int) -> None:
        """The node cannot keep this pod: it fails, and has at most `grace_s` to end."""
        if self._state is WorkerState.RUNNING and self._failure is None:
            self._failure = failure
            self._termination.limit(grace_s)
            self.wake()

    def remember(self, status: core_v1.PodStatus) -> bool:
        """Of a static pod: what its mirror says of the time before this kubelet. True when that was news:
        then what was reported so far is wrong, and a better report follows."""
        news = not self._remembers and bool(status.start_time)
        self._remembers = True
        if news:
            self._last_status = status
            self.wake()
        return news

    def wake(self) -> None:
        """Look again."""
        self._wake.set()

    # The loop

    async def run(self) -> None:
        self.wake()
        try:
            while self._state is not WorkerState.GONE:
                await self._wake.wait()
                self._wake.clear()
                try:
                    await self._sync()
                except (CRIError, ClientError, OSError) as err:
                    log.warning("pod %s: %s", names.pod_full(self._pod), err)
                    self._wake_in(self._steps.failed("sync"))
        finally:
            if self._timer is not None:
                self._timer.cancel()
            self._probes.stop()
            await self._steps.cancel()

    async def _sync(self) -> None:
        if self._state is WorkerState.RUNNING:
            await self._sync_running()
        if self._state is WorkerState.TERMINATING:
            await self._sync_terminating()
        if self._state is WorkerState.TERMINATED and (not self._in_api or is_deleting(self._pod)):
            await self._sync_terminated()

    def _ends(self) -> bool:
        return (
            not self._in_api
            or is_deleting(self._pod)
            or is_terminal(self._pod)
            or self._failure is not None
            or self._last_status.phase in ("Succeeded", "Failed")
        )

    async def _sync_running(self) -> None:
        self._check_deadline()
        if self._ends():
            await self._begin_termination()
            return
        runtime = await read_pod_runtime(self._services.runtime, self._uid)
        self._probes.sync(self._pod, runtime)
        self._pod = self._resize.settle(self._wanted)
        changes = self._resize.changes(self._pod, runtime)
        actions = compute_actions(
            self._pod,
            runtime,
            backoff=self._services.backoff,
            now=self._services.wall_clock(),
            probes=self._probes.view(),
            outgrown={
                change.record.id: f"Container {change.record.name} resize requires restart"
                for change in changes
                if change.restarts
            },
        )
        if actions.finished:
            await self._begin_termination()
            return
        if self._resize.busy:
            self._launch("resize", partial(self._resize.perform, self._pod, changes))
        self._perform(actions, runtime)
        self._report(runtime)

    def _check_deadline(self) -> None:
        deadline_s = names.pod_spec(self._pod).active_deadline_seconds
        if deadline_s is None or not self._last_status.start_time or self._failure:
            return
        left = parse_time(self._last_status.start_time).timestamp() + deadline_s - self._services.wall_clock()
        if left > 0:
            self._wake_in(left)
            return
        text = "Pod was active on the node longer than the specified deadline"
        self._failure = Failure(reason="DeadlineExceeded", message=text)
        self._services.events.pod(self._pod, NORMAL, "DeadlineExceeded", text)

    # Performing

    def _perform(self, actions: PodActions, runtime: PodRuntime) -> None:
        """Launch what is to be done and not already under way."""
        volumes = self._volumes.prepared
        if volumes is None:
            self._launch("volumes", self._volumes.prepare)
        if actions.create_sandbox:
            self._launch("sandbox", partial(self._start_sandbox, actions, runtime.sandbox))
            return
        if self._steps.active("sandbox"):
            return
        starting = {start.container.name for start in actions.start}
        for kill in actions.kill:
            if kill.record.name not in starting:
                self._launch(f"kill {kill.record.id}", partial(self._kill, kill))
        if volumes is not None:
            self._refresh_volumes()
            for start in actions.start:
                old = next((kill for kill in actions.kill if kill.record.name == start.container.name), None)
                request = StartRequest(pod=self._pod, start=start, runtime=runtime, volumes=volumes)
                self._launch(f"start {start.container.name}", partial(self._start, request, old))
        self._note_backoff(actions)
        if actions.remove or actions.remove_sandboxes:
            self._launch("remove", lambda: self._steps.uninterrupted(self._remove(actions)))

    def _launch(self, key: str, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Start a step unless it runs already or failed a moment ago; then a timer comes back to it."""
        wait_s = self._steps.launch(key, work, name=f"{key} of {names.pod_key(self._pod)}")
        if wait_s is not None:
            self._wake_in(wait_s)

    def _refresh_volumes(self) -> None:
        due_in_s = self._volumes.refresh_in_s
        if due_in_s == 0:
            self._launch("volumes", self._volumes.refresh)
        elif due_in_s is not None:
            self._wake_in(due_in_s)

    async def _start_sandbox(self, actions: PodActions, old: cri.PodSandboxStatus | None) -> None:
        """Replace the sandbox at once; one that keeps dying young is held back more and more."""
        lived_s = self._services.wall_clock() - old.created_at / 1e9 if old else QUICK_DEATH_S
        self._quick_deaths = self._quick_deaths + 1 if lived_s < QUICK_DEATH_S else 0
        await self._steps.uninterrupted(start_sandbox(self._services, self._pod, actions))
        if self._quick_deaths > QUICK_DEATHS_FREE:
            excess = self._quick_deaths - QUICK_DEATHS_FREE
            self._steps.hold("sandbox", min(0.25 * 2**excess, RETRY_MAX_S))

    async def _start(self, request: StartRequest, old: ContainerKill | None) -> None:
        """Start a container; `old` is its predecessor when that has to be stopped first."""
        name = request.start.container.name
        try:
            if old is not None:
                await self._kill(old)
            image = await pull_for_container(self._services, request)
            # A start cancelled from here on would leave a container nobody asked for: see Steps.
            container_id = await self._steps.uninterrupted(start_container(self._services, request, image))
            await run_post_start(self._services, request, container_id)
        except StartProblem as err:
            self._waiting[name] = Waiting(reason=err.reason, message=err.message)
            if err.retry_at is not None:
                now = self._services.wall_clock()
                self._steps.hold(f"start {name}", max(0.0, err.retry_at - now))
                return
            raise
        self._waiting.pop(name, None)

    async def _kill(self, kill: ContainerKill) -> None:
        grace = names.pod_spec(self._pod).termination_grace_period_seconds
        grace_s = 30 if grace is None else grace
        await stop_record(self._services, self._pod, kill.record, grace_s=grace_s, message=kill.message)

    async def _remove(self, actions: PodActions) -> None:
        runtime = self._services.runtime
        for record in actions.remove:
            await runtime.remove_container(cri.RemoveContainerRequest(container_id=record.id))
            if record.status.log_path:
                remove_log(Path(record.status.log_path))
        for sandbox_id in actions.remove_sandboxes:
            await runtime.stop_pod_sandbox(cri.StopPodSandboxRequest(pod_sandbox_id=sandbox_id))
            await runtime.remove_pod_sandbox(cri.RemovePodSandboxRequest(pod_sandbox_id=sandbox_id))

    def _note_backoff(self, actions: PodActions) -> None:
        """CrashLoopBackOff: shown in the status, told once for each wait, ended by a timer."""
        names_off = {item.container.name for item in actions.backing_off}
        for name in [n for n, w in self._waiting.items() if w.reason == "CrashLoopBackOff"]:
            if name not in names_off:
                del self._waiting[name]
        for item in actions.backing_off:
            name = item.container.name
            what = f"restarting failed container={name} pod={names.pod_full(self._pod)}"
            self._waiting[name] = Waiting(
                reason="CrashLoopBackOff", message=f"back-off {format_duration(item.delay_s)} {what}"
            )
            told = f"{name} {item.until}"
            if told not in self._told_backoff:
                self._told_backoff.add(told)
                text = f"Back-off restarting failed container {name} in pod {names.pod_full(self._pod)}"
                self._services.events.container(self._pod, name, WARNING, "BackOff", text)
        if actions.wake_at is not None:
            self._wake_in(actions.wake_at - self._services.wall_clock())

    # Status

    def _report(self, runtime: PodRuntime, *, terminated: bool = False) -> None:
        status = compute_status(
            StatusInputs(
                pod=self._pod,
                runtime=runtime,
                previous=self._last_status,
                host_ip=self._services.config.node_ip,
                now=now_rfc3339(),
                waiting=self._shown_waiting(runtime),
                ready=self._probes.ready(),
                starting=self._probes.view().starting,
                messages=self._read_messages(runtime),
                conditions=self._resize.conditions(self._pod.metadata.generation)
                if self._state is WorkerState.RUNNING
                else (),
                failure=self._failure,
                terminated=terminated,
            )
        )
        self._last_status = status
        if self._in_api:
            self._services.statuses.set(self._pod, status, defer_s=self._defer_s(status))

    def _defer_s(self, status: core_v1.PodStatus) -> float:
        """How long this status may wait for a better one that is already being worked on."""
        if not self._steps.busy or self._waiting:
            return 0.0
        return FIRST_STATUS_DEFER_S if status.phase == "Pending" else RESTART_STATUS_DEFER_S

    def _shown_waiting(self, runtime: PodRuntime) -> dict[str, Waiting]:
        """Problems, and for ended containers that are being started again: that they are."""
        shown = dict(self._waiting)
        spec = names.pod_spec(self._pod)
        default = Waiting(reason="PodInitializing" if spec.init_containers else "ContainerCreating")
        sandbox = runtime.ready_sandbox
        if self._state is not WorkerState.RUNNING:
            return {}
        for container in spec.containers:
            record = runtime.latest(container.name)
            if record is None or not record.exited or container.name in shown:
                continue
            replaced = sandbox is None or record.sandbox_id != sandbox.id
            if replaced or self._steps.active(f"start {container.name}"):
                shown[container.name] = default
        return shown

    def _read_messages(self, runtime: PodRuntime) -> dict[str, str]:
        ended = [record for record in runtime.containers if record.exited]
        for record in ended:
            if record.id not in self._messages:
                self._messages[record.id] = read_message(record)
        known = {record.id for record in ended}
        self._messages = {key: text for key, text in self._messages.items() if key in known}
        return self._messages

    # The end

    async def _begin_termination(self) -> None:
        self._state = WorkerState.TERMINATING
        self._probes.stop()
        await self._steps.cancel()

    async def _sync_terminating(self) -> None:
        """Stop everything; the status goes on being reported while grace periods run."""
        runtime = await read_pod_runtime(self._services.runtime, self._uid)
        self._termination.note_runtime(runtime)
        if self._termination.stopped(runtime):
            # A final phase in the API was written from better knowledge than we may have left.
            if not is_terminal(self._pod):
                self._report(runtime, terminated=True)
            self._state = WorkerState.TERMINATED
            return
        self._launch("terminate", self._termination.stop_all)
        self._report(runtime)

    async def _sync_terminated(self) -> None:
        """Deleted: remove what is left on the node, then from the API."""
        if self._steps.active("remove pod"):
            return
        if self._termination.removed:
            if not self._in_api:
                self._state = WorkerState.GONE
            return
        self._launch("remove pod", lambda: self._termination.remove(in_api=self._in_api))

    def _wake_in(self, delay_s: float) -> None:
        """Wake after `delay_s`; the earliest of several wishes is kept, later ones ask again."""
        loop = asyncio.get_running_loop()
        at = loop.time() + max(0.0, delay_s)
        if self._timer is not None:
            if self._timer.when() <= at:
                return
            self._timer.cancel()
        self._timer = loop.call_at(at, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self.wake()


def _concerns_worker(old: core_v1.Pod, new: core_v1.Pod) -> bool:
    """False for the echo of our own status, which comes back from the API after every report."""
    if old.spec != new.spec or is_terminal(old) != is_terminal(new) or names.pod_spec(new).readiness_gates:
        return True
    before, after = old.metadata, new.metadata
    return (
        before.deletion_timestamp != after.deletion_timestamp
        or before.deletion_grace_period_seconds != after.deletion_grace_period_seconds
        or before.labels != after.labels
        or before.annotations != after.annotations
    )
