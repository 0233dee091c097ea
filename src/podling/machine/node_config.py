"""What each node of a cluster on this machine is told: its CNI configuration and its agent's settings."""

from __future__ import annotations

from pathlib import Path

from podling.api import core_v1
from podling.cni.install import install
from podling.kubelet.config import KubeletConfig
from podling.kubelet.thresholds import thresholds
from podling.machine.agent_config import AgentConfig
from podling.machine.config import ClusterConfig, NodeConfig
from podling.machine.paths import NodePaths
from podling.network.flannel.node import FlannelConfig

MANIFESTS = Path("/etc/kubernetes/manifests")
"""Where kubeadm users put the manifests of static pods."""
KUBELET_PKI = Path("/var/lib/kubelet/pki")
CONTROL_PLANE_ROLE = "node-role.kubernetes.io/control-plane"


def write_node_config(config: ClusterConfig, node: NodeConfig, paths: NodePaths) -> None:
    """CNI plugins into the node's /opt/cni/bin, the network's configuration into its /etc/cni/net.d; and a
    place for manifests of static pods."""
    install(paths.bind("opt-cni") / "bin")
    manifests = paths.bind("etc-kubernetes") / MANIFESTS.name
    manifests.mkdir(parents=True, exist_ok=True)
    conf_dir = paths.bind("etc-cni") / "net.d"
    conf_dir.mkdir(parents=True, exist_ok=True)
    name, text = config.network.cni_conf(node.pod_cidr)
    (conf_dir / name).write_text(text)


def agent_config(config: ClusterConfig, node: NodeConfig) -> AgentConfig:
    """Taints as kubeadm's: the control plane takes no ordinary pods, unless it is the only node."""
    control_plane_only = node.control_plane and config.workers > 0
    flannel = None
    if config.network.is_flannel:
        conf = config.network.net_conf(config.pod_network)
        flannel = FlannelConfig(net_conf=conf, addresses=(node.address,))
    return AgentConfig(
        kubelet=KubeletConfig(
            node_name=node.name,
            node_ip=str(node.address),
            pod_cidr=str(node.pod_cidr),
            static_pod_path=MANIFESTS,
            cluster_dns=(str(config.cluster_dns),),
            node_labels={CONTROL_PLANE_ROLE: ""} if node.control_plane else {},
            register_with_taints=(core_v1.Taint(key=CONTROL_PLANE_ROLE, effect="NoSchedule"),)
            if control_plane_only
            else (),
            # The swap of a laptop is its owner's business.
            fail_swap_on=False,
            # Nor is how full its disk is, which all nodes share: each would evict its pods for the others.
            eviction_hard=thresholds({"memory.available": "100Mi"}),
            tls_cert=KUBELET_PKI / "kubelet.crt",
            tls_key=KUBELET_PKI / "kubelet.key",
            client_ca=Path("/etc/kubernetes/pki/ca.crt"),
            verbosity=config.verbosity,
        ),
        kubeconfig=Path("/etc/kubernetes/kubelet.conf"),
        cluster_cidr=config.pod_network,
        service_cidr=config.service_network,
        load_balancer_cidr=config.load_balancer_network,
        flannel=flannel,
        route_sync=flannel is None,
    )
