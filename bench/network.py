"""Pod to pod: TCP on one node and across nodes by each backend of flannel, and the same paths built by hand.

Ours are two nodes of a real cluster; by hand are namespaces wired with `ip` commands just before. iperf3 runs
in the pods' network namespaces, by turns here and there, so that what else the machine does hits both alike.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bench.report import Metric, Report
from podling.testing.cluster import PodlingCluster, busybox, pod

ROUNDS = 15
SECONDS = 1
GOAL = 0.97
NODES = ("kube-node-1", "kube-node-2")


@dataclass(frozen=True)
class Place:
    """A pod: how a command gets into its network, and its address."""

    enter: tuple[str, ...]
    address: str


@dataclass(frozen=True)
class Run:
    gbit_s: float
    cpu_s_per_gb: float


def measure(_: PodlingCluster | None = None) -> Report:
    metrics: list[Metric] = []
    for backend in ("host-gw", "vxlan", "udp"):
        with _ours(backend) as (cluster, ours), _by_hand(backend) as hand:
            if backend == "host-gw":
                metrics += _compare("one node", (ours[0], ours[1]), (hand[0], hand[1]), cluster)
            # There is no way to build the udp backend's path with ip commands.
            theirs = (hand[0], hand[2]) if backend != "udp" else None
            metrics += _compare(backend, (ours[0], ours[2]), theirs, cluster)
    notes = (
        f"TCP by iperf3, {SECONDS} s a run, by turns; ratios are of runs in a row; CPU is of both iperf3 and "
        "the forwarders, per gigabyte (1e9 bytes).",
    )
    return Report(scenario="network", metrics=tuple(metrics), notes=notes)


def _compare(
    name: str, ours: tuple[Place, Place], theirs: tuple[Place, Place] | None, cluster: str
) -> list[Metric]:
    own, hand = [], []
    for _ in range(ROUNDS):
        own.append(_iperf(*ours, cluster))
        if theirs is not None:
            hand.append(_iperf(*theirs, ""))
    metrics = [
        Metric(name=f"{name}, TCP", unit="Gbit/s", samples=tuple(run.gbit_s for run in own)),
        Metric(name=f"{name}, CPU", unit="s/GB", samples=tuple(run.cpu_s_per_gb for run in own)),
    ]
    if hand:
        ratios = tuple(mine.gbit_s / theirs.gbit_s for mine, theirs in zip(own, hand, strict=True))
        metrics += [
            Metric(name=f"{name}, by hand, TCP", unit="Gbit/s", samples=tuple(r.gbit_s for r in hand)),
            Metric(name=f"{name}, by hand, CPU", unit="s/GB", samples=tuple(r.cpu_s_per_gb for r in hand)),
            Metric(name=f"{name}, of that by hand", unit="x", samples=ratios, goal=GOAL, at_least=True),
        ]
    return metrics


def _iperf(client: Place, server: Place, cluster: str) -> Run:
    listening = subprocess.Popen(
        [*server.enter, "iperf3", "-s", "-1", "-J"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    try:
        before = _forwarders_cpu_s(cluster)
        found = _client(client, server)
        forwarders = _forwarders_cpu_s(cluster) - before
    finally:
        listening.terminate()
        listening.communicate()
    received = found["end"]["sum_received"]
    used = found["end"]["cpu_utilization_percent"]
    cpu_s = (used["host_total"] + used["remote_total"]) / 100 * received["seconds"] + forwarders
    return Run(received["bits_per_second"] / 1e9, cpu_s / (received["bytes"] / 1e9))


def _client(client: Place, server: Place) -> dict[str, dict[str, dict[str, float]]]:
    argv = [*client.enter, "iperf3", "-c", server.address, "-t", str(SECONDS), "-J"]
    deadline = time.monotonic() + 20
    while True:  # the server may not listen yet, nor the last route be there
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        found: dict[str, dict[str, dict[str, float]]] = json.loads(done.stdout or "{}")
        if done.returncode == 0 and "sum_received" in found.get("end", {}):
            return found
        if time.monotonic() > deadline:
            raise RuntimeError(done.stdout)
        time.sleep(0.1)


def _forwarders_cpu_s(cluster: str) -> float:
    """Of the udp backend's programs of a cluster."""
    ticks = 0
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            text = (entry / "stat").read_text()
            inside = cluster and f"/podling/{cluster}/" in (entry / "cgroup").read_text()
            if inside and "(forwarder)" in text:
                fields = text[text.rindex(")") + 2 :].split()
                ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def _ours(backend: str) -> Iterator[tuple[str, list[Place]]]:
    """Two pods on the first node, one on the second."""
    name = f"bench-{backend}"
    with PodlingCluster(name, options=("--no-egress", "--network", f"flannel:{backend}")) as cluster:
        pods = {"a": NODES[0], "b": NODES[0], "c": NODES[1]}
        cluster.apply([pod(n, busybox("main"), nodeName=node) for n, node in pods.items()])
        for n in pods:
            cluster.wait(f"pod/{n}", "condition=Ready", timeout_s=60)
        record = json.loads(Path(f"/var/lib/podling/clusters/{name}/cluster.json").read_text())
        places = []
        for n, node in pods.items():
            address = cluster.get("pod", n)["status"]["podIP"]
            has = f'nsenter --net=$ns ip -4 -o addr | grep -q " {address}/"'
            script = f"for ns in /run/netns/*; do {has} && echo $ns; done; true"
            (netns,) = cluster.node(node, "sh", "-c", script).split()
            enter = ("nsenter", f"--target={record['nodes'][node]['pid']}", "--mount", "--net")
            places.append(Place((*enter, "nsenter", f"--net={netns}"), address))
        yield name, places


_HAND = """
netns add {p}-sw
-n {p}-sw link add sw type bridge
-n {p}-sw link set sw up
"""
_NODE = """
netns add {p}-n{n}
-n {p}-n{n} link set lo up
link add {p}p{n} netns {p}-sw type veth peer name eth0 netns {p}-n{n}
-n {p}-sw link set {p}p{n} master sw up
-n {p}-n{n} addr add 10.199.0.{n}/24 dev eth0
-n {p}-n{n} link set eth0 up
-n {p}-n{n} link add cni0 mtu {mtu} type bridge
-n {p}-n{n} addr add 10.198.{n}.1/24 dev cni0
-n {p}-n{n} link set cni0 up
"""
_POD = """
netns add {p}-p{n}{i}
link add veth{i} mtu {mtu} netns {p}-n{n} type veth peer name eth0 netns {p}-p{n}{i}
-n {p}-n{n} link set veth{i} mtu {mtu} master cni0 up
-n {p}-p{n}{i} addr add 10.198.{n}.{i}/24 dev eth0
-n {p}-p{n}{i} link set eth0 mtu {mtu} up
-n {p}-p{n}{i} route add default via 10.198.{n}.1
"""
_VXLAN = """
-n {p}-n{n} link add v1 address 02:00:00:00:09:0{n} mtu {mtu} type vxlan id 1 local 10.199.0.{n} dev eth0 \
dstport 8472 nolearning
-n {p}-n{n} addr add 10.198.{n}.0/32 dev v1
-n {p}-n{n} link set v1 up
-n {p}-n{n} neigh add 10.198.{m}.0 lladdr 02:00:00:00:09:0{m} dev v1 nud permanent
-n {p}-n{n} route add 10.198.{m}.0/24 via 10.198.{m}.0 dev v1 onlink
"""


@contextlib.contextmanager
def _by_hand(backend: str) -> Iterator[list[Place]]:
    """The same three pods, wired with `ip` commands."""
    if backend == "udp":
        yield []
        return
    prefix = f"h{os.getpid() % 1000}"
    mtu = 1450 if backend == "vxlan" else 1500
    values = {"p": prefix, "mtu": mtu}
    made = [f"{prefix}-{part}" for part in ("sw", "n1", "n2", "p12", "p13", "p22")]
    try:
        _ip(_HAND.format(**values))
        for n, m in ((1, 2), (2, 1)):
            _ip(_NODE.format(**values, n=n))
            if backend == "vxlan":
                _ip(_VXLAN.format(**values, n=n, m=m))
                entry = ["fdb", "append", f"02:00:00:00:09:0{m}", "dev", "v1", "dst", f"10.199.0.{m}"]
                subprocess.run(["bridge", "-n", f"{prefix}-n{n}", *entry], check=True)
            else:
                _ip(f"-n {prefix}-n{n} route add 10.198.{m}.0/24 via 10.199.0.{m}")
            forward = ["sysctl", "-qw", "net.ipv4.ip_forward=1"]
            subprocess.run(["ip", "netns", "exec", f"{prefix}-n{n}", *forward], check=True)
        for n, i in ((1, 2), (1, 3), (2, 2)):
            _ip(_POD.format(**values, n=n, i=i))
        yield [
            Place(("nsenter", f"--net=/run/netns/{prefix}-p{n}{i}"), f"10.198.{n}.{i}")
            for n, i in ((1, 2), (1, 3), (2, 2))
        ]
    finally:
        for name in made:
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


def _ip(script: str) -> None:
    for line in script.strip().splitlines():
        subprocess.run(["ip", *line.split()], check=True)
