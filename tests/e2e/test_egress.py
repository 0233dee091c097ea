"""The way out of a cluster, tried against a world that lies in a network namespace of the test's own."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from podling.linux.netns import create_netns, remove_netns
from podling.testing.cluster import CommandError, PodlingCluster, busybox, pod

HERE, WORLD = "203.0.113.1", "203.0.113.2"
IP_FORWARD = Path("/proc/sys/net/ipv4/ip_forward")


def ip(*args: str) -> None:
    subprocess.run(["ip", *args], check=True)


@pytest.fixture
def world() -> Iterator[Path]:
    """A host beyond this machine: it knows the way to this machine's address and to no other."""
    netns = Path(f"/run/netns/podling-world-{os.getpid()}")
    create_netns(netns)
    try:
        ip("link", "add", "uplink", "type", "veth", "peer", "name", "eth0", "netns", str(netns))
        ip("addr", "add", f"{HERE}/24", "dev", "uplink")
        ip("link", "set", "uplink", "up")
        for args in (f"addr add {WORLD}/24 dev eth0", "link set eth0 up"):
            subprocess.run(["nsenter", f"--net={netns}", "ip", *args.split()], check=True)
        yield netns
    finally:
        subprocess.run(["ip", "link", "del", "uplink"], check=False)
        remove_netns(netns)


def reaches_world(cluster: PodlingCluster) -> None:
    cluster.apply(pod("out", busybox("main")))
    cluster.wait("pod/out", "condition=Ready")
    cluster.kubectl("exec", "out", "--", "ping", "-c", "1", "-W", "2", WORLD)


def test_pods_reach_the_world_behind_the_machines_address(images: None, world: Path) -> None:
    forwarding = IP_FORWARD.read_text()
    with PodlingCluster("outward", workers=0, options=()) as cluster:
        # The world has no route to pods or nodes: an answer comes back only to the machine's own address.
        reaches_world(cluster)
        cluster.node("kube-master", "ping", "-c", "1", "-W", "2", WORLD)
    tables = subprocess.run(["nft", "list", "tables"], capture_output=True, check=True, text=True).stdout
    assert "podling" not in tables
    assert IP_FORWARD.read_text() == forwarding


def test_without_egress_nothing_gets_out(images: None, world: Path) -> None:
    with PodlingCluster("inward", workers=0) as cluster, pytest.raises(CommandError):
        reaches_world(cluster)
