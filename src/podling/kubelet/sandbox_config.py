"""From a pod to the CRI's PodSandboxConfig: pure. Source: upstream's `kuberuntime_sandbox.go`."""

from __future__ import annotations

from podling.api import core_v1
from podling.kubelet import names, resources
from podling.kubelet.config import KubeletConfig
from podling.kubelet.dns import ResolvConf, dns_config
from podling.kubelet.hosts_file import pod_domain, pod_hostname
from podling.runtime.cri import messages as cri

_PROTOCOLS = {"TCP": cri.Protocol.TCP, "UDP": cri.Protocol.UDP, "SCTP": cri.Protocol.SCTP}


def build_sandbox_config(
    pod: core_v1.Pod,
    config: KubeletConfig,
    *,
    attempt: int,
    resolver: ResolvConf,
    cgroup_parent: str,
    users: cri.UserNamespace | None = None,
) -> cri.PodSandboxConfig:
    """The value for RunPodSandbox; CreateContainer gets the same again."""
    spec = names.pod_spec(pod)
    return cri.PodSandboxConfig(
        metadata=cri.PodSandboxMetadata(
            name=pod.metadata.name or "",
            uid=pod.metadata.uid or "",
            namespace=names.pod_namespace(pod),
            attempt=attempt,
        ),
        # A pod in the node's UTS namespace has the node's name; the runtime leaves it alone when empty.
        hostname="" if spec.host_network else _hostname(pod, config),
        log_directory=str(names.log_directory(config, pod)),
        dns_config=dns_config(pod, config, resolver),
        port_mappings=[] if spec.host_network else _port_mappings(pod),
        labels={
            **pod.metadata.labels,
            names.POD_NAME_LABEL: pod.metadata.name or "",
            names.POD_NAMESPACE_LABEL: names.pod_namespace(pod),
            names.POD_UID_LABEL: pod.metadata.uid or "",
        },
        annotations=dict(pod.metadata.annotations),
        linux=cri.LinuxPodSandboxConfig(
            cgroup_parent=cgroup_parent,
            security_context=_security_context(pod, users),
            sysctls={s.name: s.value for s in spec.security_context.sysctls} if spec.security_context else {},
            resources=resources.pod_resources(pod),
        ),
    )


def _hostname(pod: core_v1.Pod, config: KubeletConfig) -> str:
    hostname = pod_hostname(pod)
    if names.pod_spec(pod).set_hostname_as_fqdn and (domain := pod_domain(pod, config.cluster_domain)):
        return f"{hostname}.{domain}"
    return hostname


def _port_mappings(pod: core_v1.Pod) -> list[cri.PortMapping]:
    spec = names.pod_spec(pod)
    return [
        cri.PortMapping(
            protocol=_PROTOCOLS.get(port.protocol or "TCP", cri.Protocol.TCP),
            container_port=port.container_port,
            host_port=port.host_port or 0,
            host_ip=port.host_ip or "",
        )
        for container in [*spec.init_containers, *spec.containers]
        for port in container.ports
        if port.host_port
    ]


def namespace_options(
    pod: core_v1.Pod, *, target_id: str = "", users: cri.UserNamespace | None = None
) -> cri.NamespaceOption:
    """Which namespaces are the node's, the pod's or the container's own (CRI, "NamespaceMode")."""
    spec = names.pod_spec(pod)
    node, shared, own = cri.NamespaceMode.NODE, cri.NamespaceMode.POD, cri.NamespaceMode.CONTAINER
    pid = own
    if target_id:
        pid = cri.NamespaceMode.TARGET
    elif spec.host_pid:
        pid = node
    elif spec.share_process_namespace:
        pid = shared
    return cri.NamespaceOption(
        network=node if spec.host_network else shared,
        pid=pid,
        ipc=node if spec.host_ipc else shared,
        target_id=target_id,
        userns_options=users,
    )


def _security_context(pod: core_v1.Pod, users: cri.UserNamespace | None) -> cri.LinuxSandboxSecurityContext:
    spec = names.pod_spec(pod)
    shared = spec.security_context or core_v1.PodSecurityContext()
    groups = list(shared.supplemental_groups)
    if shared.fs_group is not None:
        groups.append(shared.fs_group)
    return cri.LinuxSandboxSecurityContext(
        namespace_options=namespace_options(pod, users=users),
        run_as_user=shared.run_as_user,
        run_as_group=shared.run_as_group if shared.run_as_user is not None else None,
        supplemental_groups=groups,
        privileged=any(
            bool(context and context.privileged)
            for context in (
                *(c.security_context for c in spec.init_containers),
                *(c.security_context for c in spec.containers),
                *(c.security_context for c in spec.ephemeral_containers),
            )
        ),
        # The pause process needs no system call that the runtime's default profile forbids.
        seccomp=cri.SecurityProfile(profile_type=cri.SecurityProfileType.RuntimeDefault),
    )
