"""Give a pod a sandbox: the network and the namespaces its containers will share.

Called by the pod's worker, one at a time a pod. What came before it (an older sandbox whose pause was
killed) is ended while the new one is made: the two share nothing but the pod's host ports.
"""

from __future__ import annotations

import asyncio

from podling.api import core_v1
from podling.api.pods import host_ports
from podling.kubelet import names
from podling.kubelet.container_stop import stop_record
from podling.kubelet.events import NORMAL, WARNING
from podling.kubelet.hosts_file import write_hosts
from podling.kubelet.pod_actions import PodActions
from podling.kubelet.sandbox_config import build_sandbox_config
from podling.kubelet.services import PodServices
from podling.runtime.cri import messages as cri
from podling.runtime.cri.errors import CRIError


async def sandbox_config(services: PodServices, pod: core_v1.Pod, attempt: int) -> cri.PodSandboxConfig:
    """Raises CRIError when the pod cannot have the user namespace it asks for."""
    return build_sandbox_config(
        pod,
        services.config,
        attempt=attempt,
        resolver=services.resolver(),
        cgroup_parent=services.cgroups.parent(pod),
        users=await services.users.of(pod),
    )


async def start_sandbox(services: PodServices, pod: core_v1.Pod, actions: PodActions) -> None:
    """End what is left of older sandboxes and run the next one.

    Raises CRIError after telling it by event; a half-made sandbox is the runtime's to undo.
    """
    if actions.sandbox_attempt > 0:
        text = "Pod sandbox changed, it will be killed and re-created."
        services.events.pod(pod, NORMAL, "SandboxChanged", text)
    shares_host = names.pod_spec(pod).host_network or any(host_ports(pod))
    if shares_host:
        await _end_old(services, pod, actions)
        await _run(services, pod, actions.sandbox_attempt)
    else:
        # Both to their end, whatever becomes of the other: a step that is over must have nothing under way.
        results = await asyncio.gather(
            _end_old(services, pod, actions),
            _run(services, pod, actions.sandbox_attempt),
            return_exceptions=True,
        )
        for result in results:
            if isinstance(result, BaseException):
                raise result


async def _end_old(services: PodServices, pod: core_v1.Pod, actions: PodActions) -> None:
    await asyncio.gather(
        *(stop_record(services, pod, kill.record, grace_s=0, message=kill.message) for kill in actions.kill)
    )
    for sandbox_id in actions.stop_sandboxes:
        try:
            await services.runtime.stop_pod_sandbox(cri.StopPodSandboxRequest(pod_sandbox_id=sandbox_id))
        except CRIError as err:
            services.events.pod(pod, WARNING, "FailedKillPod", f"error killing pod: {err.message}")
            raise


async def _run(services: PodServices, pod: core_v1.Pod, attempt: int) -> None:
    try:
        config = await sandbox_config(services, pod, attempt)
        # Not in a thread: a few mkdirs on a local file system cost less than the hand-over.
        services.cgroups.create(pod)
        names.log_directory(services.config, pod).mkdir(parents=True, exist_ok=True)
        response = await services.runtime.run_pod_sandbox(cri.RunPodSandboxRequest(config=config))
        status = (
            await services.runtime.pod_sandbox_status(
                cri.PodSandboxStatusRequest(pod_sandbox_id=response.pod_sandbox_id)
            )
        ).status
    except CRIError as err:
        text = f"Failed to create pod sandbox: {err.message}"
        services.events.pod(pod, WARNING, "FailedCreatePodSandBox", text)
        raise
    network = status.network if status else None
    ips = [network.ip, *(extra.ip for extra in network.additional_ips)] if network and network.ip else []
    write_hosts(services.config, pod, ips)
    try:
        await services.network_gate(pod, ips)
    except TimeoutError:
        text = "The pod's network policies are not in force yet: they are still being applied"
        services.events.pod(pod, WARNING, "NetworkPolicyDelayed", text)
