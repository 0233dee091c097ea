"""The netlink socket: requests with acknowledgement, batches, dumps that notice interruption.

A socket belongs to the network namespace of the thread that opened it and keeps belonging to it wherever it
is used later. Opening one for another namespace is therefore a matter of a short-lived thread, after which
any thread may use it, one at a time.
"""

from __future__ import annotations

import _socket  # the `socket` module costs a CNI plugin 6 ms to import and adds nothing here

from podling.linux.netlink.wire import (
    NLM_F_ACK,
    NLM_F_DUMP,
    NLM_F_DUMP_INTR,
    NLMSG_DONE,
    NLMSG_ERROR,
    Message,
    NetlinkError,
    Request,
    error_of,
    parse_messages,
)
from podling.linux.netns import run_in_netns

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType
    from typing import Self

    from podling.linux.netns import NetNS

AF_NETLINK, NETLINK_ROUTE = 16, 0
SOL_NETLINK = 270
NETLINK_ADD_MEMBERSHIP, NETLINK_CAP_ACK, NETLINK_EXT_ACK, NETLINK_GET_STRICT_CHK = 1, 10, 11, 12

RECEIVE_BYTES = 65536  # the kernel fills at most 32 KiB of a dump at a time
BATCH = 64  # requests sent at once; their refusals wait in a receive buffer with room for some 250
DUMP_ATTEMPTS = 20  # a table that changes this often in a row is not going to hold still


class NetlinkSocket:
    """One NETLINK_ROUTE socket. Blocking; rtnetlink answers within the send, so it never waits long."""

    def __init__(
        self, netns: NetNS | None = None, *, groups: Sequence[int] = (), protocol: int = NETLINK_ROUTE
    ) -> None:
        """Open in the calling thread's namespace or in `netns` (path or descriptor).

        `groups` are RTNLGRP_ numbers to subscribe to; such a socket is for `receive` only. Another `protocol`
        of netlink is talked to in the same way.
        """
        self._socket = _open(protocol) if netns is None else run_in_netns(netns, _open, protocol)
        self._sequence = 0
        for group in groups:
            self._socket.setsockopt(SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, group)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, err: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()

    def fileno(self) -> int:
        return self._socket.fileno()

    def set_blocking(self, blocking: bool) -> None:
        self._socket.setblocking(blocking)

    def setsockopt(self, level: int, option: int, value: bytes) -> None:
        self._socket.setsockopt(level, option, value)

    def send(self, request: Request, *, flags: int, sequence: int) -> None:
        """Only send it; what the kernel answers is for `receive`."""
        self._socket.send(_flagged(request, flags).pack(sequence))

    def execute(self, *requests: Request) -> None:
        """Send all requests, many in one system call, and wait for every acknowledgement.

        The kernel goes on after a refused request; the first refusal is raised, as `NetlinkError`.
        """
        failure: NetlinkError | None = None
        for start in range(0, len(requests), BATCH):
            refusal = self._execute_batch(requests[start : start + BATCH])
            failure = failure or refusal
        if failure:
            raise failure

    def _execute_batch(self, requests: Sequence[Request]) -> NetlinkError | None:
        # Requests are carried out in order, and refusals answered always; so the last one's answer is enough.
        *before, last = requests
        first = self._sequence + 1
        self._sequence += len(requests)
        packed = [request.pack(first + place) for place, request in enumerate(before)]
        packed.append(_flagged(last, NLM_F_ACK).pack(self._sequence))
        self._socket.send(b"".join(packed))
        failure: NetlinkError | None = None
        while True:
            for reply in self.receive():
                place = reply.sequence - first
                if reply.kind == NLMSG_ERROR and 0 <= place < len(requests):
                    failure = failure or error_of(reply, requests[place].what)
                    if reply.sequence == self._sequence:
                        return failure

    def get(self, request: Request) -> Message:
        """The one message that answers a get request."""
        self._sequence += 1
        self._socket.send(request.pack(self._sequence))
        while True:
            for reply in self.receive():
                if reply.sequence != self._sequence:
                    continue
                if reply.kind == NLMSG_ERROR:
                    raise error_of(reply, request.what) or NetlinkError(0, f"{request.what}: empty reply")
                return reply

    def dump(self, request: Request) -> list[Message]:
        """All messages of a dump; repeated when the kernel says the table changed under it."""
        for _ in range(DUMP_ATTEMPTS):
            messages = self._dump_once(request)
            if messages is not None:
                return messages
        raise NetlinkError(
            4, f"{request.what}: still interrupted by changes after {DUMP_ATTEMPTS} attempts [EINTR]"
        )

    def _dump_once(self, request: Request) -> list[Message] | None:
        self._sequence += 1
        self._socket.send(_flagged(request, NLM_F_DUMP).pack(self._sequence))
        messages: list[Message] = []
        interrupted = False
        while True:
            for reply in self.receive():
                if reply.sequence != self._sequence:
                    continue
                interrupted |= bool(reply.flags & NLM_F_DUMP_INTR)
                if reply.kind in (NLMSG_DONE, NLMSG_ERROR):
                    failure = error_of(reply, request.what)
                    if failure:
                        raise failure
                    return None if interrupted else messages
                messages.append(reply)

    def receive(self) -> list[Message]:
        """The messages of the next datagram. `OSError` ENOBUFS when a subscriber fell behind and lost any."""
        return parse_messages(self._socket.recv(RECEIVE_BYTES))


def _open(protocol: int) -> _socket.socket:
    sock = _socket.socket(AF_NETLINK, _socket.SOCK_RAW | _socket.SOCK_CLOEXEC, protocol)
    # Extended acknowledgements carry the kernel's own sentence; capped ones do not echo our request.
    for option in (NETLINK_EXT_ACK, NETLINK_CAP_ACK, NETLINK_GET_STRICT_CHK):
        sock.setsockopt(SOL_NETLINK, option, 1)
    sock.bind((0, 0))
    return sock


def _flagged(request: Request, flags: int) -> Request:
    return Request(kind=request.kind, flags=request.flags | flags, body=request.body, what=request.what)
