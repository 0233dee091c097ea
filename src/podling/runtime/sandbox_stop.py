"""StopPodSandbox: its containers and pause are killed, its network taken down. Records and files stay.

"Already gone" is success, so this may be repeated at any time (CRI: "This call is idempotent").
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from typing import Any

from podling.cni.types import CNIError
from podling.linux import netns
from podling.runtime import container_stop
from podling.runtime.bandwidth import bandwidth_of
from podling.runtime.core import Core, Sandbox, in_thread
from podling.runtime.cri import messages as cri
from podling.runtime.cri.errors import Code, CRIError
from podling.runtime.state import SandboxPhase, SandboxRecord

log = logging.getLogger(__name__)

PROTOCOLS = {cri.Protocol.TCP: "tcp", cri.Protocol.UDP: "udp", cri.Protocol.SCTP: "sctp"}


async def stop_pod_sandbox(core: Core, request: cri.StopPodSandboxRequest) -> cri.StopPodSandboxResponse:
    try:
        sandbox = core.sandbox(request.pod_sandbox_id)
    except CRIError as err:
        if err.code is not Code.NOT_FOUND:
            raise
        return cri.StopPodSandboxResponse()
    with core.timings.phase("sandbox: stop", sandbox.id):
        async with sandbox.lock:
            await stop(core, sandbox)
    return cri.StopPodSandboxResponse()


async def stop(core: Core, sandbox: Sandbox) -> None:
    """The caller holds the sandbox's lock."""
    record = sandbox.record
    if record.phase is SandboxPhase.STOPPED:
        return
    await asyncio.gather(*(container_stop.kill(core, c) for c in core.containers_of(sandbox.id)))
    if sandbox.pause is not None:
        sandbox.pause.send(signal.SIGKILL)
        await sandbox.pause.ended()
    await asyncio.gather(_forget_pause(core, record), release_network(core, record))
    # Not written down: after a crash a pause that is gone says as much, and doing this twice is fine.
    record.phase = SandboxPhase.STOPPED


async def _forget_pause(core: Core, record: SandboxRecord) -> None:
    try:
        await core.forget(record.id, record.cgroup, ended=True)
    except (OSError, TimeoutError) as err:
        raise CRIError(Code.UNKNOWN, f'failed to delete the pause container of "{record.id}": {err}') from err


async def release_network(core: Core, record: SandboxRecord) -> None:
    """CNI DEL, then the namespace. Twice is fine, and so is a namespace that is gone."""
    if not record.netns:
        return
    with core.timings.phase("sandbox: cni del", record.id):
        try:
            # A file that is no namespace (yet) is one whose making a crash cut short.
            place = record.netns if netns.is_netns(record.netns) else None
            await core.cni.delete(record.id, place, **cni_arguments(record))
        except CNIError as err:
            raise CRIError(
                Code.UNKNOWN, f'failed to destroy network for sandbox "{record.id}": {err}'
            ) from err
        finally:
            await in_thread(netns.remove_netns, record.netns)


def cni_arguments(record: SandboxRecord) -> dict[str, Any]:
    """CNI_ARGS as every Kubernetes runtime gives them, and the capabilities that plugins may ask for."""
    metadata = record.metadata
    mappings = [
        {
            "hostPort": port.host_port,
            "containerPort": port.container_port,
            "protocol": PROTOCOLS[port.protocol],
            **({"hostIP": port.host_ip} if port.host_ip else {}),
        }
        for port in record.config.port_mappings
        if port.host_port
    ]
    capabilities: dict[str, Any] = {"portMappings": mappings} if mappings else {}
    with contextlib.suppress(ValueError):  # refused when the sandbox was made
        if limits := bandwidth_of(record.config.annotations):
            capabilities["bandwidth"] = limits
    dns = record.config.dns_config
    if dns is not None and (dns.servers or dns.searches or dns.options):
        capabilities["dns"] = {"servers": dns.servers, "searches": dns.searches, "options": dns.options}
    return {
        "args": {
            "IgnoreUnknown": "1",
            "K8S_POD_NAMESPACE": metadata.namespace,
            "K8S_POD_NAME": metadata.name,
            "K8S_POD_INFRA_CONTAINER_ID": record.id,
            "K8S_POD_UID": metadata.uid,
        },
        "capability_args": capabilities,
    }
