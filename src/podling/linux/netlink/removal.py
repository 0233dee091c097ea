"""Deleting links without waiting for the kernel to free their memory.

A link is out of its namespace, and its name and addresses free, within a millisecond. The kernel then makes
whoever asked for the deletion wait for an RCU barrier, 10 to 40 ms without any lock held, because the memory
may still be read elsewhere. Nobody else has to wait for that: a thread of its own sends the request and stays
in there, while the echo of the request (NLM_F_ECHO), which the kernel sends before the barrier, says that the
link is gone. The contract is that of a plain deletion.

Kernels before 6.2 do not echo deletions. There the acknowledgement comes, at the end, and is waited for.
"""

from __future__ import annotations

import _socket
import _thread
import errno
import struct

from podling.linux.netlink import links
from podling.linux.netlink.wire import NLM_F_ACK, NLM_F_ECHO, NLMSG_ERROR, NetlinkError, error_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from podling.linux.netlink.socket import NetlinkSocket

# The other end of a veth pair is echoed too, in its own namespace, to whichever socket there has the number
# of ours: it must not take that for an answer of its own, and sockets count their requests from 1.
SEQUENCE = 0x70646C67
LOOK_S = 1  # how often to look whether the sending thread has failed; it never does


def remove_link(nl: NetlinkSocket, index: int) -> None:
    """Delete the link; one that is gone already is fine. `nl` can only be closed afterwards."""
    request = links.delete_link(index)
    failures: list[OSError] = []

    def send() -> None:
        try:
            nl.send(request, flags=NLM_F_ACK | NLM_F_ECHO, sequence=SEQUENCE)
        except OSError as err:  # of the socket; what the kernel refuses it says in its answer
            failures.append(err)

    nl.setsockopt(_socket.SOL_SOCKET, _socket.SO_RCVTIMEO, struct.pack("@ll", LOOK_S, 0))
    _thread.start_new_thread(send, ())
    while True:
        try:
            replies = nl.receive()
        except BlockingIOError:
            if failures:
                raise failures[0] from None
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
