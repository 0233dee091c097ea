"""The DNS server of a node: UDP and TCP on the node's address, reached by pods through the service's IP.

Differs from upstream: not pods of a `coredns` Deployment, but part of every agent. The service `kube-dns`
has internalTrafficPolicy Local, and the node's own server as its endpoint there: no query leaves its node,
and DNS works before the first pod runs. Whoever wants CoreDNS gives that service a selector for its pods.

Answers from the cluster's domain are kept until anything changes; then all are forgotten, so that no answer
is older than the watch event that made it false.
"""

from __future__ import annotations

import asyncio
import logging
import random
import socket
import struct
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from typing import cast

from podling.api.core_v1 import Service
from podling.network.dns.message import (
    MAX_UDP_BYTES,
    Answer,
    Code,
    MessageError,
    Query,
    encode,
    encode_error,
    parse_query,
    response_code,
)
from podling.network.dns.records import Zone
from podling.network.dns.upstream import Upstream, UpstreamError
from podling.network.services import Endpoint, Key, ServiceView

PORT = 10053
"""On the node's address; port 53 is left to whoever has it."""
CACHE_SIZE = 4096
TCP_IDLE_S = 10.0
TCP_BYTES = 65535
BIND_RETRY_S = 2.0
SHORT_NAME_WAIT_S = 0.5
"""How long a name that could be a service's is waited for upstream: clients give up after a few seconds."""
MAX_FORWARDED = 256
"""Questions under way upstream; more are refused."""

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
    ) -> None:
        self._view = view
        self._source = ViewSource(view)
        self._zone = Zone(self._source, domain, networks)
        self._address = str(address)
        self._port = port
        self._upstream = upstream or Upstream()
        self._cache: dict[tuple[str, int], Answer] = {}
        self._datagrams: dict[bytes, bytes] = {}
        """Whole answers by whole questions, without identifiers: a pod's program asks the same ever again."""
        self._forwarding: set[asyncio.Task[None]] = set()
        self.started = asyncio.Event()

    async def run(self) -> None:
        self._view.add_handler(self._on_change)
        await self._view.wait_synced()
        self._source.rebuild()
        while True:
            try:
                await self._serve()
            except OSError as err:
                # Taken, or the node has no such address yet: no reason for the rest of the agent to end.
                log.warning("dns: %s:%d: %s; trying again", self._address, self._port, err.strerror or err)
                await asyncio.sleep(BIND_RETRY_S)

    async def _serve(self) -> None:
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_datagram_endpoint(
            lambda: _Datagrams(self), local_addr=(self._address, self._port)
        )
        try:
            server = await asyncio.start_server(self._serve_tcp, self._address, self._port)
            async with server:
                self.started.set()
                await server.serve_forever()
        finally:
            transport.close()
            for task in self._forwarding:
                task.cancel()

    def _on_change(self, key: Key) -> None:
        self._cache.clear()
        self._datagrams.clear()
        self._source.changed(key)

    def answer(self, query: Query) -> Answer | None:
        """From the cluster's domain; None when the name is not its."""
        slot = (query.name, query.type)
        found = self._cache.get(slot)
        if found is None:
            found = self._zone.answer(query)
            if found is None:
                return None
            if len(self._cache) >= CACHE_SIZE:
                self._cache.clear()
            self._cache[slot] = found
        if len(found.answers) > 1:
            # Clients take the first address.
            return replace(found, answers=random.sample(found.answers, len(found.answers)))
        return found

    def datagram(self, transport: asyncio.DatagramTransport, data: bytes, peer: tuple[str, int]) -> None:
        known = self._datagrams.get(data[2:])
        if known is not None:
            _send(transport, data[:2] + known, peer)
            return
        try:
            query = parse_query(data)
            answer = self.answer(query)
        except MessageError as err:
            _send(transport, encode_error(data, err.code), peer)
            return
        except ValueError as err:  # a service whose external name is no name
            log.debug("dns: %s", err)
            _send(transport, encode_error(data, Code.SERVFAIL), peer)
            return
        if answer is not None:
            response = encode(query, answer, limit=query.udp_bytes)
            if len(answer.answers) < 2:  # those with more change their order
                if len(self._datagrams) >= CACHE_SIZE:
                    self._datagrams.clear()
                self._datagrams[data[2:]] = response[2:]
            _send(transport, response, peer)
        elif len(self._forwarding) >= MAX_FORWARDED:
            _send(transport, encode(query, Answer(code=Code.REFUSED), limit=MAX_UDP_BYTES), peer)
        else:
            task = asyncio.ensure_future(self._forward_datagram(transport, data, query, peer))
            self._forwarding.add(task)
            task.add_done_callback(self._forwarding.discard)

    async def _forward_datagram(
        self, transport: asyncio.DatagramTransport, data: bytes, query: Query, peer: tuple[str, int]
    ) -> None:
        _send(transport, await self._forward(data, query, tcp=False), peer)

    async def _forward(self, data: bytes, query: Query, *, tcp: bool) -> bytes:
        answer = b""
        short = self._zone.short_answer(query)
        with suppress(UpstreamError, TimeoutError):
            async with asyncio.timeout(SHORT_NAME_WAIT_S if short else None):
                answer = await self._upstream.ask(data, tcp=tcp)
        if short is not None and response_code(answer) in (Code.NXDOMAIN, Code.SERVFAIL):
            return encode(query, short, limit=TCP_BYTES if tcp else query.udp_bytes)
        return answer or encode(query, Answer(code=Code.SERVFAIL), limit=TCP_BYTES)

    async def _serve_tcp(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with suppress(OSError, EOFError):
                while True:
                    async with asyncio.timeout(TCP_IDLE_S):
                        (size,) = struct.unpack(">H", await reader.readexactly(2))
                        data = await reader.readexactly(size)
                    answer = await self._answer_tcp(data)
                    if not answer:
                        return
                    writer.write(len(answer).to_bytes(2, "big") + answer)
                    await writer.drain()
        finally:
            writer.close()

    async def _answer_tcp(self, data: bytes) -> bytes:
        try:
            query = parse_query(data)
            answer = self.answer(query)
        except MessageError as err:
            return encode_error(data, err.code)
        except ValueError:
            return encode_error(data, Code.SERVFAIL)
        if answer is None:
            return await self._forward(data, query, tcp=True)
        return encode(query, answer, limit=TCP_BYTES)


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, server: DNSServer) -> None:
        self._server = server

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.DatagramTransport", transport)  # uvloop's is of a class of its own
        # A burst of questions while the loop is busy starting pods must not be lost.
        sock = transport.get_extra_info("socket")
        if sock is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self._server.datagram(self._transport, data, addr)

    def error_received(self, exc: Exception) -> None:
        log.debug("dns: %s", exc)


def _send(transport: asyncio.DatagramTransport, data: bytes, peer: tuple[str, int]) -> None:
    if data and not transport.is_closing():
        transport.sendto(data, peer)


class ViewSource:
    """A `ServiceView` with an index by address, for reverse names."""

    def __init__(self, view: ServiceView) -> None:
        self._view = view
        self._at: dict[str, dict[Key, None]] = {}
        self._of: dict[Key, frozenset[str]] = {}

    def service(self, key: Key) -> Service | None:
        return self._view.service(key)

    def endpoints(self, key: Key) -> Sequence[Endpoint]:
        return self._view.endpoints(key)

    def service_keys(self) -> Iterable[Key]:
        return self._view.service_keys()

    def services_at(self, address: str) -> Iterable[Key]:
        return list(self._at.get(address, ()))

    def rebuild(self) -> None:
        for key in self._view.service_keys():
            self.changed(key)

    def changed(self, key: Key) -> None:
        old, new = self._of.get(key, frozenset()), self._addresses(key)
        for address in old - new:
            self._at[address].pop(key)
            if not self._at[address]:
                del self._at[address]
        for address in new - old:
            self._at.setdefault(address, {})[key] = None
        if new:
            self._of[key] = new
        else:
            self._of.pop(key, None)

    def _addresses(self, key: Key) -> frozenset[str]:
        service = self._view.service(key)
        if service is None or service.spec is None or not service.spec.cluster_ip:
            return frozenset()
        if service.spec.cluster_ip != "None":
            return frozenset([service.spec.cluster_ip])
        return frozenset(endpoint.address for endpoint in self._view.endpoints(key))
