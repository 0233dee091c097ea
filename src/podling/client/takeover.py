"""Take a connection over from aiohttp's HTTP server after `101 Switching Protocols`.

aiohttp knows WebSocket; SPDY, and bytes passed on unread, need the transport itself. `take_over` gives it
to a protocol of ours, `Upgraded` is what the handler then returns: aiohttp sends nothing more and, once the
transport is closed, forgets the connection. Works with asyncio's and uvloop's transports, with and without
TLS.

The handler must stay until the connection is closed: aiohttp closes the transport when it returns.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Protocol, cast

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter


class Upgraded(web.StreamResponse):
    """The answer of a handler that took its connection over: everything was said."""

    def __init__(self) -> None:
        super().__init__(status=101)
        self.force_close()

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        return None


def is_upgrade(request: web.BaseRequest) -> bool:
    """Whether the client asks to leave HTTP (RFC 9110, section 7.8 "Upgrade")."""
    tokens = ",".join(request.headers.getall("Connection", [])).lower().split(",")
    return "Upgrade" in request.headers and "upgrade" in (token.strip() for token in tokens)


def switching_protocols(headers: Mapping[str, str]) -> bytes:
    """The head of a `101` answer."""
    lines = ["HTTP/1.1 101 Switching Protocols", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode()


def take_over(request: web.BaseRequest, protocol: asyncio.Protocol) -> tuple[asyncio.Transport, bytes]:
    """Make `protocol` the one that hears of the request's connection.

    Returns the transport and what the client sent after its request head (nothing, if it waits for the 101
    as it must). Raises `ConnectionResetError` when the client is gone. `protocol.connection_made` has been
    called, reading is paused. The caller calls the returned transport's `resume_reading()` when ready.
    """
    handler = request.protocol
    transport = request.transport
    if transport is None or transport.is_closing():
        raise ConnectionResetError("the client closed the connection before the upgrade")
    early, handler._message_tail = handler._message_tail, b""
    transport.pause_reading()
    transport.set_protocol(protocol)
    protocol.connection_made(transport)
    return transport, early


def give_back(request: web.BaseRequest) -> None:
    """The connection is closed: let aiohttp's own protocol drop it from its books, after the handler
    returned."""
    asyncio.get_running_loop().call_soon(request.protocol.connection_lost, None)


class Receiver(Protocol):
    """Who is fed from a `RawLink`."""

    def feed(self, data: bytes) -> None: ...

    def feed_eof(self) -> None:
        """The other end is gone. May come twice."""


class RawLink(asyncio.Protocol):
    """A taken-over connection as a byte link: feeds a receiver once started, writes with back-pressure."""

    def __init__(self) -> None:
        self._receiver: Receiver | None = None
        self._transport: asyncio.Transport | None = None
        self._reading_paused = True
        self._writable = asyncio.Event()
        self._writable.set()
        self.closed = asyncio.Event()

    def start(self, receiver: Receiver, early: bytes = b"") -> None:
        """Read from now on; `early` is what `take_over` returned."""
        self._receiver = receiver
        if self.closed.is_set():
            receiver.feed_eof()
            return
        if early:
            receiver.feed(early)
        self.resume_reading()

    def write(self, data: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    async def drain(self) -> None:
        await self._writable.wait()
        if self._transport is None or self._transport.is_closing():
            raise ConnectionResetError("the client closed the connection")

    def pause_reading(self) -> None:
        if self._transport is not None and not self._reading_paused:
            self._reading_paused = True
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        if self._transport is not None and self._reading_paused:
            self._reading_paused = False
            self._transport.resume_reading()

    async def close(self, *, flush_s: float = 5) -> None:
        """Send what is queued, for at most `flush_s` seconds, and close. Twice is fine."""
        if self._transport is None:
            return
        self._transport.close()
        try:
            async with asyncio.timeout(flush_s):
                await self.closed.wait()
        except TimeoutError:
            self._transport.abort()
            await self.closed.wait()

    # ---- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's do not inherit from it

    def data_received(self, data: bytes) -> None:
        if self._receiver is not None:
            self._receiver.feed(data)

    def eof_received(self) -> bool:
        # A client that ends its half of the TCP connection has hung up: SPDY ends streams by itself.
        self._feed_eof()
        return False

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self._writable.set()
        self.closed.set()
        self._feed_eof()

    def _feed_eof(self) -> None:
        if self._receiver is not None:
            self._receiver.feed_eof()
