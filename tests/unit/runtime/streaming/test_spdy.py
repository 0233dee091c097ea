"""The SPDY connection as two ends talking in memory, and against hostile bytes."""

from __future__ import annotations

import struct
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podling.runtime.streaming import spdy_frames as frames
from podling.runtime.streaming.spdy import (
    DEFAULT_WINDOW,
    DataReceived,
    Event,
    PingAnswered,
    SpdyConnection,
    StreamEnded,
    StreamOpened,
    StreamReplied,
    StreamReset,
    WentAway,
)
from podling.runtime.streaming.spdy_frames import FrameReader, FrameType, GoAwayStatus, ResetStatus, SpdyError
from podling.runtime.streaming.spdy_headers import (
    DICTIONARY,
    MAX_HEADER_BLOCK_BYTES,
    HeaderCompressor,
    HeaderDecompressor,
    HeaderError,
)


class Pair:
    """A client and a server wired together."""

    def __init__(self, *, client_window: int = 1 << 20, server_window: int = 1 << 20) -> None:
        self.client = SpdyConnection(client=True, window=client_window)
        self.server = SpdyConnection(window=server_window)

    def to_server(self) -> list[Event]:
        return self.server.receive_data(self.client.data_to_send())

    def to_client(self) -> list[Event]:
        return self.client.receive_data(self.server.data_to_send())

    def open(self) -> int:
        stream_id = self.client.open_stream({"streamType": "data"})
        self.to_server()
        self.server.reply(stream_id)
        self.to_client()
        return stream_id


def received(events: list[Event]) -> bytes:
    return b"".join(event.data for event in events if isinstance(event, DataReceived))


def test_the_dictionary_is_the_one_of_the_specification() -> None:
    assert len(DICTIONARY) == 1423
    assert zlib.adler32(DICTIONARY) == 0xE3C6A7C2


def test_headers_survive_and_repeat_in_few_bytes() -> None:
    compressor, decompressor = HeaderCompressor(), HeaderDecompressor()
    headers = {"streamtype": "error", "port": "8080", "requestid": "0"}
    blocks = [compressor.compress({**headers, "requestid": str(number)}) for number in range(50)]
    decoded = [decompressor.decompress(block) for block in blocks]
    assert decoded == [{**headers, "requestid": str(number)} for number in range(50)]
    assert len(blocks[-1]) < 30


def test_header_names_travel_in_lower_case() -> None:
    assert HeaderDecompressor().decompress(HeaderCompressor().compress({"streamType": "Data"})) == {
        "streamtype": "Data"
    }


def test_a_header_bomb_is_refused() -> None:
    with pytest.raises(HeaderError, match="exceeds"):
        HeaderDecompressor().decompress(HeaderCompressor().compress({"a": "x" * (MAX_HEADER_BLOCK_BYTES)}))


@pytest.mark.parametrize(
    "block",
    [
        b"",
        struct.pack(">I", 1),
        struct.pack(">II", 1, 99) + b"short",
        struct.pack(">II", 1, 1) + b"\xff" + bytes(4),
    ],
)
def test_a_malformed_header_block_is_an_error(block: bytes) -> None:
    compressor = zlib.compressobj(zdict=DICTIONARY)
    data = compressor.compress(block) + compressor.flush(zlib.Z_SYNC_FLUSH)
    with pytest.raises(HeaderError):
        HeaderDecompressor().decompress(data)


def test_a_stream_opens_carries_data_both_ways_and_ends() -> None:
    pair = Pair()
    stream_id = pair.client.open_stream({"streamType": "stdin"})
    assert pair.to_server()[-1] == StreamOpened(stream_id=1, headers={"streamtype": "stdin"})
    pair.server.reply(stream_id)
    assert pair.to_client()[-1] == StreamReplied(stream_id=1, headers={})
    pair.client.send_data(stream_id, b"question", fin=True)
    assert pair.to_server()[-2:] == [
        DataReceived(stream_id=1, data=b"question"),
        StreamEnded(stream_id=1),
    ]
    pair.server.send_data(stream_id, b"answer")
    pair.server.send_data(stream_id, b"", fin=True)
    assert pair.to_client()[-2:] == [DataReceived(stream_id=1, data=b"answer"), StreamEnded(stream_id=1)]


def test_the_server_sends_nothing_before_the_client_did() -> None:
    assert SpdyConnection().data_to_send() == b""


@given(st.lists(st.integers(1, 40), max_size=30), st.binary(max_size=300))
def test_frames_may_be_cut_anywhere(cuts: list[int], data: bytes) -> None:
    client, server = SpdyConnection(client=True), SpdyConnection()
    stream_id = client.open_stream({"streamType": "stdin"})
    client.send_data(stream_id, data, fin=True)
    wire, events = client.data_to_send(), []
    for cut in cuts:
        events += server.receive_data(wire[:cut])
        wire = wire[cut:]
    events += server.receive_data(wire)
    assert received(events) == data
    assert events[-1] == StreamEnded(stream_id=stream_id)


def test_a_peer_that_manages_windows_gets_no_more_than_it_asked_for() -> None:
    pair = Pair(client_window=DEFAULT_WINDOW)
    stream_id = pair.open()
    pair.server.send_data(stream_id, bytes(200_000), fin=True)
    first = received(pair.to_client())
    assert len(first) == DEFAULT_WINDOW
    assert pair.server.waiting_bytes(stream_id) == 200_000 - DEFAULT_WINDOW
    total = len(first)
    while total < 200_000:
        pair.client.acknowledge(stream_id, len(first))
        pair.to_server()
        events = pair.to_client()
        first = received(events)
        assert 0 < len(first) <= DEFAULT_WINDOW
        total += len(first)
    assert total == 200_000
    assert events[-1] == StreamEnded(stream_id=stream_id)


def test_a_peer_that_knows_no_windows_is_not_held_to_them() -> None:
    server = SpdyConnection()
    client = SpdyConnection(client=True)
    client.data_to_send()  # its SETTINGS and WINDOW_UPDATE never arrive, as with kubectl's library
    stream_id = client.open_stream({})
    server.receive_data(client.data_to_send())
    server.send_data(stream_id, bytes(1_000_000))
    assert server.waiting_bytes(stream_id) == 0


def test_a_smaller_initial_window_applies_to_open_streams() -> None:
    pair = Pair()
    stream_id = pair.open()
    pair.server.send_data(stream_id, bytes(60_000))
    pair.server.data_to_send()
    pair.server.receive_data(frames.settings([(frames.SETTINGS_INITIAL_WINDOW_SIZE, 50_000)]))
    pair.server.send_data(stream_id, b"later")
    assert pair.server.waiting_bytes(stream_id) == 5
    pair.server.receive_data(frames.window_update(stream_id, 20_000))
    assert pair.server.waiting_bytes(stream_id) == 0


def test_a_window_beyond_its_maximum_resets_the_stream() -> None:
    pair = Pair()
    stream_id = pair.open()
    events = pair.server.receive_data(frames.window_update(stream_id, 0x7FFFFFFF))
    assert StreamReset(stream_id=stream_id, status=ResetStatus.FLOW_CONTROL_ERROR) in events


def test_pings_of_the_peer_are_answered_and_ours_reported() -> None:
    pair = Pair()
    ping_id = pair.client.ping()
    pair.to_server()
    assert PingAnswered(ping_id=ping_id) in pair.to_client()


def test_a_reset_ends_the_stream_and_later_data_is_dropped() -> None:
    pair = Pair()
    stream_id = pair.open()
    pair.client.send_data(stream_id, b"in flight")
    pair.server.reset(stream_id)
    assert pair.to_server() == []
    assert pair.to_client() == [StreamReset(stream_id=stream_id, status=ResetStatus.CANCEL)]
    pair.client.send_data(stream_id, b"too late")
    assert pair.to_server() == []


def test_data_on_a_stream_that_never_was_is_reset() -> None:
    server = SpdyConnection()
    assert server.receive_data(frames.data_frame(77, b"x")) == []
    sent = list(FrameReader().feed(server.data_to_send()))
    assert [frame.payload for frame in sent if frame.type == FrameType.RST_STREAM] == [
        struct.pack(">II", 77, ResetStatus.INVALID_STREAM)
    ]


def test_going_away_is_told() -> None:
    pair = Pair()
    pair.open()
    pair.server.go_away()
    assert pair.to_client() == [WentAway(last_stream_id=1, status=GoAwayStatus.OK)]


def test_unknown_control_frames_are_ignored() -> None:
    assert SpdyConnection().receive_data(struct.pack(">II", 0x80030000 | 99, 3) + b"abc") == []


@pytest.mark.parametrize(
    "wire",
    [
        struct.pack(">II", 0x80020001, 0),  # SPDY/2
        struct.pack(">II", 0x80030001, 2) + b"ab",  # a SYN_STREAM of two bytes
        frames.syn_stream(2, HeaderCompressor().compress({})),  # a client's stream with an even number
        frames.syn_stream(1, b"not zlib"),
        struct.pack(">III", 0x80030004, 4, 9),  # SETTINGS that promises nine entries
    ],
)
def test_a_broken_peer_is_told_goodbye(wire: bytes) -> None:
    server = SpdyConnection()
    with pytest.raises(SpdyError):
        server.receive_data(wire)
    *_, last = FrameReader().feed(server.data_to_send())
    assert last.type == FrameType.GOAWAY
    assert last.payload[4:] == struct.pack(">I", GoAwayStatus.PROTOCOL_ERROR)


def test_stream_numbers_only_grow() -> None:
    server, compressor = SpdyConnection(), HeaderCompressor()
    server.receive_data(frames.syn_stream(5, compressor.compress({})))
    with pytest.raises(SpdyError, match="SYN_STREAM 3 after 5"):
        server.receive_data(frames.syn_stream(3, compressor.compress({})))


@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_but_a_spdy_error(data: bytes) -> None:
    server = SpdyConnection()
    try:
        server.receive_data(data)
        server.receive_data(data)
    except SpdyError:
        pass
