"""Telling when somebody else has touched nftables tables of ours.

The kernel announces each committed change with who asked for it; our own are told apart by that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from podling.linux.netlink.netfilter import NFNLGRP_NFTABLES, Netfilter
from podling.linux.netlink.nftables import NFT_MSG_NEWGEN, event_table
from podling.linux.netlink.wire import parse_messages
from podling.network.event_reader import EventReader


class NftWatch(EventReader[Netfilter]):
    """Calls `changed` with what happened to one of `tables`, once for each transaction."""

    def __init__(
        self, tables: Iterable[str], changed: Callable[[str], None], *, own: Netfilter | None = None
    ) -> None:
        """`own` is the socket our changes are made with; without one they are told of too."""
        self._tables = [table.encode() for table in tables]
        self._own_port = own.port if own is not None else 0
        self._changed = changed

    def _open(self) -> Netfilter:
        return Netfilter(groups=(NFNLGRP_NFTABLES,))

    def _lost(self) -> None:
        self._changed("lost track of changes to nftables")

    def _take_next(self) -> None:
        data = self._socket.receive_foreign(self._own_port)
        # Services make thousands of these: a search is all that most of them cost.
        if not any(table in data for table in self._tables):
            return
        for message in parse_messages(data):
            if message.kind & 0xFF != NFT_MSG_NEWGEN and event_table(message.body) in self._tables:
                self._changed("somebody changed our nftables")
                return
