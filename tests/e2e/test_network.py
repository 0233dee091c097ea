"""How packets travel between pods: experiments E14, E15 and E20, each asserted from the kernel's own tables
and from captures on every interface of the way."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from e2e.captures import Hop, captured, packet_time
from podling.testing.cluster import PodlingCluster, busybox, eventually, pod


def on_node(name: str, node: str, namespace: str) -> dict[str, Any]:
    return pod(name, busybox("main"), namespace=namespace, nodeName=node)


def address(cluster: PodlingCluster, namespace: str, name: str) -> str:
    return str(cluster.get("pod", name, "-n", namespace)["status"]["podIP"])


def ready(cluster: PodlingCluster, namespace: str, *names: str) -> None:
    pods = [f"pod/{n}" for n in names]
    cluster.kubectl("wait", "-n", namespace, *pods, "--for=condition=Ready", "--timeout=30s")


def ping(cluster: PodlingCluster, namespace: str, name: str, target: str) -> str:
    return cluster.kubectl("exec", "-n", namespace, name, "--", "ping", "-c", "2", "-W", "2", target)


def veth_of(cluster: PodlingCluster, node: str, namespace: str, name: str) -> str:
    """The node's end of the pod's veth pair, found from the pod's end."""
    link = cluster.kubectl("exec", "-n", namespace, name, "--", "cat", "/sys/class/net/eth0/iflink").strip()
    links = json.loads(cluster.node(node, "ip", "-j", "link"))
    (host_end,) = [x["ifname"] for x in links if x["ifindex"] == int(link)]
    return str(host_end)


def mac_of(cluster: PodlingCluster, namespace: str, name: str) -> str:
    return cluster.kubectl("exec", "-n", namespace, name, "--", "cat", "/sys/class/net/eth0/address").strip()


def test_two_pods_of_a_node_meet_on_its_bridge(cluster: PodlingCluster, namespace: str) -> None:
    """E14"""
    node = "kube-node-1"
    cluster.apply([on_node("one", node, namespace), on_node("two", node, namespace)])
    ready(cluster, namespace, "one", "two")
    assert "0% packet loss" in ping(cluster, namespace, "one", address(cluster, namespace, "two"))
    forwarding = json.loads(cluster.node(node, "bridge", "-j", "fdb", "show", "br", "cni0"))
    ports = {
        entry["mac"]: entry["ifname"] for entry in forwarding if "permanent" not in entry.get("state", "")
    }
    for name in ("one", "two"):
        veth = veth_of(cluster, node, namespace, name)
        link = json.loads(cluster.node(node, "ip", "-j", "-d", "link", "show", veth))[0]
        assert link["linkinfo"]["info_kind"] == "veth"
        assert link["master"] == "cni0"
        assert ports[mac_of(cluster, namespace, name)] == veth


def test_a_ping_between_nodes_passes_every_interface_in_order(
    cluster: PodlingCluster, namespace: str
) -> None:
    """E15"""
    here, there = "kube-node-1", "kube-node-2"
    cluster.apply([on_node("one", here, namespace), on_node("two", there, namespace)])
    ready(cluster, namespace, "one", "two")
    target = address(cluster, namespace, "two")
    way = [
        (here, veth_of(cluster, here, namespace, "one")),
        (here, "cni0"),
        (here, "eth0"),
        (there, "eth0"),
        (there, "cni0"),
        (there, veth_of(cluster, there, namespace, "two")),
    ]
    route = cluster.node(here, "ip", "route", "get", target)
    assert f"via 10.192.{cluster.index}.4 dev eth0" in route
    hops = [Hop(node, link) for node, link in way]
    source = address(cluster, namespace, "one")
    with captured(cluster, hops) as captures:
        assert "0% packet loss" in ping(cluster, namespace, "one", target)
    seen = [packet_time(each, hop, source, target) for each, hop in zip(captures, hops, strict=True)]
    assert seen == sorted(seen), dict(zip(way, seen, strict=True))


DIND_CONF = {
    "cniVersion": "0.3.1",
    "name": "dindnet",
    "type": "bridge",
    "bridge": "dind0",
    "isDefaultGateway": True,
    "hairpinMode": False,
    "ipMasq": True,
    "ipam": {
        "type": "host-local",
        "ranges": [[{"subnet": "10.244.1.0/24", "gateway": "10.244.1.1"}]],
        "routes": [{"dst": "0.0.0.0/0"}],
    },
}


@pytest.fixture
def dind_conf(cluster: PodlingCluster) -> Any:
    """The text's cni.conf in place of ours on kube-node-2, for one test."""
    node, ours = "kube-node-2", "/etc/cni/net.d/10-podling.conflist"
    kept = cluster.node(node, "cat", ours)
    cluster.node(
        node, "sh", "-c", f"printf '%s' '{json.dumps(DIND_CONF)}' > /etc/cni/net.d/cni.conf; rm {ours}"
    )
    yield node
    cluster.node(node, "sh", "-c", f"printf '%s' '{kept}' > {ours}; rm /etc/cni/net.d/cni.conf")


def test_the_cni_conf_of_the_text_wires_the_next_pod(
    cluster: PodlingCluster, namespace: str, dind_conf: str
) -> None:
    """E20"""
    node = dind_conf

    def bridge_waits_for_its_first_pod() -> None:
        shown = cluster.node(node, "ip", "addr", "show", "dind0", check=False)
        assert "NO-CARRIER" in shown
        assert "inet 10.244.1.1/24" in shown

    eventually(bridge_waits_for_its_first_pod)
    cluster.apply(on_node("wired", node, namespace))
    ready(cluster, namespace, "wired")
    assert re.fullmatch(r"10\.244\.1\.\d+", address(cluster, namespace, "wired"))
    veth = veth_of(cluster, node, namespace, "wired")
    assert "master dind0" in cluster.node(node, "ip", "link", "show", veth)
    assert "0% packet loss" in cluster.node(node, "ping", "-c", "1", address(cluster, namespace, "wired"))
    cluster.kubectl("delete", "pod", "-n", namespace, "wired", "--grace-period=1")


def test_a_configuration_of_ones_own_is_the_network_of_every_node(images: None, tmp_path: Path) -> None:
    conf = {**DIND_CONF, "name": "mine", "ipMasq": False}
    conf["ipam"] = {"type": "host-local", "subnet": "usePodCidr", "routes": [{"dst": "0.0.0.0/0"}]}
    path = tmp_path / "20-mine.conf"
    path.write_text(json.dumps(conf))
    options = ("--no-egress", "--network", str(path))
    with PodlingCluster("ownconf", workers=1, options=options) as cluster:
        cluster.apply([on_node("one", "kube-master", "default"), on_node("two", "kube-node-1", "default")])
        ready(cluster, "default", "one", "two")
        for node in ("kube-master", "kube-node-1"):
            assert cluster.node(node, "ls", "/etc/cni/net.d").split() == ["20-mine.conf"]
            subnet = cluster.get("node", node)["spec"]["podCIDR"]
            assert subnet.removesuffix("0/24") in cluster.node(node, "ip", "addr", "show", "dind0")

        def reached() -> None:
            assert " 0% packet loss" in ping(cluster, "default", "one", address(cluster, "default", "two"))

        eventually(reached)
