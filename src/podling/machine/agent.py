"""`podling agent`: what runs on every node. The kubelet over our runtime, and the network: routes to other
nodes, services and DNS.

One process, one event loop. Containers and their monitors are not its children's children: it may be
killed at any moment, and the next one finds them again.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from podling.api import core_v1
from podling.client.client import Client
from podling.client.events import EventRecorder
from podling.client.http import HttpTransport
from podling.client.kubeconfig import client_config
from podling.kubelet.config import KubeletConfig
from podling.kubelet.kubelet import Kubelet
from podling.machine.node_runtime import node_runtime
from podling.network.dns.server import DNSServer
from podling.network.proxy.proxy import ServiceProxy
from podling.network.routes import RouteSync
from podling.network.services import ServiceView
from podling.runtime.config import RuntimeConfig

KUBELET_PKI = Path("/var/lib/kubelet/pki")

SWITCH_INTERVAL_S = 0.0005
"""How long a thread that wants to run waits for the event loop. Each system call of a thread (wiring a pod
takes dozens) waits anew: at Python's 5 ms one ADD beside a busy loop takes 0.2 to 2 s, at this 40 ms."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentConfig:
    node_name: str
    node_ip: IPv4Address
    kubeconfig: Path = Path("/etc/kubernetes/kubelet.conf")
    client_ca: Path = Path("/etc/kubernetes/pki/ca.crt")
    tls_cert: Path = KUBELET_PKI / "kubelet.crt"
    tls_key: Path = KUBELET_PKI / "kubelet.key"
    pod_cidr: IPv4Network | None = None
    """None: the cluster assigns one."""
    cluster_dns: tuple[str, ...] = ()
    cluster_domain: str = "cluster.local"
    labels: dict[str, str] = field(default_factory=dict)
    taints: tuple[core_v1.Taint, ...] = ()
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)
    container_runtime_endpoint: str | None = None
    """A CRI socket as `unix:///run/containerd/containerd.sock`; None: our runtime, in this process."""
    cluster_cidr: IPv4Network | None = None
    """The range of all pods: what comes from outside it and goes to a service is masqueraded."""
    service_cidr: IPv4Network | None = None
    """The range of services: what is sent to one that does not exist is refused."""
    service_proxy: bool = True
    """Translate services on this node; off where a kube-proxy runs."""
    dns: bool = True
    """Answer the cluster's DNS on this node's address."""
    route_sync: bool = True
    """Keep routes to the other nodes' pod subnets: for networks whose CNI plugin does not."""


async def run_agent(config: AgentConfig) -> None:
    """Run until SIGTERM or SIGINT. Containers live on."""
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for sig in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(sig, stop.set)
    async with node_runtime(config.runtime, config.container_runtime_endpoint, stop) as runtime:
        transport = HttpTransport(client_config(config.kubeconfig))
        client = Client(transport)
        try:
            async with asyncio.TaskGroup() as tasks:
                kubelet = Kubelet(_kubelet_config(config), client, runtime, runtime)
                running = [tasks.create_task(kubelet.run(), name="kubelet")]
                if config.route_sync:
                    running.append(
                        tasks.create_task(RouteSync(client, config.node_name).run(), name="routes")
                    )
                if config.service_proxy or config.dns:
                    running.append(tasks.create_task(_run_services(config, client), name="services"))
                await stop.wait()
                for task in running:
                    task.cancel()
        finally:
            await transport.close()


async def _run_services(config: AgentConfig, client: Client) -> None:
    view = ServiceView(client)
    async with asyncio.TaskGroup() as tasks:
        if config.service_proxy:
            events = EventRecorder(client, "kube-proxy", config.node_name)
            proxy = ServiceProxy(
                view,
                config.node_name,
                node_ip=config.node_ip,
                cluster_cidr=config.cluster_cidr,
                service_cidr=config.service_cidr,
                events=events,
            )
            tasks.create_task(events.run(), name="services: events")
            tasks.create_task(proxy.run(), name="service proxy")
        if config.dns:
            networks = [cidr for cidr in (config.cluster_cidr, config.service_cidr) if cidr is not None]
            server = DNSServer(view, config.node_ip, domain=config.cluster_domain, networks=networks)
            tasks.create_task(server.run(), name="DNS")
        tasks.create_task(view.run(), name="service view")


def _kubelet_config(config: AgentConfig) -> KubeletConfig:
    return KubeletConfig(
        node_name=config.node_name,
        node_ip=str(config.node_ip),
        tls_cert=config.tls_cert,
        tls_key=config.tls_key,
        client_ca=config.client_ca,
        cluster_dns=config.cluster_dns,
        cluster_domain=config.cluster_domain,
        pod_cidr=str(config.pod_cidr or ""),
        node_labels=config.labels,
        register_with_taints=config.taints,
        # Differs from upstream, whose default is off: a pod that says nothing gets the runtime's profile.
        seccomp_default=True,
    )
