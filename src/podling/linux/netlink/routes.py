"""Routes: RTM_*ROUTE (`<linux/rtnetlink.h>`, `man 8 ip-route`)."""

from __future__ import annotations

import ipaddress
import struct

from podling.linux.netlink.wire import (
    NLM_F_APPEND,
    NLM_F_CREATE,
    NLM_F_EXCL,
    NLM_F_REPLACE,
    Message,
    Request,
    attr,
    attr_u32,
    nested,
    parse_attrs,
)
from podling.linux.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
    IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network

RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE = 24, 25, 26
AF_INET, AF_INET6 = 2, 10
RTA_DST, RTA_OIF, RTA_GATEWAY, RTA_PRIORITY, RTA_PREFSRC, RTA_METRICS, RTA_TABLE = 1, 4, 5, 6, 7, 8, 15
RTAX_MTU, RTAX_ADVMSS = 2, 8
RTN_UNSPEC, RTN_UNICAST, RTN_LOCAL, RTN_BROADCAST = 0, 1, 2, 3
RTN_BLACKHOLE, RTN_UNREACHABLE, RTN_PROHIBIT = 6, 7, 8
RT_SCOPE_UNIVERSE, RT_SCOPE_LINK, RT_SCOPE_NOWHERE = 0, 253, 255
RT_TABLE_MAIN, RT_TABLE_LOCAL = 254, 255
RTPROT_UNSPEC, RTPROT_KERNEL, RTPROT_BOOT, RTPROT_STATIC = 0, 2, 3, 4
RTNH_F_ONLINK = 4
RTM_F_CLONED = 0x200  # a cached exception, not a configured route

_RTMSG = struct.Struct(
    "=BBBBBBBBI"
)  # rtmsg: family, dst len, src len, tos, table, protocol, scope, type, flags


@record
class Route:
    """One route. What is zero or None is not said to the kernel, which then chooses."""

    dst: IPNetwork  # 0.0.0.0/0 and ::/0 are the defaults
    gateway: IPAddress | None = None
    oif: int = 0  # ifindex of the outgoing link
    kind: int = RTN_UNICAST
    scope: int | None = None  # None: universe with a gateway or for IPv6, else link
    table: int = RT_TABLE_MAIN
    protocol: int = RTPROT_UNSPEC  # who made it; unspecified: static when added, anyone's when deleted
    priority: int = 0  # metric; 0 is the kernel's default (IPv6: 1024)
    prefsrc: IPAddress | None = None
    onlink: bool = False  # take the gateway for a neighbour though no route says so
    mtu: int = 0  # bytes
    advmss: int = 0  # bytes
    flags: int = 0  # RTNH_F_ bits, as read (dead, linkdown, ...)

    def __str__(self) -> str:
        kinds = {RTN_BLACKHOLE: "blackhole ", RTN_UNREACHABLE: "unreachable ", RTN_PROHIBIT: "prohibit "}
        via = f" via {self.gateway}" if self.gateway else ""
        return f"{kinds.get(self.kind, '')}{self.dst}{via}" + (f" dev #{self.oif}" if self.oif else "")


def _body(route: Route, protocol: int) -> bytes:
    scope = route.scope
    if scope is None:
        direct = route.kind == RTN_UNICAST and route.gateway is None and route.dst.version == 4
        scope = RT_SCOPE_LINK if direct else RT_SCOPE_UNIVERSE
    body = _RTMSG.pack(
        AF_INET if route.dst.version == 4 else AF_INET6,
        route.dst.prefixlen,
        0,
        0,
        route.table if route.table < 256 else 0,
        protocol,
        scope,
        route.kind,
        RTNH_F_ONLINK if route.onlink else 0,
    )
    if route.dst.prefixlen:
        body += attr(RTA_DST, route.dst.network_address.packed)
    if route.gateway is not None:
        body += attr(RTA_GATEWAY, route.gateway.packed)
    if route.prefsrc is not None:
        body += attr(RTA_PREFSRC, route.prefsrc.packed)
    for kind, value in ((RTA_OIF, route.oif), (RTA_PRIORITY, route.priority)):
        if value:
            body += attr_u32(kind, value)
    if route.table >= 256:
        body += attr_u32(RTA_TABLE, route.table)
    metrics = [attr_u32(k, v) for k, v in ((RTAX_MTU, route.mtu), (RTAX_ADVMSS, route.advmss)) if v]
    return body + (nested(RTA_METRICS, *metrics) if metrics else b"")


def add_route(route: Route, *, append: bool = False) -> Request:
    """EEXIST when a route to that destination with that priority exists. `append` keeps it and adds ours."""
    flags = NLM_F_CREATE | (NLM_F_APPEND if append else NLM_F_EXCL)
    return Request(
        kind=RTM_NEWROUTE,
        flags=flags,
        body=_body(route, route.protocol or RTPROT_STATIC),
        what=f"add route {route}",
    )


def replace_route(route: Route) -> Request:
    """Add the route, or put it in the place of one with the same destination, priority and table."""
    return Request(
        kind=RTM_NEWROUTE,
        flags=NLM_F_CREATE | NLM_F_REPLACE,
        body=_body(route, route.protocol or RTPROT_STATIC),
        what=f"replace route {route}",
    )


def delete_route(route: Route) -> Request:
    """ESRCH when there is none. Fields that are zero or None match anything; so does the default scope."""
    body = _body(route, route.protocol)
    if route.scope is None:
        body = body[:6] + bytes([RT_SCOPE_NOWHERE]) + body[7:]
    return Request(kind=RTM_DELROUTE, flags=0, body=body, what=f"delete route {route}")


def dump_routes(
    *, family: int = 0, table: int | None = RT_TABLE_MAIN, protocol: int = 0, oif: int = 0
) -> Request:
    """The kernel filters by what is given; `table=None` means every table."""
    body = _RTMSG.pack(family, 0, 0, 0, 0, protocol, 0, 0, 0)
    if table is not None:
        body += attr_u32(RTA_TABLE, table)
    if oif:
        body += attr_u32(RTA_OIF, oif)
    return Request(kind=RTM_GETROUTE, flags=0, body=body, what="list routes")


def parse_route(message: Message) -> Route | None:
    """None for families other than IP and for cached clones."""
    family, dst_len, _, _, table, protocol, scope, kind, flags = _RTMSG.unpack_from(message.body)
    if family not in (AF_INET, AF_INET6) or flags & RTM_F_CLONED:
        return None
    attrs = parse_attrs(message.body, _RTMSG.size)
    any_address = bytes(4 if family == AF_INET else 16)
    gateway, prefsrc = attrs.get(RTA_GATEWAY), attrs.get(RTA_PREFSRC)
    metrics = parse_attrs(attrs.get(RTA_METRICS, b""))
    return Route(
        dst=ipaddress.ip_network((attrs.get(RTA_DST, any_address), dst_len)),
        gateway=ipaddress.ip_address(gateway) if gateway else None,
        oif=_u32(attrs.get(RTA_OIF)),
        kind=kind,
        scope=scope,
        table=_u32(attrs.get(RTA_TABLE)) or table,
        protocol=protocol,
        priority=_u32(attrs.get(RTA_PRIORITY)),
        prefsrc=ipaddress.ip_address(prefsrc) if prefsrc else None,
        onlink=bool(flags & RTNH_F_ONLINK),
        mtu=_u32(metrics.get(RTAX_MTU)),
        advmss=_u32(metrics.get(RTAX_ADVMSS)),
        flags=flags,
    )


def _u32(raw: bytes | None) -> int:
    return int(struct.unpack("=I", raw)[0]) if raw else 0
