"""The ipvlan plugin on a kernel that has ipvlan; on one without, the error that says so."""

from __future__ import annotations

from pathlib import Path

import pytest

from kernel.cni_local import Node
from kernel.link_kinds import assert_the_driver_is_asked_for, missing
from kernel.net_local import Namespaces, ask, echo_server, link_names, namespaces
from podling.cni.types import CHECK_FAILED, INVALID_CONFIG, CNIError
from podling.linux.netlink import Netlink, kinds
from podling.linux.netns import remove_netns

__all__ = ["namespaces"]

needs_ipvlan = pytest.mark.skipif(missing("ipvlan"), reason="the kernel has no ipvlan (CONFIG_IPVLAN)")


@pytest.fixture
def node(tmp_path: Path, namespaces: Namespaces) -> Node:
    return Node(tmp_path, namespaces)


def test_a_kernel_without_it_is_named(node: Node):
    node.segment()
    words = 'kernel has no "ipvlan" link type: it needs CONFIG_IPVLAN (modprobe ipvlan)'
    assert_the_driver_is_asked_for(node, node.conf("ipvlan", master="wan0"), words)


def test_what_is_refused_leaves_nothing(node: Node):
    node.segment()
    pod = node.pod("pod")
    conf = node.conf("ipvlan", master="wan0")
    two = {"cniVersion": "1.0.0", "interfaces": [{"name": "wan0"}, {"name": "wan1"}]}
    for options, words in (
        ({"master": "eth9"}, 'failed to lookup master "eth9": there is no such link on the host'),
        ({"linkInContainer": True}, "there is no such link in the container"),
        ({"master": ""}, "no default route interface found on the host"),
        ({"mode": "l4", "mtu": -1}, 'unknown ipvlan mode: "l4"; invalid MTU -1'),
        ({"ipam": {}}, "no ipam, and no prevResult with addresses"),
        ({"master": "", "prevResult": two}, "PrevResult lacks a single named interface"),
    ):
        with pytest.raises(CNIError, match=words) as info:
            node.add("c1", pod, conf | options)
        assert info.value.code == INVALID_CONFIG
    assert link_names(pod) == {"lo"}
    assert node.reserved() == set()
    node.delete_twice("c1", pod, conf | {"master": "eth9"})
    node.delete_twice("c1", "", conf)


@needs_ipvlan
@pytest.mark.parametrize("mode", ["l2", "l3", "l3s"])
def test_add_makes_a_link_on_the_parents_network_and_del_takes_it_away(node: Node, mode: str):
    neighbour = node.segment("wan0", "10.244.1.254/24")
    one, two = node.pod("one"), node.pod("two")
    conf = node.conf("ipvlan", master="wan0", mode=mode, mtu=1400)
    result = node.add("c1", one, conf)
    node.add("c2", two, conf)

    with Netlink(one) as nl, Netlink(node.netns) as host:
        link, parent = nl.link_get("eth0"), host.link_get("wan0")
    assert (link.kind, link.mtu, link.up) == ("ipvlan", 1400, True)
    assert link.mac == parent.mac == result.interfaces[0].mac
    assert kinds.ipvlan_mode(link) == mode
    assert [str(ip.address) for ip in result.ips] == ["10.244.1.2/24"]
    with echo_server(two, "10.244.1.3"):
        assert ask(one, "10.244.1.3") == "10.244.1.2"
    if mode == "l2":
        with echo_server(neighbour, "10.244.1.254"):
            assert ask(one, "10.244.1.254") == "10.244.1.2"

    checked = conf | {"prevResult": result.to_json("1.0.0")}
    node.call("CHECK", "c1", one, checked)
    with pytest.raises(CNIError, match="ipvlan mode") as info:
        node.call("CHECK", "c1", one, checked | {"mode": "l3" if mode == "l2" else "l2"})
    assert info.value.code == CHECK_FAILED
    node.delete_twice("c1", one, conf)
    remove_netns(two)
    node.delete_twice("c2", two, conf)
    assert link_names(one) == {"lo"}
    assert node.reserved() == {"last_reserved_ip.0"}


@needs_ipvlan
def test_dual_stack(node: Node):
    neighbour = node.segment("wan0", "10.244.1.254/24", "fd00:10:244:1::254/64")
    pod = node.pod("pod")
    ipam = node.ipam("10.244.1.0/24", "fd00:10:244:1::/64", routes=[{"dst": "::/0"}])
    conf = node.conf("ipvlan", master="wan0", ipam=ipam)
    node.add("c1", pod, conf)
    assert node.addresses(pod, "eth0") == {"10.244.1.2/24", "fd00:10:244:1::2/64"}
    assert "::/0 via fd00:10:244:1::1" in node.routes(pod)
    for server in ("10.244.1.254", "fd00:10:244:1::254"):
        with echo_server(neighbour, server):
            assert ask(pod, server) == server.removesuffix("254") + "2"
    node.delete_twice("c1", pod, conf)


@needs_ipvlan
def test_chained_it_takes_parent_and_addresses_of_the_previous_result(node: Node):
    neighbour = node.segment("wan0", "10.244.1.254/24")
    pod = node.pod("pod")
    previous = {
        "cniVersion": "1.0.0",
        "interfaces": [{"name": "wan0"}],
        "ips": [{"address": "10.244.1.77/24", "gateway": "10.244.1.1"}],
        "routes": [{"dst": "0.0.0.0/0"}],
    }
    conf = node.conf("ipvlan", ipam={}, prevResult=previous)
    result = node.add("c1", pod, conf)
    assert result.to_json("1.0.0")["ips"] == [
        {"interface": 0, "address": "10.244.1.77/24", "gateway": "10.244.1.1"}
    ]
    assert node.routes(pod) == {"0.0.0.0/0 via 10.244.1.1", "10.244.1.0/24"}
    with echo_server(neighbour, "10.244.1.254"):
        assert ask(pod, "10.244.1.254") == "10.244.1.77"
    conf["prevResult"] = result.to_json("1.0.0")
    node.call("CHECK", "c1", pod, conf)
    node.delete_twice("c1", pod, conf)
    assert link_names(pod) == {"lo"}


@needs_ipvlan
def test_as_a_program(node: Node):
    node.segment()
    pod = node.pod("pod")
    conf = node.conf("ipvlan", master="wan0", cniVersion="0.4.0")
    call = {"plugin": "ipvlan", "CONTAINERID": "c1", "NETNS": str(pod)}
    status, result = node.execute("ADD", conf, **call)
    assert status == 0, result
    checked = conf | {"prevResult": result}
    assert node.execute("CHECK", checked, **call) == (0, None)
    for _ in range(2):
        assert node.execute("DEL", checked, **call) == (0, None)
    assert link_names(pod) == {"lo"}
