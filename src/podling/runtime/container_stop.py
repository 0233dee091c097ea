"""StopContainer: the stop signal, and SIGKILL when the time is over."""

from __future__ import annotations

import asyncio
import signal

from podling.runtime import container_exit
from podling.runtime.core import Container, Core
from podling.runtime.cri import messages as cri
from podling.runtime.cri.errors import Code, CRIError
from podling.runtime.state import ContainerPhase


async def stop_container(core: Core, request: cri.StopContainerRequest) -> cri.StopContainerResponse:
    """`timeout` in seconds; 0 kills at once. A container that is gone or has ended is stopped already."""
    try:
        container = core.container(request.container_id)
    except CRIError as err:
        if err.code is not Code.NOT_FOUND:
            raise
        return cri.StopContainerResponse()
    with core.timings.phase("container: stop", container.id):
        if request.timeout > 0 and await _ended_by(
            container, container.record.stop_signal, float(request.timeout)
        ):
            return cri.StopContainerResponse()
        await kill(core, container)
    return cri.StopContainerResponse()


async def _ended_by(container: Container, number: int, timeout_s: float) -> bool:
    """Signal the first process and wait for the end. Without the lock: a second call may bring it forward."""
    if not container.running or container.process is None:
        return not container.running
    container.process.send(number)
    try:
        async with asyncio.timeout(timeout_s):
            await container.ended.wait()
    except TimeoutError:
        return False
    return True


async def kill(core: Core, container: Container) -> None:
    """SIGKILL, and wait until it is gone. Raises DEADLINE_EXCEEDED when it does not go."""
    async with container.lock:
        if container.record.phase is not ContainerPhase.RUNNING:
            return
        if container.process is not None:
            container.process.send(signal.SIGKILL)
        try:
            async with asyncio.timeout(core.config.stop_margin_s):
                await container.ended.wait()
        except TimeoutError:
            # A grandchild that keeps conmon's pipes open, or one stuck in the kernel: take the whole cgroup.
            core.cgroups.kill(container.record.cgroup)
            await _last_chance(core, container)


async def _last_chance(core: Core, container: Container) -> None:
    try:
        async with asyncio.timeout(core.config.stop_margin_s):
            await container.ended.wait()
    except TimeoutError:
        if container_exit.finish_from_file(core, container):
            return
        raise CRIError(
            Code.DEADLINE_EXCEEDED, f"container {container.id!r} did not end although it was killed"
        ) from None
