"""Answers of other servers: what is handed on, for how long, and within which bounds it is kept."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Sequence
from dataclasses import replace

import pytest

from podling.network.dns.cache import MAX_TTL_S, ReplyCache, slot_of
from podling.network.dns.forward import Forwarder
from podling.network.dns.message import (
    MessageError,
    Query,
    Type,
    encode_name,
    encode_query,
    make_query,
    parse_query,
)
from podling.network.dns.reply import Reply, parse_reply
from podling.network.dns.upstream import Upstream, UpstreamError

NAME = "www.example.com"
TO_QUESTION = b"\xc0\x0c"
ADDRESS = bytes([192, 0, 2, 1])
OPT = b"\0" + struct.pack(">HHIH", Type.OPT, 1232, 0, 0)


def record(kind: int, ttl_s: int, data: bytes, name: bytes = TO_QUESTION) -> bytes:
    return name + struct.pack(">HHIH", kind, 1, ttl_s, len(data)) + data


def soa(ttl_s: int, minimum_s: int) -> bytes:
    data = encode_name("ns.example.com") + b"\0" + struct.pack(">IIIII", 1, 2, 3, 4, minimum_s)
    return record(Type.SOA, ttl_s, data, encode_name("example.com"))


def message(
    query: Query,
    *,
    code: int = 0,
    answers: Sequence[bytes] = (),
    authority: Sequence[bytes] = (),
    flags: int = 0,
) -> bytes:
    counts = (1, len(answers), len(authority), 1)
    head = struct.pack(">HHHHHH", 7, 0x8180 | flags | code, *counts)
    return b"".join((head, query.question, *answers, *authority, OPT))


def reply(**parts: object) -> Reply:
    query = make_query(NAME, Type.A)
    return parse_reply(message(query, **parts), query)  # type: ignore[arg-type]


def a(ttl_s: int) -> bytes:
    return record(Type.A, ttl_s, ADDRESS)


@pytest.mark.parametrize(
    ("made", "denies", "lifetime_s"),
    [
        (reply(answers=[a(60), a(20)]), False, 20),
        (reply(answers=[a(0)]), False, 0),
        (reply(answers=[a(1 << 31)]), False, 0),  # RFC 2181, "Time to Live (TTL)"
        # RFC 2308, "Negative Answers from Authoritative Servers": the lesser of the SOA's own and its MINIMUM
        (reply(code=3, authority=[soa(900, 40)]), True, 40),
        (reply(code=3, authority=[soa(15, 40)]), True, 15),
        (reply(authority=[soa(900, 40)]), True, 40),
        # "NODATA" behind an alias
        (reply(answers=[record(Type.CNAME, 9, encode_name("x.y"))], authority=[soa(900, 40)]), True, 9),
        # "Caching Negative Answers": never without an SOA
        (reply(code=3), True, 0),
        (reply(), True, 0),
        # Failures are nobody's property
        (reply(code=2), False, 0),
        (reply(code=5, authority=[soa(900, 40)]), False, 0),
        (reply(answers=[a(60)], flags=0x0200), False, 0),
    ],
)
def test_how_long_a_reply_lives(made: Reply, denies: bool, lifetime_s: int):
    assert (made.denies, made.lifetime_s()) == (denies, lifetime_s)


def test_a_reply_is_handed_on_with_the_clients_question_and_its_age_taken_off():
    asked = parse_query(
        struct.pack(">HHHHHH", 0x1234, 0x0100, 1, 0, 0, 0) + make_query(NAME.title(), 1).question
    )
    given = reply(answers=[a(60), a(5)]).encode(asked, limit=512, age_s=10, max_ttl_s=30)
    assert given[:2] == b"\x12\x34"
    assert b"\3Www\7Example\3Com" in given
    assert struct.unpack_from(">HHHH", given, 4) == (1, 2, 0, 0)  # no OPT for who has sent none
    assert [ttl for _, ttl in records(given)] == [20, 0]


def test_what_does_not_fit_is_cut_and_said():
    many = reply(answers=[a(60)] * 100)
    short = many.encode(make_query(NAME, Type.A), limit=512)
    assert len(short) <= 512
    assert short[2] & 0x02
    whole = many.encode(make_query(NAME, Type.A), limit=65535)
    assert not whole[2] & 0x02
    assert len(records(whole)) == 100
    edns = replace(make_query(NAME, Type.A), edns_bytes=1232)
    assert 512 < len(many.encode(edns, limit=1232)) <= 1232


def records(given: bytes) -> list[tuple[int, int]]:
    parsed = parse_reply(given, make_query(NAME, Type.A))
    return [(span.type, span.ttl_s) for span in parsed.spans]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        message(make_query("other.example.com", Type.A)),
        message(make_query(NAME, Type.AAAA)),
        encode_query(make_query(NAME, Type.A), udp_bytes=1232),  # a question
        message(make_query(NAME, Type.A), answers=[a(5)])[:-20],
        message(make_query(NAME, Type.A), answers=[b"\3ww"]),
    ],
)
def test_what_is_no_answer_is_refused(data: bytes):
    with pytest.raises(MessageError):
        parse_reply(data, make_query(NAME, Type.A))


def test_names_in_circles_end():
    made = reply(answers=[record(Type.CNAME, 5, b"\xc0\x2d")])
    with pytest.raises(MessageError, match="circle"):
        made.addresses()


def test_aliases_are_unfolded_for_another_answer():
    target = b"\3cdn" + b"\xc0\x10"  # cdn.example.com by way of the question
    made = reply(answers=[record(Type.CNAME, 50, target), record(Type.A, 20, ADDRESS, b"\xc0\x2d")])
    assert [(r.name, r.type, r.ttl_s) for r in made.addresses(age_s=5)] == [
        (NAME, Type.CNAME, 45),
        ("cdn.example.com", Type.A, 15),
    ]
    assert made.addresses()[0].data == encode_name("cdn.example.com")


def query_of(number: int) -> Query:
    return make_query(f"n{number}.example.com", Type.A)


def kept(cache: ReplyCache, number: int, **parts: object) -> Query:
    query = query_of(number)
    cache.put(slot_of(query), parse_reply(message(query, **parts), query))  # type: ignore[arg-type]
    return query


def test_replies_are_given_until_they_are_too_old():
    now = 100.0
    cache = ReplyCache(clock=lambda: now)
    brief, long = kept(cache, 1, answers=[a(5)]), kept(cache, 2, answers=[a(3600)])
    now += 4
    hit = cache.get(slot_of(brief))
    assert hit is not None
    assert records_of(hit.encode(brief, limit=512), brief) == [1]
    now += 1
    assert cache.get(slot_of(brief)) is None
    assert cache.get(slot_of(long)) is not None
    now += MAX_TTL_S
    assert cache.get(slot_of(long)) is None  # capped
    assert (cache.success.entries, cache.success.hits) == ({}, 2)


def records_of(given: bytes, query: Query) -> list[int]:
    return [span.ttl_s for span in parse_reply(given, query).spans]


def test_a_newer_reply_takes_the_place_of_the_older():
    cache = ReplyCache(clock=lambda: 0.0)
    kept(cache, 1, answers=[a(5)])
    query = kept(cache, 1, code=3, authority=[soa(5, 5)])
    hit = cache.get(slot_of(query))
    assert hit is not None
    assert hit.reply.code == 3
    assert (len(cache.success.entries), len(cache.denial.entries)) == (0, 1)
    kept(cache, 1, answers=[a(0)])
    assert cache.get(slot_of(query)) is None


def test_the_cache_is_bounded_by_number_and_bytes():
    cache = ReplyCache(max_entries=10, max_bytes=2000, clock=lambda: 0.0)
    for number in range(30):
        kept(cache, number, answers=[a(5)])
        kept(cache, number + 100, code=3, authority=[soa(5, 5)])
    assert (len(cache.success.entries), cache.success.evictions) == (10, 20)
    assert len(cache.denial.entries) == 10
    assert cache.get(slot_of(query_of(29)))
    assert cache.get(slot_of(query_of(19))) is None
    kept(cache, 50, answers=[a(5)] * 100)  # 1,600 bytes
    assert len(cache.success.entries) < 10
    kept(cache, 51, answers=[a(5)] * 200)  # alone too large
    assert len(cache.success.entries) == 0


def test_case_and_size_are_no_difference_but_signatures_are():
    plain = make_query(NAME, Type.A)
    assert slot_of(plain) == slot_of(
        replace(plain, question=make_query(NAME.upper(), 1).question, edns_bytes=99)
    )
    assert slot_of(plain) != slot_of(replace(plain, dnssec=True))
    assert slot_of(plain) != slot_of(make_query(NAME, Type.AAAA))


class HeldUpstream(Upstream):
    """Answers when it is let."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []
        self.let = asyncio.Event()
        self.fails = False

    async def ask(self, query: Query) -> Reply:
        self.asked.append(query.name)
        await self.let.wait()
        if self.fails:
            raise UpstreamError("nobody")
        return parse_reply(message(query, answers=[a(60)]), query)


async def test_one_question_of_many_clients_is_asked_once():
    upstream = HeldUpstream()
    forwarder = Forwarder(upstream)
    query = make_query(NAME, Type.A)
    clients = [asyncio.create_task(forwarder.ask(query)) for _ in range(50)]
    other = asyncio.create_task(forwarder.ask(make_query(NAME, Type.AAAA)))
    await asyncio.sleep(0)
    clients[0].cancel()  # one that went away takes nothing from the others
    upstream.let.set()
    hits = await asyncio.gather(*clients[1:], other)
    assert len({id(hit.reply) for hit in hits}) == 2
    assert upstream.asked == [NAME, NAME]
    assert forwarder.known(query) is not None
    assert forwarder.known(make_query("x.example.com", Type.A)) is None
    assert (forwarder.cache.success.hits, forwarder.misses) == (1, 1)


async def test_a_failure_is_everyones_and_not_kept():
    upstream = HeldUpstream()
    forwarder = Forwarder(upstream)
    upstream.fails = True
    upstream.let.set()
    query = make_query(NAME, Type.A)
    failures = await asyncio.gather(*(forwarder.ask(query) for _ in range(3)), return_exceptions=True)
    assert all(isinstance(failure, UpstreamError) for failure in failures)
    upstream.fails = False
    assert (await forwarder.ask(query)).reply.code == 0
    assert upstream.asked == [NAME, NAME]
