"""What to do next for a pod: a pure function of its spec, the runtime's view, back-off and the time.

The worker computes this on every wake and then performs it (`sync_pod.py`). The rules are those of
upstream's `computePodActions` (`pkg/kubelet/kuberuntime/kuberuntime_manager.go`):

- no ready sandbox with an address: make one (attempt + 1) and start everything in it from the first init
  container on, unless the pod has run and restarts nothing;
- init containers run one after the other; restartable ones (sidecars) only have to be started;
- a regular container that ended is started again when its restart policy says so and its back-off is over;
- when nothing runs and nothing will, the pod is finished and its sandbox is stopped.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from podling.api import core_v1
from podling.api.pods import is_sidecar
from podling.kubelet import names
from podling.kubelet.backoff import Backoff
from podling.kubelet.runtime_state import CREATED, ContainerRecord, PodRuntime

KILLED_EXIT_CODE = 137
SANDBOX_SETTLE_S = 0.05
"""When pause is PID 1 of the pod and is killed, the kernel kills the containers first and lets pause go
last (`man 7 pid_namespaces`): an end by SIGKILL may be the first sign of a sandbox that is about to go."""


class ContainerKind(StrEnum):
    INIT = "init"
    REGULAR = "regular"
    EPHEMERAL = "ephemeral"


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerStart:
    """Create and start this container."""

    container: names.AnyContainer
    kind: ContainerKind
    attempt: int
    follows: ContainerRecord | None = None
    """The ended container this one replaces after back-off; None for a first start or a new sandbox."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerKill:
    record: ContainerRecord
    message: str
    """Text of the Killing event."""
    immediate: bool = False
    """SIGKILL at once: the sandbox is gone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BackingOff:
    container: names.AnyContainer
    delay_s: float
    until: float
    """Seconds since the epoch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PodActions:
    create_sandbox: bool = False
    sandbox_attempt: int = 0
    kill: tuple[ContainerKill, ...] = ()
    start: tuple[ContainerStart, ...] = ()
    backing_off: tuple[BackingOff, ...] = ()
    remove: tuple[ContainerRecord, ...] = ()
    """Dead containers nobody will ask for: all but the newest dead one of a name, kept for its logs."""
    stop_sandboxes: tuple[str, ...] = ()
    """Sandboxes that a newer one replaces and that still hold a network or processes."""
    remove_sandboxes: tuple[str, ...] = ()
    look_again_at: float | None = None
    """A container ended and it is not clear yet whether its sandbox did; seconds since the epoch."""
    finished: bool = False
    """Nothing runs and nothing will: stop the sandbox and report the final phase."""

    @property
    def wake_at(self) -> float | None:
        times = [item.until for item in self.backing_off]
        if self.look_again_at is not None:
            times.append(self.look_again_at)
        return min(times, default=None)

    @property
    def idle(self) -> bool:
        return not (self.create_sandbox or self.kill or self.start)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeView:
    """What the probes say that decides about restarts and start order."""

    unhealthy: Mapping[str, str] = field(default_factory=dict)
    """Containers to kill, by container ID: text of the event."""
    starting: frozenset[str] = frozenset()
    """IDs of running containers whose startup probe has not succeeded yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _View:
    """The arguments of `compute_actions`, passed down whole."""

    pod: core_v1.Pod
    spec: core_v1.PodSpec
    runtime: PodRuntime
    backoff: Backoff
    probes: ProbeView
    now: float
    outgrown: Mapping[str, str]
    sandbox_id: str = ""

    def next_attempt(self, name: str) -> int:
        """The restart count a new container gets: one more than the last, also if only the API knows it."""
        latest = self.runtime.latest(name)
        if latest is not None:
            # A container that was created and never started left no run behind to be counted.
            return latest.attempt if latest.status.state is CREATED else latest.attempt + 1
        return _reported_restarts(self.pod, name)

    def policy(self, container: names.AnyContainer) -> str:
        return container.restart_policy or self.spec.restart_policy or "Always"


def compute_actions(
    pod: core_v1.Pod,
    runtime: PodRuntime,
    *,
    backoff: Backoff,
    now: float,
    probes: ProbeView | None = None,
    outgrown: Mapping[str, str] | None = None,
) -> PodActions:
    """Decide; nothing is changed, `backoff` is only read. `now` is in seconds since the epoch. `outgrown`:
    containers that a resize replaces, by container ID, with the text of the event."""
    sandbox = runtime.ready_sandbox
    view = _View(
        pod=pod,
        spec=names.pod_spec(pod),
        runtime=runtime,
        backoff=backoff,
        probes=probes or ProbeView(),
        now=now,
        outgrown=outgrown or {},
        sandbox_id=sandbox.id if sandbox else "",
    )
    if sandbox is None or not (view.spec.host_network or runtime.ips):
        return _with_new_sandbox(view)
    return _in_sandbox(view)


def _with_new_sandbox(view: _View) -> PodActions:
    runtime, spec = view.runtime, view.spec
    newest = runtime.sandbox
    attempt = 0 if newest is None else (newest.metadata.attempt if newest.metadata else 0) + 1
    if (attempt > 0 and runtime.containers and spec.restart_policy == "Never") or not _unfinished(view):
        return PodActions(finished=True)
    starts = [
        ContainerStart(container=c, kind=ContainerKind.INIT, attempt=view.next_attempt(c.name))
        for c in spec.init_containers[:1]
    ] or [_fresh_start(view, c) for c in _unfinished(view)]
    return PodActions(
        create_sandbox=True,
        sandbox_attempt=attempt,
        start=tuple(starts),
        # Differs from upstream, which gives them the pod's grace period: their network is torn down with
        # the sandbox and the pod cannot serve until they are gone, so they are killed at once.
        kill=tuple(
            ContainerKill(record=record, message=f"Stopping container {record.name}", immediate=True)
            for record in runtime.containers
            if record.running
        ),
        stop_sandboxes=tuple(sandbox.id for sandbox in runtime.sandboxes),
    )


def _unfinished(view: _View) -> list[core_v1.Container]:
    """Containers that have to run in a new sandbox: all but those that succeeded under OnFailure."""
    left = []
    for container in view.spec.containers:
        latest = view.runtime.latest(container.name)
        succeeded = latest is not None and latest.exited and latest.status.exit_code == 0
        if not (succeeded and view.policy(container) == "OnFailure"):
            left.append(container)
    return left


def _fresh_start(view: _View, container: core_v1.Container) -> ContainerStart:
    return ContainerStart(
        container=container, kind=ContainerKind.REGULAR, attempt=view.next_attempt(container.name)
    )


def _in_sandbox(view: _View) -> PodActions:
    decisions = _Decisions()
    garbage = _garbage(view)
    finished = PodActions(finished=True, remove=garbage.containers, remove_sandboxes=garbage.sandboxes)
    initialized = _init_containers(view, decisions)
    if decisions.init_failed:
        return finished
    if initialized:
        living = sum(_regular_container(view, container, decisions) for container in view.spec.containers)
        if not living:
            return finished
    _ephemeral_containers(view, decisions)
    return PodActions(
        kill=tuple(decisions.kill),
        start=tuple(decisions.start),
        backing_off=tuple(decisions.backing_off),
        look_again_at=decisions.look_again_at,
        remove=garbage.containers,
        remove_sandboxes=garbage.sandboxes,
    )


@dataclass(slots=True)
class _Decisions:
    start: list[ContainerStart] = field(default_factory=list)
    kill: list[ContainerKill] = field(default_factory=list)
    backing_off: list[BackingOff] = field(default_factory=list)
    look_again_at: float | None = None
    init_failed: bool = False


def _init_containers(view: _View, decisions: _Decisions) -> bool:
    """Decide about init containers and sidecars; True when regular containers may run."""
    # Once a regular container exists, init containers have done their work, even if they are gone.
    started = any(view.runtime.in_sandbox(c.name, view.sandbox_id) for c in view.spec.containers)
    for container in view.spec.init_containers:
        record = view.runtime.in_sandbox(container.name, view.sandbox_id)
        if is_sidecar(container):
            proceed = _sidecar(view, container, record, decisions)
        elif started:
            proceed = True
        else:
            proceed = _init_container(view, container, record, decisions)
        if not proceed and not started:
            return False
    return True


def _init_container(
    view: _View, container: core_v1.Container, record: ContainerRecord | None, decisions: _Decisions
) -> bool:
    if record is None or record.status.state is CREATED:
        decisions.start.append(_start(view, container, ContainerKind.INIT))
        return False
    if not record.exited:
        return False
    if record.status.exit_code == 0:
        return True
    if view.spec.restart_policy == "Never":
        decisions.init_failed = True
    else:
        _restart(view, container, ContainerKind.INIT, record, decisions)
    return False


def _sidecar(
    view: _View, container: core_v1.Container, record: ContainerRecord | None, decisions: _Decisions
) -> bool:
    if record is None or record.status.state is CREATED:
        decisions.start.append(_start(view, container, ContainerKind.INIT))
        return False
    if record.exited:
        _restart(view, container, ContainerKind.INIT, record, decisions)
        return False
    _keep_or_kill(view, container, ContainerKind.INIT, record, decisions)
    return record.id not in view.probes.starting


def _regular_container(view: _View, container: core_v1.Container, decisions: _Decisions) -> bool:
    """Decide about one container; True when it runs or will run."""
    record = view.runtime.in_sandbox(container.name, view.sandbox_id)
    if record is None or record.status.state is CREATED:
        if container in _unfinished(view):
            decisions.start.append(_start(view, container, ContainerKind.REGULAR))
            return True
        return False
    if not record.exited:
        _keep_or_kill(view, container, ContainerKind.REGULAR, record, decisions)
        return True
    if not _restarts(view.policy(container), record):
        return False
    _restart(view, container, ContainerKind.REGULAR, record, decisions)
    return True


def _ephemeral_containers(view: _View, decisions: _Decisions) -> None:
    """Started once, never again (Kubernetes documentation, "Ephemeral Containers")."""
    for container in view.spec.ephemeral_containers:
        if view.runtime.latest(container.name) is None:
            decisions.start.append(_start(view, container, ContainerKind.EPHEMERAL))


def _start(view: _View, container: names.AnyContainer, kind: ContainerKind) -> ContainerStart:
    return ContainerStart(container=container, kind=kind, attempt=view.next_attempt(container.name))


def _restart(
    view: _View,
    container: names.AnyContainer,
    kind: ContainerKind,
    record: ContainerRecord,
    decisions: _Decisions,
) -> None:
    if view.spec.share_process_namespace and record.status.exit_code == KILLED_EXIT_CODE:
        settled_at = record.finished_at_s + SANDBOX_SETTLE_S
        if view.now < settled_at:
            decisions.look_again_at = settled_at
            return
    key = backoff_key(view.pod, container)
    until = view.backoff.ready_at(key, record.finished_at_s)
    if until > view.now and until > record.finished_at_s:
        decisions.backing_off.append(
            BackingOff(container=container, delay_s=view.backoff.delay_s(key), until=until)
        )
        return
    decisions.start.append(
        ContainerStart(container=container, kind=kind, attempt=record.attempt + 1, follows=record)
    )


def _keep_or_kill(
    view: _View,
    container: names.AnyContainer,
    kind: ContainerKind,
    record: ContainerRecord,
    decisions: _Decisions,
) -> None:
    what = "Init container" if kind is ContainerKind.INIT else "Container"
    wanted = record.status.annotations.get(names.HASH_ANNOTATION, "")
    message = view.outgrown.get(record.id, "")
    if wanted and wanted != names.container_hash(container):
        message = f"{what} {container.name} definition changed, will be restarted"
    if message:
        decisions.kill.append(ContainerKill(record=record, message=message))
        decisions.start.append(ContainerStart(container=container, kind=kind, attempt=record.attempt + 1))
    elif record.id in view.probes.unhealthy:
        decisions.kill.append(ContainerKill(record=record, message=view.probes.unhealthy[record.id]))


def _restarts(policy: str, record: ContainerRecord) -> bool:
    return policy == "Always" or (policy == "OnFailure" and record.status.exit_code != 0)


def _reported_restarts(pod: core_v1.Pod, name: str) -> int:
    """The next count when the runtime has forgotten the container (a rebooted node) but the API has not."""
    if pod.status is None:
        return 0
    statuses = [*pod.status.init_container_statuses, *pod.status.container_statuses]
    known = next((s for s in statuses if s.name == name and s.container_id), None)
    return 0 if known is None else known.restart_count + 1


@dataclass(frozen=True, slots=True, kw_only=True)
class _Garbage:
    containers: tuple[ContainerRecord, ...]
    sandboxes: tuple[str, ...]


def _garbage(view: _View) -> _Garbage:
    """Dead containers and sandboxes that nothing refers to any more."""
    runtime = view.runtime
    kept: set[str] = set()
    for name in {record.name for record in runtime.containers}:
        history = runtime.history(name)
        kept.add(history[0].id)
        kept.update(record.id for record in [r for r in history if r.exited][:1])
    remove = tuple(r for r in runtime.containers if r.id not in kept and not r.running)
    occupied = {record.sandbox_id for record in runtime.containers if record not in remove}
    older = [sandbox for sandbox in runtime.sandboxes if sandbox.id != view.sandbox_id]
    return _Garbage(containers=remove, sandboxes=tuple(s.id for s in older if s.id not in occupied))


def backoff_key(pod: core_v1.Pod, container: names.AnyContainer) -> tuple[str, ...]:
    return (names.pod_uid(pod), container.name, names.container_hash(container))
