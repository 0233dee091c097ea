"""Telling when somebody else has touched an nftables table of ours.

The kernel announces each committed change with who asked for it; our own are told apart by that.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable
from types import TracebackType
from typing import Self

from podling.linux.netlink.netfilter import NFNLGRP_NFTABLES, Netfilter
from podling.linux.netlink.nftables import NFT_MSG_NEWGEN, event_table
from podling.linux.netlink.wire import parse_messages


class NftWatch:
    """Calls `changed` with what happened to `table`. A context manager, used on an event loop."""

    def __init__(self, table: str, own: Netfilter, changed: Callable[[str], None]) -> None:
        """`own` is the socket our changes are made with."""
        self._table = table.encode()
        self._own_port = own.port
        self._changed = changed

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
                data = self._socket.receive_foreign(self._own_port)
            except BlockingIOError:
                return
            except OSError as err:
                if err.errno != errno.ENOBUFS:
                    raise
                self._changed("lost track of changes to nftables")
                continue
            for message in parse_messages(data):
                if message.kind & 0xFF != NFT_MSG_NEWGEN and event_table(message.body) == self._table:
                    self._changed("somebody changed our nftables")
                    break
