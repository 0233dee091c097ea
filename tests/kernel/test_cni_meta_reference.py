"""Chained plugins beside the reference's (package containernetworking-plugins).

What one side makes, the other's CHECK accepts and its DEL removes.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from kernel.cni_local import Node
from kernel.net_local import Namespaces, link_names, namespaces
from podling.linux.netlink import Netlink

__all__ = ["namespaces"]

REFERENCE = Path("/usr/lib/cni")
pytestmark = pytest.mark.skipif(
    not (REFERENCE / "tuning").exists(), reason="the package containernetworking-plugins is not installed"
)
needs_iptables = pytest.mark.skipif(
    shutil.which("iptables") is None, reason="the package iptables is not installed"
)


@pytest.fixture
def node(tmp_path: Path, namespaces: Namespaces) -> Node:
    return Node(tmp_path, namespaces)


class Side:
    """The plugins of one maker."""

    def __init__(self, node: Node, directory: Path) -> None:
        self._node, self._directory = node, directory
        self.ours = directory == node.bin_dir

    def call(self, command: str, pod: Path, conf: dict[str, Any]) -> Any:
        status, answer = self._node.execute(
            command,
            {"cniVersion": "1.0.0", "name": "net"} | conf,
            plugin=conf["type"],
            directory=self._directory,
            CONTAINERID="c1",
            NETNS=str(pod),
        )
        assert status == 0, answer
        return answer


@pytest.fixture(params=["ours first", "theirs first"])
def sides(request: pytest.FixtureRequest, node: Node) -> tuple[Side, Side]:
    pair = Side(node, node.bin_dir), Side(node, REFERENCE)
    return pair if request.param == "ours first" else pair[::-1]


def crossed(node: Node, sides: tuple[Side, Side], conf: dict[str, Any], pod: Path) -> dict[str, Any]:
    """ADD by one side; the same answer, CHECK and DEL by the other."""
    maker, other = sides
    bridge = node.bridge(isDefaultGateway=True)
    previous = maker.call("ADD", pod, bridge)
    answer: dict[str, Any] = maker.call("ADD", pod, conf | {"prevResult": previous})
    other.call("CHECK", pod, conf | {"prevResult": answer})
    maker.call("CHECK", pod, conf | {"prevResult": answer})
    other.call("DEL", pod, conf | {"prevResult": answer})
    again: dict[str, Any] = other.call("ADD", pod, conf | {"prevResult": previous})
    assert _without_macs(again) == _without_macs(answer)
    maker.call("DEL", pod, conf | {"prevResult": again})
    return answer


def _without_macs(answer: dict[str, Any]) -> dict[str, Any]:
    interfaces = [{**interface, "mac": ""} for interface in answer["interfaces"]]
    return {**answer, "interfaces": interfaces, "dns": answer.get("dns") or {}}


def test_tuning(node: Node, sides: tuple[Side, Side], tmp_path: Path):
    pod = node.pod("pod")
    conf = {
        "type": "tuning",
        "dataDir": str(tmp_path / "tuning"),
        "mac": "02:00:00:00:00:01",
        "mtu": 1400,
        "promisc": True,
        "allmulti": True,
        "sysctl": {"net.core.somaxconn": "321"},
    }
    crossed(node, sides, conf, pod)
    with Netlink(pod) as nl:
        assert nl.link_get("eth0").mtu == 1500


def test_bandwidth(node: Node, sides: tuple[Side, Side]):
    pod = node.pod("pod")
    limits = {
        "ingressRate": 8_000_000,
        "ingressBurst": 800_000,
        "egressRate": 8_000_000,
        "egressBurst": 800_000,
    }
    maker, other = sides
    previous = maker.call("ADD", pod, node.bridge())
    answer = maker.call("ADD", pod, {"type": "bandwidth", **limits, "prevResult": previous})
    assert any(interface["name"].startswith("bwp") for interface in answer["interfaces"])
    other.call("CHECK", pod, {"type": "bandwidth", **limits, "prevResult": answer})
    other.call("DEL", pod, {"type": "bandwidth", **limits, "prevResult": answer})
    assert not any(name.startswith("bwp") for name in link_names(node.netns))


@needs_iptables
def test_firewall(node: Node, sides: tuple[Side, Side]):
    conf = {"type": "firewall", "backend": "iptables", "ingressPolicy": "same-bridge"}
    crossed(node, sides, conf, node.pod("pod"))
    rules = subprocess.run(
        ["nsenter", f"--net={node.netns}", "iptables", "-S"], check=True, capture_output=True, text=True
    )
    assert "10.244.1.2" not in rules.stdout
    assert rules.stdout.count("-j CNI-FORWARD") == 1


@needs_iptables
def test_portmap(node: Node, sides: tuple[Side, Side]):
    """Debian's knows no other backend than iptables."""
    ports = [
        {"hostPort": 8080, "containerPort": 80, "protocol": "tcp"},
        {"hostPort": 8081, "containerPort": 81, "protocol": "tcp", "hostIP": "127.0.0.1"},
        {"hostPort": 5353, "containerPort": 53, "protocol": "udp"},
    ]
    conf = {
        "type": "portmap",
        "runtimeConfig": {"portMappings": ports},
        "conditionsV4": ["!", "-d", "192.0.2.7"],
    }
    maker, other = sides
    pod = node.pod("pod")
    dual = node.ipam("10.244.1.0/24", "fd00:10:244:1::/64")
    previous = maker.call("ADD", pod, node.bridge(isDefaultGateway=True, ipam=dual))
    seen = []
    for adder, deleter in ((maker, other), (other, maker)):
        adder.call("ADD", pod, conf | {"prevResult": previous})
        seen.append(nat_rules(node))
        # Their CHECK looks for rules of one family in the table of the other.
        sides[0 if sides[0].ours else 1].call("CHECK", pod, conf | {"prevResult": previous})
        deleter.call("DEL", pod, conf | {"prevResult": previous})
        assert not any("CNI-DN-" in line for line in nat_rules(node))
    assert seen[0] == seen[1]
    assert sum("CNI-DN-" in line for line in seen[0]) == 12  # the chain, two ways there, nine rules


def nat_rules(node: Node) -> list[str]:
    command = ["nsenter", f"--net={node.netns}", "iptables-save", "-t", "nat"]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    return sorted(line for line in lines if "CNI-" in line)


def test_sbr(node: Node, sides: tuple[Side, Side]):
    pod = node.pod("pod")
    maker, other = sides
    previous = maker.call("ADD", pod, node.bridge(isDefaultGateway=True))
    conf = {"type": "sbr", "prevResult": previous}
    maker.call("ADD", pod, conf)
    other.call("CHECK", pod, conf)
    listed = ["nsenter", f"--net={pod}", "ip", "route", "show", "table", "100"]
    shown = subprocess.run(listed, check=True, capture_output=True, text=True).stdout.split("\n")
    words = {" ".join(line.split()[:5]) for line in shown if line}
    assert words == {"default via 10.244.1.1 dev eth0", "10.244.1.0/24 dev eth0 proto kernel"}
    other.call("DEL", pod, conf)
    rules = ["nsenter", f"--net={pod}", "ip", "rule"]
    assert "10.244.1.2" not in subprocess.run(rules, check=True, capture_output=True, text=True).stdout


def test_static_answers_the_same(node: Node):
    conf = {
        "type": "static",
        "ipam": {
            "type": "static",
            "addresses": [{"address": "10.10.0.1/24", "gateway": "10.10.0.254"}, {"address": "fd00::1/64"}],
            "routes": [{"dst": "0.0.0.0/0"}, {"dst": "192.168.0.0/16", "gw": "10.10.5.1"}],
            "dns": {"nameservers": ["8.8.8.8"], "search": ["example.com"]},
        },
    }
    pod = node.pod("pod")
    ours, theirs = (Side(node, d).call("ADD", pod, conf) for d in (node.bin_dir, REFERENCE))
    assert ours == theirs
