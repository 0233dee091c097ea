"""The status a deployment should have: counts and the conditions Available, Progressing, ReplicaFailure.

Pure: conditions follow from the deployment as last seen, its replica sets, and the present.

Source: Kubernetes concepts, "Deployments" (deployment status); pkg/controller/deployment/progress.go.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Final

from msgspec import structs

from podling.api.apps_v1 import Deployment, DeploymentCondition, DeploymentStatus, ReplicaSet
from podling.api.times import format_time, parse_time
from podling.controllers.rollout import actual, available, fenceposts, replicas, spec_of, wanted

AVAILABLE, PROGRESSING, FAILURE = "Available", "Progressing", "ReplicaFailure"
COMPLETE: Final = "NewReplicaSetAvailable"
TIMED_OUT: Final = "ProgressDeadlineExceeded"
NO_DEADLINE_S: Final = 2**31 - 1


def get_condition(status: DeploymentStatus | None, type_: str) -> DeploymentCondition | None:
    return next((c for c in status.conditions if c.type == type_), None) if status else None


def has_deadline(deployment: Deployment) -> bool:
    deadline = spec_of(deployment).progress_deadline_seconds
    return deadline is not None and deadline != NO_DEADLINE_S


def counted(
    deployment: Deployment, sets: Sequence[ReplicaSet], new: ReplicaSet | None, now: datetime
) -> DeploymentStatus:
    """The counts, the condition Available, whether it is paused, and the other conditions as they are."""
    there, old = sum(map(available, sets)), deployment.status or DeploymentStatus()
    status = DeploymentStatus(
        observed_generation=deployment.metadata.generation,
        # None for zero: so it is on the wire.
        replicas=sum(map(actual, sets)) or None,
        updated_replicas=(actual(new) if new else 0) or None,
        ready_replicas=sum((rs.status.ready_replicas or 0) if rs.status else 0 for rs in sets) or None,
        available_replicas=there or None,
        unavailable_replicas=max(0, sum(map(replicas, sets)) - there) or None,
        collision_count=old.collision_count,
        conditions=list(old.conditions),
    )
    if there >= wanted(deployment) - fenceposts(deployment)[1]:
        text = "Deployment has minimum availability."
        set_condition(status, AVAILABLE, "True", "MinimumReplicasAvailable", text, now)
    else:
        text = "Deployment does not have minimum availability."
        set_condition(status, AVAILABLE, "False", "MinimumReplicasUnavailable", text, now)
    _note_pause(deployment, status, now)
    return status


def rolled(
    deployment: Deployment,
    sets: Sequence[ReplicaSet],
    new: ReplicaSet | None,
    now: datetime,
    *,
    created: bool = False,
) -> DeploymentStatus:
    """The whole status during and after a rollout; `created`: the new replica set was made just now."""
    status = counted(deployment, sets, new, now)
    if new is not None and has_deadline(deployment):
        if created:
            text = f'Created new replica set "{new.metadata.name}"'
            set_condition(status, PROGRESSING, "True", "NewReplicaSetCreated", text, now)
        elif get_condition(status, PROGRESSING) is None:
            text = f'Found new replica set "{new.metadata.name}"'
            set_condition(status, PROGRESSING, "True", "FoundNewReplicaSet", text, now)
    before = get_condition(status, PROGRESSING)
    if not has_deadline(deployment):
        drop_condition(status, PROGRESSING)
    elif not (_all_updated(status) and before is not None and before.reason == COMPLETE):
        what = f'ReplicaSet "{new.metadata.name}"' if new else f'Deployment "{deployment.metadata.name}"'
        if is_complete(deployment, status):
            text = f"{what} has successfully progressed."
            set_condition(status, PROGRESSING, "True", COMPLETE, text, now)
        elif _has_progressed(deployment, status):
            if before is not None and before.status == "True":
                # Set anew, so that the deadline counts from this step; the transition was earlier.
                drop_condition(status, PROGRESSING)
            text = f"{what} is progressing."
            set_condition(status, PROGRESSING, "True", "ReplicaSetUpdated", text, now)
            if before is not None and before.status == "True":
                _keep_transition(status, before.last_transition_time)
        elif is_timed_out(deployment, status, now):
            text = f"{what} has timed out progressing."
            set_condition(status, PROGRESSING, "False", TIMED_OUT, text, now)
    _set_failure(status, [new] if new else [], sets, now)
    return status


def _all_updated(status: DeploymentStatus) -> bool:
    return status.replicas == status.updated_replicas


def is_complete(deployment: Deployment, status: DeploymentStatus) -> bool:
    """Every pod is of the new template and available."""
    target = wanted(deployment)
    return (
        (status.updated_replicas or 0) == target
        and (status.replicas or 0) == target
        and (status.available_replicas or 0) == target
        and (status.observed_generation or 0) >= (deployment.metadata.generation or 0)
    )


def _has_progressed(deployment: Deployment, status: DeploymentStatus) -> bool:
    old = deployment.status or DeploymentStatus()

    def leftover(of: DeploymentStatus) -> int:
        return (of.replicas or 0) - (of.updated_replicas or 0)

    return (
        (status.updated_replicas or 0) > (old.updated_replicas or 0)
        or leftover(status) < leftover(old)
        or (status.ready_replicas or 0) > (old.ready_replicas or 0)
        or (status.available_replicas or 0) > (old.available_replicas or 0)
    )


def is_timed_out(deployment: Deployment, status: DeploymentStatus, now: datetime) -> bool:
    condition = get_condition(status, PROGRESSING)
    if condition is None or condition.reason == COMPLETE:
        return False
    if condition.reason == TIMED_OUT:
        return True
    left_s = deadline_left_s(deployment, status, now)
    return left_s is not None and left_s < 0


def deadline_left_s(deployment: Deployment, status: DeploymentStatus, now: datetime) -> float | None:
    """Seconds until a rollout that makes no step has taken too long; None when none is under way."""
    condition = get_condition(status, PROGRESSING)
    if not has_deadline(deployment) or condition is None or not condition.last_update_time:
        return None
    if condition.reason in (COMPLETE, TIMED_OUT) or is_complete(deployment, status):
        return None
    age_s = (now - parse_time(condition.last_update_time)).total_seconds()
    return (spec_of(deployment).progress_deadline_seconds or 0) - age_s


def _note_pause(deployment: Deployment, status: DeploymentStatus, now: datetime) -> None:
    """Note that the deployment is paused, or was; while it is, no deadline runs."""
    condition = get_condition(status, PROGRESSING)
    if not has_deadline(deployment) or (condition is not None and condition.reason == TIMED_OUT):
        return
    noted = condition is not None and condition.reason == "DeploymentPaused"
    if spec_of(deployment).paused and not noted:
        set_condition(status, PROGRESSING, "Unknown", "DeploymentPaused", "Deployment is paused", now)
    elif not spec_of(deployment).paused and noted:
        set_condition(status, PROGRESSING, "Unknown", "DeploymentResumed", "Deployment is resumed", now)


def _set_failure(
    status: DeploymentStatus, new: Iterable[ReplicaSet], sets: Iterable[ReplicaSet], now: datetime
) -> None:
    """What keeps pods from being made: of the new replica set, else of any."""
    for rs in [*new, *sets]:
        for condition in rs.status.conditions if rs.status else ():
            if condition.type == FAILURE:
                reason, text = condition.reason or "", condition.message or ""
                set_condition(status, FAILURE, condition.status or "True", reason, text, now)
                return
    drop_condition(status, FAILURE)


def set_condition(
    status: DeploymentStatus, type_: str, value: str, reason: str, message: str, now: datetime
) -> None:
    """Add or replace a condition; one of the same status and reason stays as it is."""
    before = get_condition(status, type_)
    if before is not None and (before.status, before.reason) == (value, reason):
        return
    same = before is not None and before.status == value
    moment = format_time(now)
    condition = DeploymentCondition(
        type=type_,
        status=value,
        reason=reason,
        message=message,
        last_update_time=moment,
        last_transition_time=before.last_transition_time if same and before else moment,
    )
    drop_condition(status, type_)
    status.conditions = [*status.conditions, condition]


def drop_condition(status: DeploymentStatus, type_: str) -> None:
    status.conditions = [c for c in status.conditions if c.type != type_]


def _keep_transition(status: DeploymentStatus, moment: str | None) -> None:
    status.conditions = [
        structs.replace(c, last_transition_time=moment) if c.type == PROGRESSING else c
        for c in status.conditions
    ]
