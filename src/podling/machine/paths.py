"""Where a cluster keeps what on the machine, and where a node finds it.

On the machine                                   inside the node
/var/lib/podling/images                          the same (one store a machine)
/var/lib/podling/clusters/NAME/cluster.json      -
/var/lib/podling/clusters/NAME/pki               -
/var/lib/podling/clusters/NAME/admin.conf        -
/var/lib/podling/clusters/NAME/logs              -
/var/lib/podling/clusters/NAME/start             -
/var/lib/podling/clusters/NAME/nodes/NODE/...    each of NODE_BINDS; upper layers of /etc, /opt and /var
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

STATE = Path("/var/lib/podling")
IMAGES = STATE / "images"
CLUSTERS = STATE / "clusters"
LOCK = Path("/run/lock/podling")

NODE_BINDS = {
    "etc-kubernetes": "/etc/kubernetes",
    "etc-cni": "/etc/cni",
    "opt-cni": "/opt/cni",
    "kubelet": "/var/lib/kubelet",
    "cni": "/var/lib/cni",
    "log-pods": "/var/log/pods",
    "log-containers": "/var/log/containers",
    "runtime": "/var/lib/podling/runtime",
    "byhand": "/var/lib/podling/byhand",
    "server": "/var/lib/podling/server",
}
"""Folder below the node's own -> where the node sees it. Real directories rather than overlay ones: a
container's writable layer cannot lie on an overlay."""

NODE_OVERLAYS = ("etc", "opt", "var")
"""Directories of the machine of which each node has a private, writable view."""


@dataclass(frozen=True, slots=True)
class NodePaths:
    root: Path

    def bind(self, name: str) -> Path:
        return self.root / name

    @property
    def pki(self) -> Path:
        return self.root / "etc-kubernetes" / "pki"

    def kubeconfig(self, who: str) -> Path:
        return self.root / "etc-kubernetes" / f"{who}.conf"


@dataclass(frozen=True, slots=True)
class ClusterPaths:
    root: Path

    @classmethod
    def of(cls, name: str) -> ClusterPaths:
        return cls(CLUSTERS / name)

    @property
    def record(self) -> Path:
        return self.root / "cluster.json"

    @property
    def pki(self) -> Path:
        return self.root / "pki"

    @property
    def admin_conf(self) -> Path:
        return self.root / "admin.conf"

    def log(self, process: str) -> Path:
        return self.root / "logs" / f"{process}.log"

    @property
    def start_requests(self) -> Path:
        """A file for each node that shall be started again."""
        return self.root / "start"

    def node(self, name: str) -> NodePaths:
        return NodePaths(self.root / "nodes" / name)
