"""sbr on the real kernel: a container on two networks answers by the interface it was asked through."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kernel.cni_chain_local import Chain
from kernel.cni_local import Node
from kernel.net_local import Namespaces, ask, echo_server, namespaces
from podling.cni.plugins import skel
from podling.cni.plugins.find import MODULES, load_plugin
from podling.cni.types import CHECK_FAILED, INVALID_CONFIG, Args, CNIError, ConfigError, Result
from podling.linux.netlink import Netlink
from podling.linux.netlink.rules import dump_rules, parse_rule
from podling.linux.netns import remove_netns, run_in_netns

__all__ = ["namespaces"]


@pytest.fixture
def node(tmp_path: Path, namespaces: Namespaces) -> Node:
    return Node(tmp_path, namespaces)


def rules(pod: Path) -> dict[str, int]:
    """Source address to table."""
    with Netlink(pod) as nl:
        found = [parse_rule(message) for message in nl.dump(dump_rules())]
    return {str(rule.src.network_address): rule.table for rule in found if rule and rule.src}


def routes(pod: Path, table: int) -> set[str]:
    with Netlink(pod) as nl:
        return {
            f"{r.dst} via {r.gateway}" if r.gateway else str(r.dst)
            for r in nl.route_list(table=table)
            if not r.dst.is_link_local and not r.dst.is_multicast
        }


def call(node: Node, command: str, pod: Path | str, conf: dict[str, Any], ifname: str) -> Result | None:
    args = Args(
        command=command,
        container_id="c1",
        netns=str(pod),
        ifname=ifname,
        args="",
        path=(str(node.bin_dir),),
        conf={"cniVersion": "1.0.0", "name": "second"} | conf,
    )
    return run_in_netns(node.netns, skel.run, load_plugin(MODULES[conf["type"]]), args)


@pytest.fixture
def second(node: Node) -> dict[str, Any]:
    ipam = node.ipam("10.9.0.0/24", "fd00:9::/64", routes=[{"dst": "10.77.0.0/16"}])
    return node.bridge(bridge="cni1", name="second", isGateway=True, ipam=ipam)


def add_both(node: Node, pod: Path, second: dict[str, Any], **options: Any) -> dict[str, Any]:
    """eth0 with the default route on one network, net1 with sbr on the other; the latter's result."""
    node.add("c1", pod, node.bridge(isDefaultGateway=True))
    result = call(node, "ADD", pod, second, "net1")
    assert result is not None
    answer = call(node, "ADD", pod, {"type": "sbr", "prevResult": result.to_json("1.0.0")} | options, "net1")
    assert answer is not None
    assert answer.to_json("1.0.0") == result.to_json("1.0.0")
    return result.to_json("1.0.0")


def test_answers_leave_by_the_interface_that_was_asked(node: Node, second: dict[str, Any]):
    pod, client = node.pod("pod"), node.pod("client")
    # Somebody behind the second network's gateway, whom the default route would answer through eth0.
    node.call(
        "ADD", "c2", client, node.bridge(bridge="cni2", isDefaultGateway=True, ipam=node.ipam("10.5.0.0/24"))
    )
    result = add_both(node, pod, second)
    assert rules(pod) == {"10.9.0.2": 100, "fd00:9::2": 101}
    assert routes(pod, 100) == {"0.0.0.0/0 via 10.9.0.1", "10.9.0.0/24", "10.77.0.0/16 via 10.9.0.1"}
    assert routes(pod, 101) == {"::/0 via fd00:9::1", "fd00:9::/64"}
    assert routes(pod, 254) == {"0.0.0.0/0 via 10.244.1.1", "10.244.1.0/24"}
    with Netlink(pod) as nl:
        before = nl.link_list(stats=True)
    with echo_server(pod, "10.9.0.2"), echo_server(pod, "10.244.1.2", 4001):
        for _ in range(5):
            assert ask(client, "10.9.0.2") == "10.5.0.2"
        assert ask(client, "10.244.1.2", 4001) == "10.5.0.2"
    with Netlink(pod) as nl:
        sent = {
            link.name: link.stats.tx_packets - old.stats.tx_packets
            for link, old in zip(nl.link_list(stats=True), before, strict=True)
            if link.stats and old.stats
        }
    assert sent["net1"] >= 5 > sent["eth0"]
    conf = {"type": "sbr", "prevResult": result}
    call(node, "CHECK", pod, conf, "net1")
    for _ in range(2):
        call(node, "DEL", pod, conf, "net1")
    assert rules(pod) == {}
    call(node, "DEL", pod, second, "net1")
    assert routes(pod, 100) == routes(pod, 101) == set()


def test_a_table_of_ones_choice_is_filled_by_others(node: Node, second: dict[str, Any]):
    """As the reference's documentation has it: rules only. IPAM has put routes there."""
    pod = node.pod("pod")
    second["cniVersion"] = "1.1.0"
    second["ipam"]["routes"] = [{"dst": "0.0.0.0/0", "gw": "10.9.0.1", "table": 200}]
    result = add_both(node, pod, second, table=200)
    assert set(rules(pod).values()) == {200}
    assert routes(pod, 200) == {"0.0.0.0/0 via 10.9.0.1"}
    assert routes(pod, 254) >= {"10.9.0.0/24", "fd00:9::/64"}  # nothing was moved
    call(node, "CHECK", pod, {"type": "sbr", "prevResult": result, "table": 200}, "net1")
    third = node.bridge(bridge="cni3", name="third", ipam=node.ipam("10.8.0.0/24"))
    other = call(node, "ADD", pod, third, "net2")
    assert other is not None
    call(node, "ADD", pod, {"type": "sbr", "prevResult": other.to_json("1.0.0")}, "net2")
    assert rules(pod)["10.8.0.2"] == 100
    call(node, "DEL", pod, {"type": "sbr", "prevResult": result, "table": 200}, "net1")
    assert set(rules(pod)) == {"10.8.0.2"}


def test_gateways_of_ones_choice_and_hints_in_the_main_table(node: Node, second: dict[str, Any]):
    pod, neighbour = node.pod("pod"), node.pod("neighbour")
    options = {"gateways": ["10.9.0.77", "fd00:9::77"], "addSourceHints": True}
    result = add_both(node, pod, second, **options)
    assert routes(pod, 100) >= {"0.0.0.0/0 via 10.9.0.77", "10.9.0.0/24"}
    assert routes(pod, 101) >= {"::/0 via fd00:9::77", "fd00:9::/64"}
    with Netlink(pod) as nl:
        hints = {str(r.dst): str(r.prefsrc) for r in nl.route_list() if r.prefsrc}
    assert hints.items() >= {"10.9.0.0/24": "10.9.0.2", "fd00:9::/64": "fd00:9::2"}.items()
    # Without a source the subnet is reached by its interface, not by the default route.
    call(node, "ADD", neighbour, second, "eth0")
    with echo_server(neighbour, "10.9.0.3"):
        assert ask(pod, "10.9.0.3") == "10.9.0.2"
    call(node, "CHECK", pod, {"type": "sbr", "prevResult": result} | options, "net1")


def test_check_sees_a_missing_rule_and_route(node: Node, second: dict[str, Any]):
    pod = node.pod("pod")
    conf = {"type": "sbr", "prevResult": add_both(node, pod, second)}
    with Netlink(pod) as nl:
        default = next(r for r in nl.route_list(table=100) if r.dst.prefixlen == 0)
        nl.route_del(default)
    with pytest.raises(CNIError, match=r"default route via 10\.9\.0\.1 is gone from table 100") as caught:
        call(node, "CHECK", pod, conf, "net1")
    assert caught.value.code == CHECK_FAILED
    call(node, "DEL", pod, conf, "net1")
    with pytest.raises(CNIError, match=r"rule from 10\.9\.0\.2 is gone"):
        call(node, "CHECK", pod, conf, "net1")


def test_del_without_namespace_or_interface(node: Node, second: dict[str, Any]):
    pod = node.pod("pod")
    conf = {"type": "sbr", "prevResult": add_both(node, pod, second)}
    call(node, "DEL", pod, second, "net1")
    call(node, "DEL", pod, conf, "net1")  # the rules are found by prevResult
    assert rules(pod) == {}
    remove_netns(pod)
    call(node, "DEL", pod, conf, "net1")
    call(node, "DEL", "", {"type": "sbr"}, "net1")


def test_mistakes_are_refused(node: Node):
    pod = node.pod("pod")
    with pytest.raises(ConfigError, match="must be called as chained plugin"):
        Chain(node, {"type": "sbr"}).add("c1", pod)
    previous = {"cniVersion": "1.0.0", "ips": [{"address": "10.1.0.2/24"}]}
    with pytest.raises(ConfigError, match="No IP addresses supplied on interface: net1"):
        call(node, "ADD", pod, {"type": "sbr", "prevResult": {"cniVersion": "1.0.0"}}, "net1")
    with pytest.raises(CNIError, match="Cannot find network interface net1"):
        call(node, "ADD", pod, {"type": "sbr", "prevResult": previous}, "net1")
    with pytest.raises(ConfigError, match="table: 254 is no table of one's own") as caught:
        call(node, "ADD", pod, {"type": "sbr", "prevResult": previous, "table": 254}, "net1")
    assert caught.value.code == INVALID_CONFIG
    for gateways, words in (
        (["x"], "invalid IP address 'x'"),
        (["10.0.0.1", "10.0.0.2"], "only one of each"),
    ):
        with pytest.raises(ConfigError, match=words):
            call(node, "ADD", pod, {"type": "sbr", "prevResult": previous, "gateways": gateways}, "net1")
