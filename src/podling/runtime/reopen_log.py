"""ReopenContainerLog: after the kubelet has renamed a log away, conmon goes on in a new file."""

from __future__ import annotations

import asyncio
import os

from podling.linux.inotify import IN_CREATE, IN_MOVED_TO, Inotify
from podling.runtime import conmon
from podling.runtime.core import Core
from podling.runtime.cri import messages as cri
from podling.runtime.cri.errors import Code, CRIError

TIMEOUT_S = 10.0


async def reopen_container_log(
    core: Core, request: cri.ReopenContainerLogRequest
) -> cri.ReopenContainerLogResponse:
    """Returns when the new file is there, as the kubelet expects."""
    container = core.container(request.container_id)
    if not container.running:
        raise CRIError(Code.FAILED_PRECONDITION, f"container {container.id!r} is not running")
    path = container.record.log_path
    if not path:
        return cri.ReopenContainerLogResponse()
    # Watched before conmon is told: it answers with the file alone.
    with Inotify(os.path.dirname(path), IN_CREATE | IN_MOVED_TO) as folder:
        if not conmon.control(core.paths.bundle(container.id), conmon.CTL_REOPEN_LOG):
            raise CRIError(Code.UNKNOWN, f"container {container.id!r}: its monitor is gone")
        try:
            async with asyncio.timeout(TIMEOUT_S):
                while not os.path.exists(path):
                    await folder.changed()
        except TimeoutError:
            raise CRIError(
                Code.DEADLINE_EXCEEDED,
                f"container {container.id!r}: log not reopened within {TIMEOUT_S:.0f} s",
            ) from None
    return cri.ReopenContainerLogResponse()
