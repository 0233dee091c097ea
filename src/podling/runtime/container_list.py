"""ListContainers, in the order in which they were created."""

from __future__ import annotations

from collections.abc import Iterator

from podling.runtime.container_status import state_of
from podling.runtime.core import Container, Core
from podling.runtime.cri import messages as cri
from podling.runtime.sandbox_list import has_labels
from podling.runtime.state import ContainerPhase


async def list_containers(core: Core, request: cri.ListContainersRequest) -> cri.ListContainersResponse:
    return cri.ListContainersResponse(containers=list(_matching(core, request.filter)))


def _matching(core: Core, wanted: cri.ContainerFilter | None) -> Iterator[cri.Container]:
    wanted = wanted or cri.ContainerFilter()
    for container in core.containers.values():
        record = container.record
        if record.phase is ContainerPhase.CREATING:
            continue  # not there before CreateContainer has returned
        if not record.id.startswith(wanted.id) or not record.sandbox_id.startswith(wanted.pod_sandbox_id):
            continue
        if wanted.state is not None and state_of(container) is not wanted.state.state:
            continue
        if has_labels(record.config.labels, wanted.label_selector):
            yield _item(container)


def _item(container: Container) -> cri.Container:
    record = container.record
    return cri.Container(
        id=record.id,
        pod_sandbox_id=record.sandbox_id,
        metadata=record.config.metadata,
        image=record.config.image,
        image_ref=record.image_ref or record.image_id,
        state=state_of(container),
        created_at=record.created_at,
        labels=record.config.labels,
        annotations=record.config.annotations,
        image_id=record.image_id,
    )
