"""What a pod may ask of the kernel here: sysctls that concern only itself, and AppArmor where there is any.

Reasons and texts are upstream's (`pkg/kubelet/sysctl`, `pkg/security/apparmor`). Kubernetes documentation,
"Using sysctls in a Kubernetes Cluster".
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from podling.api import core_v1
from podling.kubelet.status import Failure

SAFE_SYSCTLS = frozenset(
    {
        "kernel.shm_rmid_forced",
        "net.ipv4.ip_local_port_range",
        "net.ipv4.ip_local_reserved_ports",
        "net.ipv4.ip_unprivileged_port_start",
        "net.ipv4.ping_group_range",
        "net.ipv4.tcp_fin_timeout",
        "net.ipv4.tcp_keepalive_intvl",
        "net.ipv4.tcp_keepalive_probes",
        "net.ipv4.tcp_keepalive_time",
        "net.ipv4.tcp_rmem",
        "net.ipv4.tcp_syncookies",
        "net.ipv4.tcp_wmem",
    }
)
"""Namespaced, and no pod can harm another by them."""
NAMESPACED = ("net.", "kernel.shm", "kernel.msg", "kernel.sem", "fs.mqueue.")
"""What can be allowed beyond them; the rest is the node's own."""
APPARMOR = Path("/sys/module/apparmor/parameters/enabled")


def security_rejection(pod: core_v1.Pod, allowed_unsafe: Sequence[str]) -> Failure | None:
    """None when the pod may run."""
    spec = pod.spec or core_v1.PodSpec()
    context = spec.security_context or core_v1.PodSecurityContext()
    for sysctl in context.sysctls:
        if not sysctl_allowed(sysctl.name, allowed_unsafe):
            text = f'forbidden sysctl: "{sysctl.name}" not allowlisted'
            return Failure(reason="SysctlForbidden", message=f"Pod was rejected: {text}")
    if any(profile.type != "Unconfined" for profile in _apparmor_profiles(spec)) and not _has_apparmor():
        text = "Cannot enforce AppArmor: AppArmor is not enabled on the host"
        return Failure(reason="AppArmor", message=f"Pod was rejected: {text}")
    return None


def sysctl_allowed(name: str, allowed_unsafe: Sequence[str]) -> bool:
    """`allowed_unsafe`: names, or prefixes that end in `*`; only what belongs to a namespace counts."""
    name = name.replace("/", ".")
    if name in SAFE_SYSCTLS:
        return True
    patterns = [pattern.replace("/", ".") for pattern in allowed_unsafe]
    listed = any(name.startswith(p[:-1]) if p.endswith("*") else name == p for p in patterns)
    return listed and name.startswith(NAMESPACED)


def _apparmor_profiles(spec: core_v1.PodSpec) -> Iterable[core_v1.AppArmorProfile]:
    containers = [*spec.init_containers, *spec.containers]
    contexts = [spec.security_context, *(container.security_context for container in containers)]
    return [context.app_armor_profile for context in contexts if context and context.app_armor_profile]


def _has_apparmor() -> bool:
    return APPARMOR.exists() and APPARMOR.read_text().strip() == "Y"
