"""UpdatePodSandboxResources: what a kubelet has changed of the pod as a whole.

The kubelet has set the pod's cgroup itself before it calls (CRI, "UpdatePodSandboxResources"); the runtime
notes it down. Fields that are not given stay.
"""

from __future__ import annotations

from podling.runtime.core import Core
from podling.runtime.cri import messages as cri
from podling.runtime.cri.errors import Code, CRIError


async def update_pod_sandbox_resources(
    core: Core, request: cri.UpdatePodSandboxResourcesRequest
) -> cri.UpdatePodSandboxResourcesResponse:
    sandbox = core.sandbox(request.pod_sandbox_id)
    async with sandbox.lock:
        if not sandbox.ready:
            raise CRIError(Code.FAILED_PRECONDITION, f"sandbox {sandbox.id!r} is not ready")
        linux = sandbox.record.config.linux or cri.LinuxPodSandboxConfig()
        linux.overhead = request.overhead or linux.overhead
        linux.resources = request.resources or linux.resources
        sandbox.record.config.linux = linux
        core.records.save_sandbox(sandbox.record)
    return cri.UpdatePodSandboxResourcesResponse()
