"""Options of the bridge plugin that few use: MAC addresses that must be true, VLANs, address detection."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest

from kernel.cni_local import Node
from kernel.net_local import Namespaces, ask, echo_server, link_names, namespaces
from podling.cni.plugins.main import spoof_check
from podling.cni.types import CHECK_FAILED, INVALID_CONFIG, UNSUPPORTED_FIELD, CNIError, Result
from podling.linux import nft
from podling.linux.netlink import Link, Netlink, NetlinkError, links
from podling.linux.netns import run_in_netns
from podling.linux.sysctl import read_sysctl

__all__ = ["namespaces"]

REFERENCE = Path("/usr/lib/cni")  # Debian's containernetworking-plugins


@pytest.fixture
def node(tmp_path: Path, namespaces: Namespaces) -> Node:
    return Node(tmp_path, namespaces)


# --- macspoofchk


def spoof_rules(node: Node) -> list[str]:
    listing = run_in_netns(node.netns, nft.list_table, spoof_check.FAMILY, spoof_check.TABLE)
    return [line.split(" # handle")[0] for line in listing.splitlines() if "macspoofchk" in line]


def chains(node: Node) -> int:
    listing = run_in_netns(node.netns, nft.list_table, spoof_check.FAMILY, spoof_check.TABLE)
    return listing.count(f"chain {spoof_check.PREFIX}")


def send_frame(pod: Path, source: str, destination: str) -> None:
    """One frame of an experimental type from a chosen MAC address."""
    with run_in_netns(pod, socket.socket, socket.AF_PACKET, socket.SOCK_RAW) as raw:
        raw.bind(("eth0", 0))
        addresses = bytes.fromhex((destination + source).replace(":", ""))
        raw.send(addresses + b"\x88\xb5" + b"spoofed?".ljust(46, b"\0"))


def test_only_the_containers_own_mac_address_gets_through(node: Node):
    one, two = node.pod("one"), node.pod("two")
    conf = node.bridge(isDefaultGateway=True, macspoofchk=True)
    own = node.add("c1", one, conf).interfaces[2].mac
    other = node.add("c2", two, node.bridge(isDefaultGateway=True)).interfaces[2].mac
    with echo_server(two, "10.244.1.3"):
        assert ask(one, "10.244.1.3") == "10.244.1.2"
    with run_in_netns(two, socket.socket, socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x88B5)) as ear:
        ear.settimeout(10)
        for source in ("02:00:00:00:00:66", own):
            send_frame(one, source, other)
        received = ear.recv(100)
        assert received[6:12].hex(":") == own  # the first one never came: a bridge keeps the order
    node.delete_twice("c1", one, conf)
    assert spoof_rules(node) == []
    assert chains(node) == 0


def test_check_and_gc_know_the_rules_of_macspoofchk(node: Node):
    one, two = node.pod("one"), node.pod("two")
    conf = node.bridge(macspoofchk=True, cniVersion="1.1.0")
    checked = conf | {"prevResult": node.add("c1", one, conf).to_json("1.1.0")}
    node.add("c2", two, conf)
    node.call("CHECK", "c1", one, checked)
    # The container goes without DEL; GC sees that its link is gone, and leaves the other's alone.
    with Netlink(two) as nl:
        nl.link_del("eth0")
    valid = {"cni.dev/valid-attachments": [{"containerID": "c1", "ifname": "eth0"}]}
    node.call("GC", "", "", conf | valid)
    assert len(spoof_rules(node)) == 4
    assert all("macspoofchk-c1-eth0" in rule for rule in spoof_rules(node))
    node.call("CHECK", "c1", one, checked)
    run_in_netns(node.netns, nft.run, "flush chain bridge nat cni-br-iface-c1-eth0-mac\n")
    with pytest.raises(CNIError, match="macspoofchk: rule is gone") as info:
        node.call("CHECK", "c1", one, checked)
    assert info.value.code == CHECK_FAILED


def test_a_failed_add_leaves_no_rule(node: Node):
    full = node.ipam("10.244.1.0/24", routes=[{"dst": "10.9.0.0/16", "gw": "192.168.99.1"}])
    with pytest.raises(CNIError, match="unreachable"):
        node.add("c1", node.pod("pod"), node.bridge(macspoofchk=True, ipam=full))
    assert spoof_rules(node) == []
    assert chains(node) == 0


@pytest.mark.skipif(
    not (REFERENCE / "bridge").exists(), reason="containernetworking-plugins is not installed"
)
def test_rules_are_those_of_the_reference_and_either_side_removes_them(node: Node):
    pod = node.pod("pod")
    conf = node.bridge(macspoofchk=True, cniVersion="1.0.0")
    call = {"plugin": "bridge", "CONTAINERID": "c1", "NETNS": str(pod)}
    seen = []
    for adder, deleter in ((REFERENCE, node.bin_dir), (node.bin_dir, REFERENCE)):
        status, result = node.execute("ADD", conf, directory=adder, **call)
        assert status == 0, result
        assert result is not None
        names = {result["interfaces"][1]["name"]: "HOST", result["interfaces"][2]["mac"]: "MAC"}
        rules = "\n".join(spoof_rules(node))
        for name, word in names.items():
            rules = rules.replace(name, word)
        seen.append(rules)
        checked = conf | {"prevResult": result}
        assert node.execute("CHECK", checked, directory=deleter, **call) == (0, None)
        assert node.execute("DEL", checked, directory=deleter, **call) == (0, None)
        assert spoof_rules(node) == []
        assert chains(node) == 0
    assert seen[0] == seen[1]
    assert seen[0].count("macspoofchk-c1-eth0") == 4


# --- enabledad


def test_enabledad_finds_another_owner_of_an_ipv6_address(node: Node):
    one, two = node.pod("one"), node.pod("two")
    static = {"type": "static", "addresses": [{"address": "fd00:10:244:1::7/64"}]}
    conf = node.bridge(enabledad=True, hairpinMode=True, isGateway=False, ipam=static)
    node.add("c1", one, conf)
    assert node.addresses(one, "eth0") == {"fd00:10:244:1::7/64"}
    assert run_in_netns(one, read_sysctl, "net.ipv6.conf.eth0.accept_dad") == "1"
    with pytest.raises(CNIError, match=r"fd00:10:244:1::7/64 in dadfailed state"):
        node.add("c2", two, conf)
    assert link_names(two) == {"lo"}
    with Netlink(node.netns) as nl:
        assert len(nl.link_list(kind="veth")) == 1


# --- VLANs


def has_vlan_filtering(node: Node) -> bool:
    try:
        with Netlink(node.pod("probe")) as nl:
            nl.link_add_bridge("probe", vlan_filtering=True)
    except NetlinkError:
        return False
    return True


@pytest.fixture
def vlans(node: Node) -> None:
    if not has_vlan_filtering(node):
        pytest.skip("the kernel has no VLAN filtering (CONFIG_BRIDGE_VLAN_FILTERING)")


def vlans_of(node: Node, port: str) -> set[int]:
    with Netlink(node.netns) as nl:
        link = nl.link_get(port)
        return {vid for message in nl.dump(links.dump_vlans()) for vid in links.parse_vlans(message, link)}


def host_end(result: Result) -> str:
    return result.interfaces[1].name


@pytest.mark.parametrize("options", [{"vlan": 100}, {"vlanTrunk": [{"id": 100}]}])
def test_vlans_need_a_kernel_that_filters_them(node: Node, options: dict[str, Any]):
    if has_vlan_filtering(node):
        pytest.skip("the kernel has VLAN filtering")
    pod = node.pod("pod")
    with pytest.raises(CNIError, match=r"not supported by this kernel.*CONFIG_BRIDGE_VLAN_FILTERING") as info:
        node.add("c1", pod, node.bridge(**options))
    assert info.value.code == UNSUPPORTED_FIELD
    assert link_names(pod) == {"lo"}
    assert node.reserved() == set()


@pytest.mark.usefixtures("vlans")
def test_containers_of_one_vlan_reach_each_other_and_no_others(node: Node):
    one, two, three = (node.pod(name) for name in ("one", "two", "three"))
    conf = node.bridge(isGateway=False, vlan=100, preserveDefaultVlan=False)
    result = node.add("c1", one, conf)
    node.add("c2", two, conf)
    node.add("c3", three, conf | {"vlan": 200})
    assert vlans_of(node, host_end(result)) == {100}
    with echo_server(two, "10.244.1.3"):
        assert ask(one, "10.244.1.3") == "10.244.1.2"
        with pytest.raises(OSError, match=r"timed out|No route"):
            ask(three, "10.244.1.3", timeout_s=0.5)
    checked = conf | {"prevResult": result.to_json("1.0.0")}
    node.call("CHECK", "c1", one, checked)
    with Netlink(node.netns) as nl:
        nl.execute(links.port_vlan(nl.link_get(host_end(result)).index, 100, remove=True))
    with pytest.raises(CNIError, match="is not in VLAN 100"):
        node.call("CHECK", "c1", one, checked)


@pytest.mark.usefixtures("vlans")
def test_a_gateway_in_a_vlan_is_a_link_of_its_own(node: Node):
    one, two = node.pod("one"), node.pod("two")
    conf = node.bridge(isDefaultGateway=True, vlan=100, preserveDefaultVlan=False)
    result = node.add("c1", one, conf)
    assert [interface.name for interface in result.interfaces[::3]] == ["cni0", "cni0.100"]
    assert node.addresses(node.netns, "cni0.100") == {"10.244.1.1/24"}
    assert node.addresses(node.netns, "cni0") == set()
    assert result.ips[0].interface == 2
    again = node.add("c2", two, conf)
    assert again.interfaces[3] == result.interfaces[3]
    with echo_server(node.netns, "10.244.1.1"):
        assert ask(one, "10.244.1.1") == "10.244.1.2"
        assert ask(two, "10.244.1.1") == "10.244.1.3"
    node.delete_twice("c1", one, conf)
    node.delete_twice("c2", two, conf)
    with Netlink(node.netns) as nl:
        assert len(nl.link_list(kind="veth")) == 2  # the gateway's pair


@pytest.mark.usefixtures("vlans")
def test_a_trunk_carries_its_vlans_and_the_default_one(node: Node):
    trunk = [{"minID": 10, "maxID": 12}, {"id": 100}]
    kept = node.add("c1", node.pod("one"), node.bridge(vlanTrunk=trunk))
    dropped = node.add("c2", node.pod("two"), node.bridge(vlanTrunk=trunk, preserveDefaultVlan=False))
    assert vlans_of(node, host_end(kept)) == {1, 10, 11, 12, 100}
    assert vlans_of(node, host_end(dropped)) == {10, 11, 12, 100}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"vlan": 4095}, "invalid VLAN ID 4095"),
        ({"vlan": 5, "vlanTrunk": [{"id": 6}]}, "cannot set vlan and vlanTrunk at the same time"),
        ({"vlanTrunk": [{"minID": 5}]}, "maxID is missing"),
        ({"vlanTrunk": [{"maxID": 5}]}, "minID is missing"),
        ({"vlanTrunk": [{"minID": 9, "maxID": 5}]}, "minID is greater than maxID"),
        ({"vlanTrunk": [{"minID": 0, "maxID": 5}]}, "incorrect trunk minID parameter"),
        ({"vlanTrunk": [{"minID": 1, "maxID": 4095}]}, "incorrect trunk maxID parameter"),
        ({"vlanTrunk": [{"id": "5"}]}, "incorrect trunk id parameter"),
        ({"vlanTrunk": [5]}, "vlanTrunk: must be objects"),
        ({"vlanTrunk": {"id": 5}}, "vlanTrunk: must be a list"),
        ({"macspoofchk": "yes"}, "macspoofchk: must be true or false"),
        ({"hairpinMode": True, "promiscMode": True}, "cannot set hairpin mode and promiscuous mode"),
        ({"disableContainerInterface": True}, "cannot use IPAM when"),
        ({"bridge": "a-name-of-16-byt", "vlan": 5}, "no interface name"),
        ({"bridge": "name-of-14-byt", "vlan": 5}, "too long for an interface name"),
    ],
)
def test_mistakes_are_refused(node: Node, options: dict[str, Any], words: str):
    with pytest.raises(CNIError, match=words) as info:
        node.add("c1", node.pod("pod"), node.bridge(**options))
    assert info.value.code == INVALID_CONFIG
    assert link_names(node.netns) == {"lo"}


def test_the_kernels_answer_about_vlans_is_read():
    """As a kernel with VLAN filtering gives it: IFLA_AF_SPEC with one entry for each VLAN."""
    from podling.linux.netlink.wire import Message, attr, nested

    port = Link(index=7, name="veth7", kind="veth", flags=0, mtu=1500, mac="", operstate="UP")
    spec = b"".join(attr(2, bytes((flags, 0, vid, 0))) for flags, vid in ((6, 1), (0, 100)))
    body = links.IFINFO.pack(links.AF_BRIDGE, 0, 7, 0, 0) + nested(links.IFLA_AF_SPEC, spec)
    message = Message(kind=links.RTM_NEWLINK, flags=0, sequence=0, body=body)
    assert links.parse_vlans(message, port) == {1, 100}
