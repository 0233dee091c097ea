"""portmap on the real kernel: who reaches a container through which port of its node, and what is left."""

from __future__ import annotations

import shutil
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest

from kernel.cni_chain_local import (
    NODE_IP,
    NODE_IP6,
    OUTSIDE_IP,
    Chain,
    dial,
    outside,
    tcp_server,
    unreachable,
)
from kernel.cni_local import Node
from kernel.net_local import Namespaces, ask, echo_server, namespaces
from podling.cni.plugins import iptables as iptables_module
from podling.cni.plugins.meta.portmap_rules import TABLE, translate_conditions
from podling.cni.types import CHECK_FAILED, INVALID_CONFIG, UNSUPPORTED_FIELD, CNIError, ConfigError
from podling.linux import nft
from podling.linux.netns import run_in_netns
from podling.linux.sysctl import read_sysctl, write_sysctl

__all__ = ["namespaces"]


needs_iptables = pytest.mark.skipif(
    shutil.which("iptables-restore") is None, reason="the package iptables is not installed"
)


@pytest.fixture
def node(tmp_path: Path, namespaces: Namespaces) -> Node:
    return Node(tmp_path, namespaces)


@pytest.fixture(params=[pytest.param("iptables", marks=needs_iptables), "nftables"])
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def portmap(*mappings: dict[str, Any], **options: Any) -> dict[str, Any]:
    ports = [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}, *mappings]
    return {"type": "portmap", "runtimeConfig": {"portMappings": ports}} | options


def chain(node: Node, plugin: dict[str, Any], *, executed: bool = False, dual: bool = False) -> Chain:
    subnets = ("10.244.1.0/24", "fd00:10:244:1::/64") if dual else ()
    bridge = node.bridge(isDefaultGateway=True, hairpinMode=True, ipam=node.ipam(*subnets))
    return Chain(node, bridge, plugin, executed=executed)


def own_rules(node: Node, family: str = "ip") -> list[nft.NFTRule]:
    """Of nftables."""
    return [r for r in nft.parse_rules(run_in_netns(node.netns, nft.list_table, family, TABLE)) if r.comment]


def iptables_rules(node: Node, program: str = "iptables", container: str = "CNI-DN-") -> list[str]:
    """Those of containers, and their chains."""
    if shutil.which(f"{program}-save") is None:
        return []
    command = ["nsenter", f"--net={node.netns}", f"{program}-save", "-t", "nat"]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return [line for line in output.splitlines() if container in line]


def nothing_is_left(node: Node) -> bool:
    found = own_rules(node), own_rules(node, "ip6"), iptables_rules(node), iptables_rules(node, "ip6tables")
    return found == ([], [], [], [])


@pytest.mark.parametrize("executed", [False, True])
def test_a_port_is_reached_from_outside_the_node_localhost_neighbours_and_itself(
    node: Node, namespaces: Namespaces, executed: bool, backend: str
):
    far, one, two = outside(node, namespaces), node.pod("one"), node.pod("two")
    run_in_netns(node.netns, write_sysctl, "net.ipv4.conf.all.send_redirects", "0")
    wired = chain(node, portmap(backend=backend), executed=executed)
    result = wired.add("c1", one)
    Chain(node, node.bridge(isDefaultGateway=True, hairpinMode=True)).add("c2", two)
    assert [interface.name for interface in result.interfaces][::2] == ["cni0", "eth0"]
    with tcp_server(one, "0.0.0.0", 80):
        assert dial(far, NODE_IP, 8080) == OUTSIDE_IP  # nobody between has changed the sender
        assert dial(node.netns, NODE_IP, 8080) == NODE_IP
        assert dial(node.netns, "127.0.0.1", 8080) == "10.244.1.1"
        assert dial(two, NODE_IP, 8080) == "10.244.1.1"  # else answered directly, and not understood
        assert dial(one, NODE_IP, 8080) == "10.244.1.1"  # hairpin
        assert dial(two, "10.244.1.2", 80) == "10.244.1.3"
        assert unreachable(far, NODE_IP, 8081)
    assert run_in_netns(node.netns, read_sysctl, "net.ipv4.conf.cni0.route_localnet") == "1"
    wired.check("c1", one, result)
    for _ in range(2):
        wired.delete("c1", one, result)
    assert nothing_is_left(node)
    assert unreachable(far, NODE_IP, 8080)


def test_dual_stack(node: Node, namespaces: Namespaces, backend: str):
    far, pod = outside(node, namespaces), node.pod("pod")
    wired = chain(node, portmap(backend=backend), dual=True)
    result = wired.add("c1", pod)
    with tcp_server(pod, "::", 80):
        assert dial(far, NODE_IP, 8080) == "::ffff:" + OUTSIDE_IP
        assert dial(far, NODE_IP6, 8080) == "2001:db8::9"
        assert dial(pod, NODE_IP6, 8080) == "fd00:10:244:1::1"
    wired.check("c1", pod, result)
    wired.delete("c1", pod)
    assert nothing_is_left(node)


def test_udp_moves_to_the_ports_next_owner_within_one_flow(node: Node, namespaces: Namespaces, backend: str):
    import socket

    far, one, two = outside(node, namespaces), node.pod("one"), node.pod("two")
    plugin = {
        "type": "portmap",
        "backend": backend,
        "runtimeConfig": {"portMappings": [{"hostPort": 5353, "containerPort": 53, "protocol": "udp"}]},
    }
    wired = chain(node, plugin)
    first = wired.add("c1", one)
    with run_in_netns(far, socket.socket, socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(1)
        client.connect((NODE_IP, 5353))
        with echo_server(one, "10.244.1.2", 53):
            client.send(b"one")
            assert client.recv(100).endswith(b" one")
        wired.delete("c1", one, first)
        wired.add("c2", two)
        with echo_server(two, "10.244.1.3", 53):
            client.send(b"two")
            assert client.recv(100).endswith(b" two")


def test_a_host_ip_limits_the_port_to_that_address(node: Node, namespaces: Namespaces, backend: str):
    far, pod = outside(node, namespaces), node.pod("pod")
    ports = [
        {"hostPort": 9000, "containerPort": 80, "protocol": "TCP", "hostIP": "127.0.0.1"},
        {"hostPort": 9001, "containerPort": 80, "protocol": "tcp", "hostIP": NODE_IP},
        {"hostPort": 9002, "containerPort": 80, "protocol": "tcp", "hostIP": "0.0.0.0"},
        {"hostPort": 9003, "containerPort": 80, "protocol": "tcp", "hostIP": NODE_IP6},
    ]
    conf = {"type": "portmap", "backend": backend, "runtimeConfig": {"portMappings": ports}}
    wired = chain(node, conf)
    result = wired.add("c1", pod)
    with tcp_server(pod, "0.0.0.0", 80):
        assert dial(node.netns, "127.0.0.1", 9000) == "10.244.1.1"
        assert dial(far, NODE_IP, 9001) == dial(far, NODE_IP, 9002) == OUTSIDE_IP
        for port in (9000, 9003):
            assert unreachable(far, NODE_IP, port)
        assert unreachable(node.netns, "127.0.0.1", 9001)
    wired.check("c1", pod, result)


def test_what_the_node_only_forwards_is_left_alone(node: Node, namespaces: Namespaces, backend: str):
    """A packet for port 8080 of another host must not be caught on its way."""
    far, pod, other = outside(node, namespaces), node.pod("pod"), node.pod("other")
    chain(node, portmap(backend=backend)).add("c1", pod)
    Chain(node, node.bridge(isDefaultGateway=True)).add("c2", other)
    with tcp_server(other, "0.0.0.0", 8080), tcp_server(pod, "0.0.0.0", 80):
        assert dial(far, "10.244.1.3", 8080) == OUTSIDE_IP
        assert dial(node.netns, "10.244.1.3", 8080) == "10.244.1.1"


@pytest.mark.parametrize(
    ("options", "seen", "localhost"),
    [
        ({"snat": False}, OUTSIDE_IP, False),
        ({"masqAll": True}, "10.244.1.1", True),
        ({"markMasqBit": 13}, OUTSIDE_IP, True),
        ({"markMasqBit": 0, "masqAll": True}, "10.244.1.1", True),
    ],
)
def test_who_is_masqueraded(
    node: Node,
    namespaces: Namespaces,
    options: dict[str, Any],
    seen: str,
    localhost: bool,
    backend: str,
):
    far, pod = outside(node, namespaces), node.pod("pod")
    wired = chain(node, portmap(backend=backend, **options))
    result = wired.add("c1", pod)
    with tcp_server(pod, "0.0.0.0", 80):
        assert dial(far, NODE_IP, 8080) == seen
        if localhost:
            assert dial(node.netns, "127.0.0.1", 8080) == "10.244.1.1"
            assert dial(pod, NODE_IP, 8080) == "10.244.1.1"
        else:
            assert unreachable(node.netns, "127.0.0.1", 8080)
    wired.check("c1", pod, result)
    wired.delete("c1", pod)
    assert nothing_is_left(node)


@pytest.mark.parametrize(
    ("conditions", "backend", "reached"),
    [
        (["!", "-d", "192.0.2.0/24"], "nftables", False),
        (["-s", "192.0.2.0/24", "-i", "upl+"], "nftables", True),
        (["ip", "saddr", "198.51.100.0/24"], None, False),  # these words choose the backend
        (["iifname", '"uplink"'], None, True),
        pytest.param(["!", "-d", "192.0.2.0/24"], "iptables", False, marks=needs_iptables),
        pytest.param(
            ["-i", "upl+", "-m", "pkttype", "--pkt-type", "unicast"], None, True, marks=needs_iptables
        ),
    ],
)
def test_conditions_in_the_words_of_nftables_and_iptables(
    node: Node, namespaces: Namespaces, conditions: list[str], backend: str | None, reached: bool
):
    far, pod = outside(node, namespaces), node.pod("pod")
    wired = chain(node, portmap(conditionsV4=conditions, backend=backend))
    result = wired.add("c1", pod)
    with tcp_server(pod, "0.0.0.0", 80):
        if reached:
            assert dial(far, NODE_IP, 8080) == OUTSIDE_IP
        else:
            assert unreachable(far, NODE_IP, 8080)
    wired.check("c1", pod, result)
    wired.delete("c1", pod, result)
    assert nothing_is_left(node)


@needs_iptables
def test_a_mark_set_by_somebody_elses_chain_can_be_used(node: Node, namespaces: Namespaces):
    pod = node.pod("pod")
    for words in ("-N THEIR-MARK", "-A THEIR-MARK -j MARK --or-mark 0x4000"):
        iptables(node, words)
    iptables(node, "-A POSTROUTING -m mark --mark 0x4000/0x4000 -j MASQUERADE")
    wired = chain(node, portmap(externalSetMarkChain="THEIR-MARK"))
    result = wired.add("c1", pod)
    with tcp_server(pod, "0.0.0.0", 80):
        assert dial(node.netns, "127.0.0.1", 8080) == "10.244.1.1"
    assert iptables_rules(node, container="CNI-HOSTPORT-MASQ") == []
    wired.check("c1", pod, result)
    iptables(node, "-F PREROUTING")
    with pytest.raises(CNIError, match=r"missing rule in iptables table nat: PREROUTING") as caught:
        wired.check("c1", pod, result)
    assert caught.value.code == CHECK_FAILED
    wired.delete("c1", pod, result)
    assert nothing_is_left(node)


def iptables(node: Node, words: str) -> None:
    subprocess.run(
        ["nsenter", f"--net={node.netns}", "iptables", "-w", "-t", "nat", *words.split()], check=True
    )


@needs_iptables
def test_more_ports_than_one_rule_can_name_and_the_newest_owner_gets_them(node: Node, namespaces: Namespaces):
    far, one, two = outside(node, namespaces), node.pod("one"), node.pod("two")
    ports = [{"hostPort": 9000 + number, "containerPort": 80} for number in range(20)]
    wired = chain(node, portmap(*ports, backend="iptables"))
    result = wired.add("c1", one)
    assert len(iptables_rules(node, container="--dports")) == 2
    newer = wired.add("c2", two)
    with tcp_server(two, "0.0.0.0", 80):
        assert dial(far, NODE_IP, 9019) == OUTSIDE_IP
    wired.check("c1", one, result)
    wired.delete("c2", two, newer)
    with tcp_server(one, "0.0.0.0", 80):
        assert dial(far, NODE_IP, 9019) == OUTSIDE_IP
    wired.delete("c1", one, result)
    assert nothing_is_left(node)


def test_without_iptables_it_is_nftables(node: Node, monkeypatch: pytest.MonkeyPatch):
    wired = chain(node, portmap())
    pod = node.pod("pod")
    before = wired.add("c1", pod)  # with whatever the machine has
    with monkeypatch.context() as patch:
        patch.setenv("PATH", "/none")
        patch.setattr(iptables_module, "DIRECTORIES", ())
        wired.add("c2", node.pod("other"))
        assert {rule.comment for rule in own_rules(node)} >= {"c2"}
        with pytest.raises(CNIError, match="portmap: iptables-save is not installed; install the package"):
            chain(node, portmap(backend="iptables")).add("c3", node.pod("third"))
    wired.delete("c1", pod, before)
    wired.delete("c2", "", None)
    assert nothing_is_left(node)


def test_del_removes_only_its_own_even_when_the_address_has_a_new_owner(node: Node):
    one, two = node.pod("one"), node.pod("two")
    plugin = portmap(backend="nftables")
    wired = chain(node, plugin)
    first = wired.add("c1", one)
    node.call("DEL", "c1", one, wired.plugins[0])  # the address is free again, the rules are still there
    again = node.bridge(ipam=node.ipam() | {"rangeStart": "10.244.1.2"})
    second = Chain(node, again, plugin).add("c2", two)
    wired.delete("c1", one, first)
    assert {rule.comment for rule in own_rules(node)} == {"c2"}
    wired.check("c2", two, second)
    wired.delete("c2", two, second)
    assert own_rules(node) == []


def test_many_at_once(node: Node, backend: str):
    """The first ADDs race for the table, later ones list what others delete."""
    pods = [node.pod(f"pod{number}") for number in range(16)]
    wired = Chain(node, node.bridge())
    results = [wired.add(pod.name, pod).to_json("1.0.0") for pod in pods]
    errors: list[BaseException] = []

    def work(number: int) -> None:
        ports = [{"hostPort": 9000 + number, "containerPort": 80}]
        conf = {"type": "portmap", "runtimeConfig": {"portMappings": ports}, "prevResult": results[number]}
        conf |= {"cniVersion": "1.0.0", "name": "net", "backend": backend}
        try:
            for _ in range(3):
                for command in ("ADD", "CHECK", "DEL"):
                    node.call(command, pods[number].name, pods[number], conf)
            node.call("ADD", pods[number].name, pods[number], conf)
        except BaseException as err:
            errors.append(err)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(len(pods))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    if backend == "iptables":
        mapped = [line for line in iptables_rules(node) if "-j DNAT --to-destination" in line]
        ports = [line.split("--dport ")[1].split()[0] for line in mapped]
        assert sorted(ports) == [str(9000 + number) for number in range(len(pods))]
        assert len(iptables_rules(node, container="-j CNI-HOSTPORT-DNAT")) == 2
    else:
        comments = [rule.comment for rule in own_rules(node) if "dnat to" in rule.text]
        assert sorted(comments) == sorted(pod.name for pod in pods)


def test_check_sees_what_is_missing(node: Node):
    pod = node.pod("pod")
    wired = chain(node, portmap(backend="nftables"))
    result = wired.add("c1", pod)
    run_in_netns(node.netns, nft.run, f"flush chain ip {TABLE} hostports\n")
    with pytest.raises(CNIError, match="missing hostport rules") as caught:
        wired.check("c1", pod, result)
    assert caught.value.code == CHECK_FAILED
    run_in_netns(node.netns, nft.run, f"delete table ip {TABLE}\n")
    with pytest.raises(CNIError, match="gone"):
        wired.check("c1", pod, result)
    wired.delete("c1", pod, result)
    wired.add("c1", pod)  # and ADD makes everything anew


def test_without_mappings_it_hands_the_result_on(node: Node):
    pod = node.pod("pod")
    result = chain(node, {"type": "portmap"}).add("c1", pod)
    assert [str(ip.address) for ip in result.ips] == ["10.244.1.2/24"]
    assert nothing_is_left(node)


@pytest.mark.parametrize(
    ("conf", "code", "words"),
    [
        (portmap(markMasqBit=32), INVALID_CONFIG, "MasqMarkBit must be between 0 and 31"),
        (
            portmap(markMasqBit=1, externalSetMarkChain="X"),
            INVALID_CONFIG,
            "Cannot specify externalSetMark",
        ),
        (
            portmap(backend="nftables", externalSetMarkChain="X"),
            INVALID_CONFIG,
            "nftables backend cannot be used with externalSetMarkChain",
        ),
        (portmap(externalSetMarkChain="X -j DROP"), INVALID_CONFIG, "is no name of a chain"),
        (
            portmap(backend="iptables", conditionsV6=["ip6", "saddr", "fd00::1"]),
            INVALID_CONFIG,
            "conditions are for nftables",
        ),
        (portmap(backend="iptables", conditionsV4=["-m", "x\n-F"]), INVALID_CONFIG, "line break"),
        (portmap({"hostPort": 0, "containerPort": 1}), INVALID_CONFIG, "Invalid host port number: 0"),
        (portmap({"hostPort": 1, "containerPort": 70000}), INVALID_CONFIG, "Invalid container port number"),
        (
            portmap({"hostPort": 1, "containerPort": 1, "protocol": "icmp"}),
            INVALID_CONFIG,
            "Invalid protocol",
        ),
        (portmap({"hostPort": 1, "containerPort": 1, "hostIP": "x"}), INVALID_CONFIG, "Invalid hostIP 'x'"),
        (portmap(backend="ipfw"), INVALID_CONFIG, "unrecognized backend"),
        (portmap(snat="no"), INVALID_CONFIG, "snat: must be true or false"),
        (
            portmap(backend="nftables", conditionsV4=["-m", "mark"]),
            UNSUPPORTED_FIELD,
            "condition '-m' is not supported",
        ),
    ],
)
def test_mistakes_are_refused_and_nothing_is_left(node: Node, conf: dict[str, Any], code: int, words: str):
    with pytest.raises(CNIError, match=words) as caught:
        chain(node, conf).add("c1", node.pod("pod"))
    assert caught.value.code == code
    assert nothing_is_left(node)


def test_it_must_be_chained(node: Node):
    with pytest.raises(ConfigError, match="must be called as chained plugin"):
        Chain(node, portmap()).add("c1", node.pod("pod"))


def test_a_condition_cannot_end_its_rule():
    with pytest.raises(ConfigError, match="must not contain"):
        translate_conditions(["ip", "saddr", "1.2.3.4", "accept;", "flush", "ruleset"], 4)
    with pytest.raises(ConfigError, match="needs a value"):
        translate_conditions(["!", "-d"], 4)
    assert translate_conditions(["!", "-d", "fd00::/8"], 6) == "ip6 daddr != fd00::/8 "


def test_the_first_datagram_from_the_node_itself_arrives(node: Node):
    pod = node.pod("pod")
    plugin = {
        "type": "portmap",
        "runtimeConfig": {"portMappings": [{"hostPort": 4000, "containerPort": 4000, "protocol": "udp"}]},
    }
    chain(node, plugin).add("c1", pod)
    with echo_server(pod, "10.244.1.2"):
        assert ask(node.netns, "127.0.0.1") == "10.244.1.1"
