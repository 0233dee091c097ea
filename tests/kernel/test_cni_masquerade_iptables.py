"""ipMasq with iptables: the reference's rules, rule for rule, and a packet that shows the node's address."""

from __future__ import annotations

import ipaddress
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from kernel.cni_local import Node
from kernel.net_local import Namespaces, ask, echo_server, link_names, namespaces
from podling.cni.plugins import iptables
from podling.cni.plugins.main.masquerade import FAMILY, TABLE
from podling.cni.types import INVALID_CONFIG, CNIError
from podling.linux import nft
from podling.linux.netlink import Netlink
from podling.linux.netns import run_in_netns

__all__ = ["namespaces"]

REFERENCE = Path("/usr/lib/cni")  # Debian's containernetworking-plugins
needs_iptables = pytest.mark.skipif(
    shutil.which("iptables-restore") is None, reason="the package iptables is not installed"
)
DUAL = {"routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]}


@pytest.fixture
def node(tmp_path: Path, namespaces: Namespaces) -> Node:
    return Node(tmp_path, namespaces)


def masqueraded(node: Node, kind: str, **options: Any) -> dict[str, Any]:
    ipam = node.ipam("10.244.1.0/24", "fd00:10:244:1::/64", **DUAL)
    return node.conf(kind, isGateway=True, ipMasq=True, ipMasqBackend="iptables", ipam=ipam) | options


def rules(node: Node) -> list[str]:
    """Those of the plugins, of both families."""
    listed = []
    for program in ("iptables-save", "ip6tables-save"):
        command = ["nsenter", f"--net={node.netns}", program, "-t", "nat"]
        output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        listed += [line for line in output.splitlines() if "CNI-" in line]
    return listed


@needs_iptables
@pytest.mark.parametrize("kind", ["bridge", "ptp"])
def test_it_hides_a_pod_outside_its_subnet(node: Node, kind: str):
    neighbour = node.segment("wan0", "192.0.2.9/24")
    pod = node.pod("pod")
    with Netlink(node.netns) as nl:
        nl.addr_add("wan0", ipaddress.ip_interface("192.0.2.1/24"))
    conf = masqueraded(node, kind)
    node.add("c1", pod, conf)
    with echo_server(neighbour, "192.0.2.9"):
        assert ask(pod, "192.0.2.9") == "192.0.2.1"
    assert len(rules(node)) == 8
    assert run_in_netns(node.netns, nft.list_table, FAMILY, TABLE) == ""
    node.delete_twice("c1", pod, conf)
    assert rules(node) == []


@needs_iptables
@pytest.mark.skipif(not (REFERENCE / "ptp").exists(), reason="containernetworking-plugins is not installed")
def test_rules_are_those_of_the_reference_and_either_side_removes_them(node: Node):
    pod = node.pod("pod")
    conf = masqueraded(node, "ptp")
    call = {"plugin": "ptp", "CONTAINERID": "c1", "NETNS": str(pod)}
    seen = []
    for adder, deleter in ((REFERENCE, node.bin_dir), (node.bin_dir, REFERENCE)):
        own = conf | {"ipam": conf["ipam"] | {"dataDir": str(node.networks / adder.parent.name)}}
        if deleter == node.bin_dir:
            own.pop("ipMasqBackend")  # as who comes from the reference plugins has it
        assert node.execute("ADD", own, directory=adder, **call)[0] == 0
        seen.append(rules(node))
        assert node.execute("DEL", own, directory=deleter, **call) == (0, None)
        assert rules(node) == []
    assert seen[0] == seen[1]
    assert len(seen[0]) == 8


@needs_iptables
def test_del_and_gc_remove_only_what_is_stale(node: Node):
    conf = masqueraded(node, "ptp", cniVersion="1.1.0")
    for number in range(3):
        node.add(f"c{number}", node.pod(f"pod{number}"), conf)
    node.add("c9", node.pod("pod9"), conf | {"name": "other", "ipam": node.ipam("10.9.0.0/24")})
    node.call("DEL", "c0", "", conf)
    valid = {"cni.dev/valid-attachments": [{"containerID": "c1", "ifname": "eth0"}]}
    node.call("GC", "", "", conf | valid)
    sources = [line.split()[3] for line in rules(node) if line.startswith("-A POSTROUTING")]
    assert sorted(sources) == ["10.244.1.3/32", "10.9.0.2/32", "fd00:10:244:1::3/128"]


def test_without_the_program_add_says_so_and_leaves_nothing(node: Node, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", "/none")
    monkeypatch.setattr(iptables, "DIRECTORIES", ())
    pod = node.pod("pod")
    with pytest.raises(CNIError, match="ipMasq: iptables-save is not installed") as info:
        node.add("c1", pod, masqueraded(node, "ptp"))
    assert info.value.code == INVALID_CONFIG
    assert link_names(pod) == link_names(node.netns) == {"lo"}
    assert node.reserved() == {"last_reserved_ip.0", "last_reserved_ip.1"}
