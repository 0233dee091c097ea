"""Builders of nf_tables requests: tables, chains, rules, maps and their elements.

Numbers are those of `<linux/netfilter/nf_tables.h>`; what an expression does is in `man 8 nft` under the same
word. Only what Podling uses is here. Registers are the sixteen 32-bit ones, numbered from 0: a key of several
fields lies in consecutive registers, each field padded to four bytes.
"""

from __future__ import annotations

import struct

from podling.linux.netlink.netfilter import NFNL_SUBSYS_NFTABLES, nfgenmsg
from podling.linux.netlink.wire import (
    NLM_F_APPEND,
    NLM_F_CREATE,
    Request,
    attr,
    attr_str,
    nested,
    parse_attrs,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

NFPROTO_IPV4 = 2
NF_INET_PRE_ROUTING, NF_INET_LOCAL_IN, NF_INET_FORWARD, NF_INET_LOCAL_OUT, NF_INET_POST_ROUTING = range(5)
NF_DROP, NF_ACCEPT = 0, 1
NFT_JUMP, NFT_GOTO, NFT_RETURN = -3, -4, -5
CMP_LTE, CMP_GTE = 3, 5
NFT_SET_MAP, NFT_SET_TIMEOUT, NFT_SET_EVAL = 0x8, 0x10, 0x20
NFT_DATA_VERDICT = 0xFFFFFF00
TYPE_IPV4_ADDR, TYPE_INET_PROTO, TYPE_INET_SERVICE, TYPE_MARK = 7, 12, 13, 19
"""nft's own numbers of types, kept by the kernel so that `nft list` can show a set."""

(
    _NEWTABLE,
    _GETTABLE,
    _DELTABLE,
    _NEWCHAIN,
    _GETCHAIN,
    _DELCHAIN,
    _NEWRULE,
    _GETRULE,
    _DELRULE,
    _NEWSET,
    _GETSET,
    _DELSET,
    _NEWSETELEM,
    _GETSETELEM,
    _DELSETELEM,
    NFT_MSG_NEWGEN,
) = range(16)

_ELEMENTS_PER_MESSAGE = 400
"""An attribute holds 64 KiB; an element with a verdict takes some 100 bytes."""
_REG32_00 = 8
_REG_VERDICT = 0


def _u32(kind: int, value: int) -> bytes:
    return attr(kind, struct.pack(">I", value & 0xFFFFFFFF))


def _u64(kind: int, value: int) -> bytes:
    return attr(kind, struct.pack(">Q", value))


def _reg(kind: int, register: int) -> bytes:
    return _u32(kind, _REG32_00 + register)


def _request(message: int, body: bytes, what: str, flags: int = 0) -> Request:
    kind = NFNL_SUBSYS_NFTABLES << 8 | message
    return Request(kind=kind, flags=flags, body=nfgenmsg(NFPROTO_IPV4) + body, what=what)


# --- tables, chains, rules


def add_table(table: str) -> Request:
    return _request(_NEWTABLE, attr_str(1, table), f"add table {table}", NLM_F_CREATE)


def delete_table(table: str) -> Request:
    """ENOENT when there is none; preceded by `add_table` it always succeeds."""
    return _request(_DELTABLE, attr_str(1, table), f"delete table {table}")


def add_chain(table: str, name: str) -> Request:
    return _request(
        _NEWCHAIN, attr_str(1, table) + attr_str(3, name), f"add chain {table} {name}", NLM_F_CREATE
    )


def add_base_chain(table: str, name: str, *, kind: str, hook: int, priority: int) -> Request:
    """`kind` is `filter` or `nat`."""
    body = (
        attr_str(1, table)
        + attr_str(3, name)
        + nested(4, _u32(1, hook), _u32(2, priority))
        + _u32(5, NF_ACCEPT)
        + attr_str(7, kind)
    )
    return _request(_NEWCHAIN, body, f"add chain {table} {name}", NLM_F_CREATE)


def add_rule(table: str, chain: str, *expressions: bytes) -> Request:
    body = attr_str(1, table) + attr_str(2, chain) + nested(4, *expressions)
    return _request(_NEWRULE, body, f"add rule {table} {chain}", NLM_F_CREATE | NLM_F_APPEND)


# --- maps, sets and elements


def concat_type(*types: int) -> int:
    """The type of a key of several fields, as nft numbers it."""
    number = 0
    for each in types:
        number = number << 6 | each
    return number


def add_map(
    table: str,
    name: str,
    key: Sequence[int],
    value: Sequence[int] | None = None,
    *,
    number: int,
    verdicts: bool = False,
    timeouts: bool = False,
    size: int = 0,
) -> Request:
    """A map from fields of `key` types to those of `value`, or to verdicts; a set without either.

    `number` is unique within the transaction. `timeouts`: rules add its elements, which expire.
    """
    flags = NFT_SET_MAP if verdicts or value else 0
    flags |= NFT_SET_TIMEOUT | NFT_SET_EVAL if timeouts else 0
    body = (
        attr_str(1, table)
        + attr_str(2, name)
        + _u32(3, flags)
        + _u32(4, concat_type(*key))
        + _u32(5, 4 * len(key))
        + _u32(10, number)
    )
    if verdicts:
        body += _u32(6, NFT_DATA_VERDICT) + _u32(7, 16)
    elif value:
        body += _u32(6, concat_type(*value)) + _u32(7, 4 * len(value))
    if size:
        body += nested(9, _u32(1, size))
    return _request(_NEWSET, body, f"add map {table} {name}", NLM_F_CREATE)


def verdict(code: int, chain: str = "") -> bytes:
    """The value of an element that decides: NF_DROP, or NFT_GOTO and where to."""
    return nested(2, _u32(1, code), attr_str(2, chain) if chain else b"")


def value(data: bytes) -> bytes:
    return attr(1, data)


def element(key: bytes, data: bytes | None = None) -> bytes:
    """One element; `data` is made by `verdict` or `value`."""
    return nested(1, nested(1, value(key)), nested(2, data) if data is not None else b"")


def add_elements(table: str, name: str, elements: Sequence[bytes]) -> Iterable[Request]:
    """EEXIST when a key is there with another value."""
    return _elements(_NEWSETELEM, table, name, elements, f"add element {table} {name}", NLM_F_CREATE)


def delete_elements(table: str, name: str, elements: Sequence[bytes]) -> Iterable[Request]:
    return _elements(_DELSETELEM, table, name, elements, f"delete element {table} {name}", 0)


def _elements(
    message: int, table: str, name: str, elements: Sequence[bytes], what: str, flags: int
) -> Iterable[Request]:
    head = attr_str(1, table) + attr_str(2, name)
    for start in range(0, len(elements), _ELEMENTS_PER_MESSAGE):
        part = elements[start : start + _ELEMENTS_PER_MESSAGE]
        yield _request(message, head + nested(3, *part), what, flags)


def dump_elements(table: str, name: str) -> Request:
    return _request(_GETSETELEM, attr_str(1, table) + attr_str(2, name), f"list map {table} {name}")


def parse_elements(body: bytes) -> list[tuple[bytes, bytes]]:
    """Keys and values in one message of such a dump."""
    listed = parse_attrs(body, 4).get(3, b"")
    found = []
    offset = 0
    while offset + 4 <= len(listed):
        size = struct.unpack_from("=H", listed, offset)[0]
        fields = parse_attrs(listed[offset + 4 : offset + size])
        key = parse_attrs(fields.get(1, b"")).get(1, b"")
        found.append((key, parse_attrs(fields.get(2, b"")).get(1, b"")))
        offset += (size + 3) & ~3
    return found


def event_table(body: bytes) -> bytes:
    """The name of the table an event is about: the first attribute of all of them but NEWGEN."""
    return parse_attrs(body, 4).get(1, b"").rstrip(b"\0")


# --- expressions


def _expression(name: str, *attributes: bytes) -> bytes:
    return nested(1, attr_str(1, name), nested(2, *attributes))


def load_ip_saddr(register: int) -> bytes:
    return _payload(register, base=1, offset=12, length=4)


def load_ip_daddr(register: int) -> bytes:
    return _payload(register, base=1, offset=16, length=4)


def load_dport(register: int) -> bytes:
    return _payload(register, base=2, offset=2, length=2)


def _payload(register: int, *, base: int, offset: int, length: int) -> bytes:
    return _expression("payload", _reg(1, register), _u32(2, base), _u32(3, offset), _u32(4, length))


def load_transport(register: int, *, offset: int, length: int) -> bytes:
    """Bytes of the TCP, UDP or SCTP header."""
    return _payload(register, base=2, offset=offset, length=length)


def load_l4proto(register: int) -> bytes:
    return _expression("meta", _u32(2, 16), _reg(1, register))


def load_mark(register: int) -> bytes:
    return _expression("meta", _u32(2, 3), _reg(1, register))


def set_mark(register: int) -> bytes:
    return _expression("meta", _u32(2, 3), _reg(3, register))


def load_priority(register: int) -> bytes:
    return _expression("meta", _u32(2, 2), _reg(1, register))


def set_priority(register: int) -> bytes:
    return _expression("meta", _u32(2, 2), _reg(3, register))


def load_ct_state(register: int) -> bytes:
    return _expression("ct", _u32(2, 0), _reg(1, register))


def load_ct_status(register: int) -> bytes:
    return _expression("ct", _u32(2, 2), _reg(1, register))


def load_fib_type(register: int, *, source: bool) -> bytes:
    """The kind of the packet's address here: RTN_LOCAL (2) for one of this machine."""
    return _expression("fib", _reg(1, register), _u32(2, 3), _u32(3, 1 if source else 2))


def load_immediate(register: int, data: bytes) -> bytes:
    return _expression("immediate", _reg(1, register), nested(2, value(data)))


def load_random(register: int, *, below: int, offset: int = 0) -> bytes:
    """A random number, in host byte order: `offset` to `offset + below - 1`."""
    return _expression("numgen", _reg(1, register), _u32(2, below), _u32(3, 1), _u32(4, offset))


def bitwise(register: int, mask: bytes, xor: bytes) -> bytes:
    """register = register & mask ^ xor."""
    return _expression(
        "bitwise",
        _reg(1, register),
        _reg(2, register),
        _u32(3, len(mask)),
        nested(4, value(mask)),
        nested(5, value(xor)),
    )


def equal(register: int, data: bytes, *, negated: bool = False) -> bytes:
    return _expression("cmp", _reg(1, register), _u32(2, int(negated)), nested(3, value(data)))


def compare(register: int, operator: int, data: bytes) -> bytes:
    """Ends the rule unless the register is, as bytes, less or greater as the operator says."""
    return _expression("cmp", _reg(1, register), _u32(2, operator), nested(3, value(data)))


def lookup(name: str, register: int, to: int | None = None) -> bytes:
    """Ends the rule when the key at `register` is not there; its value goes to register `to`."""
    return _expression("lookup", attr_str(1, name), _reg(2, register), _reg(3, to) if to is not None else b"")


def lookup_verdict(name: str, register: int) -> bytes:
    return _expression("lookup", attr_str(1, name), _reg(2, register), _u32(3, _REG_VERDICT))


def update(name: str, key: int, data: int, *, timeout_s: int) -> bytes:
    """Put key and value into a map, or renew them; ends the rule when the map is full."""
    return _expression(
        "dynset", attr_str(1, name), _u32(3, 1), _reg(4, key), _reg(5, data), _u64(6, timeout_s * 1000)
    )


def dnat(address: int, port: int) -> bytes:
    return _expression("nat", _u32(1, 1), _u32(2, NFPROTO_IPV4), _reg(3, address), _reg(5, port))


def masquerade() -> bytes:
    return _expression("masq", _u32(1, 1 << 4))  # NF_NAT_RANGE_PROTO_RANDOM_FULLY


def reject() -> bytes:
    """With an ICMP port unreachable: who connects is told "connection refused"."""
    return _expression("reject", _u32(1, 0), attr(2, b"\x03"))


def decide(code: int, chain: str = "") -> bytes:
    return _expression("immediate", _u32(1, _REG_VERDICT), nested(2, verdict(code, chain)))
