"""Policy routing rules, RTM_*RULE (`<linux/fib_rules.h>`, `man 8 ip-rule`), and looking up one route."""

from __future__ import annotations

import ipaddress
import struct

from podling.linux.netlink.routes import RTM_GETROUTE
from podling.linux.netlink.wire import (
    NLM_F_CREATE,
    NLM_F_EXCL,
    Message,
    Request,
    attr,
    attr_u32,
    parse_attrs,
)
from podling.linux.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
    IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network

RTM_NEWRULE, RTM_DELRULE, RTM_GETRULE = 32, 33, 34
AF_INET, AF_INET6 = 2, 10
FRA_DST, FRA_SRC, FRA_PRIORITY, FRA_TABLE = 1, 2, 6, 15
FR_ACT_TO_TBL = 1
RT_TABLE_UNSPEC = 0
RTA_DST = 1
RTM_F_FIB_MATCH = 0x2000  # answer with the route itself, not with what a packet would cache of it

_RULE = struct.Struct("=BBBBBxxBI")  # fib_rule_hdr: family, dst len, src len, tos, table, action, flags
_RTMSG = struct.Struct("=BBBBBBBBI")


@record
class Rule:
    """Packets from `src` (None: from anywhere) look into `table`."""

    table: int
    src: IPNetwork | None = None
    version: int = 4
    priority: int = 0  # 0: the kernel picks the one before the lowest in use


def _body(rule: Rule) -> bytes:
    family = AF_INET if rule.version == 4 else AF_INET6
    table = rule.table if rule.table < 256 else RT_TABLE_UNSPEC
    body = _RULE.pack(family, 0, rule.src.prefixlen if rule.src else 0, 0, table, FR_ACT_TO_TBL, 0)
    if rule.src is not None:
        body += attr(FRA_SRC, rule.src.network_address.packed)
    if rule.priority:
        body += attr_u32(FRA_PRIORITY, rule.priority)
    return body + attr_u32(FRA_TABLE, rule.table)


def add_rule(rule: Rule) -> Request:
    """EEXIST when the kernel has this very rule."""
    flags = NLM_F_CREATE | NLM_F_EXCL
    return Request(kind=RTM_NEWRULE, flags=flags, body=_body(rule), what=f"add rule {_words(rule)}")


def delete_rule(rule: Rule) -> Request:
    """ENOENT when there is none."""
    return Request(kind=RTM_DELRULE, flags=0, body=_body(rule), what=f"delete rule {_words(rule)}")


def _words(rule: Rule) -> str:
    return f"from {rule.src or 'all'} lookup {rule.table}"


def dump_rules(*, family: int = 0) -> Request:
    return Request(
        kind=RTM_GETRULE, flags=0, body=_RULE.pack(family, 0, 0, 0, 0, 0, 0), what="list routing rules"
    )


def parse_rule(message: Message) -> Rule | None:
    """None for families other than IP (multicast routing has rules too)."""
    family, _, src_len, _, table, _, _ = _RULE.unpack_from(message.body)
    if family not in (AF_INET, AF_INET6):
        return None
    attrs = parse_attrs(message.body, _RULE.size)
    src = attrs.get(FRA_SRC)
    return Rule(
        table=_u32(attrs.get(FRA_TABLE)) or table,
        src=ipaddress.ip_network((src, src_len)) if src else None,
        version=4 if family == AF_INET else 6,
        priority=_u32(attrs.get(FRA_PRIORITY)),
    )


def get_route(address: IPAddress) -> Request:
    """The route a packet to `address` would take; read the answer with `routes.parse_route`."""
    family = AF_INET if address.version == 4 else AF_INET6
    body = _RTMSG.pack(family, address.max_prefixlen, 0, 0, 0, 0, 0, 0, RTM_F_FIB_MATCH)
    body += attr(RTA_DST, address.packed)
    return Request(kind=RTM_GETROUTE, flags=0, body=body, what=f"get route to {address}")


def _u32(raw: bytes | None) -> int:
    return int(struct.unpack("=I", raw)[0]) if raw else 0
