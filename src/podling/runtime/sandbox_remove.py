"""RemovePodSandbox: stop it if need be, then remove its containers and everything of it. Leaves nothing."""

from __future__ import annotations

from podling.runtime import container_remove, sandbox_events, sandbox_run, sandbox_stop
from podling.runtime.core import Core, Sandbox, in_thread
from podling.runtime.cri import messages as cri
from podling.runtime.cri.errors import Code, CRIError


async def remove_pod_sandbox(
    core: Core, request: cri.RemovePodSandboxRequest
) -> cri.RemovePodSandboxResponse:
    try:
        sandbox = core.sandbox(request.pod_sandbox_id)
    except CRIError as err:
        if err.code is not Code.NOT_FOUND:
            raise
        return cri.RemovePodSandboxResponse()
    with core.timings.phase("sandbox: remove", sandbox.id):
        async with sandbox.lock:
            await _remove(core, sandbox)
    return cri.RemovePodSandboxResponse()


async def _remove(core: Core, sandbox: Sandbox) -> None:
    await sandbox_stop.stop(core, sandbox)
    for container in core.containers_of(sandbox.id):
        await container_remove.remove(core, container)
    await in_thread(sandbox_run.remove_files, core, sandbox.id)
    if core.sandboxes.pop(sandbox.id, None) is None:
        return  # removed while we waited for the lock
    if sandbox.pause is not None:
        sandbox.pause.close()
    core.records.drop_sandbox(sandbox.id)
    sandbox_events.publish_deleted(core, sandbox)
