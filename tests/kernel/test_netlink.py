from __future__ import annotations

import errno
import ipaddress
import os
import threading
from pathlib import Path

import pytest

from kernel.net_local import Namespaces, ask, echo_server, link_names, namespaces
from podling.linux.netlink import (
    RTN_BLACKHOLE,
    RTN_UNREACHABLE,
    Neighbour,
    Netlink,
    NetlinkError,
    Route,
    links,
)
from podling.linux.netlink.removal import remove_link
from podling.linux.netns import open_netns

__all__ = ["namespaces"]

IF = ipaddress.ip_interface
IP = ipaddress.ip_address
NET = ipaddress.ip_network


@pytest.fixture
def node(namespaces: Namespaces) -> Path:
    return namespaces.make("node")


@pytest.fixture
def pod(namespaces: Namespaces) -> Path:
    return namespaces.make("pod")


def wire(node: Path, pod: Path, *, host: str = "veth0") -> None:
    """A pod on the bridge cni0 by the typed methods alone."""
    fd = open_netns(pod)
    with Netlink(node) as outside, Netlink(fd) as inside:
        if outside.link_find("cni0") is None:
            outside.link_add_bridge("cni0", mac="0a:58:0a:f4:01:01")
        outside.link_add_veth(host, "eth0", peer_netns_fd=fd, mtu=1400, peer_mac="0a:58:0a:f4:01:02")
        inside.link_set("eth0", up=True)
        outside.link_set(host, master="cni0", up=True)
    os.close(fd)


def test_a_veth_has_its_peer_in_the_other_namespace_at_once(node: Path, pod: Path):
    wire(node, pod)
    with Netlink(node) as outside, Netlink(pod) as inside:
        host, eth0, bridge = outside.link_get("veth0"), inside.link_get("eth0"), outside.link_get("cni0")
    assert host.kind == eth0.kind == "veth"
    assert host.master == bridge.index
    assert (host.peer_index, eth0.peer_index) == (eth0.index, host.index)
    assert host.peer_netnsid is not None
    assert eth0.mac == "0a:58:0a:f4:01:02"
    assert host.mtu == eth0.mtu == 1400
    assert host.up
    assert host.carrier
    assert bridge.carrier


def test_a_bridge_without_ports_has_no_carrier(node: Path):
    with Netlink(node) as nl:
        nl.link_add_bridge("cni0", mac="0a:58:0a:f4:01:01")
        bridge = nl.link_get("cni0")
    assert bridge.up
    assert not bridge.carrier


def test_bridge_mac_survives_a_new_port(node: Path, pod: Path):
    wire(node, pod)
    with Netlink(node) as nl:
        assert nl.link_get("cni0").mac == "0a:58:0a:f4:01:01"


def test_addresses_and_routes_carry_packets_both_families(node: Path, pod: Path):
    wire(node, pod)
    with Netlink(node) as outside, Netlink(pod) as inside:
        for address in ("10.1.0.1/24", "fd00:1::1/64"):
            outside.addr_add("cni0", IF(address))
        for address in ("10.1.0.2/24", "fd00:1::2/64"):
            inside.addr_add("eth0", IF(address))
        inside.route_add(Route(dst=NET("0.0.0.0/0"), gateway=IP("10.1.0.1")))
        inside.route_add(Route(dst=NET("::/0"), gateway=IP("fd00:1::1")))
        assert {str(a.interface) for a in inside.addr_list("eth0") if a.scope == 0} == {
            "10.1.0.2/24",
            "fd00:1::2/64",
        }
        assert not any(a.tentative for a in inside.addr_list("eth0") if a.scope == 0)
    for server in ("10.1.0.1", "fd00:1::1"):
        with echo_server(node, server):
            assert ask(pod, server) == server[:-1] + "2"
    with Netlink(node) as outside:
        entries = [e for e in outside.fdb_list("cni0") if e.learned]
        assert [e.mac for e in entries] == ["0a:58:0a:f4:01:02"]
        assert {str(n.dst) for n in outside.neigh_list("cni0")} >= {"10.1.0.2", "fd00:1::2"}
        stats = next(link.stats for link in outside.link_list(stats=True) if link.name == "veth0")
        assert stats is not None
        assert stats.rx_packets >= 2


def test_errors_carry_errno_object_and_the_kernels_reason(node: Path):
    with Netlink(node) as nl:
        nl.link_add_bridge("cni0")
        with pytest.raises(NetlinkError, match=r"add bridge cni0: File exists \[EEXIST\]") as info:
            nl.link_add_bridge("cni0")
        assert info.value.errno == errno.EEXIST
        with pytest.raises(NetlinkError, match="get link nope: No such device"):
            nl.link_get("nope")
        assert nl.link_find("nope") is None
        with pytest.raises(NetlinkError, match="invalid gateway") as info:
            nl.route_add(Route(dst=NET("10.9.0.0/16"), gateway=IP("192.168.7.1")))
        assert info.value.errno == errno.ENETUNREACH


def test_deleting_what_is_gone_can_be_success(node: Path):
    with Netlink(node) as nl:
        nl.link_add_bridge("cni0")
        nl.addr_add("cni0", IF("10.1.0.1/24"))
        nl.addr_add("cni0", IF("10.1.0.1/24"), exist_ok=True)
        for _ in range(2):
            nl.addr_del("cni0", IF("10.1.0.1/24"), missing_ok=True)
        route = Route(dst=NET("10.9.0.0/16"), kind=RTN_BLACKHOLE)
        nl.route_add(route)
        for _ in range(2):
            nl.route_del(route, missing_ok=True)
        for _ in range(2):
            nl.link_del("cni0", missing_ok=True)
        with pytest.raises(NetlinkError):
            nl.link_del("cni0")


def test_routes_are_replaced_listed_by_protocol_and_deleted(node: Path):
    with Netlink(node) as nl:
        nl.link_add_bridge("br0")
        index = nl.link_get("br0").index
        nl.addr_add("br0", IF("10.1.0.1/24"))
        first = Route(dst=NET("10.5.0.0/16"), gateway=IP("10.1.0.2"), protocol=80)
        second = Route(dst=NET("10.5.0.0/16"), gateway=IP("10.1.0.3"), protocol=80)
        nl.route_add(first)
        nl.route_replace(second)
        (found,) = nl.route_list(protocol=80)
        assert (found.dst, found.gateway, found.oif) == (second.dst, second.gateway, index)
        with pytest.raises(NetlinkError, match="File exists"):
            nl.route_add(first)
        nl.route_add(Route(dst=NET("fd05::/64"), kind=RTN_UNREACHABLE, protocol=80))
        nl.route_add(Route(dst=NET("10.6.0.0/16"), gateway=IP("172.16.0.1"), oif=index, onlink=True))
        assert sorted(map(str, (r.dst for r in nl.route_list(protocol=80)))) == ["10.5.0.0/16", "fd05::/64"]
        for route in nl.route_list(protocol=80):
            nl.route_del(route)
        assert nl.route_list(protocol=80) == []
        assert "10.6.0.0/16" in {str(r.dst) for r in nl.route_list()}
        nl.route_add(Route(dst=NET("10.7.0.0/16"), oif=index, table=1000))
        assert [str(r.dst) for r in nl.route_list(table=1000)] == ["10.7.0.0/16"]


def test_link_settings(node: Path, pod: Path):
    wire(node, pod)
    with Netlink(node) as nl:
        nl.link_set_port("veth0", hairpin=True, isolated=True)
        assert nl.link_get("veth0").hairpin
        assert nl.link_get("veth0").isolated
        nl.link_set("veth0", master=0, alias="pod nginx", mtu=1300, mac="02:00:00:00:00:01")
        nl.link_set("veth0", up=False)
        nl.link_set("veth0", name="renamed")
        link = nl.link_get("renamed")
        assert (link.master, link.alias, link.mtu, link.mac, link.up) == (
            0,
            "pod nginx",
            1300,
            "02:00:00:00:00:01",
            False,
        )
        fd = open_netns(pod)
        nl.link_set("renamed", netns_fd=fd)
        os.close(fd)
    assert "renamed" in link_names(pod)
    assert "renamed" not in link_names(node)


def test_ports_of_a_bridge_and_kinds_are_filtered(namespaces: Namespaces, node: Path):
    for number in range(3):
        wire(node, namespaces.make(f"pod{number}"), host=f"veth{number}")
    with Netlink(node) as nl:
        bridge = nl.link_get("cni0")
        assert {link.name for link in nl.link_list(master=bridge.index)} == {"veth0", "veth1", "veth2"}
        assert {link.name for link in nl.link_list(kind="bridge")} == {"cni0"}


def test_neighbours_can_be_set(node: Path):
    with Netlink(node) as nl:
        nl.link_add_bridge("br0")
        entry = Neighbour(index=nl.link_get("br0").index, mac="02:00:00:00:00:09", dst=IP("10.1.0.9"))
        nl.neigh_replace(entry)
        assert entry.mac in {n.mac for n in nl.neigh_list("br0")}
        nl.neigh_del(entry)
        assert entry.mac not in {n.mac for n in nl.neigh_list("br0")}


def test_a_batch_goes_on_after_a_refusal_and_reports_the_first(node: Path):
    with Netlink(node) as nl:
        with pytest.raises(NetlinkError, match="add bridge lo"):
            nl.execute(links.add_bridge("lo"), links.add_bridge("br0"), links.delete_link("nope"))
        assert nl.link_find("br0") is not None


def test_dumps_are_whole_while_others_change_the_table(node: Path):
    """300 links take several datagrams; a change in between makes the kernel mark the dump."""
    with Netlink(node) as nl, Netlink(node) as other:
        nl.execute(*(links.add_bridge(f"br{number}", up=False) for number in range(300)))
        stop = threading.Event()

        def disturb() -> None:
            while not stop.is_set():
                other.link_add_bridge("flicker", up=False)
                other.link_del("flicker")

        thread = threading.Thread(target=disturb)
        thread.start()
        try:
            for _ in range(3):
                names = [link.name for link in nl.link_list()]
                assert len(set(names)) == len(names)
                assert {f"br{number}" for number in range(300)} <= set(names)
        finally:
            stop.set()
            thread.join()


def test_links_removed_at_the_same_time_are_all_gone(namespaces: Namespaces, node: Path):
    pods = [namespaces.make(f"pod{number}") for number in range(8)]
    for number, pod in enumerate(pods):
        wire(node, pod, host=f"veth{number}")
    with Netlink(node) as nl:
        indexes = [link.index for link in nl.link_list(kind="veth")]

    def remove(index: int) -> None:
        with Netlink(node) as nl, Netlink(node) as other:
            remove_link(nl, index)
            assert other.link_find(index) is None

    threads = [
        threading.Thread(target=remove, args=(index,)) for index in [*indexes, *indexes]
    ]  # gone is fine
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert link_names(node) == {"lo", "cni0"}
    assert all(link_names(pod) == {"lo"} for pod in pods)


def test_a_link_that_cannot_be_removed_says_why(node: Path):
    with Netlink(node) as nl, pytest.raises(NetlinkError) as caught:
        remove_link(nl, nl.link_get("lo").index)
    assert caught.value.errno == errno.EOPNOTSUPP


def test_the_end_of_a_pair_is_no_answer_to_somebody_elses_question(node: Path, pod: Path):
    """Sockets of one process have one number in every namespace, to which the kernel echoes a deletion."""
    for _ in range(5):
        wire(node, pod)
        with Netlink(node) as elsewhere, Netlink(pod) as inside:
            remove_link(inside, inside.link_get("eth0").index)
            assert elsewhere.link_find("veth0") is None
            assert elsewhere.link_get("cni0").name == "cni0"
