"""A SPDY connection on an event loop: `SpdySession` over any byte link, `SpdyStream` to read and write.

A link is a TCP connection taken over from the HTTP server (`podling.client.takeover.RawLink`) or the binary
messages of a WebSocket (`websocket.TunnelLink`). The link calls `feed` and `feed_eof`; the session writes
to it.

Back-pressure: writers wait while the link or the peer's window is full; the link stops reading while more
than `max_buffered` bytes wait for a reader. As with every peer that ignores windows, one stalled stream
then holds up its neighbours on the same connection; hence the generous limit for port-forward.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Protocol

from podling.runtime.streaming.bytequeue import ByteQueue
from podling.runtime.streaming.spdy import (
    DataReceived,
    Event,
    SpdyConnection,
    StreamEnded,
    StreamOpened,
    StreamReplied,
    StreamReset,
    WindowOpened,
)
from podling.runtime.streaming.spdy_frames import GoAwayStatus, ResetStatus, SpdyError

MAX_WAITING_BYTES = 256 * 1024
"""Bytes of one stream that may wait for the peer's window before its writer waits too."""
KEEPALIVE_S = 2
"""Between pings to a peer we do not read from. Each hop on the way needs one or two to see a reset."""
FRAME_BYTES = 32 * 1024
"""Longest data frame we send: what kubectl's library sends, so streams take fair turns."""


class Link(Protocol):
    """Where a session's bytes go."""

    def write(self, data: bytes) -> None:
        """Queue bytes; after the link closed they are dropped."""

    async def drain(self) -> None:
        """Wait until the link takes more. Raises `ConnectionError` when it is closed."""

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    async def close(self) -> None:
        """Send what is queued, then close. Twice is fine."""


class SpdyStream:
    """One stream of a session. `reset` from either side makes reads end and writes raise."""

    def __init__(self, session: SpdySession, stream_id: int, headers: dict[str, str]) -> None:
        self._session = session
        self.id = stream_id
        self.headers = headers
        self.input = ByteQueue(self._consumed)
        self.replied = asyncio.Event()
        self.was_reset = asyncio.Event()
        self.window_opened = asyncio.Event()
        self._closed = False

    async def read(self) -> bytes:
        """The next bytes; empty when the peer is done with the stream or reset it."""
        return await self.input.read()

    async def write(self, data: bytes) -> None:
        """Raises `ConnectionError` when stream or connection are gone."""
        for start in range(0, len(data), FRAME_BYTES):
            if self.was_reset.is_set() or self._closed:
                raise ConnectionResetError(f"SPDY stream {self.id} is closed")
            await self._session.send(self, data[start : start + FRAME_BYTES])

    def close(self) -> None:
        """Send the end of our side (FIN) after all that was written. Twice is fine."""
        if not self._closed:
            self._closed = True
            self._session.connection.send_data(self.id, b"", fin=True)
            self._session.flush()
            self._session.forget_if_over(self)

    @property
    def closed(self) -> bool:
        return self._closed

    def stop_reading(self) -> None:
        """Drop what the peer sent and still sends. Without this, unread bytes would hold up the
        connection."""
        self.input.discard()

    def reset(self, status: ResetStatus = ResetStatus.CANCEL) -> None:
        """Drop the stream both ways."""
        self.input.discard()
        self._session.connection.reset(self.id, status)
        self._session.forget(self)
        self._session.flush()

    def _consumed(self, count: int) -> None:
        self._session.consumed(self.id, count)


class SpdySession:
    def __init__(self, link: Link, connection: SpdyConnection, *, max_buffered: int) -> None:
        self.connection = connection
        self.ended = asyncio.Event()
        """Set when the peer is gone or broke the protocol."""
        self._link = link
        self._max_buffered = max_buffered
        self._buffered = 0
        self._paused = False
        self._keepalive: asyncio.TimerHandle | None = None
        self._streams: dict[int, SpdyStream] = {}
        self._accepted: asyncio.Queue[SpdyStream | None] = asyncio.Queue()

    # ---- for the application

    async def accept(self) -> SpdyStream | None:
        """The next stream the peer opened (to be replied to or reset), or None when the peer is gone."""
        if self.ended.is_set() and self._accepted.empty():
            return None
        return await self._accepted.get()

    def reply(self, stream: SpdyStream) -> None:
        self.connection.reply(stream.id)
        self.flush()

    def open(self, headers: Mapping[str, str]) -> SpdyStream:
        """A stream of ours; `replied` is set when the peer took it."""
        stream = SpdyStream(self, self.connection.open_stream(headers), dict(headers))
        self._streams[stream.id] = stream
        self.flush()
        return stream

    async def close(self, *, linger_s: float = 0) -> None:
        """Say goodbye and close the link.

        `linger_s` is how long the peer may take to hang up first. kubectl drops frames it has received and
        not yet handled when the connection closes under it, so after an exec it is left to the client to
        close.
        """
        if linger_s and not self.ended.is_set():
            try:
                async with asyncio.timeout(linger_s):
                    await self.ended.wait()
            except TimeoutError:
                pass
        if not self.ended.is_set():
            self.connection.go_away(GoAwayStatus.OK)
            self.flush()
        self.feed_eof()
        await self._link.close()

    # ---- for the link

    def feed(self, data: bytes) -> None:
        if self.ended.is_set():
            return
        try:
            events = self.connection.receive_data(data)
        except SpdyError:
            self.flush()
            self.feed_eof()
            return
        for event in events:
            self._dispatch(event)
        self.flush()
        if self._buffered > self._max_buffered and not self._paused:
            self._paused = True
            self._link.pause_reading()
            self._ping_while_paused()

    def feed_eof(self) -> None:
        """The peer is gone; streams end where they are. Twice is fine."""
        if self.ended.is_set():
            return
        self.ended.set()
        if self._keepalive is not None:
            self._keepalive.cancel()
        for stream in list(self._streams.values()):
            self.forget(stream)
        self._accepted.put_nowait(None)

    def _ping_while_paused(self) -> None:
        """Who does not read does not see the peer hang up; but a peer that is gone answers a PING with a
        TCP reset."""
        if self._paused and not self.ended.is_set():
            self._keepalive = asyncio.get_running_loop().call_later(KEEPALIVE_S, self._ping_while_paused)
            self.connection.ping()
            self.flush()

    # ---- for streams

    def flush(self) -> None:
        if data := self.connection.data_to_send():
            self._link.write(data)

    async def send(self, stream: SpdyStream, data: bytes) -> None:
        self.connection.send_data(stream.id, data)
        self.flush()
        await self._link.drain()
        while self.connection.waiting_bytes(stream.id) > MAX_WAITING_BYTES:
            stream.window_opened.clear()
            await stream.window_opened.wait()

    def consumed(self, stream_id: int, count: int) -> None:
        self._buffered -= count
        self.connection.acknowledge(stream_id, count)
        self.flush()
        if self._paused and self._buffered <= self._max_buffered // 2:
            self._paused = False
            if self._keepalive is not None:
                self._keepalive.cancel()
            self._link.resume_reading()

    def forget(self, stream: SpdyStream) -> None:
        """The stream is over at once: unblock its reader and its writer."""
        self._streams.pop(stream.id, None)
        stream.was_reset.set()
        stream.input.feed_eof()
        stream.replied.set()
        stream.window_opened.set()

    def forget_if_over(self, stream: SpdyStream) -> None:
        if stream.closed and stream.input.ended:
            self._streams.pop(stream.id, None)

    def _dispatch(self, event: Event) -> None:
        match event:
            case StreamOpened(stream_id=stream_id, headers=headers):
                opened = self._streams[stream_id] = SpdyStream(self, stream_id, headers)
                self._accepted.put_nowait(opened)
            case DataReceived(stream_id=stream_id, data=data):
                self._receive(self._streams.get(stream_id), stream_id, data)
            case StreamEnded(stream_id=stream_id):
                if stream := self._streams.get(stream_id):
                    stream.input.feed_eof()
                    self.forget_if_over(stream)
            case StreamReset(stream_id=stream_id):
                if stream := self._streams.get(stream_id):
                    self.forget(stream)
            case StreamReplied(stream_id=stream_id):
                if stream := self._streams.get(stream_id):
                    stream.replied.set()
            case WindowOpened(stream_id=0):
                for each in self._streams.values():
                    each.window_opened.set()
            case WindowOpened(stream_id=stream_id):
                if stream := self._streams.get(stream_id):
                    stream.window_opened.set()
            case _:  # pings, further headers and the peer's goodbye change nothing here
                pass

    def _receive(self, stream: SpdyStream | None, stream_id: int, data: bytes) -> None:
        if stream is None or stream.input.ended:
            self.connection.acknowledge(stream_id, len(data))
            return
        self._buffered += len(data)
        stream.input.feed(data)
