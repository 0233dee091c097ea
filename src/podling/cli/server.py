"""`podling server`"""

from __future__ import annotations

import asyncio
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import click


@click.command("server")
@click.option(
    "--advertise-address", required=True, help="Address at which nodes and clients reach this server."
)
@click.option("--bind-address", default="0.0.0.0", show_default=True, help="Address to listen on.")
@click.option("--secure-port", default=6443, show_default=True, help="Port to listen on.")
@click.option(
    "--service-cluster-ip-range", default="10.96.0.0/16", show_default=True, help="Addresses for services."
)
@click.option("--cluster-cidr", default="10.244.0.0/16", show_default=True, help="Addresses for pods.")
@click.option(
    "--load-balancer-cidr",
    default=None,
    help="Addresses on the nodes' network for services of type LoadBalancer. [default: none are given]",
)
@click.option(
    "--cert-dir",
    type=click.Path(path_type=Path, exists=True),
    default="/etc/kubernetes/pki",
    show_default=True,
    help="Certificates, named as kubeadm names them.",
)
@click.option(
    "--store",
    type=click.Path(path_type=Path),
    default="/var/lib/podling/server/store.db",
    show_default=True,
    help="File of the store.",
)
def command(
    advertise_address: str,
    bind_address: str,
    secure_port: int,
    service_cluster_ip_range: str,
    cluster_cidr: str,
    load_balancer_cidr: str | None,
    cert_dir: Path,
    store: Path,
) -> None:
    """Run the control plane (API server, scheduler, controllers) on this machine until it is ended."""
    import uvloop

    from podling.machine.config import ConfigError
    from podling.machine.control_plane import ControlPlaneConfig, run_control_plane

    try:
        config = ControlPlaneConfig(
            advertise_address=IPv4Address(advertise_address),
            service_cidr=IPv4Network(service_cluster_ip_range),
            pod_cidr=IPv4Network(cluster_cidr),
            load_balancer_cidr=IPv4Network(load_balancer_cidr) if load_balancer_cidr else None,
            store=store,
            pki=cert_dir,
            bind_address=bind_address,
            port=secure_port,
        )
    except ValueError as err:
        raise ConfigError(f"podling server: {err}") from err
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run_control_plane(config))
