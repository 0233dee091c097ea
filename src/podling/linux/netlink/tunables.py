"""Settings of a link beyond those `links` knows: all-multicast mode and the transmit queue's length."""

from __future__ import annotations

import struct

from podling.linux.netlink import links
from podling.linux.netlink.wire import Request, attr_u32, parse_attrs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from podling.linux.netlink.socket import NetlinkSocket

IFF_ALLMULTI = 0x200

_IFINFO = struct.Struct("=BxHiII")


def set_tunables(index: int, *, allmulti: bool | None = None, tx_queue_length: int | None = None) -> Request:
    """Change what is given; the queue's length is in packets."""
    mask = IFF_ALLMULTI if allmulti is not None else 0
    body = _IFINFO.pack(links.AF_UNSPEC, 0, index, mask if allmulti else 0, mask)
    if tx_queue_length is not None:
        body += attr_u32(links.IFLA_TXQLEN, tx_queue_length)
    return Request(kind=links.RTM_NEWLINK, flags=0, body=body, what=f"set link {index}")


def tx_queue_length(nl: NetlinkSocket, index: int) -> int:
    """In packets."""
    message = nl.get(links.get_link(index))
    raw = parse_attrs(message.body, _IFINFO.size).get(links.IFLA_TXQLEN)
    return int(struct.unpack("=I", raw)[0]) if raw else 0
