"""Links: building RTM_*LINK requests and reading their answers (`<linux/if_link.h>`, `man 7 rtnetlink`)."""

from __future__ import annotations

import struct

from podling.linux.netlink.wire import (
    NLM_F_CREATE,
    NLM_F_EXCL,
    Message,
    Request,
    attr,
    attr_str,
    attr_u8,
    attr_u16,
    attr_u32,
    list_attrs,
    mac_bytes,
    mac_text,
    nested,
    parse_attrs,
    text_of,
)
from podling.linux.record import record

RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK, RTM_SETLINK = 16, 17, 18, 19

AF_UNSPEC, AF_INET, AF_BRIDGE, AF_INET6 = 0, 2, 7, 10

IFF_UP, IFF_LOOPBACK, IFF_RUNNING, IFF_PROMISC = 0x1, 0x8, 0x40, 0x100
IFF_LOWER_UP = 0x10000

IFLA_ADDRESS, IFLA_BROADCAST, IFLA_IFNAME, IFLA_MTU, IFLA_LINK = 1, 2, 3, 4, 5
IFLA_MASTER, IFLA_PROTINFO, IFLA_TXQLEN, IFLA_OPERSTATE, IFLA_LINKINFO = 10, 12, 13, 16, 18
IFLA_IFALIAS, IFLA_STATS64, IFLA_AF_SPEC, IFLA_NET_NS_FD, IFLA_EXT_MASK = 20, 23, 26, 28, 29
IFLA_LINK_NETNSID = 37
IFLA_INFO_KIND, IFLA_INFO_DATA, IFLA_INFO_SLAVE_KIND, IFLA_INFO_SLAVE_DATA = 1, 2, 4, 5
IFLA_BR_AGEING_TIME, IFLA_BR_STP_STATE, IFLA_BR_VLAN_FILTERING, IFLA_BR_VLAN_DEFAULT_PVID = 4, 5, 7, 39
IFLA_BRPORT_STATE, IFLA_BRPORT_MODE, IFLA_BRPORT_LEARNING, IFLA_BRPORT_UNICAST_FLOOD = 1, 4, 8, 9
IFLA_BRPORT_ISOLATED = 33
IFLA_BRIDGE_FLAGS, IFLA_BRIDGE_VLAN_INFO = 0, 2
BRIDGE_FLAGS_SELF = 2
BRIDGE_VLAN_INFO_PVID, BRIDGE_VLAN_INFO_UNTAGGED = 2, 4
VETH_INFO_PEER = 1
IFLA_INET_CONF, IPV4_DEVCONF_ARP_NOTIFY = 1, 22  # <linux/if_link.h>, <linux/ip.h>
IFLA_INET6_ADDR_GEN_MODE = 8
IN6_ADDR_GEN_MODE_NONE = 1
RTEXT_FILTER_BRVLAN, RTEXT_FILTER_SKIP_STATS = 2, 8

IFNAMSIZ = 16

IFINFO = struct.Struct("=BxHiII")  # ifinfomsg: family, type, index, flags, change mask
_STATS = struct.Struct("=8Q")  # the first fields of rtnl_link_stats64
_OPERSTATES = ("UNKNOWN", "NOTPRESENT", "DOWN", "LOWERLAYERDOWN", "TESTING", "DORMANT", "UP")


@record
class LinkStats:
    """Counters since the link was made."""

    rx_packets: int
    tx_packets: int
    rx_bytes: int
    tx_bytes: int
    rx_errors: int
    tx_errors: int
    rx_dropped: int
    tx_dropped: int


@record
class Link:
    """A network interface as the kernel describes it."""

    index: int
    name: str
    kind: str  # bridge, veth, ...; empty for physical devices and lo
    flags: int  # IFF_ bits
    mtu: int  # bytes
    mac: str
    operstate: str  # in the words of ip(8): UP, DOWN, LOWERLAYERDOWN, UNKNOWN, ...
    master: int = 0  # ifindex of the bridge this is a port of
    peer_index: int = 0  # of a veth: the other end's ifindex, in the namespace of `peer_netnsid`
    peer_netnsid: int | None = None  # None: the same namespace
    alias: str = ""
    hairpin: bool = False  # of a bridge port
    isolated: bool = False  # of a bridge port
    vlan_filtering: bool = False  # of a bridge
    data: bytes = b""  # IFLA_INFO_DATA, which means something to the link's kind (see `kinds`)
    stats: LinkStats | None = None  # absent from dumps that skip them

    @property
    def up(self) -> bool:
        return bool(self.flags & IFF_UP)

    @property
    def carrier(self) -> bool:
        """False is what ip(8) prints as NO-CARRIER when the link is up."""
        return bool(self.flags & IFF_LOWER_UP)


def _key(link: str | int) -> tuple[int, bytes]:
    """How a message names a link: by index in its header or by a name attribute."""
    return (link, b"") if isinstance(link, int) else (0, attr_str(IFLA_IFNAME, link))


def _common(*, mtu: int | None, mac: str | None, master: int | None = None) -> bytes:
    parts = b""
    if mtu is not None:
        parts += attr_u32(IFLA_MTU, mtu)
    if mac is not None:
        parts += attr(IFLA_ADDRESS, mac_bytes(mac))
    if master is not None:
        parts += attr_u32(IFLA_MASTER, master)
    return parts


def add_bridge(
    name: str,
    *,
    mtu: int | None = None,
    mac: str | None = None,
    up: bool = True,
    vlan_filtering: bool = False,
) -> Request:
    """A bridge given a `mac` keeps it whatever ports come and go, and shows NO-CARRIER while it has none.

    Without one the kernel leaves the carrier of a new bridge on until a first port has come and gone.
    """
    flags = IFF_UP if up else 0
    data = attr_u8(IFLA_BR_VLAN_FILTERING, 1) if vlan_filtering else b""
    body = IFINFO.pack(AF_UNSPEC, 0, 0, flags, flags) + attr_str(IFLA_IFNAME, name)
    body += _common(mtu=mtu, mac=mac)
    body += nested(IFLA_LINKINFO, attr_str(IFLA_INFO_KIND, "bridge"), nested(IFLA_INFO_DATA, data))
    return Request(kind=RTM_NEWLINK, flags=NLM_F_CREATE | NLM_F_EXCL, body=body, what=f"add bridge {name}")


def add_veth(
    name: str,
    peer: str,
    *,
    peer_netns_fd: int | None = None,
    mtu: int | None = None,
    mac: str | None = None,
    peer_mac: str | None = None,
    master: int | None = None,
    up: bool = False,
) -> Request:
    """Both ends in one message, each already in its namespace with its name, MTU and master.

    The peer starts down: the kernel answers ENOTCONN to a peer that is to be up before its pair exists.
    """
    other = IFINFO.pack(AF_UNSPEC, 0, 0, 0, 0) + attr_str(IFLA_IFNAME, peer)
    other += _common(mtu=mtu, mac=peer_mac)
    if peer_netns_fd is not None:
        other += attr_u32(IFLA_NET_NS_FD, peer_netns_fd)
    flags = IFF_UP if up else 0
    body = IFINFO.pack(AF_UNSPEC, 0, 0, flags, flags) + attr_str(IFLA_IFNAME, name)
    body += _common(mtu=mtu, mac=mac, master=master)
    body += nested(
        IFLA_LINKINFO,
        attr_str(IFLA_INFO_KIND, "veth"),
        nested(IFLA_INFO_DATA, attr(VETH_INFO_PEER, other)),
    )
    return Request(
        kind=RTM_NEWLINK, flags=NLM_F_CREATE | NLM_F_EXCL, body=body, what=f"add veth {name} with peer {peer}"
    )


def set_link(
    link: str | int,
    *,
    up: bool | None = None,
    name: str | None = None,
    master: int | None = None,
    netns_fd: int | None = None,
    mtu: int | None = None,
    mac: str | None = None,
    promisc: bool | None = None,
    alias: str | None = None,
) -> Request:
    """Change what is given. `master=0` releases a port. A link that is renamed by name keeps its index."""
    flags = mask = 0
    for wanted, bit in ((up, IFF_UP), (promisc, IFF_PROMISC)):
        if wanted is not None:
            mask |= bit
            flags |= bit if wanted else 0
    index, key = _key(link)
    if name is not None and key:
        raise ValueError(f"set link {link}: renaming takes the link's index")
    body = IFINFO.pack(AF_UNSPEC, 0, index, flags, mask) + key
    body += _common(mtu=mtu, mac=mac, master=master)
    if name is not None:
        body += attr_str(IFLA_IFNAME, name)
    if netns_fd is not None:
        body += attr_u32(IFLA_NET_NS_FD, netns_fd)
    if alias is not None:
        body += attr(IFLA_IFALIAS, alias.encode())
    # RTM_NEWLINK without NLM_F_CREATE: RTM_SETLINK would not take every attribute in old kernels.
    return Request(kind=RTM_NEWLINK, flags=0, body=body, what=f"set link {link}")


def without_ipv6_link_local(link: str | int) -> Request:
    """Keep the kernel from giving the link an `fe80::` address when it comes up.

    A port of a bridge needs none: this spares each veth duplicate address detection and multicast reports.
    EAFNOSUPPORT when the kernel has no IPv6, and in any message that creates the link.
    """
    index, key = _key(link)
    mode = nested(AF_INET6, attr_u8(IFLA_INET6_ADDR_GEN_MODE, IN6_ADDR_GEN_MODE_NONE))
    body = IFINFO.pack(AF_UNSPEC, 0, index, 0, 0) + key + nested(IFLA_AF_SPEC, mode)
    return Request(kind=RTM_NEWLINK, flags=0, body=body, what=f"set link {link}")


def set_arp_notify(index: int) -> Request:
    """Have the kernel announce the link's IPv4 addresses when it comes up or gets a MAC address.

    As the parameter net.ipv4.conf.LINK.arp_notify, without entering the namespace.
    """
    body = IFINFO.pack(AF_UNSPEC, 0, index, 0, 0)
    conf = nested(IFLA_INET_CONF, attr_u32(IPV4_DEVCONF_ARP_NOTIFY, 1))
    body += nested(IFLA_AF_SPEC, nested(AF_INET, conf))
    return Request(kind=RTM_NEWLINK, flags=0, body=body, what=f"set link {index}")


def set_bridge(
    link: str | int, *, vlan_filtering: bool | None = None, ageing_time_s: int | None = None
) -> Request:
    index, key = _key(link)
    data = b""
    if vlan_filtering is not None:
        data += attr_u8(IFLA_BR_VLAN_FILTERING, vlan_filtering)
    if ageing_time_s is not None:
        data += attr_u32(IFLA_BR_AGEING_TIME, ageing_time_s * 100)
    body = IFINFO.pack(AF_UNSPEC, 0, index, 0, 0) + key
    body += nested(IFLA_LINKINFO, attr_str(IFLA_INFO_KIND, "bridge"), nested(IFLA_INFO_DATA, data))
    return Request(kind=RTM_NEWLINK, flags=0, body=body, what=f"set bridge {link}")


def set_port(
    link: str | int,
    *,
    hairpin: bool | None = None,
    isolated: bool | None = None,
    learning: bool | None = None,
    flood: bool | None = None,
) -> Request:
    """Bridge port settings; the link must have a bridge as its master."""
    index, key = _key(link)
    data = b"".join(
        attr_u8(kind, wanted)
        for kind, wanted in (
            (IFLA_BRPORT_MODE, hairpin),
            (IFLA_BRPORT_ISOLATED, isolated),
            (IFLA_BRPORT_LEARNING, learning),
            (IFLA_BRPORT_UNICAST_FLOOD, flood),
        )
        if wanted is not None
    )
    body = IFINFO.pack(AF_UNSPEC, 0, index, 0, 0) + key
    body += nested(
        IFLA_LINKINFO, attr_str(IFLA_INFO_SLAVE_KIND, "bridge"), nested(IFLA_INFO_SLAVE_DATA, data)
    )
    return Request(kind=RTM_NEWLINK, flags=0, body=body, what=f"set bridge port {link}")


def port_vlan(
    index: int,
    vid: int,
    *,
    remove: bool = False,
    pvid: bool = False,
    untagged: bool = False,
    on_bridge: bool = False,
) -> Request:
    """Put a VLAN on a bridge port, or on the bridge itself (`on_bridge`), or take it off."""
    flags = (BRIDGE_VLAN_INFO_PVID if pvid else 0) | (BRIDGE_VLAN_INFO_UNTAGGED if untagged else 0)
    spec = attr_u16(IFLA_BRIDGE_FLAGS, BRIDGE_FLAGS_SELF) if on_bridge else b""
    spec += attr(IFLA_BRIDGE_VLAN_INFO, struct.pack("=HH", flags, vid))
    body = IFINFO.pack(AF_BRIDGE, 0, index, 0, 0) + nested(IFLA_AF_SPEC, spec)
    verb = "remove" if remove else "add"
    return Request(
        kind=RTM_DELLINK if remove else RTM_SETLINK,
        flags=0,
        body=body,
        what=f"{verb} VLAN {vid} on link {index}",
    )


def default_pvid(bridge: Link) -> int:
    """The VLAN a bridge puts each new port into; 0: none."""
    raw = parse_attrs(bridge.data).get(IFLA_BR_VLAN_DEFAULT_PVID)
    return int(struct.unpack("=H", raw)[0]) if raw else 0


def dump_vlans() -> Request:
    body = IFINFO.pack(AF_BRIDGE, 0, 0, 0, 0) + attr_u32(IFLA_EXT_MASK, RTEXT_FILTER_BRVLAN)
    return Request(kind=RTM_GETLINK, flags=0, body=body, what="list VLANs")


def parse_vlans(message: Message, port: Link) -> set[int]:
    """The VLANs of the port, if the message is about it."""
    _, _, index, _, _ = IFINFO.unpack_from(message.body)
    spec = parse_attrs(message.body, IFINFO.size).get(IFLA_AF_SPEC, b"")
    if index != port.index:
        return set()
    infos = (raw for kind, raw in list_attrs(spec) if kind == IFLA_BRIDGE_VLAN_INFO)
    return {struct.unpack_from("=HH", raw)[1] for raw in infos}


def delete_link(link: str | int) -> Request:
    index, key = _key(link)
    body = IFINFO.pack(AF_UNSPEC, 0, index, 0, 0) + key
    return Request(kind=RTM_DELLINK, flags=0, body=body, what=f"delete link {link}")


def get_link(link: str | int) -> Request:
    """Without statistics."""
    index, key = _key(link)
    body = IFINFO.pack(AF_UNSPEC, 0, index, 0, 0) + key + attr_u32(IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS)
    return Request(kind=RTM_GETLINK, flags=0, body=body, what=f"get link {link}")


def dump_links(*, master: int | None = None, kind: str | None = None, stats: bool = True) -> Request:
    body = IFINFO.pack(AF_UNSPEC, 0, 0, 0, 0)
    if not stats:
        body += attr_u32(IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS)
    if master is not None:
        body += attr_u32(IFLA_MASTER, master)
    if kind is not None:
        body += nested(IFLA_LINKINFO, attr_str(IFLA_INFO_KIND, kind))
    return Request(kind=RTM_GETLINK, flags=0, body=body, what="list links")


def index_of(message: Message) -> int:
    """Which link an RTM_NEWLINK or RTM_DELLINK is about."""
    return int(IFINFO.unpack_from(message.body)[2])


def parse_link(message: Message) -> Link:
    _, _, index, flags, _ = IFINFO.unpack_from(message.body)
    attrs = parse_attrs(message.body, IFINFO.size)
    info = parse_attrs(attrs.get(IFLA_LINKINFO, b""))
    kind = text_of(info.get(IFLA_INFO_KIND))
    data = parse_attrs(info.get(IFLA_INFO_DATA, b"")) if kind == "bridge" else {}
    port: dict[int, bytes] = {}
    if text_of(info.get(IFLA_INFO_SLAVE_KIND)) == "bridge":
        port = parse_attrs(info.get(IFLA_INFO_SLAVE_DATA, b""))
    netnsid = attrs.get(IFLA_LINK_NETNSID)
    stats = attrs.get(IFLA_STATS64)
    return Link(
        index=index,
        name=text_of(attrs.get(IFLA_IFNAME)),
        kind=kind,
        flags=flags,
        mtu=_u32(attrs.get(IFLA_MTU)),
        mac=mac_text(attrs.get(IFLA_ADDRESS, b"")),
        operstate=_OPERSTATES[attrs.get(IFLA_OPERSTATE, b"\0")[0]],
        master=_u32(attrs.get(IFLA_MASTER)),
        peer_index=_u32(attrs.get(IFLA_LINK)),
        peer_netnsid=struct.unpack("=i", netnsid)[0] if netnsid else None,
        alias=text_of(attrs.get(IFLA_IFALIAS)),
        hairpin=port.get(IFLA_BRPORT_MODE) == b"\1",
        isolated=port.get(IFLA_BRPORT_ISOLATED) == b"\1",
        data=info.get(IFLA_INFO_DATA, b""),
        vlan_filtering=data.get(IFLA_BR_VLAN_FILTERING) == b"\1",
        stats=_parse_stats(stats) if stats else None,
    )


def _parse_stats(raw: bytes) -> LinkStats:
    rx, tx, rx_bytes, tx_bytes, rx_errors, tx_errors, rx_dropped, tx_dropped = _STATS.unpack_from(raw)
    return LinkStats(
        rx_packets=rx,
        tx_packets=tx,
        rx_bytes=rx_bytes,
        tx_bytes=tx_bytes,
        rx_errors=rx_errors,
        tx_errors=tx_errors,
        rx_dropped=rx_dropped,
        tx_dropped=tx_dropped,
    )


def _u32(raw: bytes | None) -> int:
    return int(struct.unpack("=I", raw)[0]) if raw else 0
