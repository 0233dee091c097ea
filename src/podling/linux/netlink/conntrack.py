"""Connection tracking: forgetting UDP flows (`<linux/netfilter/nfnetlink_conntrack.h>`).

An entry outlives the translation rules it was made by. Deleting it makes the next packet of the flow pass the
rules again.
"""

from __future__ import annotations

import errno
import struct

from podling.linux.netlink.socket import NetlinkSocket
from podling.linux.netlink.wire import Message, NetlinkError, Request, attr, nested, parse_attrs

NETLINK_NETFILTER = 12
NFNL_SUBSYS_CTNETLINK = 1
IPCTNL_MSG_CT_GET, IPCTNL_MSG_CT_DELETE = 1, 2
CTA_TUPLE_ORIG, CTA_TUPLE_IP, CTA_TUPLE_PROTO = 1, 1, 2
CTA_PROTO_NUM, CTA_PROTO_DST_PORT = 1, 3
CTA_ID = 12
AF_INET, AF_INET6 = 2, 10
IPPROTO_UDP = 17

_NFGEN = struct.Struct("=BBH")  # nfgenmsg: family, version, resource id


def forget_udp(ports: set[int], *, version: int) -> int:
    """Delete the UDP entries whose first packet went to one of `ports`; how many there were."""
    family = AF_INET if version == 4 else AF_INET6
    header = _NFGEN.pack(family, 0, 0)
    count = 0
    with NetlinkSocket(protocol=NETLINK_NETFILTER) as nl:
        listing = Request(
            kind=_kind(IPCTNL_MSG_CT_GET), flags=0, body=header, what="list tracked connections"
        )
        for message in nl.dump(listing):
            original = _udp_tuple_to(message, ports)
            if original is None:
                continue
            body = header + nested(CTA_TUPLE_ORIG, original)
            if ident := parse_attrs(message.body, _NFGEN.size).get(CTA_ID):
                body += attr(CTA_ID, ident)
            try:
                nl.execute(
                    Request(
                        kind=_kind(IPCTNL_MSG_CT_DELETE),
                        flags=0,
                        body=body,
                        what="forget a tracked connection",
                    )
                )
                count += 1
            except NetlinkError as err:
                if err.errno != errno.ENOENT:  # it has just expired
                    raise
    return count


def _kind(message: int) -> int:
    return NFNL_SUBSYS_CTNETLINK << 8 | message


def _udp_tuple_to(message: Message, ports: set[int]) -> bytes | None:
    """The packed original tuple when it is one of those; a deletion names the entry by it."""
    original = parse_attrs(message.body, _NFGEN.size).get(CTA_TUPLE_ORIG)
    if original is None:
        return None
    proto = parse_attrs(parse_attrs(original).get(CTA_TUPLE_PROTO, b""))
    if proto.get(CTA_PROTO_NUM, b"\0")[0] != IPPROTO_UDP:
        return None
    port = int.from_bytes(proto.get(CTA_PROTO_DST_PORT, b"\0\0"), "big")
    return original if port in ports else None
