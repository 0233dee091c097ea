"""DNS messages on the wire (RFC 1035, "Messages"; RFC 6891 for EDNS): as much as a server of few types needs.

A query is read once; its question is echoed byte for byte, so that a resolver that mixes upper and lower case
(draft-vixie-dnsext-dns0x20) finds its own again. Pure functions over bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

CLASS_IN, CLASS_ANY = 1, 255
QUERY, NOTIFY = 0, 4
MAX_NAME_BYTES, MAX_LABEL_BYTES = 255, 63
MIN_UDP_BYTES = 512
MAX_UDP_BYTES = 4096
"""More goes by TCP, whatever the client says it can take."""

_HEADER = struct.Struct(">HHHHHH")
_QR, _AA, _TC, _RD, _RA, _AD, _CD = 0x8000, 0x0400, 0x0200, 0x0100, 0x0080, 0x0020, 0x0010
_DO = 0x8000
"""Of the OPT record: signatures are wanted (RFC 3225)."""
_POINTER_TO_QUESTION = b"\xc0\x0c"


class Type(IntEnum):
    A = 1
    NS = 2
    CNAME = 5
    SOA = 6
    PTR = 12
    TXT = 16
    AAAA = 28
    SRV = 33
    OPT = 41
    ANY = 255


class Code(IntEnum):
    """RCODE."""

    NOERROR = 0
    FORMERR = 1
    SERVFAIL = 2
    NXDOMAIN = 3
    NOTIMP = 4
    REFUSED = 5


class MessageError(ValueError):
    """Bytes that are no query this server understands; `code` is the answer they deserve."""

    def __init__(self, text: str, code: Code = Code.FORMERR) -> None:
        super().__init__(text)
        self.code = code


class Record(NamedTuple):
    name: str
    """Without the last dot; in lower case."""
    type: int
    ttl_s: int
    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    id: int
    flags: int
    name: str
    """In lower case, without the last dot; empty for the root."""
    type: int
    question: bytes
    """As it came."""
    edns_bytes: int | None = None
    """What the client takes in a datagram; None when it does not speak EDNS."""
    dnssec: bool = False
    """The DO bit: signatures are wanted."""

    @property
    def unchecked(self) -> bool:
        """The CD bit: signatures are not to be checked."""
        return bool(self.flags & _CD)

    @property
    def udp_bytes(self) -> int:
        return min(max(self.edns_bytes or 0, MIN_UDP_BYTES), MAX_UDP_BYTES)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    code: Code = Code.NOERROR
    answers: Sequence[Record] = ()
    authority: Sequence[Record] = ()
    additional: Sequence[Record] = ()


def parse_query(data: bytes) -> Query:
    """Raises `MessageError`."""
    if len(data) < _HEADER.size:
        raise MessageError("shorter than a header")
    ident, flags, questions, _, _, additional = _HEADER.unpack_from(data)
    if flags & _QR:
        raise MessageError("not a query")
    if flags >> 11 & 0xF != QUERY:
        raise MessageError("only standard queries are answered", Code.NOTIMP)
    if questions != 1:
        raise MessageError(f"{questions} questions")
    labels, end = _labels(data, _HEADER.size)
    if end + 4 > len(data):
        raise MessageError("the question is cut off")
    kind, klass = struct.unpack_from(">HH", data, end)
    if klass not in (CLASS_IN, CLASS_ANY):
        raise MessageError(f"class {klass}", Code.NOTIMP)
    edns_bytes, dnssec = _edns(data, end + 4) if additional else (None, False)
    return Query(
        id=ident,
        flags=flags,
        name=".".join(labels),
        type=kind,
        question=data[_HEADER.size : end + 4],
        edns_bytes=edns_bytes,
        dnssec=dnssec,
    )


def make_query(name: str, kind: int) -> Query:
    """One of our own."""
    return Query(
        id=0, flags=_RD, name=name, type=kind, question=encode_name(name) + struct.pack(">HH", kind, CLASS_IN)
    )


def _labels(data: bytes, offset: int) -> tuple[list[str], int]:
    labels: list[str] = []
    start = offset
    while True:
        if offset >= len(data):
            raise MessageError("a name is cut off")
        size = data[offset]
        offset += 1
        if size == 0:
            return labels, offset
        if size > MAX_LABEL_BYTES or offset - start + size > MAX_NAME_BYTES:
            raise MessageError("a name is too long, or compressed where it may not be")
        labels.append(data[offset : offset + size].decode("latin-1").lower())
        offset += size


def _edns(data: bytes, offset: int) -> tuple[int | None, bool]:
    """Size and DO bit of an OPT record right after the question, which is where clients put it."""
    if offset + 11 > len(data) or data[offset] != 0:
        return None, False
    kind, size, _, flags = struct.unpack_from(">HHHH", data, offset + 1)
    return (int(size), bool(flags & _DO)) if kind == Type.OPT else (None, False)


def encode_query(query: Query, *, udp_bytes: int) -> bytes:
    """To ask another server: the same question, with EDNS of our own. Identifier 0."""
    flags = _RD | (query.flags & _CD)
    return _HEADER.pack(0, flags, 1, 0, 0, 1) + query.question + _opt(udp_bytes, dnssec=query.dnssec)


def own_opt(query: Query) -> bytes:
    """Ours in the answer: none for a client that does not speak EDNS."""
    return _opt(MAX_UDP_BYTES, dnssec=query.dnssec) if query.edns_bytes is not None else b""


def _opt(udp_bytes: int, *, dnssec: bool) -> bytes:
    return b"\0" + struct.pack(">HHHHH", Type.OPT, udp_bytes, 0, _DO if dnssec else 0, 0)


def encode(query: Query, answer: Answer, *, limit: int) -> bytes:
    """The response, with the TC bit and as many answers as fit when it is longer than `limit` bytes."""
    opt = own_opt(query)
    room = limit - _HEADER.size - len(query.question) - len(opt)
    answers = [_record(query, each) for each in answer.answers]
    authority = [_record(query, each) for each in answer.authority]
    additional = [_record(query, each) for each in answer.additional]
    truncated = False
    if sum(map(len, answers)) + sum(map(len, authority)) > room:
        truncated, authority = True, []
        answers = _fitting(answers, room)
    additional = _fitting(additional, room - sum(map(len, answers)) - sum(map(len, authority)))
    flags = _QR | _AA | _RA | (query.flags & (_RD | _CD)) | answer.code | (_TC if truncated else 0)
    head = _HEADER.pack(query.id, flags, 1, len(answers), len(authority), len(additional) + (1 if opt else 0))
    return b"".join((head, query.question, *answers, *authority, *additional, opt))


def encode_error(data: bytes, code: Code) -> bytes:
    """An answer to what could not be read: header only. Empty when not even that can be answered."""
    if len(data) < _HEADER.size:
        return b""
    ident, flags = struct.unpack_from(">HH", data)
    if flags & _QR:
        return b""  # an answer to an answer would never end
    return _HEADER.pack(ident, _QR | (flags & (0x7800 | _RD)) | code, 0, 0, 0, 0)


def _fitting(records: Iterable[bytes], room: int) -> list[bytes]:
    kept = []
    for record in records:
        room -= len(record)
        if room < 0:
            break
        kept.append(record)
    return kept


def _record(query: Query, record: Record) -> bytes:
    name = _POINTER_TO_QUESTION if record.name == query.name else encode_name(record.name)
    return name + struct.pack(">HHIH", record.type, CLASS_IN, record.ttl_s, len(record.data)) + record.data


def encode_name(name: str) -> bytes:
    """Uncompressed. `ValueError` for one that DNS cannot express."""
    if not name:
        return b"\0"
    encoded = bytearray()
    for label in name.split("."):
        raw = label.encode("latin-1")
        if not 0 < len(raw) <= MAX_LABEL_BYTES:
            raise ValueError(f"not a DNS name: {name!r}")
        encoded.append(len(raw))
        encoded += raw
    return bytes(encoded) + b"\0"
