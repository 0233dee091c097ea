"""The ptp plugin on the real kernel: links, addresses, routes and packets, before and after."""

from __future__ import annotations

from pathlib import Path

import pytest

from kernel.cni_local import Node
from kernel.net_local import Namespaces, ask, echo_server, link_names, namespaces
from podling.cni.plugins.main.masquerade import FAMILY, TABLE
from podling.cni.types import CHECK_FAILED, INVALID_CONFIG, CNIError
from podling.linux import nft
from podling.linux.netlink import Netlink
from podling.linux.netns import remove_netns, run_in_netns
from podling.linux.sysctl import read_sysctl, write_sysctl

__all__ = ["namespaces"]

DEFAULT_ROUTE = {"routes": [{"dst": "0.0.0.0/0"}]}


@pytest.fixture
def node(tmp_path: Path, namespaces: Namespaces) -> Node:
    return Node(tmp_path, namespaces)


def test_add_wires_and_del_leaves_nothing(node: Node):
    pod = node.pod("pod")
    conf = node.conf("ptp", mtu=1400, ipam=node.ipam(**DEFAULT_ROUTE), dns={"nameservers": ["10.1.1.1"]})
    result = node.add("c1", pod, conf)

    host, eth0 = result.interfaces
    assert host.name.startswith("veth")
    assert (host.sandbox, eth0.name, eth0.sandbox) == ("", "eth0", str(pod))
    assert result.to_json("1.0.0")["ips"] == [
        {"interface": 1, "address": "10.244.1.2/24", "gateway": "10.244.1.1"}
    ]
    assert result.dns.nameservers == ("10.1.1.1",)
    assert node.addresses(pod, "eth0") == {"10.244.1.2/24"}
    assert node.routes(pod) == {"0.0.0.0/0 via 10.244.1.1", "10.244.1.0/24 via 10.244.1.1", "10.244.1.1/32"}
    assert node.addresses(node.netns, host.name) == {"10.244.1.1/32"}
    assert node.routes(node.netns) == {"10.244.1.2/32"}
    assert run_in_netns(node.netns, read_sysctl, "net.ipv4.ip_forward") == "1"
    with Netlink(pod) as inside, Netlink(node.netns) as nl:
        assert (inside.link_get("eth0").mac, inside.link_get("eth0").mtu) == (eth0.mac, 1400)
        assert (nl.link_get(host.name).mac, nl.link_get(host.name).mtu) == (host.mac, 1400)

    node.delete_twice("c1", pod, conf)
    assert link_names(node.netns) == link_names(pod) == {"lo"}
    assert node.routes(node.netns) == set()
    assert node.reserved() == {"last_reserved_ip.0"}


def test_pods_and_node_reach_each_other_with_the_first_packet(node: Node):
    one, two = node.pod("one"), node.pod("two")
    conf = node.conf("ptp")
    node.add("c1", one, conf)
    node.add("c2", two, conf)
    with echo_server(two, "10.244.1.3"):
        assert ask(one, "10.244.1.3") == "10.244.1.2"
        assert ask(node.netns, "10.244.1.3") == "10.244.1.1"
    with Netlink(one) as nl:  # all that is sent goes to the node: no other neighbour is known
        assert {str(entry.dst) for entry in nl.neigh_list("eth0") if entry.mac and entry.dst} <= {
            "10.244.1.1"
        } | {str(entry.dst) for entry in nl.neigh_list("eth0") if entry.dst and entry.dst.is_multicast}


def test_dual_stack_is_usable_at_once_even_where_ipv6_is_disabled_by_default(node: Node):
    one, two = node.pod("one"), node.pod("two")
    for netns in (one, two, node.netns):
        run_in_netns(netns, write_sysctl, "net.ipv6.conf.default.disable_ipv6", "1")
    ipam = node.ipam("10.244.1.0/24", "fd00:10:244:1::/64", routes=[{"dst": "0.0.0.0/0"}, {"dst": "::/0"}])
    conf = node.conf("ptp", ipam=ipam)
    result = node.add("c1", one, conf)
    node.add("c2", two, conf)
    assert [str(ip.address) for ip in result.ips] == ["10.244.1.2/24", "fd00:10:244:1::2/64"]
    assert node.routes(one) >= {
        "::/0 via fd00:10:244:1::1",
        "fd00:10:244:1::/64 via fd00:10:244:1::1",
        "fd00:10:244:1::1/128",
    }
    assert run_in_netns(node.netns, read_sysctl, "net.ipv6.conf.all.forwarding") == "1"
    for server in ("10.244.1.3", "fd00:10:244:1::3"):
        with echo_server(two, server):
            assert ask(one, server) == server[:-1] + "2"
            assert ask(node.netns, server) == server[:-1] + "1"
    node.delete_twice("c1", one, conf)
    assert node.routes(node.netns) >= {"fd00:10:244:1::3/128"}
    node.delete_twice("c2", two, conf)
    assert node.routes(node.netns) == set()


def test_ipv6_alone(node: Node):
    one, two = node.pod("one"), node.pod("two")
    conf = node.conf("ptp", ipam=node.ipam("fd00:10:244:1::/64"))
    node.add("c1", one, conf)
    node.add("c2", two, conf)
    with echo_server(two, "fd00:10:244:1::3"):
        assert ask(one, "fd00:10:244:1::3") == "fd00:10:244:1::2"


def test_masquerading_hides_a_pod_outside_its_subnet(node: Node):
    pod, outside = node.pod("pod"), node.pod("outside")
    conf = node.conf("ptp", ipMasq=True, ipMasqBackend="nftables", ipam=node.ipam(**DEFAULT_ROUTE))
    node.add("c1", pod, conf)
    other = node.conf("ptp", name="out", ipam=node.ipam("192.168.7.0/24", **DEFAULT_ROUTE))
    node.add("c2", outside, other)
    with echo_server(outside, "192.168.7.2"):
        assert ask(pod, "192.168.7.2") in ("192.168.7.1", "10.244.1.1")
    node.delete_twice("c1", pod, conf)
    assert "10.244.1.2" not in run_in_netns(node.netns, nft.list_table, FAMILY, TABLE)


def test_a_failed_add_leaves_nothing(node: Node):
    pod = node.pod("pod")
    routes = [{"dst": "10.9.0.0/16", "gw": "192.168.99.1"}]
    conf = node.conf("ptp", ipMasq=True, ipam=node.ipam(routes=routes))
    with pytest.raises(CNIError, match=r"add route 10\.9\.0\.0/16 via 192\.168\.99\.1.*unreachable"):
        node.add("c1", pod, conf)
    assert link_names(node.netns) == link_names(pod) == {"lo"}
    assert node.reserved() == {"last_reserved_ip.0"}


def test_what_is_refused(node: Node):
    pod = node.pod("pod")
    for conf, code, words in (
        (node.conf("ptp", ipam={}), INVALID_CONFIG, "ipam: is required"),
        (
            node.conf("ptp", mtu=-1, ipMasq="yes"),
            INVALID_CONFIG,
            "ipMasq: must be true or false.*invalid MTU -1",
        ),
        (node.conf("ptp", ipMasqBackend="ebtables"), INVALID_CONFIG, "unknown backend 'ebtables'"),
    ):
        with pytest.raises(CNIError, match=words) as info:
            node.add("c1", pod, conf)
        assert info.value.code == code
    node.add("c1", pod, node.conf("ptp"))
    with pytest.raises(CNIError, match=r"container veth name \(eth0\) already exists"):
        node.add("c2", pod, node.conf("ptp"))
    assert node.reserved() == {"10.244.1.2", "last_reserved_ip.0"}
    assert link_names(pod) == {"lo", "eth0"}


def test_del_succeeds_when_netns_is_gone(node: Node):
    pod = node.pod("pod")
    conf = node.conf("ptp", ipMasq=True)
    conf["prevResult"] = node.add("c1", pod, conf).to_json("1.0.0")
    remove_netns(pod)
    node.delete_twice("c1", pod, conf)
    assert node.reserved() == {"last_reserved_ip.0"}
    assert link_names(node.netns) == {"lo"}
    node.delete_twice("c1", "", conf)


def test_check_finds_each_difference(node: Node):
    pod = node.pod("pod")
    conf = node.conf("ptp", ipam=node.ipam(**DEFAULT_ROUTE))
    with pytest.raises(CNIError, match="Failed to find address added by container"):
        node.call("CHECK", "c1", pod, conf)
    result = node.add("c1", pod, conf)
    with pytest.raises(CNIError, match="Required prevResult missing"):
        node.call("CHECK", "c1", pod, conf)
    conf["prevResult"] = result.to_json("1.0.0")
    node.call("CHECK", "c1", pod, conf)
    host = result.interfaces[0].name

    def differs(words: str) -> None:
        with pytest.raises(CNIError, match=words) as info:
            node.call("CHECK", "c1", pod, conf)
        assert info.value.code == CHECK_FAILED

    with Netlink(node.netns) as nl, Netlink(pod) as inside:
        (route,) = nl.route_list(family=2)
        nl.route_del(route)
        differs(f"route to 10.244.1.2 is gone from {host}")
        nl.addr_del(host, nl.addr_list(host, family=2)[0].interface)
        differs(f"gateway address 10.244.1.1 is gone from {host}")
        (default,) = [route for route in inside.route_list() if not route.dst.prefixlen and route.gateway]
        inside.route_del(default)
        differs("route to 0.0.0.0/0 is gone")
        inside.link_set("eth0", mac="02:00:00:00:00:01")
        differs("has MAC address 02:00:00:00:00:01")
        inside.link_del("eth0")
        differs("veth eth0 in .* is gone")


def test_gc_frees_what_no_valid_attachment_has(node: Node):
    conf = node.conf("ptp", ipMasq=True, cniVersion="1.1.0")
    for number in range(3):
        node.add(f"c{number}", node.pod(f"pod{number}"), conf)
    valid = {"cni.dev/valid-attachments": [{"containerID": "c1", "ifname": "eth0"}]}
    node.call("GC", "", "", conf | valid)
    assert node.reserved() == {"10.244.1.3", "last_reserved_ip.0"}
    rules = nft.parse_rules(run_in_netns(node.netns, nft.list_table, FAMILY, TABLE))
    assert [rule.text.split()[2] for rule in rules if rule.comment] == ["10.244.1.3"]


def test_as_a_program(node: Node):
    pod = node.pod("pod")
    conf = node.conf("ptp", cniVersion="0.3.1", ipMasq=True)
    call = {"plugin": "ptp", "CONTAINERID": "c1", "NETNS": str(pod)}
    status, result = node.execute("ADD", conf, **call)
    assert status == 0, result
    assert result is not None
    assert result["ips"] == [
        {"version": "4", "interface": 1, "address": "10.244.1.2/24", "gateway": "10.244.1.1"}
    ]
    checked = conf | {"cniVersion": "0.4.0", "prevResult": result | {"cniVersion": "0.4.0"}}
    assert node.execute("CHECK", checked, **call) == (0, None)
    for _ in range(2):
        assert node.execute("DEL", checked, **call) == (0, None)
    assert link_names(node.netns) == link_names(pod) == {"lo"}
    status, error = node.execute("ADD", node.conf("ptp", ipam={}), **call)
    assert (status, error and error["code"]) == (1, INVALID_CONFIG)
