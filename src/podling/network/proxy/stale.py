"""What the kernel remembers of backends that are gone: UDP flows and clients that stick to one.

A translated connection keeps its translation. TCP notices a peer that is gone; a UDP sender that never stops
would talk to a hole for ever (pkg/proxy/conntrack).
"""

from __future__ import annotations

import errno
import logging
import socket
import struct
from collections.abc import Callable, Mapping, Set

from podling.linux.netlink import nftables as nft
from podling.linux.netlink.netfilter import NFNL_SUBSYS_CTNETLINK, Netfilter, nfgenmsg
from podling.linux.netlink.wire import NetlinkError, Request, attr, nested, parse_attrs
from podling.network.proxy import ruleset
from podling.network.proxy.rules import NO_ADDRESS, Backend, Frontend

# <linux/netfilter/nfnetlink_conntrack.h>
IPCTNL_MSG_CT_GET, IPCTNL_MSG_CT_DELETE = 1, 2
CTA_TUPLE_ORIG, CTA_TUPLE_REPLY, CTA_ID = 1, 2, 12
CTA_TUPLE_IP, CTA_TUPLE_PROTO = 1, 2
CTA_IP_V4_SRC, CTA_IP_V4_DST = 1, 2
CTA_PROTO_NUM, CTA_PROTO_SRC_PORT, CTA_PROTO_DST_PORT = 1, 2, 3
UDP = 17

log = logging.getLogger(__name__)


def forget_udp_flows(netfilter: Netfilter, valid: Mapping[Frontend, Set[Backend]]) -> int:
    """Delete the flows to these frontends that none of their backends answers. Returns how many."""
    listing = Request(
        kind=NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_GET,
        flags=0,
        body=nfgenmsg(socket.AF_INET),
        what="list connections",
    )
    deleted = 0
    for message in netfilter.dump(listing):
        fields = parse_attrs(message.body, 4)
        sent, answer = _tuple(fields.get(CTA_TUPLE_ORIG, b"")), _tuple(fields.get(CTA_TUPLE_REPLY, b""))
        if sent is None or answer is None:
            continue
        _, (address, port) = sent
        backends = valid.get(Frontend(address, UDP, port), valid.get(Frontend(NO_ADDRESS, UDP, port)))
        if backends is None or answer[0] in backends:
            continue
        body = nfgenmsg(socket.AF_INET) + nested(CTA_TUPLE_ORIG, fields[CTA_TUPLE_ORIG])
        if CTA_ID in fields:
            body += attr(CTA_ID, fields[CTA_ID])
        try:
            netfilter.execute(
                Request(
                    kind=NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_DELETE,
                    flags=0,
                    body=body,
                    what=f"delete connection to {address}:{port}",
                )
            )
            deleted += 1
        except NetlinkError as err:
            if err.errno != errno.ENOENT:
                raise
    return deleted


def _tuple(raw: bytes) -> tuple[Backend, Backend] | None:
    """Source and destination of a UDP tuple over IPv4, else None."""
    parts = parse_attrs(raw)
    ip, proto = parse_attrs(parts.get(CTA_TUPLE_IP, b"")), parse_attrs(parts.get(CTA_TUPLE_PROTO, b""))
    if proto.get(CTA_PROTO_NUM, b"\0")[0] != UDP or CTA_IP_V4_SRC not in ip:
        return None
    return (
        Backend(socket.inet_ntoa(ip[CTA_IP_V4_SRC]), _port(proto.get(CTA_PROTO_SRC_PORT))),
        Backend(socket.inet_ntoa(ip[CTA_IP_V4_DST]), _port(proto.get(CTA_PROTO_DST_PORT))),
    )


def _port(raw: bytes | None) -> int:
    return int(struct.unpack(">H", raw)[0]) if raw else 0


def forget_clients(netfilter: Netfilter, ids: Callable[[Frontend], Set[int]]) -> int:
    """Delete the affinity of clients to backends that their frontend no longer has. Returns how many."""
    stale = []
    for message in netfilter.dump(nft.dump_elements(ruleset.TABLE, ruleset.AFFINITY)):
        for key, data in nft.parse_elements(message.body):
            address, protocol, port = struct.unpack(">4x4sBxxxHxx", key)
            frontend = Frontend(socket.inet_ntoa(address), protocol, port)
            if struct.unpack("=I", data)[0] not in ids(frontend):
                stale.append(key)
    if stale:
        try:
            netfilter.transact(ruleset.replace(ruleset.AFFINITY, stale, []))
        except NetlinkError as err:
            if err.errno != errno.ENOENT:  # one has just expired; the rest goes with its own timeout
                raise
    return len(stale)
