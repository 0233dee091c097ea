"""The kubelet's settings, loaded once by whoever starts it and passed down."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from podling.api import core_v1


@dataclass(frozen=True, slots=True, kw_only=True)
class KubeletConfig:
    """Settings of one node's kubelet; names and defaults follow KubeletConfiguration v1beta1."""

    node_name: str
    """The Node object this kubelet owns, and the `spec.nodeName` of the pods it runs."""
    node_ip: str
    """Address reported as the node's InternalIP and as `hostIP` of every pod."""
    root_dir: Path = Path("/var/lib/kubelet")
    """Holds `pods/UID/`: volumes, /etc/hosts and termination messages."""
    pod_logs_dir: Path = Path("/var/log/pods")
    """Holds `NAMESPACE_NAME_UID/CONTAINER/ATTEMPT.log` in the CRI log format."""
    tls_cert: Path | None = None
    """Serving certificate of the 10250 server; without it (and the key and CA) the server is not started."""
    tls_key: Path | None = None
    client_ca: Path | None = None
    """The CA whose client certificates the 10250 server believes."""
    bind_address: str = "0.0.0.0"
    port: int = 10250
    """Port of the kubelet's HTTPS server; upstream's."""
    cluster_dns: tuple[str, ...] = ()
    """Name servers of pods with dnsPolicy ClusterFirst; empty falls back to Default, as upstream does."""
    cluster_domain: str = "cluster.local"
    resolv_conf: Path = Path("/etc/resolv.conf")
    """The node's resolver configuration, given to pods with dnsPolicy Default."""
    max_pods: int = 110
    """Upstream's default; more are refused with OutOfpods."""
    pod_cidr: str | None = None
    """Written to the Node's spec at registration: on one machine nobody else hands out subnets."""
    node_labels: Mapping[str, str] = field(default_factory=dict)
    register_with_taints: tuple[core_v1.Taint, ...] = ()
    cgroup_root: str = ""
    """Parent of `kubepods`, from the cgroup root the kubelet sees; empty for that root itself."""
    cgroups_per_qos: bool = True
    """Off: sandboxes get no cgroup parent and the runtime chooses."""
    kubelet_version: str = "v1.37.0+podling"
    """Shown by `kubectl get nodes`; the Kubernetes release whose shapes we speak."""
    lease_duration_s: int = 40
    """How long others believe in this node after its last sign of life; renewed at a quarter of it."""
    node_status_report_frequency_s: float = 300.0
    """An unchanged node status is reported at least this often."""
    node_status_update_frequency_s: float = 10.0
    """How often a changed one is looked for."""
    max_parallel_image_pulls: int = 4
    """Bounds disk and network load; one pull of an image serves all who wait for it."""
    seccomp_default: bool = False
    """Off as upstream: containers without a profile run unconfined."""
    enable_probes: bool = True

    @property
    def pods_dir(self) -> Path:
        return self.root_dir / "pods"
