from __future__ import annotations

import struct

import pytest

from podling.network.dns.message import (
    Answer,
    Code,
    MessageError,
    Query,
    Record,
    Type,
    encode,
    encode_error,
    encode_name,
    parse_query,
)

OPT = b"\0" + struct.pack(">HHIH", Type.OPT, 1232, 0, 0)


def query(name: str = "a.b", kind: int = Type.A, *, flags: int = 0x0100, extra: bytes = b"") -> bytes:
    head = struct.pack(">HHHHHH", 0x1234, flags, 1, 0, 0, 1 if extra else 0)
    return head + encode_name(name) + struct.pack(">HH", kind, 1) + extra


def records(count: int) -> list[Record]:
    return [Record("a.b", Type.A, 5, bytes([10, 0, n // 256, n % 256])) for n in range(count)]


def counts(message: bytes) -> tuple[int, ...]:
    return struct.unpack_from(">HHHH", message, 4)


def test_a_query_is_read_and_its_question_echoed_as_it_came():
    asked = parse_query(query("WeB.Default"))
    assert (asked.name, asked.type, asked.udp_bytes) == ("web.default", Type.A, 512)
    assert b"WeB" in encode(asked, Answer(), limit=512)


def test_edns_says_how_much_fits():
    assert parse_query(query(extra=OPT)).udp_bytes == 1232
    response = encode(parse_query(query(extra=OPT)), Answer(), limit=1232)
    assert counts(response) == (1, 0, 0, 1)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", Code.FORMERR),
        (query()[:15], Code.FORMERR),
        (query()[:-2], Code.FORMERR),
        (query(flags=0x2000), Code.NOTIMP),
        (query(flags=0x8000), Code.FORMERR),
        (query()[:4] + b"\0\2" + query()[6:], Code.FORMERR),
        (query()[:12] + b"\xc0\x0c" + query()[17:], Code.FORMERR),
        (query()[:-1] + b"\3", Code.NOTIMP),
        (query()[:12] + bytes([63]) + b"x" * 63 + b"\x3f" + b"y" * 20, Code.FORMERR),
    ],
)
def test_what_is_no_query_is_answered_with_its_code(data: bytes, code: Code):
    with pytest.raises(MessageError) as caught:
        parse_query(data)
    assert caught.value.code is code


def test_an_answer_is_never_answered():
    assert encode_error(query(flags=0x8180), Code.FORMERR) == b""
    assert encode_error(b"x", Code.FORMERR) == b""
    assert encode_error(query(), Code.NOTIMP)[3] & 0xF == Code.NOTIMP


def test_names_in_answers_point_to_the_question():
    response = encode(parse_query(query()), Answer(answers=records(1)), limit=512)
    assert response.count(b"\1a\1b\0") == 1
    assert b"\xc0\x0c" in response


def test_what_does_not_fit_is_truncated_and_whole_without_a_limit():
    asked = parse_query(query())
    short = encode(asked, Answer(answers=records(200)), limit=512)
    assert len(short) <= 512
    assert short[2] & 0x02  # TC
    assert 20 < counts(short)[1] < 200
    whole = encode(asked, Answer(answers=records(200)), limit=65535)
    assert not whole[2] & 0x02
    assert counts(whole) == (1, 200, 0, 0)


def test_additional_records_are_left_out_without_truncation():
    answer = Answer(answers=records(1), additional=records(100))
    response = encode(parse_query(query()), answer, limit=512)
    assert not response[2] & 0x02
    assert counts(response)[1] == 1
    assert counts(response)[3] < 100


def test_names_dns_cannot_express_are_refused():
    for name in ("a..b", "x" * 64):
        with pytest.raises(ValueError, match="not a DNS name"):
            encode_name(name)
    assert encode_name("") == b"\0"
    assert Query(id=1, flags=0, name="", type=1, question=b"").udp_bytes == 512
