"""From a pod to what the runtime by hand is asked for, by the kubelet's own pure functions."""

from __future__ import annotations

import os

from podling.api import core_v1
from podling.api.pods import is_sidecar
from podling.kubelet import names
from podling.kubelet.config import KubeletConfig
from podling.kubelet.container_config import ContainerContext, build_container_config
from podling.kubelet.dns import ResolvConf
from podling.kubelet.sandbox_config import build_sandbox_config
from podling.runtime.byhand.create import Wanted
from podling.runtime.byhand.pod import PodWanted
from podling.runtime.byhand.settings import DEFAULT_NETWORK, SHARED, Extras, Port, Restart
from podling.runtime.cri import messages as cri
from podling.runtime.sandbox_stop import PROTOCOLS

RESTART = {"Always": "always", "OnFailure": "on-failure", "Never": "no"}


def pod_wanted(
    pod: core_v1.Pod, config: KubeletConfig, *, resolver: ResolvConf, network: str = DEFAULT_NETWORK
) -> PodWanted:
    spec = names.pod_spec(pod)
    sandbox = build_sandbox_config(pod, config, attempt=0, resolver=resolver, cgroup_parent="")
    return PodWanted(
        name=pod.metadata.name or "",
        labels=dict(pod.metadata.labels),
        share=(*SHARED, "pid") if spec.share_process_namespace else SHARED,
        network="host" if spec.host_network else network,
        ipc="host" if spec.host_ipc else "",
        pid="host" if spec.host_pid else "",
        hostname=sandbox.hostname or os.uname().nodename,
        ports=[
            Port(
                host_ip=port.host_ip,
                host_port=port.host_port,
                container_port=port.container_port,
                protocol=PROTOCOLS[port.protocol],
            )
            for port in sandbox.port_mappings
        ],
        extras=Extras(
            sysctls=dict(sandbox.linux.sysctls) if sandbox.linux else {},
            dns=sandbox.dns_config,
            hosts=[(alias.ip, name) for alias in spec.host_aliases for name in alias.hostnames],
        ),
    )


def container_wanted(pod: core_v1.Pod, container: core_v1.Container, context: ContainerContext) -> Wanted:
    """Not yet in its pod. Raises `ConfigError`."""
    spec = names.pod_spec(pod)
    config = build_container_config(pod, container, context)
    stop_signal = config.stop_signal
    return Wanted(
        image=container.image or "",
        name=f"{pod.metadata.name}-{container.name}",
        network=DEFAULT_NETWORK,
        config=config,
        restart=Restart(policy=RESTART[container.restart_policy or spec.restart_policy or "Always"]),
        stop_signal="" if stop_signal is cri.Signal.RUNTIME_DEFAULT else stop_signal.name,
        stop_timeout_s=spec.termination_grace_period_seconds or 0,
        init=any(container is one for one in spec.init_containers) and not is_sidecar(container),
    )
