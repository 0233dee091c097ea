"""postStart and preStop hooks: exec, httpGet, tcpSocket (accepted, does nothing) and sleep.

Kubernetes documentation, "Container Lifecycle Hooks". A hook's failure is told by an event; what follows
from it is the caller's decision.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from podling.api import core_v1
from podling.kubelet import names
from podling.kubelet.probes.checks import http_get, resolve_port
from podling.runtime.cri import messages as cri
from podling.runtime.cri.errors import CRIError
from podling.runtime.cri.service import RuntimeService


class HookError(Exception):
    """The hook failed; the text goes into the event."""


async def run_hook(
    runtime: RuntimeService,
    container: names.AnyContainer,
    container_id: str,
    handler: core_v1.LifecycleHandler,
    *,
    pod_ips: Sequence[str],
) -> None:
    """Run to the end. Raises HookError."""
    if handler.exec is not None:
        await _run_exec(runtime, container_id, handler.exec)
    elif handler.sleep is not None:
        await asyncio.sleep(handler.sleep.seconds)
    elif handler.http_get is not None:
        host = handler.http_get.host or (pod_ips[0] if pod_ips else "")
        try:
            port = resolve_port(container, handler.http_get.port)
        except ValueError as err:
            raise HookError(str(err)) from err
        result = await http_get(handler.http_get, host, port, timeout_s=30.0)
        if not result.success:
            raise HookError(result.output)


async def _run_exec(runtime: RuntimeService, container_id: str, action: core_v1.ExecAction) -> None:
    try:
        response = await runtime.exec_sync(
            cri.ExecSyncRequest(container_id=container_id, cmd=list(action.command))
        )
    except CRIError as err:
        raise HookError(err.message) from err
    if response.exit_code != 0:
        output = (response.stdout + response.stderr)[:1024].decode("utf-8", "replace")
        raise HookError(
            f"Exec lifecycle hook ({' '.join(action.command)}) failed with exit code "
            f"{response.exit_code}: {output}"
        )
