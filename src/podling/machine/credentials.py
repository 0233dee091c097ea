"""Every certificate, key and kubeconfig of a cluster, put where kubeadm users look for them."""

from __future__ import annotations

import shutil
from base64 import b64encode
from pathlib import Path
from typing import Any

import yaml

from podling.machine import pki
from podling.machine.config import ClusterConfig, NodeConfig
from podling.machine.paths import ClusterPaths

KUBELET_CLIENT = "apiserver-kubelet-client"


def write_all(config: ClusterConfig) -> None:
    """Make the CA and all that it signs. Overwrites: a cluster's credentials are made once, at `up`."""
    paths = ClusterPaths.of(config.name)
    ca = pki.make_ca()
    ca_cert, _ = ca.write(paths.pki, "ca")
    pki.write_secret(paths.pki / "sa.key", pki.make_signing_key())
    master = config.nodes[0]
    pki.issue(
        ca,
        "kube-apiserver",
        dns_names=[
            "kubernetes",
            "kubernetes.default",
            "kubernetes.default.svc",
            "kubernetes.default.svc.cluster.local",
            "localhost",
            master.name,
        ],
        addresses=[master.address, config.service_network.network_address + 1],
    ).write(paths.pki, "apiserver")
    pki.issue(ca, "kube-apiserver-kubelet-client", organizations=["system:masters"]).write(
        paths.pki, KUBELET_CLIENT
    )
    admin = pki.issue(ca, "kubernetes-admin", organizations=["system:masters"])
    write_kubeconfig(paths.admin_conf, config, "kubernetes-admin", ca, admin)
    for node in config.nodes:
        _write_node(config, node, ca, ca_cert)


def _write_node(config: ClusterConfig, node: NodeConfig, ca: pki.KeyPair, ca_cert: Path) -> None:
    paths = ClusterPaths.of(config.name)
    node_paths = paths.node(node.name)
    node_paths.pki.mkdir(parents=True, exist_ok=True)
    if node.control_plane:
        shutil.copytree(paths.pki, node_paths.pki, dirs_exist_ok=True)
        shutil.copy(paths.admin_conf, node_paths.kubeconfig("admin"))
    else:
        shutil.copy(ca_cert, node_paths.pki / "ca.crt")
    user = f"system:node:{node.name}"
    client = pki.issue(ca, user, organizations=["system:nodes"])
    write_kubeconfig(node_paths.kubeconfig("kubelet"), config, user, ca, client)
    serving = pki.issue(
        ca, user, organizations=["system:nodes"], dns_names=[node.name], addresses=[node.address]
    )
    serving.write(node_paths.bind("kubelet") / "pki", "kubelet")


def write_kubeconfig(
    path: Path, config: ClusterConfig, user: str, ca: pki.KeyPair, client: pki.KeyPair
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pki.write_secret(path, yaml.safe_dump(kubeconfig(config, user, ca.cert_pem, client)).encode())


def kubeconfig(config: ClusterConfig, user: str, ca_pem: bytes, client: pki.KeyPair) -> dict[str, Any]:
    """A kubeconfig document with its certificates inside (Kubernetes, "Organizing Cluster Access")."""

    def b64(data: bytes) -> str:
        return b64encode(data).decode()

    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {
                "name": config.context,
                "cluster": {"server": config.server, "certificate-authority-data": b64(ca_pem)},
            }
        ],
        "users": [
            {
                "name": user,
                "user": {
                    "client-certificate-data": b64(client.cert_pem),
                    "client-key-data": b64(client.key_pem),
                },
            }
        ],
        "contexts": [{"name": config.context, "context": {"cluster": config.context, "user": user}}],
        "current-context": config.context,
        "preferences": {},
    }
