"""What services cost a node: first connections with 10 and 10,000 of them, programming, one change, DNS.

`measure()` runs this file as a program in a network namespace of its own, without API server or pods: it is
the node's part alone, from the objects as the watch brings them to what the kernel has. Connections go from
the node to a server in a second namespace.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import random
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

import msgspec

from bench import dns
from bench.report import Metric, Report
from podling.api.core_v1 import Service
from podling.linux import syscalls
from podling.linux.netlink import Netlink, Route
from podling.linux.netlink.netfilter import Netfilter
from podling.linux.netns import create_netns, open_netns, remove_netns, run_in_netns
from podling.network.proxy.rules import compute_rules
from podling.network.proxy.table import Table
from podling.network.services import Endpoint
from podling.testing.cluster import PodlingCluster

FEW, MANY = 10, 10_000
CONNECTIONS = 400
ENDPOINTS = 5
NODE, SERVER = "10.244.9.1", "10.244.9.2"
PORT = 8080
SERVICE_CIDR = IPv4Network("10.96.0.0/12")


def measure(_: PodlingCluster | None = None) -> Report:
    argv = [sys.executable, "-m", "bench.services"]
    done = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=300)
    found = json.loads(done.stdout)
    # Of the fastest tenth: what others do on the machine in the meantime is not in it.
    few, many = (sorted(found[name])[CONNECTIONS // 10] for name in ("connect_few", "connect_many"))
    return Report(
        scenario="services",
        metrics=(
            Metric(name=f"connect, {FEW} services", unit="ms", samples=tuple(found["connect_few"])),
            Metric(name=f"connect, {MANY} services", unit="ms", samples=tuple(found["connect_many"])),
            Metric(name="ratio of the two", unit="x", samples=(many / few,), goal=1.1),
            Metric(name="1,000 services x 5 from nothing", unit="s", samples=(found["program"],), goal=2.0),
            Metric(
                name=f"one change among {MANY}",
                unit="ms",
                samples=tuple(found["change"]),
                goal=50,
                worst=True,
            ),
            *_dns_metrics(found["dns"]),
        ),
        notes=(
            "The node's part alone: no API server.",
            f"DNS: one pod, {dns.UNDER_WAY} questions under way, by the service's address.",
        ),
    )


def _dns_metrics(found: dict[str, Any]) -> list[Metric]:
    return [
        Metric(name="DNS answers", unit="/s", samples=(found["again"],), goal=10_000, at_least=True),
        Metric(name="DNS answer", unit="ms", samples=tuple(found["again_ms"]), goal=5, worst=True),
        Metric(name="DNS answers, each name new", unit="/s", samples=(found["once"],)),
        Metric(name="DNS answer, each name new", unit="ms", samples=tuple(found["once_ms"]), worst=True),
    ]


def service(number: int) -> Service:
    address = SERVICE_CIDR.network_address + 256 + number
    document = {
        "metadata": {"name": f"s{number}", "namespace": "bench"},
        "spec": {"clusterIP": str(address), "ports": [{"port": 80, "protocol": "TCP"}]},
    }
    return msgspec.convert(document, Service)


def backends(number: int) -> list[Endpoint]:
    return [
        Endpoint("", "TCP", str(IPv4Address("10.244.0.0") + (number * 7 + n) % 60000), PORT, node="n")
        for n in range(ENDPOINTS)
    ]


def main() -> None:
    syscalls.unshare(syscalls.CLONE_NEWNET)
    with tempfile.TemporaryDirectory() as folder, Netfilter() as netfilter, _server(Path(folder)) as netns:
        table = Table(IPv4Network("10.244.0.0/16"), SERVICE_CIDR)
        real = service(0)
        table.take(("bench", "s0"), compute_rules(real, [Endpoint("", "TCP", SERVER, PORT)], "n"))
        started = time.perf_counter()
        for number in range(1, 1001):
            table.take(("bench", f"s{number}"), compute_rules(service(number), backends(number), "n"))
        netfilter.transact(table.everything())
        table.done()
        program = time.perf_counter() - started
        _keep(table, netfilter, FEW)
        found: dict[str, object] = {"program": program, "connect_few": _connect(real)}
        _keep(table, netfilter, MANY)
        found["connect_many"] = _connect(real)
        found["change"] = [_change(table, netfilter) for _ in range(100)]
        table.take(("kube-system", "kube-dns"), dns.rules(NODE))
        netfilter.transact(table.changes())
        with dns.server(NODE):
            found["dns"] = dns.ask(netns)
    json.dump(found, sys.stdout)


def _keep(table: Table, netfilter: Netfilter, count: int) -> None:
    """Have exactly so many services."""
    for number in range(1, 1001 if count == FEW else count):
        wanted = compute_rules(service(number) if number < count else None, backends(number), "n")
        table.take(("bench", f"s{number}"), wanted)
    netfilter.transact(table.changes())
    table.done()


def _connect(real: Service) -> list[float]:
    """Milliseconds of each connection; every one is a new flow, so every one is looked up."""
    assert real.spec is not None
    address = (real.spec.cluster_ip or "", 80)
    taken = []
    for _ in range(2 * CONNECTIONS):
        with socket.socket() as sock:
            started = time.perf_counter()
            sock.connect(address)
            taken.append((time.perf_counter() - started) * 1000)
    return taken[CONNECTIONS:]  # the first half warms up


def _change(table: Table, netfilter: Netfilter) -> float:
    number = random.randrange(1, MANY)
    started = time.perf_counter()
    kept = random.sample(backends(number), ENDPOINTS - 1)
    table.take(("bench", f"s{number}"), compute_rules(service(number), kept, "n"))
    netfilter.transact(table.changes())
    table.done()
    return (time.perf_counter() - started) * 1000


@contextlib.contextmanager
def _server(folder: Path) -> Iterator[Path]:
    """A server behind a veth pair, and a way for the node to send to services at all."""
    netns = folder / "server"
    create_netns(netns)
    try:
        with Netlink() as nl, Netlink(netns) as inside:
            nl.link_set("lo", up=True)
            nl.link_add_veth("bench0", "eth0", peer_netns_fd=open_netns(netns), up=True)
            nl.addr_add("bench0", ipaddress.ip_interface(f"{NODE}/24"))
            inside.addr_add("eth0", ipaddress.ip_interface(f"{SERVER}/24"))
            inside.link_set("eth0", up=True)
            nl.route_add(Route(dst=SERVICE_CIDR, oif=nl.link_get("bench0").index))
            inside.route_add(Route(dst=SERVICE_CIDR, gateway=IPv4Address(NODE)))
        listener = run_in_netns(netns, socket.socket, socket.AF_INET, socket.SOCK_STREAM)
        listener.bind((SERVER, PORT))
        listener.listen(1024)
        threading.Thread(target=_accept, args=(listener,), daemon=True).start()
        yield netns
    finally:
        remove_netns(netns)


def _accept(listener: socket.socket) -> None:
    while True:
        listener.accept()[0].close()


if __name__ == "__main__":
    assert os.geteuid() == 0, "needs root: it makes namespaces"
    main()
