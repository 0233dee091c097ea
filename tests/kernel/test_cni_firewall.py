"""firewall on the real kernel, both backends: rules before and after, and who gets through."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from kernel.cni_chain_local import OUTSIDE_IP, Chain, dial, outside, tcp_server, unreachable
from kernel.cni_local import Node
from kernel.net_local import Namespaces, namespaces
from podling.cni.plugins import iptables
from podling.cni.plugins.meta.firewall_nftables import FAMILY, TABLE
from podling.cni.types import (
    CHECK_FAILED,
    INCOMPATIBLE_VERSION,
    INVALID_CONFIG,
    UNSUPPORTED_FIELD,
    CNIError,
    ConfigError,
)
from podling.linux import nft
from podling.linux.netns import run_in_netns

__all__ = ["namespaces"]

needs_iptables = pytest.mark.skipif(
    shutil.which("iptables-restore") is None, reason="the package iptables is not installed"
)
backends = pytest.mark.parametrize("backend", [pytest.param("iptables", marks=needs_iptables), "nftables"])


@pytest.fixture
def node(tmp_path: Path, namespaces: Namespaces, monkeypatch: pytest.MonkeyPatch) -> Node:
    monkeypatch.setattr(iptables, "LOCK", str(tmp_path / "lock"))
    return Node(tmp_path, namespaces)


def chain(
    node: Node, backend: str, *, executed: bool = False, bridge: dict[str, Any] | None = None, **options: Any
) -> Chain:
    plugin = {"type": "firewall", "backend": backend} | options
    return Chain(node, node.bridge(isDefaultGateway=True, **(bridge or {})), plugin, executed=executed)


def rules(node: Node, backend: str, program: str = "iptables") -> str:
    if backend == "nftables":
        return run_in_netns(node.netns, nft.list_table, FAMILY, TABLE)
    command = ["nsenter", f"--net={node.netns}", program, "-S"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@needs_iptables
@pytest.mark.parametrize("executed", [False, True])
def test_iptables_lets_a_container_through_a_closed_forward_chain(
    node: Node, namespaces: Namespaces, executed: bool
):
    far, pod = outside(node, namespaces), node.pod("pod")
    subprocess.run(["nsenter", f"--net={node.netns}", "iptables", "-P", "FORWARD", "DROP"], check=True)
    wired = chain(node, "iptables", executed=executed)
    with tcp_server(far, OUTSIDE_IP, 80), tcp_server(pod, "0.0.0.0", 80):
        bare = Chain(node, wired.plugins[0])
        bare.add("c0", pod)
        assert unreachable(pod, OUTSIDE_IP, 80)
        bare.delete("c0", pod)
        result = wired.add("c1", pod)
        # The outside host has a route back through the node: nothing is masqueraded.
        assert dial(pod, OUTSIDE_IP, 80) == "10.244.1.3"
        assert unreachable(far, "10.244.1.3", 80)  # answers only
        wired.check("c1", pod, result)
        listed = rules(node, "iptables").splitlines()
        assert listed[-4:] == [
            '-A FORWARD -m comment --comment "CNI firewall plugin rules" -j CNI-FORWARD',
            '-A CNI-FORWARD -m comment --comment "CNI firewall plugin admin overrides" -j CNI-ADMIN',
            "-A CNI-FORWARD -d 10.244.1.3/32 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
            "-A CNI-FORWARD -s 10.244.1.3/32 -j ACCEPT",
        ]
        for _ in range(2):
            Chain(node, wired.plugins[1], executed=executed).delete("c1", pod, result)
        assert "10.244.1.3" not in rules(node, "iptables")
        assert unreachable(pod, OUTSIDE_IP, 80)
    with pytest.raises(CNIError, match="rule is gone") as caught:
        Chain(node, wired.plugins[1]).check("c1", pod, result)
    assert caught.value.code == CHECK_FAILED


@backends
def test_dual_stack_and_an_admin_chain_that_is_never_touched(node: Node, backend: str):
    pod = node.pod("pod")
    wired = chain(
        node,
        backend,
        iptablesAdminChainName="ADMINS",
        bridge={"ipam": node.ipam("10.244.1.0/24", "fd00:10:244:1::/64")},
    )
    result = wired.add("c1", pod)
    assert "ADMINS" in rules(node, backend)
    assert "fd00:10:244:1::2" in rules(node, backend, "ip6tables")
    if backend == "nftables":
        run_in_netns(node.netns, nft.run, f"add rule {FAMILY} {TABLE} ADMINS tcp dport 23 drop\n")
    wired.check("c1", pod, result)
    wired.add("c2", node.pod("two"))
    for _ in range(2):
        wired.delete("c1", pod, result)
    listed = rules(node, backend)
    assert "10.244.1.2" not in listed
    assert "10.244.1.3" in listed
    assert "fd00:10:244:1::2" not in rules(node, backend, "ip6tables")
    if backend == "nftables":
        assert "tcp dport 23 drop" in listed


@backends
@pytest.mark.parametrize("policy", ["open", "same-bridge", "isolated"])
def test_ingress_policies(node: Node, namespaces: Namespaces, backend: str, policy: str):
    far = outside(node, namespaces)
    one, two, there = node.pod("one"), node.pod("two"), node.pod("there")
    here = chain(node, backend, ingressPolicy=policy)
    other = chain(
        node,
        backend,
        ingressPolicy=policy,
        bridge={"bridge": "cni1", "name": "net1", "ipam": node.ipam("10.244.2.0/24")},
    )
    result = here.add("c1", one)
    here.add("c2", two)
    other.add("c3", there)
    with tcp_server(two, "0.0.0.0", 80), tcp_server(far, OUTSIDE_IP, 80):
        assert dial(one, OUTSIDE_IP, 80) == "10.244.1.2"
        assert dial(node.netns, "10.244.1.3", 80) == "10.244.1.1"
        if policy == "open":
            assert dial(there, "10.244.1.3", 80) == "10.244.2.2"
        else:
            assert unreachable(there, "10.244.1.3", 80)
        if policy == "isolated":
            assert unreachable(one, "10.244.1.3", 80)
        else:
            assert dial(one, "10.244.1.3", 80) == "10.244.1.2"
    here.check("c1", one, result)
    for _ in range(2):
        here.delete("c1", one, result)
    assert "10.244.1.2" not in rules(node, backend)


def test_nftables_rules_are_the_containers_own(node: Node):
    one, two = node.pod("one"), node.pod("two")
    wired = chain(node, "nftables")
    first = wired.add("c1", one)
    wired.add("c2", two)
    for rule in nft.parse_rules(rules(node, "nftables")):
        assert rule.comment in ("", "c1", "c2")
    Chain(node, wired.plugins[1]).delete("c1", one)  # without prevResult, too
    assert {rule.comment for rule in nft.parse_rules(rules(node, "nftables"))} == {"", "c2"}
    with pytest.raises(CNIError, match=r"firewall rule is gone: ip daddr 10\.244\.1\.2 ") as caught:
        Chain(node, wired.plugins[1]).check("c1", one, first)
    assert caught.value.code == CHECK_FAILED
    run_in_netns(node.netns, nft.run, f"delete table {FAMILY} {TABLE}\n")
    with pytest.raises(CNIError, match="is gone or incomplete"):
        Chain(node, wired.plugins[1]).check("c1", one, first)


def test_without_the_program_the_default_is_nftables(node: Node, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(iptables, "DIRECTORIES", ())
    monkeypatch.setenv("PATH", "/nonexistent")
    chain(node, "").add("c1", node.pod("pod"))
    assert "10.244.1.2" in rules(node, "nftables")
    with pytest.raises(CNIError, match="iptables-save is not installed; install the package"):
        chain(node, "iptables").add("c2", node.pod("two"))


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        ({"ingressPolicy": "x"}, INVALID_CONFIG, 'unknown ingress policy: "x"'),
        ({"backend": "pf"}, INVALID_CONFIG, 'unknown backend: "pf"'),
        ({"backend": "firewalld"}, UNSUPPORTED_FIELD, 'backend "firewalld" is not supported'),
        ({"iptablesAdminChainName": "a b"}, INVALID_CONFIG, "is no name of a chain"),
        ({"cniVersion": "0.3.1"}, INCOMPATIBLE_VERSION, "incompatible CNI versions"),
    ],
)
def test_mistakes_are_refused(node: Node, options: dict[str, Any], code: int, words: str):
    with pytest.raises(CNIError, match=words) as caught:
        chain(node, options.pop("backend", "nftables"), **options).add("c1", node.pod("pod"))
    assert caught.value.code == code


def test_it_must_be_chained_and_a_policy_needs_a_bridge(node: Node):
    pod = node.pod("pod")
    conf = {"cniVersion": "1.0.0", "name": "net", "type": "firewall", "backend": "nftables"}
    with pytest.raises(ConfigError, match="missing prevResult from earlier plugin"):
        node.add("c1", pod, conf)
    previous = {"cniVersion": "1.0.0", "ips": [{"address": "10.1.0.2/24"}]}
    with pytest.raises(CNIError, match='make sure to chain "firewall" plugin with "bridge"'):
        node.add("c1", pod, conf | {"prevResult": previous, "ingressPolicy": "same-bridge"})
