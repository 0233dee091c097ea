"""nfnetlink: transactions on nf_tables and questions to it (`<linux/netfilter/nfnetlink.h>`).

`podling.linux.nft` runs rulesets written as text; that costs a parse, and a dump of what there is, each time.
This is for rulesets with thousands of elements that change all the time: a transaction costs what it changes.
`nftables` builds the requests.
"""

from __future__ import annotations

import _socket
import struct

from podling.linux.netlink.socket import NetlinkSocket
from podling.linux.netlink.wire import (
    NLM_F_ACK,
    NLMSG_ERROR,
    NetlinkError,
    Request,
    error_of,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from podling.linux.netns import NetNS

NETLINK_NETFILTER = 12
NFNL_SUBSYS_CTNETLINK, NFNL_SUBSYS_NFTABLES = 1, 10
NFNLGRP_NFTABLES = 7
NFNL_MSG_BATCH_BEGIN, NFNL_MSG_BATCH_END = 0x10, 0x11
SO_SNDBUFFORCE, SO_RCVBUFFORCE = 32, 33

_PORT = struct.Struct("=12xI")  # nlmsg_pid: who asked for the change an event tells of
_SMALL_BATCH_BYTES = 100_000  # fits the default send buffer


def nfgenmsg(family: int, resource: int = 0) -> bytes:
    return struct.pack(">BBH", family, 0, resource)


class Netfilter(NetlinkSocket):
    """A NETLINK_NETFILTER socket; a context manager."""

    def __init__(self, netns: NetNS | None = None, *, groups: Sequence[int] = ()) -> None:
        super().__init__(netns, groups=groups, protocol=NETLINK_NETFILTER)
        if groups:
            # One change of a big ruleset is announced in thousands of messages.
            self._socket.setsockopt(_socket.SOL_SOCKET, SO_RCVBUFFORCE, 4 << 20)

    @property
    def port(self) -> int:
        """What events caused by this socket carry as their origin."""
        return int(self._socket.getsockname()[0])

    def transact(self, requests: Sequence[Request]) -> None:
        """All of the requests or none. Raises `NetlinkError` for the first one refused."""
        if not requests:
            return
        first = self._sequence + 1  # of BEGIN: a failed commit is reported for it
        self._sequence += len(requests) + 2
        last = self._sequence - 1
        begin = Request(
            kind=NFNL_MSG_BATCH_BEGIN, flags=0, body=nfgenmsg(0, NFNL_SUBSYS_NFTABLES), what="commit"
        )
        end = Request(kind=NFNL_MSG_BATCH_END, flags=0, body=nfgenmsg(0, NFNL_SUBSYS_NFTABLES), what="")
        packed = [begin.pack(first)]
        packed += [request.pack(first + place) for place, request in enumerate(requests[:-1], 1)]
        final = requests[-1]
        packed.append(
            Request(kind=final.kind, flags=final.flags | NLM_F_ACK, body=final.body, what=final.what).pack(
                last
            )
        )
        packed.append(end.pack(last + 1))
        data = b"".join(packed)
        if len(data) > _SMALL_BATCH_BYTES:
            self._socket.setsockopt(_socket.SOL_SOCKET, SO_SNDBUFFORCE, 2 * len(data))
        self._socket.send(data)
        self._expect(first, [begin, *requests])

    def _expect(self, first: int, sent: Sequence[Request]) -> None:
        failure: NetlinkError | None = None
        while True:
            for reply in self.receive():
                place = reply.sequence - first
                if reply.kind == NLMSG_ERROR and 0 <= place < len(sent):
                    failure = failure or error_of(reply, sent[place].what)
                    if place == len(sent) - 1 or (place == 0 and failure):
                        if failure:
                            raise failure
                        return

    def receive_foreign(self, own_port: int) -> bytes:
        """The next datagram of events, empty when `own_port` caused it. `OSError` ENOBUFS after a loss."""
        data = self._socket.recv(1 << 20)
        if len(data) >= 16 and _PORT.unpack_from(data)[0] == own_port:
            return b""  # the messages of one commit have one origin
        return data
