"""A SPDY/3.1 connection without I/O: bytes in, events out; calls in, bytes out.

    connection.receive_data(data)  -> events          connection.send_data(...)
    connection.data_to_send()      -> bytes           connection.open_stream(...), .reply(...), ...

Written from SPDY draft 3.1. `spdy_session.py` gives it a socket; `kubectl` below 1.31 speaks it for exec,
attach and port-forward (header `Upgrade: SPDY/3.1`), later ones for port-forward inside a WebSocket.

Flow control (section 2.6.8 "WINDOW_UPDATE"): what we receive is acknowledged as the application consumes it.
What we send keeps within the peer's windows once the peer has shown that it manages windows at all, by
sending SETTINGS or a WINDOW_UPDATE. kubectl's SPDY library (moby/spdystream) never does: held to the letter
every output would stop after 64 KiB. Against such a peer TCP's own back-pressure is what bounds us.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

from podling.runtime.streaming import spdy_frames as frames
from podling.runtime.streaming.spdy_frames import (
    Frame,
    FrameReader,
    FrameType,
    GoAwayStatus,
    ResetStatus,
    SpdyError,
)
from podling.runtime.streaming.spdy_headers import HeaderCompressor, HeaderDecompressor, HeaderError

DEFAULT_WINDOW = 64 * 1024
"""Bytes a stream and the session may have in flight before SETTINGS or WINDOW_UPDATE say otherwise."""
MAX_WINDOW = 0x7FFFFFFF
MAX_STREAMS = 2000
"""Streams open at once on one connection; a further one is refused. A forwarded connection takes two."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamOpened:
    stream_id: int
    headers: dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamReplied:
    stream_id: int
    headers: dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadersReceived:
    stream_id: int
    headers: dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class DataReceived:
    """To be answered with `acknowledge(stream_id, len(data))` once consumed."""

    stream_id: int
    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamEnded:
    """The peer will send no more on this stream."""

    stream_id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamReset:
    stream_id: int
    status: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowOpened:
    """The peer takes more: bytes that waited have been handed to `data_to_send`."""

    stream_id: int
    """0: the session's window."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PingAnswered:
    ping_id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WentAway:
    """The peer accepts no further streams; those open go on."""

    last_stream_id: int
    status: int


Event = (
    StreamOpened
    | StreamReplied
    | HeadersReceived
    | DataReceived
    | StreamEnded
    | StreamReset
    | WindowOpened
    | PingAnswered
    | WentAway
)


@dataclass(slots=True, kw_only=True)
class _Stream:
    id: int
    send_window: int
    consumed: int = 0
    """Bytes the application took since the last WINDOW_UPDATE we sent."""
    waiting: deque[bytes] = field(default_factory=deque)
    waiting_bytes: int = 0
    fin_queued: bool = False
    local_closed: bool = False
    remote_closed: bool = False


class SpdyConnection:
    """One side of a connection. `receive_data` raises `SpdyError` when it must be given up; the GOAWAY that
    says so is then already queued. Calls on a stream that is gone are ignored: the peer may reset it at any
    time."""

    def __init__(self, *, client: bool = False, window: int = 1024 * 1024) -> None:
        """`window`: bytes a conforming peer may send ahead of us, per stream and for the session."""
        self._window = max(window, DEFAULT_WINDOW)
        self._peer_parity = 0 if client else 1
        self._next_stream_id = 1 if client else 2
        self._next_ping_id = 1 if client else 2
        self._last_peer_stream_id = 0
        self._streams: dict[int, _Stream] = {}
        self._reader = FrameReader()
        self._compressor = HeaderCompressor()
        self._decompressor = HeaderDecompressor()
        self._peer_initial_window = DEFAULT_WINDOW
        self._peer_manages_windows = False
        self._session_send_window = DEFAULT_WINDOW
        self._session_consumed = 0
        self._out: list[bytes] = []
        self._greeted = False
        if client:
            self._greet()

    def _greet(self) -> None:
        """Announce our windows: with our first bytes as a client, as a server after the client's first.

        Not before: kubectl reads the `101` head through a buffer it then throws away, and any frame in it.
        """
        self._greeted = True
        self._out.append(frames.settings([(frames.SETTINGS_INITIAL_WINDOW_SIZE, self._window)]))
        # Section 2.6.8: SETTINGS does not touch the session's window (stream 0), only an update does.
        if self._window > DEFAULT_WINDOW:
            self._out.append(frames.window_update(0, self._window - DEFAULT_WINDOW))

    # ---- out

    def data_to_send(self) -> bytes:
        data = b"".join(self._out)
        self._out.clear()
        return data

    def open_stream(self, headers: Mapping[str, str], *, fin: bool = False) -> int:
        """A new stream of ours; its ID."""
        stream = self._add_stream(self._next_stream_id)
        self._next_stream_id += 2
        stream.local_closed = stream.fin_queued = fin
        self._out.append(frames.syn_stream(stream.id, self._compressor.compress(headers), fin=fin))
        return stream.id

    def reply(self, stream_id: int, headers: Mapping[str, str] | None = None) -> None:
        """Accept the peer's stream. The peer drops data that comes before the reply."""
        if stream_id in self._streams:
            self._out.append(frames.syn_reply(stream_id, self._compressor.compress(headers or {})))

    def send_data(self, stream_id: int, data: bytes, *, fin: bool = False) -> None:
        """Send, or keep until the window opens: `waiting_bytes` tells how much waits."""
        stream = self._streams.get(stream_id)
        if stream is None or stream.fin_queued:
            return
        if data:
            stream.waiting.append(data)
            stream.waiting_bytes += len(data)
        stream.fin_queued = fin
        self._send_waiting(stream)

    def waiting_bytes(self, stream_id: int) -> int:
        stream = self._streams.get(stream_id)
        return stream.waiting_bytes if stream else 0

    def acknowledge(self, stream_id: int, count: int) -> None:
        """The application consumed `count` bytes. Updates go out when half a window is due, not for each
        read."""
        self._session_consumed += count
        if self._session_consumed >= self._window // 2:
            self._out.append(frames.window_update(0, self._session_consumed))
            self._session_consumed = 0
        stream = self._streams.get(stream_id)
        if stream is None or stream.remote_closed:
            return
        stream.consumed += count
        if stream.consumed >= self._window // 2:
            self._out.append(frames.window_update(stream_id, stream.consumed))
            stream.consumed = 0

    def reset(self, stream_id: int, status: ResetStatus = ResetStatus.CANCEL) -> None:
        if self._streams.pop(stream_id, None) is not None:
            self._out.append(frames.rst_stream(stream_id, status))

    def ping(self) -> int:
        ping_id = self._next_ping_id
        self._next_ping_id += 2
        self._out.append(frames.ping(ping_id))
        return ping_id

    def go_away(self, status: GoAwayStatus = GoAwayStatus.OK) -> None:
        self._out.append(frames.go_away(self._last_peer_stream_id, status))

    # ---- in

    def receive_data(self, data: bytes) -> list[Event]:
        events: list[Event] = []
        if not self._greeted:
            self._greet()
        try:
            for frame in self._reader.feed(data):
                self._receive_frame(frame, events)
        except HeaderError as err:
            self.go_away(GoAwayStatus.PROTOCOL_ERROR)
            raise SpdyError(str(err)) from err
        except SpdyError:
            self.go_away(GoAwayStatus.PROTOCOL_ERROR)
            raise
        return events

    def _receive_frame(self, frame: Frame, events: list[Event]) -> None:
        match frame.type:
            case FrameType.DATA:
                self._receive_payload(frame, events)
            case FrameType.SYN_STREAM:
                self._receive_syn_stream(frame, events)
            case FrameType.SYN_REPLY | FrameType.HEADERS:
                self._receive_headers(frame, events)
            case FrameType.RST_STREAM:
                self._receive_reset(frame, events)
            case FrameType.SETTINGS:
                self._receive_settings(frame, events)
            case FrameType.PING:
                self._receive_ping(frame, events)
            case FrameType.GOAWAY:
                last_stream_id, status = frames.parse_two_u32(frame.payload)
                events.append(WentAway(last_stream_id=last_stream_id, status=status))
            case FrameType.WINDOW_UPDATE:
                self._receive_window_update(frame, events)
            case _:  # Section 2.2.1: unknown control frames are ignored.
                pass

    def _receive_payload(self, frame: Frame, events: list[Event]) -> None:
        stream = self._streams.get(frame.stream_id)
        if stream is None or stream.remote_closed:
            # In flight while we reset the stream, or a stream that never was. Its bytes still fill the
            # session.
            self.acknowledge(frame.stream_id, len(frame.payload))
            if frame.stream_id > max(self._last_peer_stream_id, self._next_stream_id - 2):
                self._out.append(frames.rst_stream(frame.stream_id, ResetStatus.INVALID_STREAM))
            return
        if frame.payload:
            events.append(DataReceived(stream_id=stream.id, data=frame.payload))
        if frame.flags & frames.FLAG_FIN:
            self._remote_end(stream, events)

    def _receive_syn_stream(self, frame: Frame, events: list[Event]) -> None:
        stream_id, block = frames.parse_syn_stream(frame.payload)
        headers = self._decompressor.decompress(block)
        if stream_id % 2 != self._peer_parity or stream_id <= self._last_peer_stream_id:
            raise SpdyError(f"SYN_STREAM {stream_id} after {self._last_peer_stream_id}")
        self._last_peer_stream_id = stream_id
        if len(self._streams) >= MAX_STREAMS:
            self._out.append(frames.rst_stream(stream_id, ResetStatus.REFUSED_STREAM))
            return
        stream = self._add_stream(stream_id)
        stream.local_closed = stream.fin_queued = bool(frame.flags & frames.FLAG_UNIDIRECTIONAL)
        events.append(StreamOpened(stream_id=stream_id, headers=headers))
        if frame.flags & frames.FLAG_FIN:
            self._remote_end(stream, events)

    def _receive_headers(self, frame: Frame, events: list[Event]) -> None:
        stream_id, block = frames.parse_stream_and_block(frame.payload)
        headers = self._decompressor.decompress(block)
        stream = self._streams.get(stream_id)
        if stream is None:
            return
        kind = StreamReplied if frame.type == FrameType.SYN_REPLY else HeadersReceived
        events.append(kind(stream_id=stream_id, headers=headers))
        if frame.flags & frames.FLAG_FIN:
            self._remote_end(stream, events)

    def _receive_reset(self, frame: Frame, events: list[Event]) -> None:
        stream_id, status = frames.parse_two_u32(frame.payload)
        if self._streams.pop(stream_id, None) is not None:
            events.append(StreamReset(stream_id=stream_id, status=status))

    def _receive_ping(self, frame: Frame, events: list[Event]) -> None:
        ping_id = frames.parse_u32(frame.payload)
        if ping_id % 2 == self._peer_parity:
            self._out.append(frames.ping(ping_id))
        else:
            events.append(PingAnswered(ping_id=ping_id))

    def _receive_settings(self, frame: Frame, events: list[Event]) -> None:
        self._peer_manages_windows = True
        window = frames.parse_settings(frame.payload).get(frames.SETTINGS_INITIAL_WINDOW_SIZE)
        if window is None:
            return
        if window > MAX_WINDOW:
            raise SpdyError(f"initial window of {window} bytes")
        change = window - self._peer_initial_window
        self._peer_initial_window = window
        for stream in list(self._streams.values()):
            stream.send_window += change
            self._send_waiting(stream)
            events.append(WindowOpened(stream_id=stream.id))

    def _receive_window_update(self, frame: Frame, events: list[Event]) -> None:
        self._peer_manages_windows = True
        stream_id, delta = frames.parse_two_u32(frame.payload)
        if stream_id == 0:
            self._session_send_window += delta
            for each in list(self._streams.values()):
                self._send_waiting(each)
        elif stream := self._streams.get(stream_id):
            stream.send_window += delta
            if stream.send_window > MAX_WINDOW:
                self.reset(stream_id, ResetStatus.FLOW_CONTROL_ERROR)
                events.append(StreamReset(stream_id=stream_id, status=ResetStatus.FLOW_CONTROL_ERROR))
                return
            self._send_waiting(stream)
        events.append(WindowOpened(stream_id=stream_id))

    # ---- streams

    def _add_stream(self, stream_id: int) -> _Stream:
        stream = _Stream(id=stream_id, send_window=self._peer_initial_window)
        self._streams[stream_id] = stream
        return stream

    def _send_waiting(self, stream: _Stream) -> None:
        while stream.waiting:
            data = stream.waiting.popleft()
            room = len(data)
            if self._peer_manages_windows:
                room = min(room, stream.send_window, self._session_send_window)
            if room <= 0:
                stream.waiting.appendleft(data)
                return
            if room < len(data):
                stream.waiting.appendleft(data[room:])
                data = data[:room]
            stream.waiting_bytes -= room
            stream.send_window -= room
            self._session_send_window -= room
            self._out.append(frames.data_frame(stream.id, data))
        if stream.fin_queued and not stream.local_closed:
            stream.local_closed = True
            self._out.append(frames.data_frame(stream.id, b"", fin=True))
            self._forget_if_closed(stream)

    def _remote_end(self, stream: _Stream, events: list[Event]) -> None:
        if not stream.remote_closed:
            stream.remote_closed = True
            events.append(StreamEnded(stream_id=stream.id))
            self._forget_if_closed(stream)

    def _forget_if_closed(self, stream: _Stream) -> None:
        if stream.local_closed and stream.remote_closed:
            self._streams.pop(stream.id, None)
