"""`podling agent`: what runs on every node. The kubelet over our runtime, and the network: routes to other
nodes, services and DNS.

One process, one event loop. Containers and their monitors are not its children's children: it may be
killed at any moment, and the next one finds them again.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import IPv4Address, IPv4Network

from podling.client.client import Client
from podling.client.events import EventRecorder
from podling.client.http import HttpTransport
from podling.client.kubeconfig import client_config
from podling.kubelet.kubelet import Kubelet
from podling.kubelet.services import open_gate
from podling.machine import pki
from podling.machine.agent_config import AgentConfig
from podling.machine.node_certificates import (
    CLIENT_PAIR,
    CLIENT_SIGNER,
    SERVING_PAIR,
    SERVING_SIGNER,
    CertificatePair,
    Rotation,
    bootstrap,
)
from podling.machine.node_runtime import node_runtime
from podling.network.dns.server import DNSServer
from podling.network.flannel.daemon import Flannel
from podling.network.load_balancer import LoadBalancerAnnouncer
from podling.network.policy.enforcer import PolicyEnforcer
from podling.network.proxy.proxy import ServiceProxy
from podling.network.routes import RouteSync
from podling.network.services import ServiceView

SWITCH_INTERVAL_S = 0.0005
"""How long a thread that wants to run waits for the event loop. Each system call of a thread (wiring a pod
takes dozens) waits anew: at Python's 5 ms one ADD beside a busy loop takes 0.2 to 2 s, at this 40 ms."""

log = logging.getLogger(__name__)


async def run_agent(config: AgentConfig) -> None:
    """Run until SIGTERM or SIGINT. Containers live on."""
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for sig in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(sig, stop.set)
    _tell_what_is_not(config)
    _own_certificate(config)
    await _first_certificate(config, stop)
    if stop.is_set():
        return
    flannel = _flannel(config)
    if flannel is not None:
        await asyncio.to_thread(flannel.prepare)  # the runtime looks for a network when it starts
    async with (
        node_runtime(config.runtime, config.container_runtime_endpoint or None, stop) as runtime,
        _connected(config) as transport,
        asyncio.TaskGroup() as tasks,
    ):
        client = Client(transport) if transport is not None else None
        running: list[asyncio.Task[None]] = []
        gate = open_gate
        if client is not None and transport is not None:
            running += _beside(tasks, config, client, flannel)
            running += _rotations(tasks, config, client, transport)
            if config.network_policies:
                events = EventRecorder(client, "network-policy", config.kubelet.node_name)
                policies = PolicyEnforcer(client, config.kubelet.node_name, events)
                gate = policies.admit
                running.append(tasks.create_task(events.run(), name="policy: events"))
                running.append(tasks.create_task(policies.run(), name="network policies"))
        kubelet = Kubelet(config.kubelet, client, runtime, runtime, network_gate=gate)
        running.append(tasks.create_task(kubelet.run(), name="kubelet"))
        await stop.wait()
        for task in running:
            task.cancel()


def _tell_what_is_not(config: AgentConfig) -> None:
    """Settings that are taken and not, or not fully, acted on."""
    if config.pod_infra_container_image:
        log.info("pause containers are our own, in place of %s", config.pod_infra_container_image)


@asynccontextmanager
async def _connected(config: AgentConfig) -> AsyncIterator[HttpTransport | None]:
    """None: standalone."""
    if config.kubeconfig is None:
        log.info("standalone mode, no API client")
        yield None
        return
    transport = HttpTransport(client_config(config.kubeconfig))
    try:
        yield transport
    finally:
        await transport.close()


async def _first_certificate(config: AgentConfig, stop: asyncio.Event) -> None:
    """TLS bootstrap, where it is needed; returns too when `stop` is set."""
    kubeconfig, how = config.kubeconfig, config.bootstrap_kubeconfig
    if kubeconfig is None or how is None or kubeconfig.exists():
        return
    asking = asyncio.create_task(bootstrap(how, kubeconfig, config.cert_dir, config.kubelet.node_name))
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({asking, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if asking.done():
            asking.result()
    finally:
        asking.cancel()
        stopping.cancel()


def _own_certificate(config: AgentConfig) -> None:
    """A certificate for the kubelet's server where nobody gave one: its clients cannot check it."""
    cert, name = config.cert_dir / "kubelet.crt", config.kubelet.node_name
    if config.kubelet.tls_cert != cert or cert.exists():
        return
    pair = pki.issue(
        pki.make_ca(f"{name}-ca"), name, dns_names=[name], addresses=[IPv4Address(config.kubelet.node_ip)]
    )
    pair.write(config.cert_dir, "kubelet")
    log.info("using self-signed certificate %s", cert)


def _rotations(
    tasks: asyncio.TaskGroup, config: AgentConfig, client: Client, transport: HttpTransport
) -> list[asyncio.Task[None]]:
    """What keeps the node's certificates fresh."""
    node, running = config.kubelet.node_name, []
    own = CertificatePair(config.cert_dir, CLIENT_PAIR)
    if config.rotate_certificates and own.load() is None:
        log.warning("--rotate-certificates: the kubeconfig's certificate is not of TLS bootstrap, and stays")
    elif config.rotate_certificates:
        # New connections show the new certificate; the old ones end.
        rotation = Rotation(client, own, node, CLIENT_SIGNER, renewed=transport.close)
        running.append(tasks.create_task(rotation.run(), name="client certificate"))
    if config.rotate_server_certificates:
        rotation = Rotation(
            client,
            CertificatePair(config.cert_dir, SERVING_PAIR),
            node,
            SERVING_SIGNER,
            addresses=(node, config.kubelet.node_ip),
        )
        running.append(tasks.create_task(rotation.run(), name="server certificate"))
    return running


def _flannel(config: AgentConfig) -> Flannel | None:
    if config.flannel is None:
        return None
    cidr = config.kubelet.pod_cidr
    expected = (IPv4Network(cidr),) if cidr else ()
    return Flannel(config.flannel, config.kubelet.node_name, expected_subnets=expected)


def _beside(
    tasks: asyncio.TaskGroup, config: AgentConfig, client: Client, flannel: Flannel | None
) -> list[asyncio.Task[None]]:
    """What runs beside the kubelet."""
    running = []
    if flannel is not None:
        events = EventRecorder(client, "flannel", config.kubelet.node_name)
        running.append(tasks.create_task(events.run(), name="flannel: events"))
        running.append(tasks.create_task(flannel.run(client, events), name="flannel"))
    if config.route_sync:
        routes = RouteSync(client, config.kubelet.node_name)
        running.append(tasks.create_task(routes.run(), name="routes"))
    if config.service_proxy or config.dns:
        running.append(tasks.create_task(_run_services(config, client), name="services"))
    return running


async def _run_services(config: AgentConfig, client: Client) -> None:
    view = ServiceView(client)
    node_ip = IPv4Address(config.kubelet.node_ip)
    async with asyncio.TaskGroup() as tasks:
        if config.service_proxy:
            events = EventRecorder(client, "kube-proxy", config.kubelet.node_name)
            proxy = ServiceProxy(
                view,
                config.kubelet.node_name,
                node_ip=node_ip,
                cluster_cidr=config.cluster_cidr,
                service_cidr=config.service_cidr,
                events=events,
            )
            tasks.create_task(events.run(), name="services: events")
            tasks.create_task(proxy.run(), name="service proxy")
            if config.load_balancer_cidr is not None:
                announcer = LoadBalancerAnnouncer(
                    view,
                    client,
                    config.kubelet.node_name,
                    node_ip=node_ip,
                    pool=config.load_balancer_cidr,
                )
                tasks.create_task(announcer.run(), name="load balancer addresses")
        if config.dns:
            networks = [cidr for cidr in (config.cluster_cidr, config.service_cidr) if cidr is not None]
            server = DNSServer(view, node_ip, domain=config.kubelet.cluster_domain, networks=networks)
            tasks.create_task(server.run(), name="DNS")
        tasks.create_task(view.run(), name="service view")
