"""RemoveContainer: kill it if it runs, then remove everything of it but its log."""

from __future__ import annotations

from podling.runtime import container_stop, sandbox_events
from podling.runtime.container_create import remove_files
from podling.runtime.core import Container, Core, in_thread
from podling.runtime.cri import messages as cri
from podling.runtime.cri.errors import Code, CRIError


async def remove_container(core: Core, request: cri.RemoveContainerRequest) -> cri.RemoveContainerResponse:
    """The log stays: it is the kubelet's. A container that is not there is removed already."""
    try:
        container = core.container(request.container_id)
    except CRIError as err:
        if err.code is not Code.NOT_FOUND:
            raise
        return cri.RemoveContainerResponse()
    with core.timings.phase("container: remove", container.id):
        await remove(core, container)
    return cri.RemoveContainerResponse()


async def remove(core: Core, container: Container) -> None:
    await container_stop.kill(core, container)
    async with container.lock:
        if container.id not in core.containers:
            return  # removed while we waited for the lock
        try:
            ended = not container.record.hooks  # poststop hooks are crun's to run
            await core.forget(container.id, container.record.cgroup, ended=ended)
            await in_thread(remove_files, core, container.record)
        except (OSError, TimeoutError) as err:
            raise CRIError(Code.UNKNOWN, f"failed to remove container {container.id!r}: {err}") from err
        del core.containers[container.id]
        container.release()
    kind = cri.ContainerEventType.CONTAINER_DELETED_EVENT
    sandbox_events.publish(core, container.record.sandbox_id, container.id, kind)
