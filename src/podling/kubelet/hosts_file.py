"""The pod's /etc/hosts, one for all its containers, written when its addresses are known.

The text is upstream's (`kubelet_pods.go`, "managedHostsFileContent"): people grep for its first line.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from podling.api import core_v1
from podling.kubelet import names
from podling.kubelet.config import KubeletConfig

_HEADER = "# Kubernetes-managed hosts file."
_HEADER_HOST_NETWORK = "# Kubernetes-managed hosts file (host network)."
_LOCAL = """\
127.0.0.1\tlocalhost
::1\tlocalhost ip6-localhost ip6-loopback
fe00::0\tip6-localnet
fe00::0\tip6-mcastprefix
fe00::1\tip6-allnodes
fe00::2\tip6-allrouters
"""


def pod_hostname(pod: core_v1.Pod) -> str:
    """The pod's host name: at most 63 characters, without a trailing dash or dot (a DNS label)."""
    spec = names.pod_spec(pod)
    if spec.hostname_override:
        return spec.hostname_override
    return (spec.hostname or pod.metadata.name or "")[:63].rstrip("-.")


def pod_domain(pod: core_v1.Pod, cluster_domain: str) -> str:
    """`SUBDOMAIN.NAMESPACE.svc.DOMAIN` for a pod of a headless service, else empty."""
    subdomain = names.pod_spec(pod).subdomain
    return f"{subdomain}.{names.pod_namespace(pod)}.svc.{cluster_domain}" if subdomain else ""


def render_hosts(pod: core_v1.Pod, ips: Sequence[str], *, cluster_domain: str, host_file: str = "") -> str:
    """The file's text; with the node's network the node's own file (`host_file`) comes first."""
    spec = names.pod_spec(pod)
    if spec.host_network:
        text = f"{_HEADER_HOST_NETWORK}\n{host_file}"
    else:
        text = f"{_HEADER}\n{_LOCAL}"
        hostname, domain = pod_hostname(pod), pod_domain(pod, cluster_domain)
        own = f"{hostname}.{domain}\t{hostname}" if domain else hostname
        text += "".join(f"{ip}\t{own}\n" for ip in ips)
    if spec.host_aliases:
        text += "\n# Entries added by HostAliases.\n"
        text += "".join(f"{alias.ip}\t" + "\t".join(alias.hostnames) + "\n" for alias in spec.host_aliases)
    return text


def hosts_path(config: KubeletConfig, uid: names.PodUID) -> Path:
    return names.pod_dir(config, uid) / "etc-hosts"


def write_hosts(config: KubeletConfig, pod: core_v1.Pod, ips: Sequence[str]) -> Path:
    """Write the file in place: containers hold a bind mount of this very inode."""
    host_file = ""
    if names.pod_spec(pod).host_network:
        try:
            host_file = Path("/etc/hosts").read_text()
        except FileNotFoundError:
            host_file = ""
    path = hosts_path(config, names.pod_uid(pod))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(render_hosts(pod, ips, cluster_domain=config.cluster_domain, host_file=host_file))
    path.chmod(0o644)
    return path
