"""Kinds of links beyond bridges and veth pairs: macvlan, ipvlan, VLANs, dummies (`<linux/if_link.h>`).

Each builder makes the link straight in the namespace of `netns_fd`, below the parent of the namespace the
request is sent in. The functions at the end read what such a link is back from `Link.data`.
"""

from __future__ import annotations

import struct

from podling.linux.netlink.links import (
    AF_UNSPEC,
    IFINFO,
    IFLA_ADDRESS,
    IFLA_IFNAME,
    IFLA_INFO_DATA,
    IFLA_INFO_KIND,
    IFLA_LINK,
    IFLA_LINKINFO,
    IFLA_MTU,
    IFLA_NET_NS_FD,
    RTM_NEWLINK,
)
from podling.linux.netlink.wire import (
    NLM_F_CREATE,
    NLM_F_EXCL,
    Request,
    attr,
    attr_str,
    attr_u16,
    attr_u32,
    mac_bytes,
    nested,
    parse_attrs,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from podling.linux.netlink.links import Link

IFLA_MACVLAN_MODE, IFLA_MACVLAN_BC_QUEUE_LEN = 1, 7
MACVLAN_MODES = {"private": 1, "vepa": 2, "bridge": 4, "passthru": 8}
IFLA_IPVLAN_MODE = 1
IPVLAN_MODES = {"l2": 0, "l3": 1, "l3s": 2}
IFLA_VLAN_ID = 1


def link_request(
    kind: str,
    name: str,
    *,
    netns_fd: int | None,
    parent: int = 0,
    mtu: int | None = None,
    mac: str | None = None,
    data: bytes = b"",
) -> Request:
    """The message that makes a link; `data` is what means something to its kind."""
    body = IFINFO.pack(AF_UNSPEC, 0, 0, 0, 0) + attr_str(IFLA_IFNAME, name)
    for attribute, value in ((IFLA_LINK, parent), (IFLA_MTU, mtu)):
        if value:
            body += attr_u32(attribute, value)
    if mac is not None:
        body += attr(IFLA_ADDRESS, mac_bytes(mac))
    if netns_fd is not None:
        body += attr_u32(IFLA_NET_NS_FD, netns_fd)
    body += nested(IFLA_LINKINFO, attr_str(IFLA_INFO_KIND, kind), nested(IFLA_INFO_DATA, data))
    what = f"add {kind} {name}" + (f" to link {parent}" if parent else "")
    return Request(kind=RTM_NEWLINK, flags=NLM_F_CREATE | NLM_F_EXCL, body=body, what=what)


def add_macvlan(
    name: str,
    *,
    parent: int,
    mode: str,
    netns_fd: int | None = None,
    mtu: int | None = None,
    mac: str | None = None,
    bc_queue_len: int | None = None,
) -> Request:
    """`mode` is a key of `MACVLAN_MODES`; `bc_queue_len` counts broadcast frames that may wait."""
    data = attr_u32(IFLA_MACVLAN_MODE, MACVLAN_MODES[mode])
    if bc_queue_len is not None:
        data += attr_u32(IFLA_MACVLAN_BC_QUEUE_LEN, bc_queue_len)
    return link_request("macvlan", name, netns_fd=netns_fd, parent=parent, mtu=mtu, mac=mac, data=data)


def add_ipvlan(
    name: str, *, parent: int, mode: str, netns_fd: int | None = None, mtu: int | None = None
) -> Request:
    """`mode` is a key of `IPVLAN_MODES`."""
    data = attr_u16(IFLA_IPVLAN_MODE, IPVLAN_MODES[mode])
    return link_request("ipvlan", name, netns_fd=netns_fd, parent=parent, mtu=mtu, data=data)


def add_vlan(
    name: str, *, parent: int, vlan_id: int, netns_fd: int | None = None, mtu: int | None = None
) -> Request:
    """IEEE 802.1Q. EEXIST when the parent has that VLAN already."""
    data = attr_u16(IFLA_VLAN_ID, vlan_id)
    return link_request("vlan", name, netns_fd=netns_fd, parent=parent, mtu=mtu, data=data)


def add_dummy(name: str, *, netns_fd: int | None = None) -> Request:
    return link_request("dummy", name, netns_fd=netns_fd)


def probe(kind: str) -> Request:
    """A link that no driver makes, having a broadcast address and no parent.

    EOPNOTSUPP says that the kernel has no such kind (nor a module for it, which it tries to load); whatever
    else it answers is the driver's own refusal.
    """
    return link_request(kind, "probe%d", netns_fd=None, mac="ff:ff:ff:ff:ff:ff")


def macvlan_mode(link: Link) -> str:
    return _name(MACVLAN_MODES, _number(link, IFLA_MACVLAN_MODE))


def macvlan_queue_len(link: Link) -> int:
    return _number(link, IFLA_MACVLAN_BC_QUEUE_LEN)


def ipvlan_mode(link: Link) -> str:
    return _name(IPVLAN_MODES, _number(link, IFLA_IPVLAN_MODE))


def vlan_id(link: Link) -> int:
    return _number(link, IFLA_VLAN_ID)


def _number(link: Link, kind: int) -> int:
    raw = parse_attrs(link.data).get(kind, b"")
    return int(struct.unpack({2: "=H", 4: "=I"}[len(raw)], raw)[0]) if raw else 0


def _name(modes: dict[str, int], number: int) -> str:
    return next((name for name, value in modes.items() if value == number), f"unknown ({number})")
