"""Telling when somebody may have changed what flannel keeps in the kernel: links, addresses, routes, entries
of its device. Its nftables tables are `NftWatch`'s.
"""

from __future__ import annotations

import asyncio
import struct

from podling.linux.netlink.links import RTM_DELLINK, RTM_NEWLINK
from podling.linux.netlink.neighbours import RTM_DELNEIGH, RTM_NEWNEIGH
from podling.linux.netlink.wire import Message
from podling.network.route_table import RTPROT_PODLING
from podling.network.route_watch import RouteWatch

RTNLGRP_NEIGH = 3  # <linux/rtnetlink.h>

_INDEX = struct.Struct("=xxxxi")  # of struct ifinfomsg and struct ndmsg alike


class KernelWatch(RouteWatch):
    """Sets `changed`. `devices` are the ifindexes of our own links, of which all matters, entries included;
    `external` is that of the external interface, of which all but entries does."""

    groups = (*RouteWatch.groups, RTNLGRP_NEIGH)

    def __init__(self, changed: asyncio.Event) -> None:
        super().__init__(RTPROT_PODLING, changed)
        self.devices: frozenset[int] = frozenset()
        self.external = 0

    def _matters(self, message: Message) -> bool:
        if message.kind in (RTM_NEWNEIGH, RTM_DELNEIGH):
            return _INDEX.unpack_from(message.body)[0] in self.devices
        if message.kind in (RTM_NEWLINK, RTM_DELLINK):
            index = _INDEX.unpack_from(message.body)[0]
            if index in self.devices or index == self.external:
                return True  # its MTU, address or name count as well as whether it is up
        return super()._matters(message)
