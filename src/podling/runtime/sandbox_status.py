"""PodSandboxStatus: computed from memory and the kernel, no process is asked."""

from __future__ import annotations

import json
import time

from podling.runtime import container_status
from podling.runtime.core import Core, Sandbox
from podling.runtime.cri import messages as cri
from podling.runtime.cri.messages import PodSandboxState


async def pod_sandbox_status(
    core: Core, request: cri.PodSandboxStatusRequest
) -> cri.PodSandboxStatusResponse:
    sandbox = core.sandbox(request.pod_sandbox_id)
    return cri.PodSandboxStatusResponse(
        status=status_of(sandbox),
        info={"info": json.dumps(_info(sandbox))} if request.verbose else {},
        containers_statuses=[container_status.status_of(c) for c in core.containers_of(sandbox.id)],
        timestamp=time.time_ns(),
    )


def state_of(sandbox: Sandbox) -> PodSandboxState:
    return PodSandboxState.SANDBOX_READY if sandbox.ready else PodSandboxState.SANDBOX_NOTREADY


def status_of(sandbox: Sandbox) -> cri.PodSandboxStatus:
    record = sandbox.record
    first, *more = record.ips or [""]
    return cri.PodSandboxStatus(
        id=record.id,
        metadata=record.config.metadata,
        state=state_of(sandbox),
        created_at=record.created_at,
        network=cri.PodSandboxNetworkStatus(ip=first, additional_ips=[cri.PodIP(ip=ip) for ip in more]),
        linux=cri.LinuxPodSandboxStatus(namespaces=cri.Namespace(options=record.namespaces)),
        labels=record.config.labels,
        annotations=record.config.annotations,
        runtime_handler=record.runtime_handler,
    )


def _info(sandbox: Sandbox) -> dict[str, object]:
    record = sandbox.record
    return {
        "pid": record.pause.pid if record.pause and sandbox.ready else 0,
        "netns": record.netns,
        "cgroup": record.cgroup,
        "name": record.name,
    }
