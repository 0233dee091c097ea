"""Nodes as network namespaces on a bridge, each with a process `podling flannel`, and pods on them.

The test's namespace is the machine in the middle: the switch 10.192.0.1, where the API server listens.
"""

from __future__ import annotations

import asyncio
import functools
import ipaddress
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kernel.api_local import LocalAPI, eventually, make_node
from kernel.net_local import Namespaces, ask, echo_server
from podling.client.client import Client
from podling.linux.netlink import Netlink, Route
from podling.linux.netns import open_netns, run_in_netns
from podling.linux.sysctl import write_sysctl

SWITCH = "10.192.0.1"
IF, IP, NET = ipaddress.ip_interface, ipaddress.ip_address, ipaddress.ip_network
TIMEOUT_S = 20.0


@dataclass
class Pod:
    netns: Path
    addresses: tuple[str, ...]


@dataclass
class FlannelNode:
    """`number` N: 10.192.0.N on the switch, pods in 10.244.N.0/24 and fd00:244:0:N::/64."""

    number: int
    name: str
    netns: Path
    folder: Path
    ipv6: bool
    pods: list[Pod] = field(default_factory=list)
    daemon: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"10.192.0.{self.number}"

    @property
    def subnets(self) -> list[str]:
        return [f"10.244.{self.number}.0/24", *([f"fd00:244:0:{self.number}::/64"] if self.ipv6 else [])]

    @property
    def subnet_file(self) -> Path:
        return self.folder / f"{self.name}.subnet.env"

    @property
    def log(self) -> str:
        return (self.folder / f"{self.name}.log").read_text()

    def run(self, *argv: str, check: bool = True) -> str:
        """A command on the node."""
        done = subprocess.run(
            ["nsenter", f"--net={self.netns}", *argv], capture_output=True, text=True, check=False
        )
        assert not check or done.returncode == 0, (argv, done.stderr)
        return done.stdout

    def json(self, *argv: str) -> Any:
        return json.loads(self.run(*argv) or "[]")

    def lease(self) -> dict[str, str]:
        """What subnet.env says; empty before it is there."""
        try:
            return dict(line.split("=", 1) for line in self.subnet_file.read_text().splitlines())
        except FileNotFoundError:
            return {}


class FlannelNet:
    def __init__(self, namespaces: Namespaces, api: LocalAPI, folder: Path, *, ipv6: bool = False) -> None:
        self._namespaces = namespaces
        self._api = api
        self._folder = folder
        self._ipv6 = ipv6
        self.client: Client = api.local()
        self.nodes: list[FlannelNode] = []

    @property
    def pods(self) -> list[Pod]:
        return [pod for node in self.nodes for pod in node.pods]

    async def add_node(self, number: int, *, switch: str = "switch0") -> FlannelNode:
        """The namespace with eth0, and the Node object."""
        name = f"node-{number}"
        netns = self._namespaces.make(f"{name}-{len(self._namespaces.made)}")
        node = FlannelNode(number=number, name=name, netns=netns, folder=self._folder, ipv6=self._ipv6)
        run_in_netns(netns, write_sysctl, "net.ipv4.ip_forward", 0)  # the daemon has to see to it
        plug_in(netns, f"port{number}", switch, f"{node.address}/24", f"fd00:192::{number}/64")
        self.nodes.append(node)
        made = make_node(name, podCIDR=node.subnets[0], podCIDRs=node.subnets)
        await self.client.create(made)
        return node

    def start(self, node: FlannelNode, backend: str | dict[str, Any], *options: str) -> None:
        """The daemon, as the node's own user."""
        conf = {
            "Network": "10.244.0.0/16",
            "EnableIPv6": self._ipv6,
            "IPv6Network": "fd00:244::/48",
            "Backend": {"Type": backend} if isinstance(backend, str) else backend,
        }
        path = self._folder / f"{node.name}.net-conf.json"
        path.write_text(json.dumps(conf))
        kubeconfig = self._api.kubeconfig(
            self._folder / f"{node.name}.conf", f"system:node:{node.name}", "system:nodes"
        )
        argv = ["nsenter", f"--net={node.netns}", sys.executable, "-m", "podling.cli", "flannel"]
        argv += ["--kubeconfig", str(kubeconfig), "--hostname-override", node.name, "--iface", "eth0"]
        argv += ["--net-config-path", str(path), "--subnet-file", str(node.subnet_file), *options]
        with open(self._folder / f"{node.name}.log", "ab") as log:
            node.daemon = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def stop(self, node: FlannelNode, number: int = signal.SIGTERM) -> None:
        if node.daemon is not None:
            node.daemon.send_signal(number)
            node.daemon.wait(timeout=TIMEOUT_S)
            node.daemon = None

    async def ready(self, node: FlannelNode) -> None:
        """The daemon has written subnet.env."""
        await self.until(lambda: bool(node.lease()), node)

    async def until(self, look: Callable[[], Any], *nodes: FlannelNode) -> None:
        """Wait until `look` is true, the API server serving meanwhile; else show what the daemons say."""

        async def asked() -> Any:
            return look()

        try:
            await eventually(asked, TIMEOUT_S)
        except TimeoutError:
            assert look(), "\n".join(node.log for node in nodes or self.nodes)

    def add_pod(self, node: FlannelNode, number: int = 5) -> Pod:
        """Wired as the bridge plugin does it, with the MTU flannel gives."""
        netns = self._namespaces.make(f"{node.name}-pod{number}-{len(self._namespaces.made)}")
        subnets = [NET(text) for text in node.subnets]
        mtu = int(node.lease()["FLANNEL_MTU"])
        with Netlink(node.netns) as nl:
            if nl.link_find("cni0") is None:
                nl.link_add_bridge("cni0", mac=f"02:00:00:00:01:{node.number:02x}", mtu=mtu)
                for subnet in subnets:
                    nl.addr_add("cni0", IF(f"{subnet[1]}/{subnet.prefixlen}"))
            with Netlink(netns) as inside:
                fd = open_netns(netns)
                nl.link_add_veth(f"veth{number}", "eth0", peer_netns_fd=fd, mtu=mtu, master="cni0", up=True)
                os.close(fd)
                for subnet in subnets:
                    inside.addr_add("eth0", IF(f"{subnet[number]}/{subnet.prefixlen}"))
                inside.link_set("eth0", up=True, mtu=mtu)
                for subnet in subnets:
                    default = NET("0.0.0.0/0" if subnet.version == 4 else "::/0")
                    inside.route_add(Route(dst=default, gateway=subnet[1]))
        pod = Pod(netns, tuple(str(subnet[number]) for subnet in subnets))
        node.pods.append(pod)
        return pod

    async def remove_node(self, node: FlannelNode) -> None:
        """Its plug is pulled; the Node object goes."""
        self.stop(node, signal.SIGKILL)
        for path in (node.netns, *(pod.netns for pod in node.pods)):
            self._namespaces.remove(path)
        with Netlink() as nl:
            nl.link_del(f"port{node.number}", missing_ok=True)
        self.nodes.remove(node)
        from podling.api.core_v1 import Node

        await self.client.delete(Node, node.name)

    def close(self) -> None:
        for node in self.nodes:
            self.stop(node, signal.SIGKILL)
            # The kernel takes its time to end a namespace, and the next test wants the name.
            with Netlink() as nl:
                nl.link_del(f"port{node.number}", missing_ok=True)


def plug_in(netns: Path, port: str, switch: str, *addresses: str) -> None:
    """An eth0 in the namespace, on the switch."""
    fd = open_netns(netns)
    try:
        with Netlink() as nl, Netlink(netns) as inside:
            nl.link_add_veth(port, "eth0", peer_netns_fd=fd, master=switch, up=True)
            for address in addresses:
                inside.addr_add("eth0", IF(address))
            inside.link_set("eth0", up=True)
    finally:
        os.close(fd)


async def reach_each_other(pods: list[Pod]) -> None:
    """Every pod every pod, in every family; each sees the other's own address. The API server goes on."""
    await asyncio.to_thread(_reach_each_other, pods)


def _reach_each_other(pods: list[Pod]) -> None:
    for server in pods:
        for place, address in enumerate(server.addresses):
            with echo_server(server.netns, address):
                for client in pods:
                    seen = patiently(functools.partial(ask, client.netns, address))
                    assert seen == client.addresses[place], (client, server)


def patiently(call: Callable[[], str]) -> str:
    """Entries may still be on their way, and an IPv6 address that was just added answers a moment later."""
    deadline = time.monotonic() + TIMEOUT_S
    while True:
        try:
            return call()
        except OSError:
            if time.monotonic() > deadline:
                raise
