"""`podling server`: API server, scheduler and controllers in one process.

The scheduler and the controllers talk to the API server by its REST interface, under their own
identities, but through a transport that stays in the process: no TLS, no sockets, the same handlers.
"""

from __future__ import annotations

import asyncio
import signal
import socket
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from podling.api import protobuf, schema
from podling.apiserver.config import APIServerConfig
from podling.apiserver.server import APIServer
from podling.client.client import Client
from podling.controllers.certificates import SigningCA
from podling.controllers.manager import ControllerConfig, ControllerManager
from podling.scheduler.scheduler import Scheduler

PKI = Path("/etc/kubernetes/pki")


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlPlaneConfig:
    advertise_address: IPv4Address
    service_cidr: IPv4Network
    pod_cidr: IPv4Network
    load_balancer_cidr: IPv4Network | None = None
    """Addresses for services of type LoadBalancer; None: they get none from us."""
    store: Path = Path("/var/lib/podling/server/store.db")
    pki: Path = PKI
    bind_address: str = "0.0.0.0"
    port: int = 6443


def preload() -> None:
    """Read the tables the API server works from: before a fork, so that they are shared and the first
    request need not wait for them."""
    schema.preload()
    protobuf.preload()


async def run_control_plane(config: ControlPlaneConfig, listener: socket.socket | None = None) -> None:
    """Run until SIGTERM or SIGINT; `listener` is a bound socket to serve on instead of opening one."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for sig in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(sig, stop.set)
    server = APIServer(_server_config(config), listener)
    await server.start()
    try:
        async with asyncio.TaskGroup() as tasks:
            scheduler = Scheduler(Client(server.local_transport("system:kube-scheduler", [])))
            controllers = ControllerManager(
                Client(server.local_transport("system:kube-controller-manager", [])),
                ControllerConfig(
                    cluster_cidr=str(config.pod_cidr),
                    cluster_dns=str(config.service_cidr.network_address + 10),
                    load_balancer_cidr=config.load_balancer_cidr,
                    root_ca=(config.pki / "ca.crt").read_text(),
                    signing_ca=_signing_ca(config),
                ),
            )
            running = [
                tasks.create_task(scheduler.run(), name="scheduler"),
                tasks.create_task(controllers.run(), name="controllers"),
            ]
            await stop.wait()
            for task in running:
                task.cancel()
    finally:
        await server.stop()


def _signing_ca(config: ControlPlaneConfig) -> SigningCA | None:
    """None where the authority's key is kept elsewhere."""
    certificate, key = config.pki / "ca.crt", config.pki / "ca.key"
    return SigningCA(certificate.read_bytes(), key.read_bytes()) if key.exists() else None


def _server_config(config: ControlPlaneConfig) -> APIServerConfig:
    return APIServerConfig(
        bind_address=config.bind_address,
        port=config.port,
        advertise_address=config.advertise_address,
        tls_cert=config.pki / "apiserver.crt",
        tls_key=config.pki / "apiserver.key",
        client_ca=config.pki / "ca.crt",
        store_path=config.store,
        service_cidr=config.service_cidr,
        pod_cidr=config.pod_cidr,
        service_account_key=config.pki / "sa.key",
        kubelet_client_cert=config.pki / "apiserver-kubelet-client.crt",
        kubelet_client_key=config.pki / "apiserver-kubelet-client.key",
        kubelet_ca=config.pki / "ca.crt",
    )
