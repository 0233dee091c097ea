"""What is told about a sandbox and its containers, and the watch over pause."""

from __future__ import annotations

import logging
import time

from podling.runtime import container_status, sandbox_status
from podling.runtime.core import Core, Sandbox
from podling.runtime.cri import messages as cri
from podling.runtime.cri.messages import ContainerEventType
from podling.runtime.state import SandboxPhase

log = logging.getLogger(__name__)


def watch_pause(core: Core, sandbox: Sandbox) -> None:
    """Tell the kubelet when pause dies. Its containers go on until the kubelet acts; only with a shared PID
    namespace the kernel kills them with it."""
    if sandbox.pause is not None:
        sandbox.pause.when_over(lambda: _pause_ended(core, sandbox))


def _pause_ended(core: Core, sandbox: Sandbox) -> None:
    if sandbox.record.phase is SandboxPhase.READY and not sandbox.lock.locked():
        log.warning("the pause container of sandbox %s (%s) ended", sandbox.id[:12], sandbox.record.name)
    publish(core, sandbox.id, sandbox.id, ContainerEventType.CONTAINER_STOPPED_EVENT)


def publish(core: Core, sandbox_id: str, object_id: str, kind: ContainerEventType) -> None:
    """`object_id` is the container's id, or the sandbox's own."""
    if not core.events.heard:
        return
    sandbox = core.sandboxes.get(sandbox_id)
    core.events.publish(
        cri.ContainerEventResponse(
            container_id=object_id,
            container_event_type=kind,
            created_at=time.time_ns(),
            pod_sandbox_status=sandbox_status.status_of(sandbox) if sandbox else None,
            containers_statuses=[container_status.status_of(c) for c in core.containers_of(sandbox_id)],
        )
    )


def publish_deleted(core: Core, sandbox: Sandbox) -> None:
    """The sandbox is out of the table already: say of which pod it was."""
    core.events.publish(
        cri.ContainerEventResponse(
            container_id=sandbox.id,
            container_event_type=ContainerEventType.CONTAINER_DELETED_EVENT,
            created_at=time.time_ns(),
            pod_sandbox_status=sandbox_status.status_of(sandbox),
        )
    )
