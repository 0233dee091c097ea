"""VRF links, virtual routing domains (`<linux/if_link.h>`, `man 8 ip-link`)."""

from __future__ import annotations

import struct

from podling.linux.netlink import links
from podling.linux.netlink.wire import (
    NLM_F_CREATE,
    NLM_F_EXCL,
    Request,
    attr_str,
    attr_u32,
    nested,
    parse_attrs,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from podling.linux.netlink.socket import NetlinkSocket

IFLA_VRF_TABLE = 1

_IFINFO = struct.Struct("=BxHiII")


def add_vrf(name: str, *, table: int) -> Request:
    """EOPNOTSUPP in a kernel without the driver, EEXIST when the name is taken."""
    flags = links.IFF_UP
    body = _IFINFO.pack(links.AF_UNSPEC, 0, 0, flags, flags) + attr_str(links.IFLA_IFNAME, name)
    data = nested(links.IFLA_INFO_DATA, attr_u32(IFLA_VRF_TABLE, table))
    body += nested(links.IFLA_LINKINFO, attr_str(links.IFLA_INFO_KIND, "vrf"), data)
    return Request(kind=links.RTM_NEWLINK, flags=NLM_F_CREATE | NLM_F_EXCL, body=body, what=f"add VRF {name}")


def table_of(nl: NetlinkSocket, index: int) -> int:
    """The routing table of a VRF link."""
    attrs = parse_attrs(nl.get(links.get_link(index)).body, _IFINFO.size)
    info = parse_attrs(attrs.get(links.IFLA_LINKINFO, b""))
    raw = parse_attrs(info.get(links.IFLA_INFO_DATA, b"")).get(IFLA_VRF_TABLE)
    return int(struct.unpack("=I", raw)[0]) if raw else 0
