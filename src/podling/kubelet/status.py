"""Compute a pod's status from what the runtime and the probes say: pure, the clock is an argument.

Source of the rules: upstream's `kubelet_pods.go` ("convertToAPIContainerStatuses", "getPhase") and
`status/generate.go` (conditions); Kubernetes documentation, "Pod Lifecycle".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from podling.api import core_v1
from podling.api.pods import get_condition, is_sidecar, qos_class
from podling.api.times import format_time
from podling.kubelet import names
from podling.kubelet.resources import actual_resources
from podling.kubelet.runtime_state import ContainerRecord, PodRuntime


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """Why a container does not run yet: reason and message of its waiting state."""

    reason: str
    message: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A verdict about the whole pod: refused, past its deadline, evicted."""

    reason: str
    message: str
    disruption: bool = False
    """The kubelet ends a pod that did nothing wrong by itself: told by the condition DisruptionTarget."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusInputs:
    pod: core_v1.Pod
    runtime: PodRuntime
    previous: core_v1.PodStatus
    """The status reported last: transition times and what the runtime forgot come from it."""
    host_ip: str
    now: str
    """RFC 3339."""
    waiting: Mapping[str, Waiting] = field(default_factory=dict)
    """By container name."""
    ready: Mapping[str, bool] = field(default_factory=dict)
    """Readiness by container ID; a container without a readiness probe is absent and ready."""
    starting: frozenset[str] = frozenset()
    """IDs of containers whose startup probe has not succeeded."""
    messages: Mapping[str, str] = field(default_factory=dict)
    """Termination messages by container ID."""
    conditions: Sequence[core_v1.PodCondition] = ()
    """What else there is to tell: of a resize."""
    failure: Failure | None = None
    terminated: bool = False
    """All containers are stopped for good: the phase must be a final one."""


def rfc3339_ns(nanoseconds: int) -> str:
    """A CRI time stamp as the API writes it."""
    return format_time(datetime.fromtimestamp(nanoseconds / 1e9, UTC))


def compute_status(inputs: StatusInputs) -> core_v1.PodStatus:
    """The whole status the kubelet owns."""
    spec = names.pod_spec(inputs.pod)
    inits = [_container_status(inputs, c, "PodInitializing") for c in spec.init_containers]
    default = "PodInitializing" if spec.init_containers else "ContainerCreating"
    regular = [_container_status(inputs, c, default) for c in spec.containers]
    ephemeral = [_container_status(inputs, c, "ContainerCreating") for c in spec.ephemeral_containers]
    phase = _final_phase(inputs, _phase(spec, inits, regular))
    if inputs.failure and not inputs.runtime.containers and not inputs.previous.container_statuses:
        inits, regular, ephemeral = [], [], []  # refused before anything was tried
    if inputs.terminated:
        _settle_all(inputs, inits, regular)
    previous = inputs.previous
    ips = inputs.runtime.ips or ([inputs.host_ip] if spec.host_network else [])
    result = core_v1.PodStatus(
        phase=phase,
        reason=inputs.failure.reason if inputs.failure else None,
        message=inputs.failure.message if inputs.failure else None,
        host_ip=inputs.host_ip,
        host_i_ps=[core_v1.HostIP(ip=inputs.host_ip)],
        # A pod keeps its last address in the status after its sandbox is gone, until there is a new one.
        pod_ip=ips[0] if ips else previous.pod_ip,
        pod_i_ps=[core_v1.PodIP(ip=ip) for ip in ips] if ips else previous.pod_i_ps,
        qos_class=previous.qos_class or qos_class(inputs.pod),
        start_time=previous.start_time or inputs.now,
        init_container_statuses=inits,
        container_statuses=regular,
        ephemeral_container_statuses=ephemeral,
        observed_generation=inputs.pod.metadata.generation,
    )
    result.conditions = _conditions(inputs, result)
    return result


# Containers


def _container_status(
    inputs: StatusInputs, container: names.AnyContainer, default_reason: str
) -> core_v1.ContainerStatus:
    record = inputs.runtime.latest(container.name)
    old = _previous_status(inputs.previous, container.name)
    waiting = inputs.waiting.get(container.name)
    if record is None:
        return _status_without_record(container, old, waiting or Waiting(reason=default_reason))
    status = core_v1.ContainerStatus(
        name=container.name,
        image=_image_name(record, container),
        image_id=record.status.image_ref or record.status.image_id,
        container_id=f"{names.CONTAINER_ID_SCHEME}://{record.id}",
        restart_count=record.attempt,
        started=False,
        user=_user(record),
        volume_mounts=_volume_mounts(record, container),
    )
    _tell_resources(status, record, container)
    dead = [r for r in inputs.runtime.history(container.name) if r.exited]
    if record.running:
        status.state = core_v1.ContainerState(
            running=core_v1.ContainerStateRunning(started_at=rfc3339_ns(record.status.started_at))
        )
        status.started = record.id not in inputs.starting
        # An init container is ready when it has succeeded, everything else while it runs and can serve.
        can_serve = status.started and inputs.ready.get(record.id, True)
        status.ready = can_serve and not _is_plain_init(inputs.pod, container)
        status.last_state = _last_state(inputs, dead, old)
    elif record.exited and waiting is None:
        status.state = core_v1.ContainerState(terminated=_terminated(inputs, record))
        status.last_state = _last_state(inputs, dead[1:], old)
        status.ready = record.status.exit_code == 0 and _is_plain_init(inputs.pod, container)
    else:
        reason = waiting or Waiting(reason=default_reason)
        status.state = _waiting_state(reason)
        status.last_state = _last_state(inputs, dead, old)
    return status


def _tell_resources(
    status: core_v1.ContainerStatus, record: ContainerRecord, container: names.AnyContainer
) -> None:
    limits = record.status.resources.linux if record.status.resources else None
    if not isinstance(container, core_v1.Container) or container.resources is None or limits is None:
        return
    status.allocated_resources = container.resources.requests
    status.resources = actual_resources(container, limits)


def _is_plain_init(pod: core_v1.Pod, container: names.AnyContainer) -> bool:
    return any(c is container and not is_sidecar(c) for c in names.pod_spec(pod).init_containers)


def _waiting_state(waiting: Waiting) -> core_v1.ContainerState:
    return core_v1.ContainerState(
        waiting=core_v1.ContainerStateWaiting(reason=waiting.reason, message=waiting.message or None)
    )


def _status_without_record(
    container: names.AnyContainer, old: core_v1.ContainerStatus | None, waiting: Waiting
) -> core_v1.ContainerStatus:
    """Not created yet, or forgotten by the runtime: then its past is what the API remembers."""
    status = core_v1.ContainerStatus(
        name=container.name, image=container.image or "", started=False, state=_waiting_state(waiting)
    )
    if old is None or not old.container_id:
        return status
    status.restart_count = old.restart_count
    status.container_id = old.container_id
    status.image_id = old.image_id
    if old.state and old.state.terminated:
        status.last_state = old.state
    elif old.state and old.state.running:
        status.last_state = core_v1.ContainerState(
            terminated=core_v1.ContainerStateTerminated(
                exit_code=137,
                reason="ContainerStatusUnknown",
                message="The container could not be located when the pod was deleted.  "
                "The container used to be Running",
            )
        )
    else:
        status.last_state = old.last_state
    return status


def _terminated(inputs: StatusInputs, record: ContainerRecord) -> core_v1.ContainerStateTerminated:
    source = record.status
    reason = source.reason or ("Completed" if source.exit_code == 0 else "Error")
    return core_v1.ContainerStateTerminated(
        exit_code=source.exit_code,
        reason=reason,
        message=inputs.messages.get(record.id) or source.message or None,
        started_at=rfc3339_ns(source.started_at) if source.started_at else None,
        finished_at=rfc3339_ns(source.finished_at),
        container_id=f"{names.CONTAINER_ID_SCHEME}://{record.id}",
    )


def _last_state(
    inputs: StatusInputs, dead: Sequence[ContainerRecord], old: core_v1.ContainerStatus | None
) -> core_v1.ContainerState | None:
    if dead:
        return core_v1.ContainerState(terminated=_terminated(inputs, dead[0]))
    return old.last_state if old else None


def _image_name(record: ContainerRecord, container: names.AnyContainer) -> str:
    image = record.status.image
    return (image.user_specified_image or image.image) if image else (container.image or "")


def _user(record: ContainerRecord) -> core_v1.ContainerUser | None:
    """Whom its first process was started as, all groups included: what the image added shows here."""
    told = record.status.user.linux if record.status.user else None
    if told is None:
        return None
    return core_v1.ContainerUser(
        linux=core_v1.LinuxContainerUser(
            uid=told.uid, gid=told.gid, supplemental_groups=list(told.supplemental_groups)
        )
    )


def _volume_mounts(record: ContainerRecord, container: names.AnyContainer) -> list[core_v1.VolumeMountStatus]:
    """The mounts as they are, above all whether read-only reaches to the bottom."""
    recursive = {mount.container_path for mount in record.status.mounts if mount.recursive_read_only}
    return [
        core_v1.VolumeMountStatus(
            name=mount.name,
            mount_path=mount.mount_path,
            read_only=mount.read_only,
            recursive_read_only=("Enabled" if mount.mount_path in recursive else "Disabled")
            if mount.read_only
            else None,
        )
        for mount in container.volume_mounts
    ]


def _previous_status(status: core_v1.PodStatus, name: str) -> core_v1.ContainerStatus | None:
    everything = [
        *status.init_container_statuses,
        *status.container_statuses,
        *status.ephemeral_container_statuses,
    ]
    return next((s for s in everything if s.name == name), None)


def _settle_all(
    inputs: StatusInputs,
    inits: Sequence[core_v1.ContainerStatus],
    regular: Sequence[core_v1.ContainerStatus],
) -> None:
    """Nothing may look alive in the last status of a pod (upstream: `status_manager.go`, "TerminatePod").

    Containers whose turn never came, because an init container failed, stay as they are.
    """
    for status in inits:
        if status.container_id:
            _settle(status, inputs.now)
    if all(status.ready or status.started for status in inits):
        for status in regular:
            _settle(status, inputs.now)


def _settle(status: core_v1.ContainerStatus, now: str) -> None:
    status.ready = status.ready and bool(status.state and status.state.terminated)
    status.started = False
    if status.state and status.state.terminated:
        return
    status.state = core_v1.ContainerState(
        terminated=core_v1.ContainerStateTerminated(
            reason="ContainerStatusUnknown",
            message="The container could not be located when the pod was terminated",
            exit_code=137,
            finished_at=now,
        )
    )


# Phase


def _phase(
    spec: core_v1.PodSpec,
    inits: Sequence[core_v1.ContainerStatus],
    regular: Sequence[core_v1.ContainerStatus],
) -> str:
    sidecars = {c.name for c in spec.init_containers if is_sidecar(c)}
    pending_init = failed_init = 0
    for status in inits:
        state = status.state or core_v1.ContainerState()
        if status.name in sidecars:
            pending_init += not (status.started or state.terminated or _was_terminated(status))
        elif state.terminated:
            failed_init += state.terminated.exit_code != 0
            pending_init += state.terminated.exit_code != 0
        else:
            pending_init += 1
    if failed_init and spec.restart_policy == "Never":
        return "Failed"
    running = waiting = stopped = succeeded = 0
    for status in regular:
        state = status.state or core_v1.ContainerState()
        if state.running:
            running += 1
        elif state.terminated:
            stopped += 1
            succeeded += state.terminated.exit_code == 0
        elif _was_terminated(status):
            stopped += 1  # between two runs: waiting with a past, as in CrashLoopBackOff
        else:
            waiting += 1
    if (pending_init and not running and not stopped) or waiting:
        return "Pending"
    if running:
        return "Running"
    return _phase_when_stopped(spec.restart_policy or "Always", stopped, succeeded)


def _phase_when_stopped(policy: str, stopped: int, succeeded: int) -> str:
    if not stopped:
        return "Pending"
    if policy == "Always":
        return "Running"
    if stopped == succeeded:
        return "Succeeded"
    return "Failed" if policy == "Never" else "Running"


def _was_terminated(status: core_v1.ContainerStatus) -> bool:
    return bool(status.last_state and status.last_state.terminated)


def _final_phase(inputs: StatusInputs, phase: str) -> str:
    """A final phase is never left again, and a stopped pod must have one."""
    if inputs.previous.phase in ("Succeeded", "Failed"):
        return inputs.previous.phase
    if inputs.failure is not None:
        return "Failed"
    if inputs.terminated and phase not in ("Succeeded", "Failed"):
        codes = [
            record.status.exit_code if (record := inputs.runtime.latest(c.name)) and record.exited else 1
            for c in names.pod_spec(inputs.pod).containers
        ]
        return "Failed" if any(codes) else "Succeeded"
    return phase


# Conditions


def _conditions(inputs: StatusInputs, status: core_v1.PodStatus) -> list[core_v1.PodCondition]:
    """In upstream's order; conditions of other owners (readiness gates) stay behind ours."""
    containers_ready = _containers_ready(inputs, status)
    ours = [
        _condition("PodReadyToStartContainers", bool(inputs.runtime.ips) or _host_sandbox(inputs)),
        _initialized(inputs, status),
        _ready(inputs, containers_ready),
        containers_ready,
        _condition("PodScheduled", True),
    ]
    if inputs.failure is not None and inputs.failure.disruption:
        why = inputs.failure.message
        ours.append(_condition("DisruptionTarget", True, "TerminationByKubelet", why))
    ours += inputs.conditions
    for condition in ours:
        old = get_condition(inputs.previous, condition.type)
        same = old is not None and old.status == condition.status
        condition.last_transition_time = old.last_transition_time if old and same else inputs.now
        condition.observed_generation = inputs.pod.metadata.generation
    return ours


def _host_sandbox(inputs: StatusInputs) -> bool:
    return bool(names.pod_spec(inputs.pod).host_network and inputs.runtime.ready_sandbox)


def _condition(type_: str, true: bool, reason: str = "", message: str = "") -> core_v1.PodCondition:
    return core_v1.PodCondition(
        type=type_, status="True" if true else "False", reason=reason or None, message=message or None
    )


def _initialized(inputs: StatusInputs, status: core_v1.PodStatus) -> core_v1.PodCondition:
    spec = names.pod_spec(inputs.pod)
    if not spec.init_containers:
        return _condition("Initialized", True)
    if status.phase == "Succeeded":
        return _condition("Initialized", True, "PodCompleted")
    sidecars = {c.name for c in spec.init_containers if is_sidecar(c)}
    incomplete = [
        s.name
        for s in status.init_container_statuses
        if not (s.started if s.name in sidecars else s.ready) and not _regular_has_run(status)
    ]
    if not incomplete:
        return _condition("Initialized", True)
    message = f"containers with incomplete status: [{' '.join(incomplete)}]"
    return _condition("Initialized", False, "ContainersNotInitialized", message)


def _regular_has_run(status: core_v1.PodStatus) -> bool:
    return any(s.state and (s.state.running or s.state.terminated) for s in status.container_statuses)


def _containers_ready(inputs: StatusInputs, status: core_v1.PodStatus) -> core_v1.PodCondition:
    if status.phase in ("Succeeded", "Failed"):
        reason = "PodCompleted" if status.phase == "Succeeded" else "PodFailed"
        return _condition("ContainersReady", False, reason)
    spec = names.pod_spec(inputs.pod)
    sidecars = {c.name for c in spec.init_containers if is_sidecar(c)}
    counted = [s for s in status.init_container_statuses if s.name in sidecars] + status.container_statuses
    unready = [s.name for s in counted if not s.ready]
    if unready:
        message = f"containers with unready status: [{' '.join(unready)}]"
        return _condition("ContainersReady", False, "ContainersNotReady", message)
    return _condition("ContainersReady", True)


def _ready(inputs: StatusInputs, containers: core_v1.PodCondition) -> core_v1.PodCondition:
    if containers.status != "True":
        return _condition("Ready", False, containers.reason or "", containers.message or "")
    problems = list(_gate_problems(inputs))
    if problems:
        return _condition("Ready", False, "ReadinessGatesNotReady", ", ".join(problems))
    return _condition("Ready", True)


def _gate_problems(inputs: StatusInputs) -> Iterable[str]:
    for gate in names.pod_spec(inputs.pod).readiness_gates:
        condition = get_condition(inputs.pod.status, gate.condition_type)
        if condition is None:
            yield f'corresponding condition of pod readiness gate "{gate.condition_type}" does not exist.'
        elif condition.status != "True":
            yield (
                f'the status of pod readiness gate "{gate.condition_type}" is not "True", '
                f"but {condition.status}"
            )
