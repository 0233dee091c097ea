"""Telling when the kernel may have lost routes of ours.

The kernel announces deletions and replacements of routes, but is silent about those that vanish with a link
going down or with an address; so links our routes use, and addresses, are watched as well. Every pod that
starts makes a handful of link events: they are told apart by the message header alone.
"""

from __future__ import annotations

import asyncio
import struct
from typing import ClassVar

from podling.linux.netlink.addresses import RTM_DELADDR, RTM_NEWADDR
from podling.linux.netlink.links import IFF_UP, RTM_DELLINK, RTM_NEWLINK
from podling.linux.netlink.routes import RTM_DELROUTE, RTM_NEWROUTE
from podling.linux.netlink.socket import NetlinkSocket
from podling.linux.netlink.wire import NLM_F_REPLACE, Message
from podling.network.event_reader import EventReader

# <linux/rtnetlink.h>
RTNLGRP_LINK, RTNLGRP_IPV4_IFADDR, RTNLGRP_IPV4_ROUTE = 1, 5, 7
RTNLGRP_IPV6_IFADDR, RTNLGRP_IPV6_ROUTE = 9, 11

_IFINFO = struct.Struct("=BxHiII")  # family, type, index, flags, change mask
_PROTOCOL_OFFSET = 5  # of rtm_protocol in struct rtmsg


class RouteWatch(EventReader[NetlinkSocket]):
    """Sets `changed` when routes of `protocol` may be missing."""

    groups: ClassVar[tuple[int, ...]] = (
        RTNLGRP_LINK,
        RTNLGRP_IPV4_IFADDR,
        RTNLGRP_IPV4_ROUTE,
        RTNLGRP_IPV6_IFADDR,
        RTNLGRP_IPV6_ROUTE,
    )

    def __init__(self, protocol: int, changed: asyncio.Event) -> None:
        self._protocol = protocol
        self._changed = changed
        self.links: frozenset[int] | None = None  # ifindexes our routes use; None: any link matters

    def _open(self) -> NetlinkSocket:
        return NetlinkSocket(groups=self.groups)

    def _lost(self) -> None:
        self._changed.set()

    def _take_next(self) -> None:
        if any(map(self._matters, self._socket.receive())):
            self._changed.set()

    def _matters(self, message: Message) -> bool:
        if message.kind == RTM_DELROUTE:
            return message.body[_PROTOCOL_OFFSET] == self._protocol
        if message.kind == RTM_NEWROUTE:
            # One of somebody else's in the place of one that may have been ours.
            replaced = message.flags & NLM_F_REPLACE
            return bool(replaced) and message.body[_PROTOCOL_OFFSET] != self._protocol
        if message.kind in (RTM_NEWLINK, RTM_DELLINK):
            _, _, index, _, change = _IFINFO.unpack_from(message.body)
            concerned = self.links is None or index in self.links
            return concerned and bool(change & IFF_UP or message.kind == RTM_DELLINK)
        return message.kind in (RTM_NEWADDR, RTM_DELADDR)
