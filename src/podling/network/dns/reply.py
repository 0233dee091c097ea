"""Answers of other servers: read as far as where their records end and how long they live.

A reply's records are handed on byte for byte. Names in them may point into the question, which every client
has asked in the same length, so nothing is encoded anew; only times to live are, as the reply ages. OPT is a
matter between two neighbours (RFC 6891, "OPT Record Definition") and left out.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import NamedTuple

from podling.network.dns.message import Code, MessageError, Query, Record, Type, encode_name, own_opt

ANSWER, AUTHORITY, ADDITIONAL = range(3)
_HEADER = struct.Struct(">HHHHHH")
_FIXED = struct.Struct(">HHIH")
"""Type, class, time to live and length of the data."""
_QR, _TC, _RD, _RA, _AD, _CD = 0x8000, 0x0200, 0x0100, 0x0080, 0x0020, 0x0010
_MAX_HOPS = 128
"""Pointers within one name: more lead in a circle."""


class _Span(NamedTuple):
    section: int
    type: int
    start: int
    fixed: int
    """Where the name has ended."""
    end: int
    ttl_s: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    message: bytes
    """Whole, as it came."""
    flags: int
    kind: int
    """The type that was asked for."""
    spans: tuple[_Span, ...]

    @property
    def code(self) -> int:
        return self.flags & 0xF

    @property
    def truncated(self) -> bool:
        return bool(self.flags & _TC)

    @property
    def denies(self) -> bool:
        """NXDOMAIN or NODATA (RFC 2308, "Negative Responses")."""
        if self.code != Code.NOERROR:
            return self.code == Code.NXDOMAIN
        wanted = (s for s in self.spans if s.section == ANSWER and self.kind in (s.type, Type.ANY))
        return next(wanted, None) is None

    def lifetime_s(self) -> int:
        """For how long it may be given again; 0 for what is not to be kept.

        A denial lives as its SOA says, and not at all without one (RFC 2308, "Caching Negative Answers").
        """
        if self.truncated or self.code not in (Code.NOERROR, Code.NXDOMAIN):
            return 0
        lives = [span.ttl_s for span in self.spans]
        if self.denies:
            minimums = [
                self._soa_minimum(s) for s in self.spans if (s.section, s.type) == (AUTHORITY, Type.SOA)
            ]
            lives = [*lives, *minimums] if minimums else []
        return min(lives, default=0)

    def _soa_minimum(self, span: _Span) -> int:
        return _ttl(int.from_bytes(self.message[span.end - 4 : span.end], "big"))

    def encode(self, query: Query, *, limit: int, age_s: int = 0, max_ttl_s: int | None = None) -> bytes:
        """For whoever asked `query`; TC and as many records as fit when it is longer than `limit` bytes."""
        opt = own_opt(query)
        start = _HEADER.size + len(query.question)
        room = limit - start - len(opt)
        counts = [0, 0, 0]
        body = bytearray()
        truncated = self.truncated
        for span in self.spans:
            if len(body) + span.end - span.start > room:
                truncated = truncated or span.section != ADDITIONAL
                break
            counts[span.section] += 1
            body += self.message[span.start : span.end]
            ttl_s = span.ttl_s if max_ttl_s is None else min(span.ttl_s, max_ttl_s)
            struct.pack_into(">I", body, span.fixed + 4 - start, max(ttl_s - age_s, 0))
        authentic = self.flags & _AD if query.dnssec or query.flags & _AD else 0
        flags = _QR | _RA | authentic | (query.flags & (_RD | _CD)) | self.code | (_TC if truncated else 0)
        head = _HEADER.pack(query.id, flags, 1, counts[0], counts[1], counts[2] + bool(opt))
        return b"".join((head, query.question, body, opt))

    def addresses(self, age_s: int = 0) -> list[Record]:
        """What it answers of A, AAAA and CNAME, to be part of another answer."""
        found = []
        for span in self.spans:
            if span.section != ANSWER or span.type not in (Type.A, Type.AAAA, Type.CNAME):
                continue
            at = span.fixed + _FIXED.size
            data = self.message[at : span.end]
            if span.type == Type.CNAME:
                data = encode_name(_name_at(self.message, at))
            found.append(
                Record(_name_at(self.message, span.start), span.type, max(span.ttl_s - age_s, 0), data)
            )
        return found


def parse_reply(data: bytes, query: Query) -> Reply:
    """Raises `MessageError` for what is no answer to `query`."""
    start = _HEADER.size + len(query.question)
    if len(data) < start:
        raise MessageError("shorter than its question")
    _, flags, questions, *counts = _HEADER.unpack_from(data)
    if not flags & _QR or questions != 1 or data[_HEADER.size : start].lower() != query.question.lower():
        raise MessageError("no answer to this question")
    spans: list[_Span] = []
    offset = start
    for section, count in enumerate(counts):
        for _ in range(count):
            span = _span(data, section, offset)
            offset = span.end
            if span.type == Type.OPT:
                # What pointed behind it would point elsewhere; nothing of worth ever follows.
                return Reply(message=data, flags=flags, kind=query.type, spans=tuple(spans))
            spans.append(span)
    return Reply(message=data, flags=flags, kind=query.type, spans=tuple(spans))


def _span(data: bytes, section: int, start: int) -> _Span:
    fixed = _skip_name(data, start)
    if fixed + _FIXED.size > len(data):
        raise MessageError("a record is cut off")
    kind, _, ttl_s, size = _FIXED.unpack_from(data, fixed)
    end = fixed + _FIXED.size + size
    if end > len(data):
        raise MessageError("a record is cut off")
    return _Span(section, kind, start, fixed, end, _ttl(ttl_s))


def _ttl(value: int) -> int:
    """RFC 2181, "Time to Live (TTL)": one with the highest bit set is none."""
    return value if value < 1 << 31 else 0


def _skip_name(data: bytes, offset: int) -> int:
    while offset < len(data):
        size = data[offset]
        if size & 0xC0:
            return offset + 2
        offset += 1 + size
        if not size:
            return offset
    raise MessageError("a name is cut off")


def _name_at(data: bytes, offset: int) -> str:
    labels: list[str] = []
    for _ in range(_MAX_HOPS):
        if offset >= len(data):
            break
        size = data[offset]
        if not size:
            return ".".join(labels)
        if size & 0xC0:
            offset = int.from_bytes(data[offset : offset + 2], "big") & 0x3FFF
        else:
            labels.append(data[offset + 1 : offset + 1 + size].decode("latin-1").lower())
            offset += 1 + size
    raise MessageError("a name is cut off or leads in a circle")
