"""The DNS server of a node: UDP and TCP on the node's address, reached by pods through the service's IP.

Differs from upstream: not pods of a `coredns` Deployment, but part of every agent. The service `kube-dns`
has internalTrafficPolicy Local, and the node's own server as its endpoint there: no query leaves its node,
and DNS works before the first pod runs. Whoever wants CoreDNS gives that service a selector for its pods.

What `Resolver` can answer at once is answered where it is read; a task is made only for what another server
is asked. Metrics are at /metrics on CoreDNS' port of the same address.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack
from ipaddress import IPv4Address, IPv4Network
from typing import Any

from podling.network.dns.counts import METRICS_PORT, Counts, serve_metrics
from podling.network.dns.forward import Forwarder
from podling.network.dns.message import (
    Answer,
    Code,
    MessageError,
    Query,
    encode,
    encode_error,
    parse_query,
)
from podling.network.dns.records import Zone
from podling.network.dns.resolver import Resolver, Response
from podling.network.dns.source import ViewSource
from podling.network.dns.tcp import MAX_BYTES as TCP_BYTES
from podling.network.dns.tcp import TCPServer
from podling.network.dns.upstream import Upstream
from podling.network.services import Key, ServiceView

PORT = 10053
"""On the node's address; port 53 is left to whoever has it."""
DATAGRAMS_KEPT = 4096
QUERY_BYTES = 4096
"""No question is longer."""
BATCH = 64
"""Questions answered before the rest of the agent has its turn."""
RECEIVE_BUFFER_BYTES = 1 << 20
"""A burst of questions while the loop is busy starting pods must not be lost."""
BIND_RETRY_S = 2.0
MAX_FORWARDED = 256
"""Clients that wait for other servers, by UDP or TCP; more are refused, give or take a batch."""

log = logging.getLogger(__name__)


class DNSServer:
    """`run()` until cancelled. `view` is run by its owner."""

    def __init__(
        self,
        view: ServiceView,
        address: IPv4Address,
        *,
        domain: str = "cluster.local",
        networks: Sequence[IPv4Network] = (),
        upstream: Upstream | None = None,
        port: int = PORT,
        metrics_port: int = METRICS_PORT,
    ) -> None:
        self._view = view
        self._source = ViewSource(view)
        self._forwarder = Forwarder(upstream or Upstream())
        self.resolver = Resolver(Zone(self._source, domain, networks), self._forwarder)
        self._address, self._port, self._metrics_port = str(address), port, metrics_port
        self._counts = Counts(f"dns://{address}:{port}")
        self._datagrams: dict[bytes, tuple[bytes, int, int]] = {}
        """Whole answers by whole questions, without identifiers: a pod's program asks the same ever again.
        With the type and the code, for the counts."""
        self._waiting: set[asyncio.Task[None]] = set()
        self._under_way = 0
        self.started = asyncio.Event()

    async def run(self) -> None:
        self._view.add_handler(self._on_change)
        await self._view.wait_synced()
        self._source.rebuild()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._persist(self._serve, self._port), name="DNS: questions")
            tasks.create_task(self._persist(self._serve_metrics, self._metrics_port), name="DNS: metrics")

    async def _persist(self, serve: Callable[[], Awaitable[None]], port: int) -> None:
        while True:
            try:
                await serve()
            except OSError as err:
                # Taken, or the node has no such address yet: no reason for the rest of the agent to end.
                log.warning("dns: %s:%d: %s; trying again", self._address, port, err.strerror or err)
                await asyncio.sleep(BIND_RETRY_S)

    async def _serve_metrics(self) -> None:
        async with AsyncExitStack() as stack:
            await serve_metrics(stack, self._counts, self._forwarder, self._address, self._metrics_port)
            await asyncio.Event().wait()

    async def _serve(self) -> None:
        loop = asyncio.get_running_loop()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
            sock.bind((self._address, self._port))
            tcp = TCPServer(self._stream)
            server = await asyncio.start_server(tcp.serve, self._address, self._port)
            # Not a transport of the loop: it would make an object and a callback of each datagram.
            loop.add_reader(sock.fileno(), self._readable, sock)
            try:
                async with server:
                    self.started.set()
                    await server.serve_forever()
            finally:
                loop.remove_reader(sock.fileno())
                self._forwarder.cancel()
                for task in self._waiting:
                    task.cancel()

    def _on_change(self, key: Key) -> None:
        self.resolver.forget()
        self._datagrams.clear()
        self._source.changed(key)

    def _readable(self, sock: socket.socket) -> None:
        for _ in range(BATCH):
            try:
                data, peer = sock.recvfrom(QUERY_BYTES)
            except BlockingIOError:
                return
            except OSError as err:
                log.debug("dns: %s", err)
                return
            self._datagram(sock, data, peer)

    def _datagram(self, sock: socket.socket, data: bytes, peer: tuple[str, int]) -> None:
        started = time.perf_counter()
        known = self._datagrams.get(data[2:])
        if known is not None:
            message, kind, code = known
            _send(sock, data[:2] + message, peer)
            self._counts.add(kind, code, "kubernetes", time.perf_counter() - started, tcp=False)
            return
        answer = self._answer(data, started, tcp=False)
        if isinstance(answer, bytes):
            _send(sock, answer, peer)
            return
        task = asyncio.ensure_future(_send_later(sock, answer, peer))
        self._waiting.add(task)
        task.add_done_callback(self._waiting.discard)

    def _stream(self, data: bytes) -> bytes | Coroutine[Any, Any, bytes]:
        return self._answer(data, time.perf_counter(), tcp=True)

    def _answer(self, data: bytes, started: float, *, tcp: bool) -> bytes | Coroutine[Any, Any, bytes]:
        try:
            query = parse_query(data)
        except MessageError as err:
            return encode_error(data, err.code)
        limit = TCP_BYTES if tcp else query.udp_bytes
        try:
            response = self.resolver.now(query, limit=limit)
        except ValueError as err:  # a service whose external name is no name
            log.debug("dns: %s", err)
            response = Response(encode(query, Answer(code=Code.SERVFAIL), limit=limit), "kubernetes")
        if response is None:
            if self._under_way < MAX_FORWARDED:
                return self._answer_later(query, limit, started, tcp=tcp)
            self._counts.rejected += 1
            response = Response(encode(query, Answer(code=Code.REFUSED), limit=limit), "forward")
        message = response.message
        if response.fixed and not tcp:
            if len(self._datagrams) >= DATAGRAMS_KEPT:
                self._datagrams.clear()
            self._datagrams[data[2:]] = message[2:], query.type, message[3] & 0xF
        self._count(query, response, started, tcp=tcp)
        return message

    async def _answer_later(self, query: Query, limit: int, started: float, *, tcp: bool) -> bytes:
        self._under_way += 1
        try:
            response = await self.resolver.later(query, limit=limit)
        finally:
            self._under_way -= 1
        self._count(query, response, started, tcp=tcp)
        return response.message

    def _count(self, query: Query, response: Response, started: float, *, tcp: bool) -> None:
        taken = time.perf_counter() - started
        self._counts.add(query.type, response.message[3] & 0xF, response.plugin, taken, tcp=tcp)


async def _send_later(sock: socket.socket, answer: Coroutine[Any, Any, bytes], peer: tuple[str, int]) -> None:
    _send(sock, await answer, peer)


def _send(sock: socket.socket, data: bytes, peer: tuple[str, int]) -> None:
    if not data:
        return
    try:
        sock.sendto(data, peer)
    except OSError as err:  # no room, or no way to the peer: it will ask again
        log.debug("dns: %s: %s", peer[0], err)
