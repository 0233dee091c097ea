"""SPDY/3.1 frames as bytes: the layouts of draft 3.1, section 2.2 "Framing" and 2.6 "Control frames".

Pure: builders return bytes, `FrameReader` cuts a byte stream into frames. What frames mean is in `spdy.py`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum

VERSION = 3
FLAG_FIN = 0x01
FLAG_UNIDIRECTIONAL = 0x02
MAX_STREAM_ID = 0x7FFFFFFF
SETTINGS_MAX_CONCURRENT_STREAMS = 4
SETTINGS_INITIAL_WINDOW_SIZE = 7

_HEAD = struct.Struct(">II")
_U32 = struct.Struct(">I")
_TWO_U32 = struct.Struct(">II")
_SYN_STREAM = struct.Struct(">IIBB")


class FrameType(IntEnum):
    DATA = 0  # not on the wire: a data frame has no type field
    SYN_STREAM = 1
    SYN_REPLY = 2
    RST_STREAM = 3
    SETTINGS = 4
    PING = 6
    GOAWAY = 7
    HEADERS = 8
    WINDOW_UPDATE = 9


class ResetStatus(IntEnum):
    """RST_STREAM status codes, section 2.6.3."""

    PROTOCOL_ERROR = 1
    INVALID_STREAM = 2
    REFUSED_STREAM = 3
    UNSUPPORTED_VERSION = 4
    CANCEL = 5
    INTERNAL_ERROR = 6
    FLOW_CONTROL_ERROR = 7
    STREAM_IN_USE = 8
    STREAM_ALREADY_CLOSED = 9
    FRAME_TOO_LARGE = 11


class GoAwayStatus(IntEnum):
    OK = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2


class SpdyError(Exception):
    """The peer broke the protocol; the connection cannot go on."""


@dataclass(frozen=True, slots=True)
class Frame:
    type: int
    """A `FrameType`, or a number this version does not know (to be ignored, section 2.2.1)."""
    flags: int
    stream_id: int
    """Data frames only."""
    payload: bytes


class FrameReader:
    """Cuts received bytes into frames; keeps the incomplete rest. A frame holds at most 2^24 - 1 bytes."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Raises `SpdyError` on a control frame of another version. Exhaust it before the next call."""
        buffer = self._buffer
        buffer += data
        offset = 0
        while len(buffer) - offset >= _HEAD.size:
            first, second = _HEAD.unpack_from(buffer, offset)
            start = offset + _HEAD.size
            end = start + (second & 0xFFFFFF)
            if len(buffer) < end:
                break
            offset = end
            yield _frame(first, second >> 24, bytes(memoryview(buffer)[start:end]))
        del buffer[:offset]


def _frame(first: int, flags: int, payload: bytes) -> Frame:
    if not first & 0x80000000:
        return Frame(FrameType.DATA, flags, first, payload)
    version = first >> 16 & 0x7FFF
    if version != VERSION:
        raise SpdyError(f"control frame of SPDY version {version}, want {VERSION}")
    return Frame(first & 0xFFFF, flags, 0, payload)


def _control(frame_type: FrameType, payload: bytes, flags: int = 0) -> bytes:
    return _HEAD.pack(0x80000000 | VERSION << 16 | frame_type, flags << 24 | len(payload)) + payload


def data_frame(stream_id: int, data: bytes, *, fin: bool = False) -> bytes:
    return _HEAD.pack(stream_id, (FLAG_FIN if fin else 0) << 24 | len(data)) + data


def syn_stream(stream_id: int, block: bytes, *, fin: bool = False) -> bytes:
    payload = _SYN_STREAM.pack(stream_id, 0, 0, 0) + block
    return _control(FrameType.SYN_STREAM, payload, FLAG_FIN if fin else 0)


def syn_reply(stream_id: int, block: bytes, *, fin: bool = False) -> bytes:
    return _control(FrameType.SYN_REPLY, _U32.pack(stream_id) + block, FLAG_FIN if fin else 0)


def rst_stream(stream_id: int, status: ResetStatus) -> bytes:
    return _control(FrameType.RST_STREAM, _TWO_U32.pack(stream_id, status))


def settings(values: Sequence[tuple[int, int]]) -> bytes:
    entries = b"".join(_TWO_U32.pack(setting, value) for setting, value in values)
    return _control(FrameType.SETTINGS, _U32.pack(len(values)) + entries)


def ping(ping_id: int) -> bytes:
    return _control(FrameType.PING, _U32.pack(ping_id))


def go_away(last_stream_id: int, status: GoAwayStatus) -> bytes:
    return _control(FrameType.GOAWAY, _TWO_U32.pack(last_stream_id, status))


def window_update(stream_id: int, delta: int) -> bytes:
    return _control(FrameType.WINDOW_UPDATE, _TWO_U32.pack(stream_id, delta))


def parse_u32(payload: bytes) -> int:
    return _words(_U32, payload)[0] & 0xFFFFFFFF


def parse_two_u32(payload: bytes) -> tuple[int, int]:
    first, second = _words(_TWO_U32, payload)
    return first, second


def parse_stream_and_block(payload: bytes) -> tuple[int, bytes]:
    """Of SYN_REPLY and HEADERS: the stream and its compressed header block."""
    return parse_u32(payload) & MAX_STREAM_ID, payload[_U32.size :]


def parse_syn_stream(payload: bytes) -> tuple[int, bytes]:
    """The new stream and its compressed header block; association, priority and slot mean nothing here."""
    return _words(_SYN_STREAM, payload)[0] & MAX_STREAM_ID, payload[_SYN_STREAM.size :]


def parse_settings(payload: bytes) -> dict[int, int]:
    count = parse_u32(payload)
    if len(payload) != _U32.size + count * _TWO_U32.size:
        raise SpdyError(f"SETTINGS of {count} entries in {len(payload)} bytes")
    entries = _TWO_U32.iter_unpack(payload[_U32.size :])
    return {setting & 0xFFFFFF: value for setting, value in entries}


def _words(layout: struct.Struct, payload: bytes) -> tuple[int, ...]:
    if len(payload) < layout.size:
        raise SpdyError(f"control frame of {len(payload)} bytes, want at least {layout.size}")
    return layout.unpack_from(payload)
