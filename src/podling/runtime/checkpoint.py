"""CheckpointContainer: refused, with the reason.

A checkpoint needs CRIU, which the OCI runtime is built with or not. Debian's crun is not, and there is no
archive of a checkpoint here either, so the answer is one sentence and never a half-written file.
"""

from __future__ import annotations

from podling.runtime.core import Core
from podling.runtime.cri import messages as cri
from podling.runtime.cri.errors import Code, CRIError


async def checkpoint_container(
    core: Core, request: cri.CheckpointContainerRequest
) -> cri.CheckpointContainerResponse:
    container = core.container(request.container_id)
    if not request.location:
        raise CRIError(Code.INVALID_ARGUMENT, f"container {container.id!r}: no location for the checkpoint")
    if not container.running:
        raise CRIError(Code.FAILED_PRECONDITION, f"container {container.id!r} is not running")
    cause = "the runtime does not write checkpoints yet"
    if "+CRIU" not in await core.crun.features():
        cause = f"{core.crun.program} is built without CRIU"
    raise CRIError(
        Code.UNIMPLEMENTED, f"checkpoint/restore not supported: container {container.id!r}: {cause}"
    )
