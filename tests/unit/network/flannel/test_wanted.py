"""What each backend wants of the kernel, what is written to subnet.env and nftables: plain values."""

from __future__ import annotations

import ipaddress
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest

from podling.linux.netlink import RTN_UNREACHABLE, Route
from podling.network.flannel import host_gw, masquerade, subnet_env, vxlan
from podling.network.flannel.backend import Family
from podling.network.flannel.forwarder import pack_routes
from podling.network.flannel.lease import Remote
from podling.network.flannel.underlay import FlannelError, Underlay, conflicting
from podling.network.route_table import RTPROT_PODLING

IF, IP, NET = ipaddress.ip_interface, ipaddress.ip_address, ipaddress.ip_network

ETH0 = Underlay(index=2, name="eth0", mtu=1500, addresses=(IF("10.192.0.2/24"),))


def remote(number: int, public_ip: str) -> Remote:
    return Remote(
        node=f"n{number}",
        subnet=NET(f"10.244.{number}.0/24"),
        public_ip=IP(public_ip),
        backend="vxlan",
        vni=1,
        mac=f"02:00:00:00:00:{number:02x}",
    )


def family(*remotes: Remote) -> Family:
    return Family(
        network=NET("10.244.0.0/16"),
        subnet=NET("10.244.2.0/24"),
        local=IP("10.192.0.2"),
        underlay=ETH0,
        remotes=remotes,
    )


def test_vxlan_gives_three_answers_for_each_node():
    wanted = vxlan.compute_wanted(family(remote(3, "10.192.0.3")), 9, direct_routing=False)
    assert wanted.device == 9
    assert wanted.neighbours == {(IP("10.244.3.0"), "02:00:00:00:00:03")}
    assert wanted.forwarding == {("02:00:00:00:00:03", IP("10.192.0.3"))}
    (route,) = wanted.routes
    assert (route.dst, route.gateway, route.oif, route.onlink) == (
        *(NET("10.244.3.0/24"), IP("10.244.3.0"), 9, True),
    )
    assert route.protocol == RTPROT_PODLING


def test_direct_routing_needs_no_tunnel_to_a_neighbour():
    nodes = family(remote(3, "10.192.0.3"), remote(4, "10.193.0.4"))
    wanted = vxlan.compute_wanted(nodes, 9, direct_routing=True)
    near, far = wanted.routes
    assert (near.gateway, near.oif, near.onlink) == (IP("10.192.0.3"), 2, False)
    assert (far.gateway, far.oif, far.onlink) == (IP("10.244.4.0"), 9, True)
    assert {mac for mac, _ in wanted.forwarding} == {"02:00:00:00:00:04"}


def test_host_gw_routes_by_the_public_address():
    (route,) = host_gw.compute_wanted(family(remote(3, "10.192.0.3"))).routes
    assert (route.dst, route.gateway, route.oif) == (NET("10.244.3.0/24"), IP("10.192.0.3"), 2)


def test_the_forwarders_table():
    packed = pack_routes([(IPv4Network("10.244.3.0/24"), IPv4Address("10.192.0.3"))], 8285)
    assert packed == bytes([10, 244, 3, 0, 24, 10, 192, 0, 3, 0x20, 0x5D])
    assert pack_routes([], 8285) == bytes(11)  # nothing at all would be the end


def test_the_preferred_address_of_a_link_is_taken_when_it_has_it():
    link = Underlay(index=2, name="eth0", mtu=1500, addresses=(IF("10.0.0.1/24"), IF("10.0.0.2/24")))
    assert link.address(4, [IP("10.0.0.2")]) == IP("10.0.0.2")
    assert link.address(4, [IP("10.0.0.9")]) == IP("10.0.0.1")
    with pytest.raises(FlannelError, match="eth0 has no IPv6 address"):
        link.address(6, [])


@pytest.mark.parametrize(
    ("route", "refused"),
    [
        (Route(dst=NET("10.244.77.0/24"), oif=3), True),
        (Route(dst=NET("10.244.0.0/16"), oif=3), True),
        (Route(dst=NET("10.0.0.0/8"), oif=3), False),  # wider: ours are more specific
        (Route(dst=NET("0.0.0.0/0"), oif=3), False),
        (Route(dst=NET("10.244.2.0/24"), oif=3), False),  # this node's bridge
        (Route(dst=NET("10.244.3.0/24"), oif=3, protocol=RTPROT_PODLING), False),
        (Route(dst=NET("10.244.0.0/16"), kind=RTN_UNREACHABLE), False),
        (Route(dst=NET("fd00::/64"), oif=3), False),
    ],
)
def test_what_conflicts_with_the_pod_network(route: Route, refused: bool):
    found = conflicting([route], NET("10.244.0.0/16"), [NET("10.244.2.0/24")])
    assert (found is not None) is refused


def test_subnet_env_is_as_the_plugin_reads_it(tmp_path: Path):
    text = subnet_env.render(
        [NET("10.244.0.0/16"), NET("fd00:244::/48")],
        [NET("10.244.2.0/24"), NET("fd00:244:0:2::/64")],
        mtu=1430,
        ip_masq=True,
    )
    assert text.splitlines() == [
        "FLANNEL_NETWORK=10.244.0.0/16",
        "FLANNEL_IPV6_NETWORK=fd00:244::/48",
        "FLANNEL_SUBNET=10.244.2.1/24",
        "FLANNEL_IPV6_SUBNET=fd00:244:0:2::1/64",
        "FLANNEL_MTU=1430",
        "FLANNEL_IPMASQ=true",
    ]
    path = tmp_path / "run" / "subnet.env"
    assert subnet_env.write(path, text) is True
    assert subnet_env.write(path, text) is False
    assert path.read_text() == text
    assert [p.name for p in path.parent.iterdir()] == ["subnet.env"]


def test_masquerading_spares_the_pod_network():
    text = masquerade.render(NET("10.244.0.0/16"), NET("10.244.2.0/24"))
    assert "ip saddr 10.244.2.0/24 ip daddr 10.244.0.0/16 return" in text
    assert "ip saddr 10.244.0.0/16 ip daddr != { 10.244.0.0/16, 224.0.0.0/4 } masquerade" in text
