"""Watching packets pass the interfaces of nodes and pods, in the order of the kernel's time stamps."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from podling.testing.cluster import PodlingCluster

ECHO = "icmp[icmptype] == icmp-echo"
INNER_IP = {"vxlan": 8 + 8 + 14, "udp": 8}
"""Where in a tunnel's UDP datagram the pod's packet begins."""
PORTS = {"vxlan": 8472, "udp": 8285}


@dataclass(frozen=True)
class Hop:
    """An interface of a node, or of a pod on it."""

    node: str
    link: str
    pod_ip: str = ""
    """Of the pod whose own interface is meant."""
    tunnel: str = ""
    """The flannel backend whose datagrams pass here, in place of the pods' packets."""

    @property
    def filter(self) -> str:
        if not self.tunnel:
            return ECHO
        at = INNER_IP[self.tunnel]
        return f"udp dst port {PORTS[self.tunnel]} and udp[{at + 9}] == 1 and udp[{at + 20}] == 8"


def node_pid(cluster: PodlingCluster, node: str) -> int:
    """PID 1 of the node, as this machine counts."""
    record = json.loads(Path(f"/var/lib/podling/clusters/{cluster.name}/cluster.json").read_text())
    return int(record["nodes"][node]["pid"])


def pod_netns(cluster: PodlingCluster, node: str, pod_ip: str) -> str:
    """The path on the node where the pod's network namespace is pinned."""
    asked = f'nsenter --net=$ns ip -4 -o addr show eth0 2>/dev/null | grep -q " {pod_ip}/"'
    script = f"for ns in /run/netns/*; do {asked} && echo $ns; done; true"
    (path,) = cluster.node(node, "sh", "-c", script).split()
    return path


@contextmanager
def captured(cluster: PodlingCluster, hops: list[Hop]) -> Iterator[list[subprocess.Popen[bytes]]]:
    """A tcpdump on each, all listening when the block begins; each ends with the first packet it sees."""
    captures = [_start(cluster, hop) for hop in hops]
    try:
        for each in captures:
            assert each.stderr is not None
            while b"listening on" not in each.stderr.readline():
                assert each.poll() is None
        yield captures
    finally:
        for each in captures:
            each.terminate()


def _start(cluster: PodlingCluster, hop: Hop) -> subprocess.Popen[bytes]:
    argv = ["nsenter", f"--target={node_pid(cluster, hop.node)}", "--mount", "--net"]
    if hop.pod_ip:
        argv += ["nsenter", f"--net={pod_netns(cluster, hop.node, hop.pod_ip)}"]
    argv += ["tcpdump", "-i", hop.link, "-n", "-tt", "--nano", "-l", "-c", "1", hop.filter]
    return subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def packet_time(capture: subprocess.Popen[bytes], hop: Hop, source: str, target: str) -> float:
    """When it saw the echo request; the addresses are in it as the pods have them."""
    output = capture.communicate(timeout=10)[0].decode()
    wanted = rf"IP {re.escape(source)} > {re.escape(target)}: ICMP echo request"
    if hop.tunnel == "udp":  # tcpdump does not look into these
        wanted = r"IP .*\.8285: UDP, length"
    found = re.search(rf"^(\d+\.\d+) .*?{wanted}", output, re.M | re.S)
    assert found is not None, (hop, output)
    return float(found[1])
