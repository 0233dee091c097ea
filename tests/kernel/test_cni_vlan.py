"""The vlan plugin on a kernel that has 802.1Q; on one without, the error that says so."""

from __future__ import annotations

import ipaddress
from pathlib import Path

import pytest

from kernel.cni_local import Node
from kernel.link_kinds import assert_the_driver_is_asked_for, missing
from kernel.net_local import Namespaces, ask, echo_server, link_names, namespaces
from podling.cni.types import CHECK_FAILED, INVALID_CONFIG, KERNEL_REFUSED, CNIError
from podling.linux.netlink import Netlink, kinds
from podling.linux.netns import remove_netns

__all__ = ["namespaces"]

needs_vlan = pytest.mark.skipif(missing("vlan"), reason="the kernel has no 802.1Q (CONFIG_VLAN_8021Q)")


@pytest.fixture
def node(tmp_path: Path, namespaces: Namespaces) -> Node:
    return Node(tmp_path, namespaces)


def in_vlan(netns: Path, vlan_id: int, *addresses: str) -> None:
    """A neighbour in the VLAN, whose untagged link is `eth0`."""
    with Netlink(netns) as nl:
        nl.execute(kinds.add_vlan("tagged", parent=nl.link_get("eth0").index, vlan_id=vlan_id))
        for address in addresses:
            nl.addr_add("tagged", ipaddress.ip_interface(address))
        nl.link_set("tagged", up=True)


def test_a_kernel_without_it_is_named(node: Node):
    node.segment()
    words = 'kernel has no "vlan" link type: it needs CONFIG_VLAN_8021Q (modprobe 8021q)'
    assert_the_driver_is_asked_for(node, node.conf("vlan", master="wan0", vlanId=5), words)


def test_what_is_refused_leaves_nothing(node: Node):
    node.segment()
    pod = node.pod("pod")
    conf = node.conf("vlan", master="wan0", vlanId=5)
    for options, words in (
        ({"master": ""}, '"master" field is required'),
        ({"master": "eth9"}, 'failed to lookup master "eth9": there is no such link on the host'),
        ({"linkInContainer": True}, "there is no such link in the container"),
        ({"vlanId": 4095}, r"invalid VLAN ID 4095 \(must be between 0 and 4094 inclusive\)"),
        ({"vlanId": -1, "mtu": -1}, "invalid VLAN ID -1.*invalid MTU -1"),
        ({"vlanId": "5"}, "vlanId: must be a number"),
        ({"mtu": 1501}, r"invalid MTU 1501, must be \[0, master MTU\(1500\)\]"),
        ({"ipam": {}}, "ipam: is required"),
    ):
        with pytest.raises(CNIError, match=words) as info:
            node.add("c1", pod, conf | options)
        assert info.value.code == INVALID_CONFIG
    assert link_names(pod) == {"lo"}
    assert node.reserved() == set()
    node.delete_twice("c1", pod, conf | {"master": "eth9"})
    node.delete_twice("c1", "", conf)


@needs_vlan
def test_add_puts_the_container_into_the_vlan_and_del_takes_it_out(node: Node):
    neighbour = node.segment("wan0")
    in_vlan(neighbour, 5, "10.244.1.254/24", "fd00:10:244:1::254/64")
    pod = node.pod("pod")
    ipam = node.ipam("10.244.1.0/24", "fd00:10:244:1::/64", routes=[{"dst": "0.0.0.0/0"}])
    conf = node.conf("vlan", master="wan0", vlanId=5, mtu=1400, ipam=ipam)
    result = node.add("c1", pod, conf)

    with Netlink(pod) as nl:
        link = nl.link_get("eth0")
    assert (link.kind, link.mtu, link.up, kinds.vlan_id(link)) == ("vlan", 1400, True, 5)
    assert link.mac == result.interfaces[0].mac
    assert node.routes(pod) >= {"0.0.0.0/0 via 10.244.1.1", "10.244.1.0/24"}
    for server in ("10.244.1.254", "fd00:10:244:1::254"):
        with echo_server(neighbour, server):
            assert ask(pod, server) == server.removesuffix("254") + "2"
    other = node.pod("other")
    with pytest.raises(CNIError, match=r"failed to create vlan.*exists") as info:
        node.add("c2", other, conf)
    assert info.value.code == KERNEL_REFUSED

    checked = conf | {"prevResult": result.to_json("1.0.0")}
    node.call("CHECK", "c1", pod, checked)
    for options, words in (({"vlanId": 6}, "is in VLAN 5, not 6"), ({"mtu": 1300}, "has MTU 1400, not 1300")):
        with pytest.raises(CNIError, match=words) as info:
            node.call("CHECK", "c1", pod, checked | options)
        assert info.value.code == CHECK_FAILED
    node.delete_twice("c1", pod, conf)
    assert link_names(pod) == {"lo"}
    assert node.reserved() == {"last_reserved_ip.0", "last_reserved_ip.1"}


@needs_vlan
def test_containers_of_different_vlans_do_not_meet(node: Node):
    neighbour = node.segment("wan0")
    in_vlan(neighbour, 5, "10.244.1.254/24")
    pod = node.pod("pod")
    node.add("c1", pod, node.conf("vlan", master="wan0", vlanId=6))
    with echo_server(neighbour, "10.244.1.254"), pytest.raises(OSError, match=r"timed out|No route"):
        ask(pod, "10.244.1.254", timeout_s=0.3)
    remove_netns(pod)
    node.delete_twice("c1", pod, node.conf("vlan", master="wan0", vlanId=6))
    assert node.reserved() == {"last_reserved_ip.0"}


@needs_vlan
def test_the_parent_may_be_in_the_container_and_the_plugin_a_program(node: Node):
    node.segment("wan0")
    pod = node.segment("wan1")
    with Netlink(pod) as nl:
        nl.link_set("eth0", up=False)
        nl.link_set("eth0", name="net0")
        nl.link_set("net0", up=True)
    conf = node.conf("vlan", master="net0", vlanId=5, linkInContainer=True)
    call = {"plugin": "vlan", "CONTAINERID": "c1", "NETNS": str(pod)}
    status, result = node.execute("ADD", conf, **call)
    assert status == 0, result
    assert link_names(pod) == {"lo", "net0", "eth0"}
    assert node.execute("CHECK", conf | {"prevResult": result}, **call) == (0, None)
    for _ in range(2):
        assert node.execute("DEL", conf, **call) == (0, None)
    assert link_names(pod) == {"lo", "net0"}
