"""E16, and E15 with it: each backend of flannel between the nodes of a real cluster."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from e2e.captures import Hop, captured, packet_time, pod_netns
from podling.machine.kubectl import kubectl_path
from podling.testing.cluster import PodlingCluster, busybox, eventually, pod

NODES = ("kube-master", "kube-node-1", "kube-node-2")
DEVICES = {"vxlan": "flannel.1", "udp": "flannel0", "host-gw": ""}
NODE_PORT = 30099

SERVE = """
    mkdir -p /www/cgi-bin
    printf '#!/bin/sh\\necho; echo $HOSTNAME $REMOTE_ADDR\\n' > /www/cgi-bin/who
    chmod +x /www/cgi-bin/who
    nc -ll -p 9000 -e wc -c &
    export HOSTNAME=$(hostname)
    exec httpd -f -p 0.0.0.0:8080 -h /www
"""
"""Who asks learns who answered and whom it saw; port 9000 counts what it is sent."""


@dataclass
class Net:
    cluster: PodlingCluster
    backend: str

    def address(self, name: str) -> str:
        return str(self.cluster.get("pod", name)["status"]["podIP"])

    def inside(self, name: str, script: str, *, timeout_s: float = 60.0) -> str:
        return self.cluster.kubectl("exec", name, "--", "sh", "-c", script, timeout_s=timeout_s)


@pytest.fixture(scope="module", params=["vxlan", "host-gw", "udp"])
def net(images: None, request: pytest.FixtureRequest) -> Iterator[Net]:
    """Three nodes, a pod on each behind one service."""
    backend = request.param
    options = ("--no-egress", "--network", f"flannel:{backend}")
    with PodlingCluster(f"flannel-{backend}", options=options) as cluster:
        pods = [
            pod(f"on-{node}", busybox("web", SERVE), labels={"app": "web"}, nodeName=node) for node in NODES
        ]
        service = {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "web", "namespace": "default"},
            "spec": {
                "type": "NodePort",
                "selector": {"app": "web"},
                "ports": [{"port": 80, "targetPort": 8080, "nodePort": NODE_PORT}],
            },
        }
        cluster.apply([*pods, service])
        ready(cluster)
        yield Net(cluster, backend)


def ready(cluster: PodlingCluster) -> None:
    names = [f"pod/on-{node}" for node in NODES]
    cluster.kubectl("wait", *names, "--for=condition=Ready", "--timeout=60s", timeout_s=70)


def matrix(net: Net) -> None:
    """Every pod to every pod, to the service by address and name, and to every node's port."""
    addresses = {node: net.address(f"on-{node}") for node in NODES}
    service = net.cluster.get("service", "web")["spec"]["clusterIP"]
    nodes = [n["status"]["addresses"][0]["address"] for n in net.cluster.get("nodes")["items"]]
    pods = [f"{ip} 8080" for ip in addresses.values()]
    others = [f"{service} 80", "$by_name 80", *(f"{ip} {NODE_PORT}" for ip in nodes)]
    script = "by_name=$(nslookup web.default.svc.cluster.local | awk '/^Address/ {a=$NF} END {print a}');"
    script += "".join(ask(place) for place in (*pods, *others))
    for node, own in addresses.items():
        seen = net.inside(f"on-{node}", script).splitlines()
        # No NAT: the one that is asked sees the pod's own address.
        assert seen[: len(pods)] == [f"on-{other} {own}" for other in addresses]
        assert len(seen) == len(pods) + len(others), (node, seen)
        assert all(answer.startswith("on-kube-") for answer in seen), (node, seen)


def ask(place: str) -> str:
    """A shell command that prints one line: who answers there, and whom it saw."""
    request = r"GET /cgi-bin/who HTTP/1.0\r\n\r\n"
    return f"echo $(printf '{request}' | nc -w 5 {place} | tail -n 1);"


def test_every_node_has_a_subnet_and_a_flannel_interface(net: Net) -> None:
    cluster = net.cluster
    subnets = set()
    for node in NODES:
        found = cluster.get("node", node)
        subnets.add(found["spec"]["podCIDR"])
        said = found["metadata"]["annotations"]
        assert said["flannel.alpha.coreos.com/backend-type"] == net.backend
        env = cluster.node(node, "cat", "/run/flannel/subnet.env")
        assert f"FLANNEL_NETWORK=10.{244 + cluster.index}.0.0/16" in env
        links = json.loads(cluster.node(node, "ip", "-d", "-j", "link"))
        kinds = {x["ifname"]: x.get("linkinfo", {}).get("info_kind", "") for x in links if "ifname" in x}
        device = DEVICES[net.backend]
        if device:
            assert kinds[device] == {"vxlan": "vxlan", "udp": "tun"}[net.backend]
        else:
            assert not any(name.startswith("flannel") for name in kinds)
    assert len(subnets) == len(NODES)


def test_every_pod_reaches_every_pod_service_and_node_port(net: Net) -> None:
    eventually(lambda: matrix(net))


def way_between_nodes(net: Net, source: str, target: str) -> list[Hop]:
    """E15: every interface from a pod on kube-node-1 to one on kube-node-2."""
    here, there = "kube-node-1", "kube-node-2"
    device = DEVICES[net.backend]
    tunnel = net.backend if device else ""
    return [
        Hop(here, "eth0", pod_ip=source),
        Hop(here, veth_of(net, here)),
        Hop(here, "cni0"),
        *([Hop(here, device)] if device else []),
        Hop(here, "eth0", tunnel=tunnel),
        Hop(there, "eth0", tunnel=tunnel),
        *([Hop(there, device)] if device else []),
        Hop(there, "cni0"),
        Hop(there, veth_of(net, there)),
        Hop(there, "eth0", pod_ip=target),
    ]


def veth_of(net: Net, node: str) -> str:
    index = int(net.inside(f"on-{node}", "cat /sys/class/net/eth0/iflink"))
    links: list[dict[str, Any]] = json.loads(net.cluster.node(node, "ip", "-j", "link"))
    return next(str(x["ifname"]) for x in links if x["ifindex"] == index)


def test_a_ping_passes_every_interface_in_order_with_the_pods_own_addresses(net: Net) -> None:
    """E15 with each backend"""
    source, target = net.address("on-kube-node-1"), net.address("on-kube-node-2")
    way = way_between_nodes(net, source, target)
    with captured(net.cluster, way) as captures:
        assert " 0% packet loss" in net.inside("on-kube-node-1", f"ping -c 2 -W 2 {target}")
    seen = [packet_time(each, hop, source, target) for each, hop in zip(captures, way, strict=True)]
    assert seen == sorted(seen), list(zip(way, seen, strict=True))


def test_a_node_that_is_killed_in_the_middle_of_a_transfer_comes_back_at_its_address(net: Net) -> None:
    cluster, victim = net.cluster, "kube-node-2"
    target = net.address(f"on-{victim}")
    argv = [str(kubectl_path(cluster.kubectl_version)), "exec", "on-kube-node-1", "--", "sh", "-c"]
    transfer = subprocess.Popen(
        [*argv, f"cat /dev/zero | nc {target} 9000"],
        env=cluster.env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:

        def under_way() -> None:
            sent = int(net.inside("on-kube-node-1", "cat /sys/class/net/eth0/statistics/tx_bytes"))
            assert sent > 20_000_000

        eventually(under_way)
        cluster.podling("node", "stop", victim)
        answer = net.inside("on-kube-node-1", ask(f"{net.address('on-kube-master')} 8080"))
        assert answer.startswith("on-kube-master")
        cluster.podling("node", "start", victim)
    finally:
        transfer.kill()
        transfer.wait()
        net.inside("on-kube-node-1", "killall cat; true")

    def back() -> None:
        ready(cluster)
        matrix(net)

    eventually(back, timeout_s=60)
    target = net.address(f"on-{victim}")
    counted = net.inside("on-kube-node-1", f"head -c 30000000 /dev/zero | nc {target} 9000")
    assert counted.strip() == "30000000"


@pytest.mark.parametrize("net", ["vxlan"], indirect=True)
def test_traffic_goes_on_while_the_master_is_down_and_it_comes_back(net: Net) -> None:
    cluster, here = net.cluster, "kube-node-1"
    source, target = net.address(f"on-{here}"), net.address("on-kube-node-2")
    netns = pod_netns(cluster, here, source)
    cluster.podling("node", "stop", "kube-master")
    assert "not running" in next(x for x in cluster.podling("node", "list").splitlines() if "master" in x)
    pinged = cluster.node(here, "nsenter", f"--net={netns}", "ping", "-c", "2", "-W", "2", target)
    assert " 0% packet loss" in pinged
    cluster.podling("node", "start", "kube-master")
    cluster.podling("node", "start", "kube-master")  # one that runs already

    def back() -> None:
        ready(cluster)
        matrix(net)

    eventually(back, timeout_s=60)


@pytest.mark.parametrize("net", ["vxlan"], indirect=True)
@pytest.mark.parametrize("verb", ["stop", "start"])
def test_a_node_there_is_not_is_named(net: Net, verb: str) -> None:
    argv = [sys.executable, "-m", "podling.cli", "node", verb, "kube-node-9"]
    done = net.cluster.run(argv, check=False, timeout_s=30)
    assert done.returncode == 1
    assert 'no node "kube-node-9"' in done.stderr
