"""Stop one container: preStop hook, SIGTERM, grace period, SIGKILL.

Kubernetes documentation, "Pod Lifecycle", "Termination of Pods": the hook's time counts against the
grace period, and at least 2 s are left for the signal after a hook that took it all.
"""

from __future__ import annotations

import asyncio
import time

from podling.api import core_v1
from podling.api.pods import find_container
from podling.kubelet.events import NORMAL, WARNING
from podling.kubelet.lifecycle import HookError, run_hook
from podling.kubelet.runtime_state import ContainerRecord
from podling.kubelet.services import PodServices
from podling.runtime.cri import messages as cri
from podling.runtime.cri.errors import Code, CRIError

MIN_GRACE_AFTER_HOOK_S = 2


async def stop_record(
    services: PodServices, pod: core_v1.Pod, record: ContainerRecord, *, grace_s: int, message: str = ""
) -> None:
    """Until the container has ended; already ended or gone is success. Raises CRIError otherwise."""
    text = message or f"Stopping container {record.name}"
    services.events.container(pod, record.name, NORMAL, "Killing", text)
    if grace_s > 0:
        grace_s = await _pre_stop(services, pod, record, grace_s)
    try:
        await services.runtime.stop_container(
            cri.StopContainerRequest(container_id=record.id, timeout=grace_s)
        )
    except CRIError as err:
        if err.code is not Code.NOT_FOUND:
            raise


async def _pre_stop(services: PodServices, pod: core_v1.Pod, record: ContainerRecord, grace_s: int) -> int:
    """Run the hook; returns the grace that is left."""
    container = find_container(pod, record.name)
    if container is None or container.lifecycle is None or container.lifecycle.pre_stop is None:
        return grace_s
    started = time.monotonic()
    ips = [ip.ip for ip in pod.status.pod_i_ps] if pod.status else []
    try:
        async with asyncio.timeout(grace_s):
            await run_hook(services.runtime, container, record.id, container.lifecycle.pre_stop, pod_ips=ips)
    except (HookError, TimeoutError) as err:
        text = f"PreStopHook failed: {err}" if str(err) else "PreStopHook did not end within the grace period"
        services.events.container(pod, record.name, WARNING, "FailedPreStopHook", text)
    left = grace_s - int(time.monotonic() - started)
    return max(MIN_GRACE_AFTER_HOOK_S, left)
