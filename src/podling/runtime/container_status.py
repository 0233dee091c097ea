"""ContainerStatus: from memory; an exit is known as soon as conmon's end is."""

from __future__ import annotations

import json
import signal

from podling.runtime.core import Container, Core
from podling.runtime.cri import messages as cri
from podling.runtime.cri.messages import ContainerState
from podling.runtime.state import ContainerPhase

STATES = {
    ContainerPhase.CREATING: ContainerState.CONTAINER_UNKNOWN,
    ContainerPhase.CREATED: ContainerState.CONTAINER_CREATED,
    ContainerPhase.STARTING: ContainerState.CONTAINER_CREATED,
    ContainerPhase.RUNNING: ContainerState.CONTAINER_RUNNING,
    ContainerPhase.EXITED: ContainerState.CONTAINER_EXITED,
}


async def container_status(core: Core, request: cri.ContainerStatusRequest) -> cri.ContainerStatusResponse:
    container = core.container(request.container_id)
    return cri.ContainerStatusResponse(
        status=status_of(container),
        info={"info": json.dumps(_info(container))} if request.verbose else {},
    )


def state_of(container: Container) -> ContainerState:
    return STATES[container.record.phase]


def status_of(container: Container) -> cri.ContainerStatus:
    record = container.record
    config = record.config
    return cri.ContainerStatus(
        id=record.id,
        metadata=config.metadata,
        state=STATES[record.phase],
        created_at=record.created_at,
        started_at=record.started_at,
        finished_at=record.finished_at,
        exit_code=record.exit_code,
        image=cri.ImageSpec(image=record.image_name),
        image_ref=record.image_ref or record.image_id,
        reason=record.reason,
        message=record.message,
        labels=config.labels,
        annotations=config.annotations,
        mounts=config.mounts,
        log_path=record.log_path,
        resources=cri.ContainerResources(linux=config.linux.resources)
        if config.linux and config.linux.resources
        else None,
        image_id=record.image_id,
        user=cri.ContainerUser(linux=record.user),
        stop_signal=cri_signal(record.stop_signal),
    )


def cri_signal(number: int) -> cri.Signal:
    """The CRI's name for the signal a container is stopped with."""
    first, last = int(signal.SIGRTMIN), int(signal.SIGRTMAX)
    if number in (first, last):
        name = "SIGRTMIN" if number == first else "SIGRTMAX"
    elif first < number < last:
        name = f"SIGRTMINPLUS{number - first}" if number - first <= 15 else f"SIGRTMAXMINUS{last - number}"
    else:
        name = signal.Signals(number).name
    return cri.Signal.__members__.get(name, cri.Signal.RUNTIME_DEFAULT)


def _info(container: Container) -> dict[str, object]:
    record = container.record
    return {
        "pid": record.process.pid if record.process and container.running else 0,
        "conmonPid": record.conmon.pid if record.conmon and container.running else 0,
        "sandboxID": record.sandbox_id,
        "cgroup": record.cgroup,
        "name": record.name,
    }
