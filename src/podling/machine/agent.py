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
from podling.kubelet.thresholds import DEFAULT_HARD
from podling.machine.agent_config import AgentConfig
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
    flannel = _flannel(config)
    if flannel is not None:
        await asyncio.to_thread(flannel.prepare)  # the runtime looks for a network when it starts
    async with (
        node_runtime(config.runtime, config.container_runtime_endpoint or None, stop) as runtime,
        _connected(config) as client,
        asyncio.TaskGroup() as tasks,
    ):
        running: list[asyncio.Task[None]] = []
        gate = open_gate
        if client is not None:
            running += _beside(tasks, config, client, flannel)
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
    kubelet = config.kubelet
    if config.pod_infra_container_image:
        log.info("pause containers are our own, in place of %s", config.pod_infra_container_image)
    if kubelet.eviction_hard != DEFAULT_HARD or kubelet.eviction_soft:
        log.warning("eviction is not there yet: of its thresholds only memory's counts, for the allocatable")


@asynccontextmanager
async def _connected(config: AgentConfig) -> AsyncIterator[Client | None]:
    """None: standalone."""
    if config.kubeconfig is None:
        log.info("standalone mode, no API client")
        yield None
        return
    transport = HttpTransport(client_config(config.kubeconfig))
    try:
        yield Client(transport)
    finally:
        await transport.close()


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
