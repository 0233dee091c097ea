"""`podling agent`"""

from __future__ import annotations

import asyncio
import socket
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import click


@click.command("agent")
@click.option(
    "--kubeconfig",
    type=click.Path(path_type=Path, exists=True),
    default="/etc/kubernetes/kubelet.conf",
    show_default=True,
    help="How to reach the API server, and as whom.",
)
@click.option(
    "--hostname-override", "node_name", default=None, help="Name of the node. [default: the host name]"
)
@click.option("--node-ip", required=True, help="Address of the node.")
@click.option("--pod-cidr", default=None, help="Addresses for pods. [default: the cluster assigns them]")
@click.option("--cluster-dns", default="", help="Comma-separated addresses of the cluster's DNS servers.")
@click.option("--cluster-cidr", default=None, help="Range of all pods. Others are masqueraded to services.")
@click.option("--service-cidr", default=None, help="Range of the cluster IPs of services.")
@click.option(
    "--service-proxy/--no-service-proxy",
    default=True,
    show_default=True,
    help="Translate services on this node; turn off where a kube-proxy does.",
)
@click.option(
    "--dns/--no-dns", default=True, show_default=True, help="Answer the cluster's DNS on port 10053."
)
@click.option("--cluster-domain", default="cluster.local", show_default=True, help="Domain of the cluster.")
@click.option(
    "--cni-conf-dir",
    type=click.Path(path_type=Path),
    default="/etc/cni/net.d",
    show_default=True,
    help="Where CNI configuration lies.",
)
@click.option(
    "--cni-bin-dir",
    type=click.Path(path_type=Path),
    default="/opt/cni/bin",
    show_default=True,
    help="Where CNI plugins lie.",
)
@click.option(
    "--container-runtime-endpoint",
    "runtime_endpoint",
    default=None,
    metavar="unix:///SOCKET",
    help="CRI socket of another runtime, such as unix:///run/containerd/containerd.sock. [default: our own]",
)
@click.option(
    "--client-ca-file",
    type=click.Path(path_type=Path),
    default="/etc/kubernetes/pki/ca.crt",
    show_default=True,
    help="CA of the clients of port 10250.",
)
def command(
    kubeconfig: Path,
    node_name: str | None,
    node_ip: str,
    pod_cidr: str | None,
    cluster_dns: str,
    cluster_cidr: str | None,
    service_cidr: str | None,
    service_proxy: bool,
    dns: bool,
    cluster_domain: str,
    cni_conf_dir: Path,
    cni_bin_dir: Path,
    runtime_endpoint: str | None,
    client_ca_file: Path,
) -> None:
    """Run the node agent (kubelet and runtime) on this machine until it is ended."""
    import uvloop

    from podling.machine.agent import AgentConfig, run_agent
    from podling.machine.config import ConfigError
    from podling.runtime.config import RuntimeConfig
    from podling.runtime.cri.grpc_client import socket_path

    try:
        if runtime_endpoint is not None:
            socket_path(runtime_endpoint)
        config = AgentConfig(
            node_name=node_name or socket.gethostname().lower(),
            node_ip=IPv4Address(node_ip),
            kubeconfig=kubeconfig,
            client_ca=client_ca_file,
            pod_cidr=IPv4Network(pod_cidr) if pod_cidr else None,
            cluster_dns=tuple(a.strip() for a in cluster_dns.split(",") if a.strip()),
            cluster_domain=cluster_domain,
            cluster_cidr=IPv4Network(cluster_cidr) if cluster_cidr else None,
            service_cidr=IPv4Network(service_cidr) if service_cidr else None,
            service_proxy=service_proxy,
            dns=dns,
            container_runtime_endpoint=runtime_endpoint,
            runtime=RuntimeConfig(cni_conf_dir=cni_conf_dir, cni_bin_dirs=(cni_bin_dir,)),
        )
    except ValueError as err:
        raise ConfigError(f"podling agent: {err}") from err
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run_agent(config))
