"""Chains of plugins on a node, with somebody outside to talk to them."""

from __future__ import annotations

import ipaddress
import json
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from kernel.cni_local import Node
from kernel.net_local import Namespaces
from podling.cni.types import Result
from podling.linux.netlink import Netlink, Route
from podling.linux.netns import open_netns, run_in_netns
from podling.linux.sysctl import write_sysctl

NODE_IP, OUTSIDE_IP = "192.0.2.1", "192.0.2.9"
NODE_IP6, OUTSIDE_IP6 = "2001:db8::1", "2001:db8::9"


def outside(node: Node, namespaces: Namespaces) -> Path:
    """A host beside the node, with a default route through it."""
    path = namespaces.make("outside")
    for netns in (node.netns, path):
        # A router asks for neighbours from its link-local address, which detection holds back for seconds.
        run_in_netns(netns, write_sysctl, "net.ipv6.conf.default.accept_dad", "0")
    fd = open_netns(path)
    with Netlink(node.netns) as nl, Netlink(path) as far:
        nl.link_add_veth("uplink", "eth0", peer_netns_fd=fd, up=True)
        far.link_set("eth0", up=True)
        for near, there in ((NODE_IP + "/24", OUTSIDE_IP + "/24"), (NODE_IP6 + "/64", OUTSIDE_IP6 + "/64")):
            nl.addr_add("uplink", ipaddress.ip_interface(near))
            far.addr_add("eth0", ipaddress.ip_interface(there))
        for default, gateway in (("0.0.0.0/0", NODE_IP), ("::/0", NODE_IP6)):
            far.route_add(Route(dst=ipaddress.ip_network(default), gateway=ipaddress.ip_address(gateway)))
    os.close(fd)
    return path


class Chain:
    """A list of plugin configurations, called as a runtime does: prevResult handed on, DEL in reverse."""

    def __init__(self, node: Node, *plugins: dict[str, Any], executed: bool = False) -> None:
        self.node = node
        self.plugins = [{"cniVersion": "1.0.0", "name": "net"} | plugin for plugin in plugins]
        self.executed = executed

    def add(self, container: str, netns: Path, *, args: str = "") -> Result:
        result: dict[str, Any] | None = None
        for plugin in self.plugins:
            conf = plugin | ({"prevResult": result} if result else {})
            result = self._call("ADD", container, netns, conf, args)
        assert result is not None
        return Result.from_json(result)

    def delete(
        self, container: str, netns: Path | str, previous: Result | None = None, *, args: str = ""
    ) -> None:
        for plugin in reversed(self.plugins):
            self._call("DEL", container, netns, self._with(plugin, previous), args)

    def check(self, container: str, netns: Path, previous: Result, *, args: str = "") -> None:
        for plugin in self.plugins:
            self._call("CHECK", container, netns, self._with(plugin, previous), args)

    def _with(self, plugin: dict[str, Any], previous: Result | None) -> dict[str, Any]:
        return plugin | ({"prevResult": previous.to_json(plugin["cniVersion"])} if previous else {})

    def _call(
        self, command: str, container: str, netns: Path | str, conf: dict[str, Any], args: str
    ) -> dict[str, Any] | None:
        if self.executed:
            status, answer = self.node.execute(
                command,
                json.dumps(conf),
                plugin=conf["type"],
                CONTAINERID=container,
                NETNS=str(netns),
                ARGS=args,
            )
            assert status == 0, answer
            return answer
        result = self.node.call(command, container, netns, conf, args=args)
        return result.to_json(conf["cniVersion"]) if result is not None else None


@contextmanager
def tcp_server(netns: Path, address: str, port: int) -> Iterator[None]:
    """Says to each caller who it is, and hangs up."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    server = run_in_netns(netns, socket.socket, family, socket.SOCK_STREAM)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    server.bind((address, port))
    server.listen()
    server.settimeout(0.05)
    stop = threading.Event()

    def serve() -> None:
        while not stop.is_set():
            with suppress(TimeoutError):
                connection, peer = server.accept()
                with connection:
                    connection.sendall(str(peer[0]).encode())

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        server.close()


def unreachable(netns: Path, address: str, port: int) -> bool:
    """Refused, or not answered within 0.3 s."""
    try:
        dial(netns, address, port, timeout_s=0.3)
    except OSError:
        return True
    return False


def dial(netns: Path, address: str, port: int, *, timeout_s: float = 4.0) -> str:
    """Who a TCP server there sees; `OSError` when there is none to reach."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with run_in_netns(netns, socket.socket, family, socket.SOCK_STREAM) as client:
        client.settimeout(timeout_s)
        client.connect((address, port))
        return client.recv(100).decode()
