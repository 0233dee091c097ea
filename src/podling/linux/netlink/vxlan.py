"""VXLAN links: one layer-2 network over UDP (`<linux/if_link.h>`, RFC 7348, `man 8 ip-link`)."""

from __future__ import annotations

import ipaddress
import struct

from podling.linux.netlink.kinds import link_request
from podling.linux.netlink.links import IFINFO, IFLA_INFO_DATA, IFLA_INFO_KIND, IFLA_LINKINFO, RTM_NEWLINK
from podling.linux.netlink.wire import Request, attr, attr_str, attr_u8, attr_u32, nested, parse_attrs
from podling.linux.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from podling.linux.netlink.links import Link

    IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

IFLA_VXLAN_ID, IFLA_VXLAN_LINK, IFLA_VXLAN_LOCAL, IFLA_VXLAN_LEARNING = 1, 3, 4, 7
IFLA_VXLAN_PORT, IFLA_VXLAN_LOCAL6, IFLA_VXLAN_GBP = 15, 17, 23


@record
class Vxlan:
    """How a VXLAN link sends."""

    vni: int
    underlay: int  # ifindex of the link its packets leave by
    local: IPAddress | None  # their source address; its family is that of the remote ends
    port: int  # UDP, of the remote ends
    learning: bool = False  # whether it notes which remote end a MAC address was seen from
    gbp: bool = False  # the Group Policy extension


def _data(spec: Vxlan) -> bytes:
    data = attr_u32(IFLA_VXLAN_ID, spec.vni) + attr_u32(IFLA_VXLAN_LINK, spec.underlay)
    if spec.local is not None:
        data += attr(IFLA_VXLAN_LOCAL if spec.local.version == 4 else IFLA_VXLAN_LOCAL6, spec.local.packed)
    data += attr_u8(IFLA_VXLAN_LEARNING, spec.learning) + attr(IFLA_VXLAN_PORT, struct.pack(">H", spec.port))
    return data + (attr(IFLA_VXLAN_GBP, b"") if spec.gbp else b"")


def add_vxlan(name: str, spec: Vxlan, *, mtu: int, mac: str | None = None) -> Request:
    """EEXIST when the name, or the VNI on that port, is taken."""
    return link_request("vxlan", name, netns_fd=None, mtu=mtu, mac=mac, data=_data(spec))


def set_vxlan_local(index: int, local: IPAddress) -> Request:
    """Give its packets another source address of the same family."""
    kind = IFLA_VXLAN_LOCAL if local.version == 4 else IFLA_VXLAN_LOCAL6
    body = IFINFO.pack(0, 0, index, 0, 0)
    data = nested(IFLA_INFO_DATA, attr(kind, local.packed))
    body += nested(IFLA_LINKINFO, attr_str(IFLA_INFO_KIND, "vxlan"), data)
    return Request(kind=RTM_NEWLINK, flags=0, body=body, what=f"set source address of link {index}")


def parse_vxlan(link: Link) -> Vxlan:
    """What a link of kind vxlan says of itself."""
    attrs = parse_attrs(link.data)
    local = attrs.get(IFLA_VXLAN_LOCAL) or attrs.get(IFLA_VXLAN_LOCAL6)
    return Vxlan(
        vni=struct.unpack("=I", attrs[IFLA_VXLAN_ID])[0],
        underlay=struct.unpack("=I", attrs.get(IFLA_VXLAN_LINK, bytes(4)))[0],
        local=ipaddress.ip_address(local) if local else None,
        port=struct.unpack(">H", attrs[IFLA_VXLAN_PORT])[0],
        learning=attrs.get(IFLA_VXLAN_LEARNING) == b"\1",
        gbp=IFLA_VXLAN_GBP in attrs,
    )
