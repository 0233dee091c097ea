"""E20, its second half: a conflist with portmap and bandwidth, dropped into a node's /etc/cni/net.d."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator

import pytest

from e2e.shorthand import inside, ready, wait_event
from podling.testing.cluster import PodlingCluster, busybox, eventually, pod

NODE = "kube-node-2"
OURS = "/etc/cni/net.d/10-podling.conflist"
CHAIN = {
    "cniVersion": "1.0.0",
    "name": "chained",
    "plugins": [
        {
            "type": "bridge",
            "bridge": "chain0",
            "isDefaultGateway": True,
            "hairpinMode": True,
            "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.66.0.0/24"}]]},
        },
        {"type": "portmap", "capabilities": {"portMappings": True}, "snat": True},
        {"type": "bandwidth", "capabilities": {"bandwidth": True}},
    ],
}
SERVE = (
    "mkdir -p /www; head -c 1500000 /dev/zero > /www/blob; echo ok > /www/word; exec httpd -f -p 80 -h /www"
)


@pytest.fixture
def chained(cluster: PodlingCluster) -> Iterator[None]:
    """The chain in place of ours on one node, for one test."""
    kept = cluster.node(NODE, "cat", OURS)
    write = f"printf '%s' '{json.dumps(CHAIN)}' > /etc/cni/net.d/05-chained.conflist; rm {OURS}"
    cluster.node(NODE, "sh", "-c", write)
    eventually(lambda: cluster.node(NODE, "ip", "link", "show", "chain0"))
    yield
    cluster.node(NODE, "sh", "-c", f"printf '%s' '{kept}' > {OURS}; rm /etc/cni/net.d/05-chained.conflist")


FETCH = """
import sys, urllib.request
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
sys.stdout.buffer.write(opener.open(sys.argv[1], timeout=5).read())
"""


def fetch(cluster: PodlingCluster, node: str, url: str) -> str:
    return cluster.node(node, sys.executable, "-c", FETCH, url)


def rules(cluster: PodlingCluster) -> str:
    """Of either kind, wherever the machine's iptables keeps its own."""
    return cluster.node(NODE, "sh", "-c", "nft list ruleset; iptables-save 2>/dev/null || true")


def test_mapped_ports_and_limits_work_and_leave_nothing(
    cluster: PodlingCluster, namespace: str, chained: None
) -> None:
    server = pod(
        "server",
        busybox("main", SERVE, ports=[{"containerPort": 80, "hostPort": 8088}]),
        namespace=namespace,
        nodeName=NODE,
    )
    server["metadata"]["annotations"] = {"kubernetes.io/egress-bandwidth": "8M"}
    cluster.apply(server)
    ready(cluster, namespace, "server")
    status = cluster.get("pod", "server", "-n", namespace)["status"]
    assert status["podIP"].startswith("10.66.0.")
    host = status["hostIP"]

    def answers() -> None:
        assert fetch(cluster, "kube-master", f"http://{host}:8088/word") == "ok\n"

    eventually(answers)
    assert fetch(cluster, NODE, "http://127.0.0.1:8088/word") == "ok\n"
    assert inside(cluster, namespace, "server", f"wget -q -O - http://{host}:8088/word") == "ok"

    started = time.monotonic()
    fetch(cluster, "kube-master", f"http://{host}:8088/blob")
    assert 0.9 < time.monotonic() - started < 4  # 12 Mbit at 8 Mbit a second, the first 0.8 at once

    assert "dport 8088" in rules(cluster)
    cluster.kubectl("delete", "pod", "-n", namespace, "server", "--grace-period=1")

    def nothing_is_left() -> None:
        assert "dport 8088" not in rules(cluster)
        assert "bwp" not in cluster.node(NODE, "ip", "link")

    eventually(nothing_is_left)


def test_without_a_network_the_node_says_so_until_it_has_one(cluster: PodlingCluster) -> None:
    kept = cluster.node(NODE, "cat", OURS)

    def condition() -> dict[str, str]:
        found = cluster.get("node", NODE)["status"]["conditions"]
        return {one["type"]: one for one in found}["Ready"]

    def says_so() -> None:
        assert condition()["status"] == "False"
        message = condition()["message"]
        assert "container runtime network not ready: NetworkReady=false" in message
        assert "reason:NetworkPluginNotReady" in message
        assert "cni plugin not initialized: no valid network configuration in /etc/cni/net.d" in message

    def is_ready() -> None:
        assert condition()["status"] == "True"

    cluster.node(NODE, "rm", OURS)
    try:
        eventually(says_so, timeout_s=60)
    finally:
        cluster.node(NODE, "sh", "-c", f"printf '%s' '{kept}' > {OURS}")
    eventually(is_ready, timeout_s=60)


def test_every_plugin_of_the_text_is_on_every_node(cluster: PodlingCluster) -> None:
    """E19"""
    wanted = (
        "bridge dhcp flannel host-device host-local ipvlan loopback macvlan portmap ptp sample tuning vlan"
    )
    for node in ("kube-master", NODE):
        listed = cluster.node(node, "ls", "/opt/cni/bin").split()
        assert set(wanted.split()) <= set(listed)
        for plugin in listed:
            script = f"echo '{{}}' | CNI_COMMAND=VERSION /opt/cni/bin/{plugin}"
            answer = json.loads(cluster.node(node, "sh", "-c", script))
            assert "1.1.0" in answer["supportedVersions"], plugin


def test_a_limit_that_makes_no_sense_is_an_event(cluster: PodlingCluster, namespace: str) -> None:
    greedy = pod("greedy", busybox("main"), namespace=namespace, nodeName=NODE)
    greedy["metadata"]["annotations"] = {"kubernetes.io/ingress-bandwidth": "1"}
    cluster.apply(greedy)
    wait_event(cluster, namespace, "greedy", "FailedCreatePodSandBox", "unreasonably small")
