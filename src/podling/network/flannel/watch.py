"""Telling when somebody may have changed what flannel keeps in the kernel: links, addresses, routes, entries
of its device, and its nftables tables.
"""

from __future__ import annotations

import asyncio
import errno
import struct
from collections.abc import Callable
from types import TracebackType
from typing import Self

from podling.linux.netlink.links import RTM_DELLINK, RTM_NEWLINK
from podling.linux.netlink.neighbours import RTM_DELNEIGH, RTM_NEWNEIGH
from podling.linux.netlink.netfilter import NFNLGRP_NFTABLES, Netfilter
from podling.linux.netlink.wire import Message
from podling.network.flannel.masquerade import TABLES
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


class TableWatch:
    """Calls back when somebody touched one of our nftables tables. A context manager, on an event loop."""

    def __init__(self, touched: Callable[[], None]) -> None:
        self._touched = touched
        self._names = [table.encode() + b"\0" for table in TABLES.values()]

    def __enter__(self) -> Self:
        self._socket = Netfilter(groups=(NFNLGRP_NFTABLES,))
        self._socket.set_blocking(False)
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._socket.fileno(), self._read)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, err: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.remove_reader(self._socket.fileno())
        self._socket.close()

    def _read(self) -> None:
        while True:
            try:
                data = self._socket.receive_foreign(0)
            except BlockingIOError:
                return
            except OSError as err:
                if err.errno != errno.ENOBUFS:
                    raise
                self._touched()  # we fell behind: anything may have happened
                continue
            # Services make thousands of these: a search is all they cost here.
            if any(name in data for name in self._names):
                self._touched()
