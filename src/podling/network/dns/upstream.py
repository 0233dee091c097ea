"""Asking other servers: the node's own, as its /etc/resolv.conf says.

By UDP, and again by TCP what does not fit. A server that cannot be reached (a cluster without egress has no
route out) is an answer at once, SERVFAIL, and not a wait.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections import Counter, defaultdict
from pathlib import Path

from podling.network.dns.counts import Histogram
from podling.network.dns.message import MessageError, Query, encode_query
from podling.network.dns.reply import Reply, parse_reply

TIMEOUT_S = 1.5
ATTEMPTS = 2
PORT = 53
UDP_BYTES = 1232
"""What we take in a datagram: what crosses every link in one piece (DNS Flag Day 2020)."""
IP_RECVERR, IPV6_RECVERR = 11, 25  # <linux/in.h>, <linux/in6.h>
_DNS_BYTES = 65535


class UpstreamError(Exception):
    """No server answered."""


class Upstream:
    def __init__(self, resolv_conf: Path = Path("/etc/resolv.conf"), *, timeout_s: float = TIMEOUT_S) -> None:
        self._resolv_conf = resolv_conf
        self._timeout_s = timeout_s
        self.requests: Counter[str] = Counter()
        """By server."""
        self.durations: defaultdict[tuple[str, int], Histogram] = defaultdict(Histogram)
        """By server and code of its answer."""

    def servers(self) -> list[str]:
        """As the file says now: a laptop changes networks."""
        try:
            lines = self._resolv_conf.read_text().splitlines()
        except OSError:
            return []
        words = [line.split() for line in lines if line.startswith("nameserver")]
        return [w[1] for w in words if len(w) > 1]

    async def ask(self, query: Query) -> Reply:
        """Raises `UpstreamError`."""
        failure: Exception | None = None
        partial: Reply | None = None
        for server in self.servers() * ATTEMPTS:
            self.requests[server] += 1
            started = time.perf_counter()
            try:
                async with asyncio.timeout(self._timeout_s):
                    reply = await _ask_udp(server, query)
                if reply.truncated:
                    partial = reply
                    async with asyncio.timeout(self._timeout_s):
                        reply = await _ask_tcp(server, query)
            except (OSError, EOFError, MessageError) as err:  # TimeoutError is an OSError
                failure = err
                continue
            self.durations[server, reply.code].add(time.perf_counter() - started)
            return reply
        if partial is not None:
            return partial  # the client may try by TCP itself
        raise UpstreamError("no upstream server answers") from failure


async def _ask_udp(server: str, query: Query) -> Reply:
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
        # An identifier nobody can guess, and a port of our own.
        ident = os.urandom(2)
        await loop.sock_sendall(sock, ident + encode_query(query, udp_bytes=UDP_BYTES)[2:])
        while True:
            answer = await loop.sock_recv(sock, _DNS_BYTES)
            if answer[:2] == ident:
                return parse_reply(answer, query)


async def _ask_tcp(server: str, query: Query) -> Reply:
    reader, writer = await asyncio.open_connection(server, PORT)
    try:
        message = os.urandom(2) + encode_query(query, udp_bytes=UDP_BYTES)[2:]
        writer.write(len(message).to_bytes(2, "big") + message)
        size = int.from_bytes(await reader.readexactly(2), "big")
        return parse_reply(await reader.readexactly(size), query)
    finally:
        writer.close()
