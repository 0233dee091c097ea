"""A node with pods for tests of services: the test's namespace is the node "me", pods hang on its bridge."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

import msgspec

from kernel.api_local import LocalAPI, running
from kernel.net_local import Namespaces
from podling.api.core_v1 import Endpoints, Service
from podling.client.client import Client
from podling.linux.netlink import Netlink, Route
from podling.linux.netns import open_netns, run_in_netns
from podling.linux.sysctl import write_sysctl
from podling.network.proxy.proxy import ServiceProxy
from podling.network.services import ServiceView

NODE_IP = "10.192.0.2"
POD_PORT = 8080
ME = Path("/proc/thread-self/ns/net")
IF, NET = ipaddress.ip_interface, ipaddress.ip_network


@dataclass(frozen=True)
class Place:
    """A namespace and its address."""

    netns: Path
    address: str


class Node:
    def __init__(self, namespaces: Namespaces) -> None:
        self._namespaces = namespaces
        self._links: list[str] = []
        write_sysctl("net.ipv4.ip_forward", 1)
        with Netlink() as nl:
            nl.link_add_bridge("cni0", mac="02:00:00:00:01:01")
            nl.addr_add("cni0", IF("10.244.1.1/24"))
            nl.link_add_bridge("switch0", mac="02:00:00:00:00:01")
            nl.addr_add("switch0", IF(f"{NODE_IP}/24"))

    def close(self) -> None:
        with Netlink() as nl:
            for link in (*self._links, "cni0", "switch0"):
                nl.link_del(link, missing_ok=True)

    def pod(self, number: int) -> Place:
        """10.244.1.NUMBER, its port in hairpin mode as the CNI configuration has it."""
        place = self._plug_in(f"pod{number}", "cni0", f"10.244.1.{number}", gateway="10.244.1.1")
        with Netlink() as nl:
            nl.link_set_port(f"pod{number}", hairpin=True)
        return place

    def outsider(self, number: int = 99) -> Place:
        """A machine beside the node: 10.192.0.NUMBER, which knows no way to pods."""
        return self._plug_in(f"out{number}", "switch0", f"10.192.0.{number}", gateway=NODE_IP)

    def _plug_in(self, name: str, bridge: str, address: str, *, gateway: str) -> Place:
        netns = self._namespaces.make(name)
        fd = open_netns(netns)
        with Netlink() as nl, Netlink(netns) as inside:
            nl.link_add_veth(name, "eth0", peer_netns_fd=fd, master=bridge, up=True)
            self._links.append(name)
            inside.link_set("lo", up=True)
            inside.addr_add("eth0", IF(f"{address}/24"))
            inside.link_set("eth0", up=True)
            inside.route_add(Route(dst=NET("0.0.0.0/0"), gateway=ipaddress.ip_address(gateway)))
        return Place(netns, address)


@contextlib.contextmanager
def serving(*places: Place, udp: bool = False, port: int = POD_PORT) -> Iterator[None]:
    """Each place answers on `port` with its own address and the client's."""
    stop = threading.Event()
    threads = []
    sockets = []
    for place in places:
        kind = socket.SOCK_DGRAM if udp else socket.SOCK_STREAM
        sock = run_in_netns(place.netns, socket.socket, socket.AF_INET, kind)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((place.address, port))
        sock.settimeout(0.02)
        if not udp:
            sock.listen(64)
        threads.append(threading.Thread(target=_serve, args=(sock, place.address, stop, udp)))
        sockets.append(sock)
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()
        for sock in sockets:
            sock.close()


def _serve(sock: socket.socket, name: str, stop: threading.Event, udp: bool) -> None:
    while not stop.is_set():
        with contextlib.suppress(TimeoutError):
            if udp:
                _, peer = sock.recvfrom(100)
                sock.sendto(f"{name} {peer[0]}".encode(), peer)
            else:
                connection, peer = sock.accept()
                with connection:
                    connection.sendall(f"{name} {peer[0]}".encode())


@dataclass(frozen=True)
class Reply:
    server: str
    client: str


def connect(netns: Path | None, address: str, port: int, *, timeout_s: float = 2.0) -> Reply:
    """One TCP connection from `netns` (None: the node). `OSError` when it fails."""
    with _socket_in(netns, socket.SOCK_STREAM) as sock:
        sock.settimeout(timeout_s)
        sock.connect((address, port))
        server, client = sock.recv(100).decode().split()
        return Reply(server, client)


def udp_socket(netns: Path) -> socket.socket:
    sock = _socket_in(netns, socket.SOCK_DGRAM)
    sock.settimeout(1.0)
    return sock


def _socket_in(netns: Path | None, kind: int) -> socket.socket:
    if netns is None:
        return socket.socket(socket.AF_INET, kind)
    return run_in_netns(netns, socket.socket, socket.AF_INET, kind)


def service(name: str, address: str, *, udp: bool = False, **spec: Any) -> Service:
    port = {"port": 80, "protocol": "UDP" if udp else "TCP", "targetPort": POD_PORT}
    document = {
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"clusterIP": address, "ports": [port], **spec},
    }
    return msgspec.convert(document, Service)


def endpoints(name: str, *addresses: str, node: str = "me", udp: bool = False) -> Endpoints:
    ports = [{"port": POD_PORT, "protocol": "UDP" if udp else "TCP"}]
    subset = {"addresses": [{"ip": a, "nodeName": node} for a in addresses], "ports": ports}
    document = {
        "metadata": {"name": name, "namespace": "default"},
        "subsets": [subset] if addresses else [],
    }
    return msgspec.convert(document, Endpoints)


@asynccontextmanager
async def proxy(api: LocalAPI, client: Client | None = None) -> AsyncIterator[Client]:
    """A running proxy that has done its first pass."""
    client = client or api.local()
    view = ServiceView(client)
    made = ServiceProxy(
        view,
        "me",
        node_ip=IPv4Address(NODE_IP),
        cluster_cidr=IPv4Network("10.244.0.0/16"),
        service_cidr=IPv4Network("10.96.0.0/16"),
    )
    async with running(view.run), running(made.run):
        await made.synced.wait()
        yield client
    await client.close()
