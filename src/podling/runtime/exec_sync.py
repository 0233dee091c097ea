"""ExecSync: run a command in a container and return its output; what probes and hooks use."""

from __future__ import annotations

import asyncio
import os

from podling.runtime import exec_process
from podling.runtime.core import Core
from podling.runtime.cri import messages as cri
from podling.runtime.cri.errors import Code, CRIError

MAX_OUTPUT = 16 << 20
"""Bytes of each stream; containerd's limit, below gRPC's."""


async def exec_sync(core: Core, request: cri.ExecSyncRequest) -> cri.ExecSyncResponse:
    """`timeout` in seconds, none when it is not above 0. Raises DEADLINE_EXCEEDED after killing the command.

    Output goes to memory files, charged to the container that writes them: no pipe to be read, and a child
    that keeps the streams open does not keep us waiting.
    """
    container = core.container(request.container_id)
    output, errors = exec_process.memory_file("stdout"), exec_process.memory_file("stderr")
    try:
        with core.timings.phase("exec", container.id):
            running = await exec_process.start_exec(
                core, container, request.cmd, files={1: output, 2: errors}
            )
            try:
                async with asyncio.timeout(request.timeout if request.timeout > 0 else None):
                    await running.crun.ended()
            except TimeoutError as err:
                raise CRIError(
                    Code.DEADLINE_EXCEEDED,
                    f"failed to exec in container: timeout {request.timeout}s exceeded",
                ) from err
            finally:
                await asyncio.shield(running.end())
                code, said = running.crun.reap(), exec_process.failure(running)
                running.close()
        if said:
            raise CRIError(Code.UNKNOWN, f'failed to exec in container "{container.id}": {said}')
        return cri.ExecSyncResponse(
            stdout=os.pread(output, MAX_OUTPUT, 0),
            stderr=os.pread(errors, MAX_OUTPUT, 0),
            exit_code=code or 0,
        )
    finally:
        os.close(output)
        os.close(errors)
