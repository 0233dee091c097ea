"""Remove ended containers and their logs when the disk is needed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from podling.kubelet import names
from podling.kubelet.log_files import remove_log
from podling.runtime.cri import messages as cri
from podling.runtime.cri.errors import Code, CRIError
from podling.runtime.cri.service import RuntimeService


async def remove_dead(runtime: RuntimeService, has_ended: Callable[[names.PodUID], bool]) -> None:
    """All of the pods that have ended for good, whose last status is written.

    Differs from upstream, which also removes the last ended container of a pod that lives: its status and its
    restart count are read from there. Raises CRIError.
    """
    ended = cri.ContainerStateValue(state=cri.ContainerState.CONTAINER_EXITED)
    listed = await runtime.list_containers(cri.ListContainersRequest(filter=cri.ContainerFilter(state=ended)))
    for container in listed.containers:
        if not has_ended(names.PodUID(container.labels.get(names.POD_UID_LABEL, ""))):
            continue
        try:
            found = await runtime.container_status(cri.ContainerStatusRequest(container_id=container.id))
            await runtime.remove_container(cri.RemoveContainerRequest(container_id=container.id))
        except CRIError as err:
            if err.code is not Code.NOT_FOUND:
                raise
            continue
        if found.status is not None and found.status.log_path:
            await asyncio.to_thread(remove_log, Path(found.status.log_path))
