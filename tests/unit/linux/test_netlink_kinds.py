from __future__ import annotations

import pytest

from podling.linux.netlink import kinds, links, wire
from podling.linux.netlink.links import Link
from podling.linux.netlink.wire import Request


def as_seen(request: Request) -> Link:
    """The link as the kernel would report it, with what was asked for."""
    return links.parse_link(wire.parse_messages(request.pack(7))[0])


@pytest.mark.parametrize("mode", kinds.MACVLAN_MODES)
def test_macvlan(mode: str):
    link = as_seen(
        kinds.add_macvlan(
            "x", parent=7, mode=mode, netns_fd=3, mtu=1400, mac="02:00:00:00:00:01", bc_queue_len=9
        )
    )
    assert (link.kind, link.name, link.peer_index, link.mtu) == ("macvlan", "x", 7, 1400)
    assert link.mac == "02:00:00:00:00:01"
    assert (kinds.macvlan_mode(link), kinds.macvlan_queue_len(link)) == (mode, 9)


@pytest.mark.parametrize("mode", kinds.IPVLAN_MODES)
def test_ipvlan(mode: str):
    link = as_seen(kinds.add_ipvlan("x", parent=7, mode=mode))
    assert (link.kind, link.peer_index, link.mtu) == ("ipvlan", 7, 0)
    assert kinds.ipvlan_mode(link) == mode


@pytest.mark.parametrize("vlan_id", [0, 1, 4094])
def test_vlan(vlan_id: int):
    link = as_seen(kinds.add_vlan("x", parent=7, vlan_id=vlan_id))
    assert (link.kind, kinds.vlan_id(link)) == ("vlan", vlan_id)


def test_what_is_not_known_is_said():
    link = as_seen(kinds.add_dummy("x"))
    assert (link.kind, kinds.vlan_id(link)) == ("dummy", 0)
    assert kinds.macvlan_mode(link) == "unknown (0)"
