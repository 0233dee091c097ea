"""Deleting links without waiting for the kernel to free their memory.

A link is out of its namespace, and its name and addresses free, within a millisecond. The kernel then makes
whoever asked for the deletion wait for an RCU barrier, 10 to 40 ms without any lock held, because the memory
may still be read elsewhere. Nobody else has to wait for that: a thread of its own sends the request and stays
in there, while the echo of the request (NLM_F_ECHO), which the kernel sends before the barrier, says that the
link is gone. The contract is that of a plain deletion.

A program that ends right afterwards would have to wait for its thread. It calls `leave_it_to_a_child`, and a
child process sends the request, which outlives it by those milliseconds and is reaped by whoever reaps
orphans (as the monitors of containers are). Of its parent's descriptors it keeps none but the socket.

Kernels before 6.2 do not echo deletions. There the acknowledgement comes, at the end, and is waited for.
"""

from __future__ import annotations

import _socket
import _thread
import errno
import os
import struct

from podling.linux.netlink import links
from podling.linux.netlink.wire import NLM_F_ACK, NLM_F_ECHO, NLMSG_ERROR, NetlinkError, error_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from podling.linux.netlink.socket import NetlinkSocket
    from podling.linux.netlink.wire import Request

# The other end of a veth pair is echoed too, in its own namespace, to whichever socket there has the number
# of ours: it must not take that for an answer of its own, and sockets count their requests from 1.
SEQUENCE = 0x70646C67
LOOK_S = 1  # how often to look whether the sender has failed; it never does
HIGHEST_FD = 1 << 16

_by_child = False


def leave_it_to_a_child() -> None:
    """From now on: this process is a program of one thread, about to end."""
    global _by_child
    _by_child = True


def remove_link(nl: NetlinkSocket, index: int) -> None:
    """Delete the link; one that is gone already is fine. `nl` can only be closed afterwards."""
    request = links.delete_link(index)
    nl.setsockopt(_socket.SOL_SOCKET, _socket.SO_RCVTIMEO, struct.pack("@ll", LOOK_S, 0))
    look = (_send_by_child if _by_child else _send_by_thread)(nl, request)
    while True:
        try:
            replies = nl.receive()
        except BlockingIOError:
            look()
            continue
        for reply in replies:
            if reply.sequence != SEQUENCE:
                continue
            if reply.kind == links.RTM_DELLINK and links.index_of(reply) == index:
                return
            if reply.kind == NLMSG_ERROR:
                refusal: NetlinkError | None = error_of(reply, request.what)
                if refusal is not None and refusal.errno != errno.ENODEV:
                    raise refusal
                return


def _send(nl: NetlinkSocket, request: Request) -> None:
    nl.send(request, flags=NLM_F_ACK | NLM_F_ECHO, sequence=SEQUENCE)


def _send_by_thread(nl: NetlinkSocket, request: Request) -> Callable[[], None]:
    """Returns what raises the sender's failure, if it has failed. What the kernel refuses it says itself."""
    failures: list[OSError] = []

    def send() -> None:
        try:
            _send(nl, request)
        except OSError as err:
            failures.append(err)

    def look() -> None:
        if failures:
            raise failures[0]

    _thread.start_new_thread(send, ())
    return look


def _send_by_child(nl: NetlinkSocket, request: Request) -> Callable[[], None]:
    try:
        child = os.fork()
    except OSError:  # as many processes as may be
        return _send_by_thread(nl, request)
    if child == 0:
        try:
            # Whoever waits for the end of our output, or for a lock of ours, does not wait for this.
            os.closerange(0, nl.fileno())
            os.closerange(nl.fileno() + 1, HIGHEST_FD)
            _send(nl, request)
        finally:
            os._exit(0)

    def look() -> None:
        if os.waitpid(child, os.WNOHANG)[0]:
            raise OSError(errno.EIO, f"{request.what}: the process that was to ask for it has ended")

    return look
