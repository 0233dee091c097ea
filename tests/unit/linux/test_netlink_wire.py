from __future__ import annotations

import errno
import ipaddress
import struct

import pytest

from podling.linux.netlink import Route, addresses, links, routes, wire
from podling.linux.netlink.wire import Message, Request
from podling.linux.record import replace


def received(request: Request) -> Message:
    """A request as the kernel would send it back."""
    return wire.parse_messages(request.pack(7))[0]


def test_attributes_are_padded_and_read_back():
    data = wire.attr_str(3, "abcd") + wire.attr_u32(4, 7) + wire.nested(18, wire.attr_u8(1, 2))
    assert len(data) % 4 == 0
    attrs = wire.parse_attrs(data)
    assert wire.text_of(attrs[3]) == "abcd"
    assert attrs[4] == struct.pack("=I", 7)
    assert wire.parse_attrs(attrs[18]) == {1: b"\2"}


def test_truncated_input_ends_the_parse():
    assert wire.parse_attrs(b"\x02\x00\x01\x00") == {}
    assert wire.parse_messages(b"\x05\x00\x00\x00") == []


def test_several_messages_in_a_datagram():
    one = Request(kind=16, flags=0, body=b"abc", what="one")
    data = one.pack(1).ljust(20, b"\0") + one.pack(2)
    assert [m.sequence for m in wire.parse_messages(data)] == [1, 2]


def test_an_error_carries_errno_and_the_kernels_words():
    words = wire.attr_str(wire.NLMSGERR_ATTR_MSG, "Nexthop has invalid gateway")
    body = struct.pack("=i", -errno.ENETUNREACH) + bytes(wire.HEADER_BYTES) + words
    flags = wire.NLM_F_CAPPED | wire.NLM_F_ACK_TLVS
    reply = Message(kind=wire.NLMSG_ERROR, flags=flags, sequence=1, body=body)
    error = wire.error_of(reply, "add route 10.0.0.0/8")
    assert error is not None
    assert error.errno == errno.ENETUNREACH
    assert error.strerror == (
        "add route 10.0.0.0/8: Network is unreachable (Nexthop has invalid gateway) [ENETUNREACH]"
    )


def test_zero_is_an_acknowledgement():
    reply = Message(kind=wire.NLMSG_ERROR, flags=0, sequence=1, body=bytes(20))
    assert wire.error_of(reply, "x") is None


def test_mac_addresses():
    assert wire.mac_text(wire.mac_bytes("0A-58-0a:f4:01:02")) == "0a:58:0a:f4:01:02"
    for bad in ("", "0a:58", "zz:58:0a:f4:01:02", "0a:58:0a:f4:01:02:03"):
        with pytest.raises(ValueError, match=r"MAC|hexadecimal"):
            wire.mac_bytes(bad)


@pytest.mark.parametrize(
    "route",
    [
        Route(dst=ipaddress.ip_network("10.244.2.0/24"), gateway=ipaddress.ip_address("10.192.0.3"), scope=0),
        Route(
            dst=ipaddress.ip_network("0.0.0.0/0"), gateway=ipaddress.ip_address("10.1.1.1"), scope=0, oif=3
        ),
        Route(dst=ipaddress.ip_network("fd00:2::/64"), gateway=ipaddress.ip_address("fd00::3"), scope=0),
        Route(dst=ipaddress.ip_network("10.96.0.0/16"), kind=routes.RTN_UNREACHABLE, scope=0),
        Route(dst=ipaddress.ip_network("10.5.0.0/16"), oif=2, scope=253, mtu=1400, priority=7, protocol=80),
        Route(dst=ipaddress.ip_network("10.6.0.0/16"), oif=2, scope=253, table=1000),
    ],
    ids=str,
)
def test_a_route_survives_the_wire(route: Route):
    made_by = route.protocol or routes.RTPROT_STATIC
    assert routes.parse_route(received(routes.add_route(route))) == replace(route, protocol=made_by)


def test_scope_of_a_route_without_gateway_is_link_for_ipv4_only():
    four = routes.parse_route(
        received(routes.add_route(Route(dst=ipaddress.ip_network("10.0.0.0/8"), oif=1)))
    )
    six = routes.parse_route(received(routes.add_route(Route(dst=ipaddress.ip_network("fd00::/8"), oif=1))))
    assert four is not None
    assert six is not None
    assert (four.scope, six.scope) == (routes.RT_SCOPE_LINK, routes.RT_SCOPE_UNIVERSE)


def test_an_ipv6_address_skips_duplicate_detection_unless_asked():
    interface = ipaddress.ip_interface("fd00::2/64")
    quick = addresses.parse_address(received(addresses.add_address(3, interface)))
    slow = addresses.parse_address(received(addresses.add_address(3, interface, nodad=False)))
    assert quick.interface == slow.interface == interface
    assert quick.flags & addresses.IFA_F_NODAD
    assert not slow.flags & addresses.IFA_F_NODAD


def test_links_are_named_by_index_or_name_and_renamed_by_index_only():
    link = links.parse_link(received(links.set_link("veth0", mtu=1400)))
    assert (link.index, link.name, link.mtu) == (0, "veth0", 1400)
    assert links.parse_link(received(links.set_link(5, name="eth0"))).name == "eth0"
    with pytest.raises(ValueError, match="index"):
        links.set_link("veth0", name="eth0")
