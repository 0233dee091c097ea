"""Neighbours (ARP, NDP) and bridge forwarding tables: RTM_*NEIGH (`<linux/neighbour.h>`)."""

from __future__ import annotations

import ipaddress
import struct

from podling.linux.netlink.wire import (
    NLM_F_CREATE,
    NLM_F_REPLACE,
    Message,
    Request,
    attr,
    attr_u32,
    mac_bytes,
    mac_text,
    parse_attrs,
)
from podling.linux.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

RTM_NEWNEIGH, RTM_DELNEIGH, RTM_GETNEIGH = 28, 29, 30
AF_UNSPEC, AF_INET, AF_BRIDGE, AF_INET6 = 0, 2, 7, 10
NDA_DST, NDA_LLADDR, NDA_VLAN, NDA_IFINDEX, NDA_MASTER = 1, 2, 5, 8, 9
NUD_REACHABLE, NUD_STALE, NUD_NOARP, NUD_PERMANENT = 0x02, 0x04, 0x40, 0x80
NTF_SELF, NTF_MASTER = 0x02, 0x04

_NDMSG = struct.Struct("=BxxxiHBB")  # ndmsg: family, index, state, flags, type


@record
class Neighbour:
    """Who has an IP address (or, in a forwarding table, behind which port a MAC address is)."""

    index: int
    mac: str  # empty while unresolved
    dst: IPAddress | None = None  # of a forwarding entry: the remote tunnel end
    state: int = NUD_PERMANENT  # NUD_ bits
    flags: int = 0  # NTF_ bits
    master: int = 0  # of a forwarding entry: ifindex of the bridge
    vlan: int = 0

    @property
    def learned(self) -> bool:
        """Of a forwarding entry: seen in traffic, neither configured nor an address of the port itself."""
        return not self.state & (NUD_PERMANENT | NUD_NOARP)


def _body(entry: Neighbour, family: int) -> bytes:
    body = _NDMSG.pack(family, entry.index, entry.state, entry.flags, 0)
    if entry.dst is not None:
        body += attr(NDA_DST, entry.dst.packed)
    return body + (attr(NDA_LLADDR, mac_bytes(entry.mac)) if entry.mac else b"")


def _family(entry: Neighbour) -> int:
    if entry.dst is None or entry.flags & NTF_SELF:
        return AF_BRIDGE
    return AF_INET if entry.dst.version == 4 else AF_INET6


def replace_neighbour(entry: Neighbour) -> Request:
    """Set an ARP or NDP entry, or (no `dst`, or NTF_SELF) a forwarding entry."""
    what = f"set neighbour {entry.dst or entry.mac} on link {entry.index}"
    return Request(
        kind=RTM_NEWNEIGH, flags=NLM_F_CREATE | NLM_F_REPLACE, body=_body(entry, _family(entry)), what=what
    )


def delete_neighbour(entry: Neighbour) -> Request:
    what = f"delete neighbour {entry.dst or entry.mac} from link {entry.index}"
    return Request(kind=RTM_DELNEIGH, flags=0, body=_body(entry, _family(entry)), what=what)


def dump_neighbours(*, index: int = 0) -> Request:
    body = _NDMSG.pack(AF_UNSPEC, 0, 0, 0, 0) + (attr_u32(NDA_IFINDEX, index) if index else b"")
    return Request(kind=RTM_GETNEIGH, flags=0, body=body, what="list neighbours")


def dump_fdb(*, bridge: int = 0, port: int = 0) -> Request:
    body = _NDMSG.pack(AF_BRIDGE, port, 0, 0, 0) + (attr_u32(NDA_MASTER, bridge) if bridge else b"")
    return Request(kind=RTM_GETNEIGH, flags=0, body=body, what="list forwarding entries")


def parse_neighbour(message: Message) -> Neighbour:
    _, index, state, flags, _ = _NDMSG.unpack_from(message.body)
    attrs = parse_attrs(message.body, _NDMSG.size)
    dst, master, vlan = attrs.get(NDA_DST), attrs.get(NDA_MASTER), attrs.get(NDA_VLAN)
    return Neighbour(
        index=index,
        mac=mac_text(attrs.get(NDA_LLADDR, b"")),
        dst=ipaddress.ip_address(dst) if dst else None,
        state=state,
        flags=flags,
        master=struct.unpack("=I", master)[0] if master else 0,
        vlan=struct.unpack("=H", vlan)[0] if vlan else 0,
    )
