"""Asking other servers: the node's own, as its /etc/resolv.conf says.

The question goes on as it came and the answer comes back as it is. A server that cannot be reached (a
cluster without egress has no route out) is an answer at once, SERVFAIL, and not a wait.
"""

from __future__ import annotations

import asyncio
import os
import socket
from pathlib import Path

TIMEOUT_S = 1.5
ATTEMPTS = 2
PORT = 53
IP_RECVERR, IPV6_RECVERR = 11, 25  # <linux/in.h>, <linux/in6.h>
_DNS_BYTES = 65535


class UpstreamError(Exception):
    """No server answered."""


class Upstream:
    def __init__(self, resolv_conf: Path = Path("/etc/resolv.conf")) -> None:
        self._resolv_conf = resolv_conf

    def servers(self) -> list[str]:
        """As the file says now: a laptop changes networks."""
        try:
            lines = self._resolv_conf.read_text().splitlines()
        except OSError:
            return []
        words = [line.split() for line in lines if line.startswith("nameserver")]
        return [w[1] for w in words if len(w) > 1]

    async def ask(self, query: bytes, *, tcp: bool) -> bytes:
        """The answer to a whole message. Raises `UpstreamError`."""
        failure: Exception | None = None
        for server in self.servers() * ATTEMPTS:
            try:
                async with asyncio.timeout(TIMEOUT_S):
                    return await (_ask_tcp if tcp else _ask_udp)(server, query)
            except (OSError, EOFError) as err:  # TimeoutError is an OSError
                failure = err
        raise UpstreamError("no upstream server answers") from failure


async def _ask_udp(server: str, query: bytes) -> bytes:
    loop = asyncio.get_running_loop()
    ipv6 = ":" in server
    family = socket.AF_INET6 if ipv6 else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        # Without it, "network unreachable" from a router on the way is no error but a silence.
        if ipv6:
            sock.setsockopt(socket.IPPROTO_IPV6, IPV6_RECVERR, 1)
        else:
            sock.setsockopt(socket.SOL_IP, IP_RECVERR, 1)
        sock.connect((server, PORT))
        # An identifier and a port of our own: two clients may ask with the same one.
        ident = os.urandom(2)
        await loop.sock_sendall(sock, ident + query[2:])
        while True:
            answer = await loop.sock_recv(sock, _DNS_BYTES)
            if answer[:2] == ident:
                return query[:2] + answer[2:]


async def _ask_tcp(server: str, query: bytes) -> bytes:
    reader, writer = await asyncio.open_connection(server, PORT)
    try:
        writer.write(len(query).to_bytes(2, "big") + query)
        size = int.from_bytes(await reader.readexactly(2), "big")
        return await reader.readexactly(size)
    finally:
        writer.close()
