"""The macvlan plugin on the real kernel; on one without macvlan, the error that says so."""

from __future__ import annotations

from pathlib import Path

import pytest

from kernel.cni_local import Node
from kernel.link_kinds import assert_the_driver_is_asked_for, missing
from kernel.net_local import Namespaces, ask, echo_server, link_names, namespaces
from podling.cni.types import CHECK_FAILED, INVALID_CONFIG, CNIError
from podling.linux.netlink import Netlink, kinds
from podling.linux.netns import remove_netns, run_in_netns
from podling.linux.sysctl import read_sysctl

__all__ = ["namespaces"]

needs_macvlan = pytest.mark.skipif(missing("macvlan"), reason="the kernel has no macvlan (CONFIG_MACVLAN)")


@pytest.fixture
def node(tmp_path: Path, namespaces: Namespaces) -> Node:
    return Node(tmp_path, namespaces)


def test_a_kernel_without_it_is_named(node: Node):
    node.segment()
    words = 'kernel has no "macvlan" link type: it needs CONFIG_MACVLAN (modprobe macvlan)'
    assert_the_driver_is_asked_for(node, node.conf("macvlan", master="wan0"), words)


@needs_macvlan
def test_add_makes_a_link_on_the_parents_network_and_del_takes_it_away(node: Node):
    neighbour = node.segment("wan0", "10.244.1.254/24")
    pod = node.pod("pod")
    conf = node.conf("macvlan", master="wan0", mtu=1400, dns={"search": ["example.org"]})
    result = node.add("c1", pod, conf)

    (eth0,) = result.interfaces
    assert (eth0.name, eth0.sandbox) == ("eth0", str(pod))
    assert result.to_json("1.0.0")["ips"] == [
        {"interface": 0, "address": "10.244.1.2/24", "gateway": "10.244.1.1"}
    ]
    assert result.dns.search == ("example.org",)
    assert link_names(node.netns) == {"lo", "wan0"}
    assert link_names(pod) == {"lo", "eth0"}
    assert node.addresses(pod, "eth0") == {"10.244.1.2/24"}
    assert node.routes(pod) == {"10.244.1.0/24"}
    with Netlink(pod) as nl:
        link = nl.link_get("eth0")
    assert (link.kind, link.mac, link.mtu, link.up) == ("macvlan", eth0.mac, 1400, True)
    assert kinds.macvlan_mode(link) == "bridge"
    assert run_in_netns(pod, read_sysctl, ("net", "ipv4", "conf", "eth0", "arp_notify")) == "1"
    with echo_server(neighbour, "10.244.1.254"), echo_server(pod, "10.244.1.2"):
        assert ask(pod, "10.244.1.254") == "10.244.1.2"
        assert ask(neighbour, "10.244.1.2") == "10.244.1.254"
    with Netlink(neighbour) as nl:
        assert {entry.mac for entry in nl.neigh_list("eth0") if str(entry.dst) == "10.244.1.2"} == {eth0.mac}

    node.delete_twice("c1", pod, conf)
    assert link_names(pod) == {"lo"}
    assert node.reserved() == {"last_reserved_ip.0"}


@needs_macvlan
@pytest.mark.parametrize("mode", ["bridge", "private"])
def test_containers_of_one_parent_reach_each_other_only_in_bridge_mode(node: Node, mode: str):
    node.segment()
    one, two = node.pod("one"), node.pod("two")
    conf = node.conf("macvlan", master="wan0", mode=mode)
    node.add("c1", one, conf)
    node.add("c2", two, conf)
    with echo_server(two, "10.244.1.3"):
        if mode == "bridge":
            assert ask(one, "10.244.1.3") == "10.244.1.2"
        else:
            with pytest.raises(OSError, match=r"timed out|No route"):
                ask(one, "10.244.1.3", timeout_s=0.3)


@needs_macvlan
def test_dual_stack_is_usable_at_once(node: Node):
    neighbour = node.segment("wan0", "10.244.1.254/24", "fd00:10:244:1::254/64")
    pod = node.pod("pod")
    ipam = node.ipam("10.244.1.0/24", "fd00:10:244:1::/64", routes=[{"dst": "0.0.0.0/0"}, {"dst": "::/0"}])
    conf = node.conf("macvlan", master="wan0", ipam=ipam)
    node.add("c1", pod, conf)
    assert node.addresses(pod, "eth0") == {"10.244.1.2/24", "fd00:10:244:1::2/64"}
    assert node.routes(pod) >= {"0.0.0.0/0 via 10.244.1.1", "::/0 via fd00:10:244:1::1"}
    assert run_in_netns(pod, read_sysctl, ("net", "ipv6", "conf", "eth0", "ndisc_notify")) == "1"
    for server in ("10.244.1.254", "fd00:10:244:1::254"):
        with echo_server(neighbour, server):
            assert ask(pod, server) == server.removesuffix("254") + "2"
    node.delete_twice("c1", pod, conf)


@needs_macvlan
@pytest.mark.parametrize("mode", ["vepa", "passthru"])
def test_the_other_modes(node: Node, mode: str):
    node.segment()
    pod = node.pod("pod")
    conf = node.conf("macvlan", master="wan0", mode=mode, bcqueuelen=2000)
    conf["prevResult"] = node.add("c1", pod, conf).to_json("1.0.0")
    with Netlink(pod) as nl:
        link = nl.link_get("eth0")
    assert kinds.macvlan_mode(link) == mode
    assert kinds.macvlan_queue_len(link) == 2000
    node.call("CHECK", "c1", pod, conf)
    node.delete_twice("c1", pod, conf)


@needs_macvlan
def test_the_default_parent_has_the_default_route(node: Node):
    import ipaddress

    from podling.linux.netlink import Route

    pod = node.pod("pod")
    conf = node.conf("macvlan")
    with pytest.raises(CNIError, match="no default route interface found on the host"):
        node.add("c1", pod, conf)
    node.segment("wan0")
    with Netlink(node.netns) as nl:
        nl.addr_add("wan0", ipaddress.ip_interface("192.0.2.2/24"))
        gateway = ipaddress.ip_address("192.0.2.1")
        nl.route_add(Route(dst=ipaddress.ip_network("0.0.0.0/0"), gateway=gateway))
        parent = nl.link_get("wan0").index
    node.add("c1", pod, conf)
    with Netlink(pod) as nl:
        assert nl.link_get("eth0").peer_index == parent


@needs_macvlan
def test_the_mac_address_can_be_chosen_in_three_ways(node: Node):
    node.segment()
    conf = node.conf("macvlan", master="wan0", mac="02:00:00:00:00:01")
    runtime = {"runtimeConfig": {"mac": "02:00:00:00:00:03"}}
    for number, (more, args) in enumerate(
        (({}, ""), ({}, "MAC=02:00:00:00:00:02"), (runtime, "MAC=02:00:00:00:00:02"))
    ):
        pod = node.pod(f"pod{number}")
        result = node.add(f"c{number}", pod, conf | more, args=args)
        assert result.interfaces[0].mac == f"02:00:00:00:00:0{number + 1}"
        with Netlink(pod) as nl:
            assert nl.link_get("eth0").mac == result.interfaces[0].mac


@needs_macvlan
def test_without_ipam_it_is_a_link_only(node: Node):
    node.segment()
    pod = node.pod("pod")
    conf = node.conf("macvlan", master="wan0", ipam={})
    result = node.add("c1", pod, conf)
    assert result.ips == ()
    with Netlink(pod) as nl:
        assert nl.link_get("eth0").up
    node.call("CHECK", "c1", pod, conf | {"prevResult": result.to_json("1.0.0")})
    node.delete_twice("c1", pod, conf)
    assert link_names(pod) == {"lo"}


@needs_macvlan
def test_the_parent_may_be_in_the_container(node: Node):
    pod = node.segment("wan0")  # whose end inside is named eth0
    with Netlink(pod) as nl:
        nl.link_set("eth0", up=False)
        nl.link_set("eth0", name="net0")
        nl.link_set("net0", up=True)
    conf = node.conf("macvlan", master="net0", linkInContainer=True)
    with pytest.raises(CNIError, match='failed to lookup master "net0": there is no such link on the host'):
        node.add("c1", pod, conf | {"linkInContainer": False})
    with pytest.raises(
        CNIError, match='failed to lookup master "wan0": there is no such link in the container'
    ):
        node.add("c1", pod, conf | {"master": "wan0"})
    conf["prevResult"] = node.add("c1", pod, conf).to_json("1.0.0")
    assert link_names(pod) == {"lo", "net0", "eth0"}
    node.call("CHECK", "c1", pod, conf)
    node.delete_twice("c1", pod, conf)
    assert link_names(pod) == {"lo", "net0"}


@needs_macvlan
def test_what_is_refused_leaves_nothing(node: Node):
    node.segment()
    pod = node.pod("pod")
    for options, words in (
        ({"master": "eth9"}, 'failed to lookup master "eth9"'),
        ({"mode": "fancy"}, 'unknown macvlan mode: "fancy"'),
        ({"mtu": 1501}, r"invalid MTU 1501, must be \[0, master MTU\(1500\)\]"),
        ({"mtu": -1, "mac": "banana"}, "invalid mac.*invalid MTU -1"),
        ({"linkInContainer": "no"}, "linkInContainer: must be true or false"),
    ):
        with pytest.raises(CNIError, match=words) as info:
            node.add("c1", pod, node.conf("macvlan", master="wan0") | options)
        assert info.value.code == INVALID_CONFIG
    with pytest.raises(CNIError, match=r"failed to create macvlan.*Invalid"):
        node.add("c1", pod, node.conf("macvlan", master="lo"))
    full = node.ipam() | {"ranges": [[{"subnet": "10.1.2.0/30", "rangeEnd": "10.1.2.1"}]]}
    with pytest.raises(CNIError, match="no IP addresses available"):
        node.add("c1", pod, node.conf("macvlan", master="wan0", ipam=full))
    unreachable = node.ipam(routes=[{"dst": "10.9.0.0/16", "gw": "192.168.99.1"}])
    with pytest.raises(CNIError, match="unreachable"):
        node.add("c1", pod, node.conf("macvlan", master="wan0", ipam=unreachable))
    assert link_names(pod) == {"lo"}
    assert node.reserved() == {"last_reserved_ip.0"}


@needs_macvlan
def test_del_never_takes_a_strangers_link(node: Node):
    """What was in the way of an ADD is there after the DEL that follows it."""
    node.segment()
    pod = node.pod("pod")
    ptp = node.conf("ptp", name="other", ipam=node.ipam("10.9.0.0/24"))
    node.add("c1", pod, ptp)
    conf = node.conf("macvlan", master="wan0")
    with pytest.raises(CNIError, match='failed to create macvlan "eth0": it already exists'):
        node.add("c1", pod, conf)
    node.delete_twice("c1", pod, conf)
    assert link_names(pod) == {"lo", "eth0"}
    assert node.reserved() == set()


@needs_macvlan
def test_del_succeeds_when_netns_or_parent_is_gone(node: Node):
    node.segment()
    one, two = node.pod("one"), node.pod("two")
    conf = node.conf("macvlan", master="wan0")
    node.add("c1", one, conf)
    node.add("c2", two, conf)
    remove_netns(one)
    node.delete_twice("c1", one, conf)
    node.delete_twice("c1", "", conf)
    with Netlink(node.netns) as nl:
        nl.link_del("wan0")
    node.delete_twice("c2", two, conf)
    assert node.reserved() == {"last_reserved_ip.0"}


@needs_macvlan
def test_check_finds_each_difference(node: Node):
    node.segment()
    pod = node.pod("pod")
    conf = node.conf("macvlan", master="wan0")
    result = node.add("c1", pod, conf)
    with pytest.raises(CNIError, match="Required prevResult missing"):
        node.call("CHECK", "c1", pod, conf)
    conf["prevResult"] = result.to_json("1.0.0")
    node.call("CHECK", "c1", pod, conf)

    def differs(words: str, **options: str) -> None:
        with pytest.raises(CNIError, match=words) as info:
            node.call("CHECK", "c1", pod, conf | options)
        assert info.value.code == CHECK_FAILED

    differs("macvlan mode bridge, not vepa", mode="vepa")
    with Netlink(pod) as inside:
        (address,) = [a for a in inside.addr_list("eth0") if a.scope == 0]
        inside.addr_del("eth0", address.interface)
        differs("address 10.244.1.2/24 is gone from eth0")
        inside.link_set("eth0", mac="02:00:00:00:00:01")
        differs("has MAC address 02:00:00:00:00:01")
        inside.link_del("eth0")
        differs("macvlan eth0 in .* is gone")


@needs_macvlan
def test_as_a_program(node: Node):
    node.segment()
    pod = node.pod("pod")
    conf = node.conf("macvlan", master="wan0", cniVersion="1.1.0")
    call = {"plugin": "macvlan", "CONTAINERID": "c1", "NETNS": str(pod)}
    assert node.execute("STATUS", conf, plugin="macvlan") == (0, None)
    status, result = node.execute("ADD", conf, **call)
    assert status == 0, result
    assert result is not None
    assert [interface["name"] for interface in result["interfaces"]] == ["eth0"]
    checked = conf | {"prevResult": result}
    assert node.execute("CHECK", checked, **call) == (0, None)
    for _ in range(2):
        assert node.execute("DEL", checked, **call) == (0, None)
    assert link_names(pod) == {"lo"}
    status, error = node.execute("ADD", conf | {"master": "eth9"}, **call)
    assert (status, error and error["code"]) == (1, INVALID_CONFIG)
