"""The bridge plugin, in process, on the real kernel: what is there before, after ADD and after DEL."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from kernel.cni_local import Node, eventually
from kernel.net_local import Namespaces, ask, echo_server, link_names, namespaces
from podling.cni.plugins.main.masquerade import FAMILY, TABLE
from podling.cni.types import CHECK_FAILED, CONTAINER_UNKNOWN, CNIError, Result
from podling.linux import nft
from podling.linux.netlink import Netlink, links
from podling.linux.netns import remove_netns, run_in_netns
from podling.linux.sysctl import read_sysctl, write_sysctl

__all__ = ["namespaces"]


@pytest.fixture
def node(tmp_path: Path, namespaces: Namespaces) -> Node:
    return Node(tmp_path, namespaces)


def masquerade_rules(node: Node) -> list[str]:
    listing = run_in_netns(node.netns, nft.list_table, FAMILY, TABLE)
    return [rule.text for rule in nft.parse_rules(listing) if rule.comment]


def delete_twice(node: Node, container: str, netns: Path | str, conf: dict[str, Any]) -> None:
    for _ in range(2):
        assert node.call("DEL", container, netns, conf) is None


def test_add_wires_and_del_leaves_only_the_bridge(node: Node):
    pod = node.pod("pod")
    conf = node.bridge(isDefaultGateway=True, hairpinMode=True, mtu=1400)
    assert link_names(node.netns) == link_names(pod) == {"lo"}

    result = node.add("c1", pod, conf)

    bridge, host, eth0 = result.interfaces
    assert (bridge.name, eth0.name, eth0.sandbox, host.sandbox) == ("cni0", "eth0", str(pod), "")
    assert host.name.startswith("veth")
    assert len(host.name) == 12
    assert [str(ip.address) for ip in result.ips] == ["10.244.1.2/24"]
    assert link_names(node.netns) == {"lo", "cni0", host.name}
    assert link_names(pod) == {"lo", "eth0"}
    assert node.addresses(node.netns, "cni0") == {"10.244.1.1/24"}
    assert node.addresses(pod, "eth0") == {"10.244.1.2/24"}
    assert node.routes(pod) == {"0.0.0.0/0 via 10.244.1.1", "10.244.1.0/24"}
    with Netlink(node.netns) as nl:
        port = nl.link_get(host.name)
        assert port.hairpin
        assert port.master == nl.link_get("cni0").index
        assert (port.mac, nl.link_get("cni0").mac) == (host.mac, bridge.mac)
        assert nl.addr_list(host.name) == []  # no link-local address on a port
    with Netlink(pod) as nl:
        assert (nl.link_get("eth0").mac, nl.link_get("eth0").mtu) == (eth0.mac, 1400)
    assert run_in_netns(node.netns, read_sysctl, "net.ipv4.ip_forward") == "1"
    assert node.reserved() == {"10.244.1.2", "last_reserved_ip.0"}

    delete_twice(node, "c1", pod, conf)

    assert link_names(node.netns) == {"lo", "cni0"}
    assert link_names(pod) == {"lo"}
    assert node.reserved() == {"last_reserved_ip.0"}


def test_two_pods_and_the_node_reach_each_other_with_the_first_packet(node: Node):
    one, two = node.pod("one"), node.pod("two")
    conf = node.bridge(isDefaultGateway=True)
    node.add("c1", one, conf)
    node.add("c2", two, conf)
    with echo_server(two, "10.244.1.3"):
        assert ask(one, "10.244.1.3") == "10.244.1.2"
        assert ask(node.netns, "10.244.1.3") == "10.244.1.1"
    with Netlink(node.netns) as nl:
        learned = {entry.mac for entry in nl.fdb_list("cni0") if entry.learned}
    with Netlink(one) as first, Netlink(two) as second:
        assert learned == {first.link_get("eth0").mac, second.link_get("eth0").mac}


def test_an_address_with_a_new_owner_is_reached_at_once(node: Node):
    """By the node and by a neighbour, who have the former owner's MAC address in their tables."""
    neighbour, one, two = node.pod("neighbour"), node.pod("one"), node.pod("two")
    subnets = node.ipam("10.244.1.0/24", "fd00:10:244:1::/64")
    conf = node.bridge(isDefaultGateway=True, ipam=subnets)
    node.add("c0", neighbour, conf)
    addresses = ["10.244.1.9", "fd00:10:244:1::9"]
    wanted = conf | {"args": {"cni": {"ips": addresses}}}
    for container, pod in (("c1", one), ("c2", two)):
        node.add(container, pod, wanted)
        for address in addresses:
            with echo_server(pod, address):
                if address == "10.244.1.9":  # first: the container asks for nobody before it answers
                    assert ask(neighbour, address) == "10.244.1.2"
                assert ask(node.netns, address).endswith("1")
        node.call("DEL", container, pod, wanted)


def bridges_call_netfilter(node: Node) -> bool:
    try:
        return run_in_netns(node.netns, read_sysctl, "net.bridge.bridge-nf-call-iptables") == "1"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("hairpin", [True, False])
def test_a_pod_reaches_itself_through_the_bridge_only_with_hairpin(node: Node, hairpin: bool):
    """As a service does it: the packet leaves, is translated on the node, and comes back.

    Where the bridge itself hands packets to netfilter, that is; else the node routes it back in any case.
    """
    if not (hairpin or bridges_call_netfilter(node)):
        pytest.skip("the bridge does not call netfilter (br_netfilter is not loaded)")
    pod = node.pod("pod")
    node.add("c1", pod, node.bridge(isDefaultGateway=True, hairpinMode=hairpin))
    run_in_netns(node.netns, write_sysctl, "net.ipv4.conf.all.send_redirects", "0")
    ruleset = """
add table ip svc
add chain ip svc pre { type nat hook prerouting priority dstnat; }
add rule ip svc pre ip daddr 10.96.0.1 dnat to 10.244.1.2
add chain ip svc post { type nat hook postrouting priority srcnat; }
add rule ip svc post ip saddr 10.244.1.2 ip daddr 10.244.1.2 masquerade
"""
    run_in_netns(node.netns, nft.run, ruleset)
    with echo_server(pod, "10.244.1.2"):
        if hairpin:
            assert ask(pod, "10.96.0.1", timeout_s=5) == "10.244.1.1"
        else:
            with pytest.raises(TimeoutError):
                ask(pod, "10.96.0.1", timeout_s=0.3)


def test_dual_stack_is_usable_at_once_even_where_ipv6_is_disabled_by_default(node: Node):
    one, two = node.pod("one"), node.pod("two")
    for pod in (one, two):
        run_in_netns(pod, write_sysctl, "net.ipv6.conf.default.disable_ipv6", "1")
    conf = node.bridge(isDefaultGateway=True, ipam=node.ipam("10.244.1.0/24", "fd00:10:244:1::/64"))
    result = node.add("c1", one, conf)
    node.add("c2", two, conf)
    assert [str(ip.address) for ip in result.ips] == ["10.244.1.2/24", "fd00:10:244:1::2/64"]
    assert node.addresses(node.netns, "cni0") == {"10.244.1.1/24", "fd00:10:244:1::1/64"}
    assert node.routes(one) >= {"0.0.0.0/0 via 10.244.1.1", "::/0 via fd00:10:244:1::1"}
    assert run_in_netns(node.netns, read_sysctl, "net.ipv6.conf.all.forwarding") == "1"
    for server in ("10.244.1.3", "fd00:10:244:1::3"):
        with echo_server(two, server):
            assert ask(one, server) == server[:-1] + "2"
    delete_twice(node, "c1", one, conf)
    delete_twice(node, "c2", two, conf)
    assert node.reserved() == {"last_reserved_ip.0", "last_reserved_ip.1"}


def test_the_configuration_of_the_dind_cluster_works_as_it_is(node: Node):
    """Version 0.3.1, a default gateway and a default route without a gateway, masquerading."""
    pod = node.pod("pod")
    conf = {
        "cniVersion": "0.3.1",
        "name": "dindnet",
        "type": "bridge",
        "bridge": "dind0",
        "isDefaultGateway": True,
        "hairpinMode": False,
        "ipMasq": True,
        "ipam": {
            "type": "host-local",
            "dataDir": str(node.networks),
            "ranges": [[{"subnet": "10.244.1.0/24", "gateway": "10.244.1.1"}]],
            "routes": [{"dst": "0.0.0.0/0"}],
        },
    }
    result = node.add("c1", pod, conf)
    assert result.to_json("0.3.1")["ips"][0]["version"] == "4"
    assert node.addresses(node.netns, "dind0") == {"10.244.1.1/24"}
    assert node.routes(pod) == {"0.0.0.0/0 via 10.244.1.1", "10.244.1.0/24"}
    assert masquerade_rules(node) == ["ip saddr 10.244.1.2 ip daddr != 10.244.1.0/24 masquerade"]
    delete_twice(node, "c1", pod, conf)
    assert masquerade_rules(node) == []


def test_masquerading_hides_a_pod_from_outside_but_not_from_its_subnet(node: Node):
    pod, neighbour, outside = node.pod("pod"), node.pod("neighbour"), node.pod("outside")
    conf = node.bridge(isDefaultGateway=True, ipMasq=True)
    node.add("c1", pod, conf)
    node.add("c2", neighbour, conf)
    other_net = {"name": "out", "bridge": "out0", "ipam": node.ipam("192.168.7.0/24")}
    node.add("c3", outside, node.bridge(isDefaultGateway=True, **other_net))
    with echo_server(outside, "192.168.7.2"), echo_server(neighbour, "10.244.1.3"):
        assert ask(pod, "192.168.7.2") == "192.168.7.1"
        assert ask(pod, "10.244.1.3") == "10.244.1.2"


def test_del_removes_only_the_containers_own_masquerading(node: Node):
    conf = node.bridge(ipMasq=True)
    pods = [node.pod(f"pod{number}") for number in range(3)]
    for number, pod in enumerate(pods):
        node.add(f"c{number}", pod, conf)
    assert len(masquerade_rules(node)) == 3
    delete_twice(node, "c1", pods[1], conf)
    assert [rule.split()[2] for rule in masquerade_rules(node)] == ["10.244.1.2", "10.244.1.4"]


def test_many_at_once_get_distinct_addresses_and_go_together(node: Node):
    pods = {f"c{number}": node.pod(f"pod{number}") for number in range(24)}
    conf = node.bridge(isDefaultGateway=True, ipMasq=True)
    results: dict[str, Result] = {}
    errors: list[BaseException] = []

    def at_once(work: Any) -> None:
        def one(container: str, pod: Path) -> None:
            try:
                work(container, pod)
            except BaseException as err:
                errors.append(err)

        threads = [threading.Thread(target=one, args=item) for item in pods.items()]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def add(container: str, pod: Path) -> None:
        results[container] = node.add(container, pod, conf)

    def delete(container: str, pod: Path) -> None:
        previous = {"prevResult": results[container].to_json("1.0.0")}
        node.call("DEL", container, pod, conf | previous)

    at_once(add)
    assert errors == []
    assert len({ip.address for result in results.values() for ip in result.ips}) == 24
    assert len(masquerade_rules(node)) == 24
    at_once(delete)
    assert errors == []
    assert link_names(node.netns) == {"lo", "cni0"}
    assert all(link_names(pod) == {"lo"} for pod in pods.values())
    assert node.reserved() == {"last_reserved_ip.0"}
    assert masquerade_rules(node) == []


def test_del_succeeds_when_netns_is_gone(node: Node):
    pod = node.pod("pod")
    conf = node.bridge(ipMasq=True)
    result = node.add("c1", pod, conf)
    remove_netns(pod)
    delete_twice(node, "c1", pod, conf | {"prevResult": result.to_json("1.0.0")})
    assert node.reserved() == {"last_reserved_ip.0"}
    assert masquerade_rules(node) == []
    assert link_names(node.netns) == {"lo", "cni0"}
    delete_twice(node, "c1", "", conf)  # and with no path at all


def test_del_never_takes_a_strangers_link(node: Node, namespaces: Namespaces):
    """The host end in a stale result may be another container's by now."""
    one, two = node.pod("one"), node.pod("two")
    conf = node.bridge()
    result = node.add("c1", one, conf)
    other = node.add("c2", two, conf)
    first, second = result.to_json("1.0.0"), other.to_json("1.0.0")
    first["interfaces"][1] = second["interfaces"][1]
    node.call("DEL", "c1", one, conf | {"prevResult": first})
    assert link_names(one) == {"lo"}
    assert link_names(two) == {"lo", "eth0"}


def test_a_failed_add_leaves_nothing(node: Node):
    pod = node.pod("pod")
    unreachable = {"dst": "10.9.0.0/16", "gw": "192.168.99.1"}
    conf = node.bridge(ipam=node.ipam(routes=[unreachable]), ipMasq=True)
    with pytest.raises(CNIError, match=r"add route 10\.9\.0\.0/16 via 192\.168\.99\.1.*unreachable"):
        node.add("c1", pod, conf)
    assert link_names(pod) == {"lo"}
    assert link_names(node.netns) == {"lo", "cni0"}
    assert node.reserved() == {"last_reserved_ip.0"}
    assert masquerade_rules(node) == []


def test_errors_name_what_is_in_the_way(node: Node, namespaces: Namespaces):
    pod = node.pod("pod")
    with pytest.raises(CNIError, match=r"failed to open netns .*no such file") as info:
        node.add("c1", pod.parent / "none", node.bridge())
    assert info.value.code == CONTAINER_UNKNOWN
    (pod.parent / "file").touch()
    with pytest.raises(CNIError, match="not a network namespace"):
        node.add("c1", pod.parent / "file", node.bridge())
    with pytest.raises(CNIError, match='"lo" already exists but is not a bridge'):
        node.add("c1", pod, node.bridge(bridge="lo"))
    node.add("c1", pod, node.bridge())
    with pytest.raises(CNIError, match=r"container veth name \(eth0\) already exists"):
        node.add("c2", pod, node.bridge())
    with pytest.raises(CNIError, match="invalid mac"):
        node.add("c3", node.pod("other"), node.bridge(), args="MAC=banana")
    with pytest.raises(CNIError, match='failed to find plugin "nope" in path'):
        node.add("c4", node.pod("third"), node.bridge(ipam={"type": "nope"}))
    assert node.reserved() == {"10.244.1.2", "last_reserved_ip.0"}


def test_another_gateway_is_replaced_only_by_force(node: Node):
    one, two = node.pod("one"), node.pod("two")
    node.add("c1", one, node.bridge())
    moved = node.bridge(name="net2", ipam=node.ipam("10.244.9.0/24"))
    with pytest.raises(CNIError, match=r'"cni0" already has an IP address different from 10\.244\.9\.1/24'):
        node.add("c2", two, moved)
    assert node.reserved("net2") == {"last_reserved_ip.0"}
    node.add("c2", two, moved | {"forceAddress": True})
    assert node.addresses(node.netns, "cni0") == {"10.244.9.1/24"}


def test_the_containers_mac_can_be_chosen(node: Node):
    pod = node.pod("pod")
    result = node.add("c1", pod, node.bridge(), args="IgnoreUnknown=1;MAC=02:00:00:00:00:42")
    assert result.interfaces[2].mac == "02:00:00:00:00:42"
    with Netlink(pod) as nl:
        assert nl.link_get("eth0").mac == "02:00:00:00:00:42"


def test_without_ipam_it_is_a_link_only(node: Node):
    one, two = node.pod("one"), node.pod("two")
    conf = node.bridge(ipam={}, isGateway=False)
    result = node.add("c1", one, conf)
    assert result.ips == ()
    assert node.addresses(one, "eth0") == set()
    with Netlink(one) as nl:
        assert nl.link_get("eth0").up
    node.add("c2", two, conf | {"disableContainerInterface": True})
    with Netlink(two) as nl:
        assert not nl.link_get("eth0").up
    delete_twice(node, "c1", one, conf)
    delete_twice(node, "c2", two, conf)
    assert link_names(node.netns) == {"lo", "cni0"}


def test_isolated_ports_reach_the_gateway_but_not_each_other(node: Node):
    one, two = node.pod("one"), node.pod("two")
    conf = node.bridge(isDefaultGateway=True, portIsolation=True)
    node.add("c1", one, conf)
    node.add("c2", two, conf)
    with echo_server(two, "10.244.1.3"), echo_server(node.netns, "10.244.1.1"):
        assert ask(one, "10.244.1.1") == "10.244.1.2"
        with pytest.raises(OSError, match=r"timed out|No route"):
            ask(one, "10.244.1.3", timeout_s=0.3)


def test_promiscuous_mode_is_of_the_bridge(node: Node):
    node.add("c1", node.pod("pod"), node.bridge(promiscMode=True))
    with Netlink(node.netns) as nl:
        assert nl.link_get("cni0").flags & links.IFF_PROMISC


def test_prepare_makes_the_bridge_before_the_first_pod(node: Node):
    from podling.cni.plugins.main.bridge import PLUGIN
    from podling.cni.types import Args

    args = Args(
        command="STATUS",
        container_id="",
        netns="",
        ifname="",
        args="",
        path=(str(node.bin_dir),),
        conf=node.bridge(bridge="dind0", isDefaultGateway=True),
    )
    for _ in range(2):
        run_in_netns(node.netns, PLUGIN.prepare, args)
    assert node.addresses(node.netns, "dind0") == {"10.244.1.1/24"}
    with Netlink(node.netns) as nl:
        # Before Linux 6.15 the kernel works it out some time after it has answered.
        eventually(lambda: nl.link_get("dind0").operstate == "DOWN")
        bridge = nl.link_get("dind0")
    assert bridge.up
    assert not bridge.carrier


def test_check_finds_each_difference(node: Node):
    pod = node.pod("pod")
    conf = node.bridge(isDefaultGateway=True)
    conf["prevResult"] = node.add("c1", pod, conf).to_json("1.0.0")
    node.call("CHECK", "c1", pod, conf)
    host = conf["prevResult"]["interfaces"][1]["name"]

    def differs(words: str) -> None:
        with pytest.raises(CNIError, match=words) as info:
            node.call("CHECK", "c1", pod, conf)
        assert info.value.code == CHECK_FAILED

    with Netlink(node.netns) as nl, Netlink(pod) as inside:
        nl.link_set(host, master=0)
        differs(f"{host} is no port of bridge cni0")
        nl.link_set(host, master="cni0")
        (default,) = [route for route in inside.route_list() if route.dst.prefixlen == 0 and route.gateway]
        inside.route_del(default)
        differs("route to 0.0.0.0/0 is gone")
        (address,) = [a for a in inside.addr_list("eth0") if a.scope == 0]
        inside.addr_del("eth0", address.interface)
        differs("address 10.244.1.2/24 is gone from eth0")
        inside.link_set("eth0", mac="02:00:00:00:00:01")
        differs("has MAC address 02:00:00:00:00:01")
        inside.link_del("eth0")
        differs("is gone")


def test_gc_frees_what_no_valid_attachment_has(node: Node):
    conf = node.bridge(ipMasq=True, cniVersion="1.1.0")
    pods = [node.pod(f"pod{number}") for number in range(3)]
    for number, pod in enumerate(pods):
        node.add(f"c{number}", pod, conf)
    other = conf | {"name": "other", "bridge": "cni1", "ipam": node.ipam("10.244.9.0/24")}
    node.add("c9", node.pod("pod9"), other)
    valid = {"cni.dev/valid-attachments": [{"containerID": "c1", "ifname": "eth0"}]}
    node.call("GC", "", "", conf | valid)
    assert node.reserved() == {"10.244.1.3", "last_reserved_ip.0"}
    assert [rule.split()[2] for rule in masquerade_rules(node)] == ["10.244.1.3", "10.244.9.2"]
