"""The protobuf wire: tags, numbers, lengths, what to skip, and which fields a message class has.

protobuf.dev, "Encoding".
"""

from __future__ import annotations

from types import UnionType
from typing import Annotated, Any, Final, Union, get_args, get_origin, get_type_hints

import msgspec

VARINT, FIXED64, BYTES, START_GROUP, END_GROUP, FIXED32 = 0, 1, 2, 3, 4, 5
MAX_DEPTH: Final = 100
"""Groups inside groups; every protobuf implementation has such a bound."""
_WRAPPERS: Final = {"Int64Value": "int64", "UInt64Value": "uint64"}
ALL_BITS: Final = (1 << 64) - 1


class CodecError(ValueError):
    """Bytes that are no such message, or a value its field cannot hold."""


class Field(msgspec.Struct, frozen=True):
    name: str
    number: int
    wire: str
    """A scalar type, "enum" or "message"; for maps the type of the values."""
    kind: Any
    """Class of an enum or message."""
    key: str = ""
    """Type of a map's keys."""
    repeated: bool = False
    wrapped: bool = False
    """Int64Value or UInt64Value: a message around one number."""


def fields_of(kind: type[msgspec.Struct]) -> list[Field]:
    """In the order of their numbers."""
    hints = get_type_hints(kind, include_extras=True)
    return sorted((_field(name, hint) for name, hint in hints.items()), key=lambda f: f.number)


def _field(name: str, hint: Any) -> Field:
    assert get_origin(hint) is Annotated, f"{name} has no wire number"
    python, number, wire = get_args(hint)
    if wire.startswith("map<"):
        key, value = wire.removeprefix("map<").removesuffix(">").split(",")
        return Field(name, number, value, get_args(python)[1], key=key)
    if wire in _WRAPPERS:
        return Field(name, number, _WRAPPERS[wire], int, wrapped=True)
    repeated = get_origin(python) is list
    if repeated:
        python = get_args(python)[0]
    if get_origin(python) in (Union, UnionType):
        python = next(arm for arm in get_args(python) if arm is not type(None))
    return Field(name, number, wire, python, repeated=repeated)


def append_varint(out: bytearray, number: int) -> None:
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)


def tag_of(number: int, wire_type: int) -> bytes:
    out = bytearray()
    append_varint(out, number << 3 | wire_type)
    return bytes(out)


def wire_type_of(wire: str) -> int:
    if wire == "double":
        return FIXED64
    return BYTES if wire in ("string", "bytes", "message") else VARINT


def signed(number: int, bits: int) -> int:
    number &= (1 << bits) - 1
    return number - (1 << bits) if number >> (bits - 1) else number


def read_varint(data: bytes, pos: int, end: int) -> tuple[int, int]:
    if pos >= end:
        raise CodecError("unexpected end of message")
    byte = data[pos]
    pos += 1
    if byte < 0x80:
        return byte, pos
    number, shift = byte & 0x7F, 7
    while pos < end:
        byte = data[pos]
        pos += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number & ALL_BITS, pos
        shift += 7
        if shift > 63:
            raise CodecError("a number is longer than ten bytes")
    raise CodecError("unexpected end of message")


def extent(data: bytes, pos: int, end: int) -> tuple[int, int]:
    """Of what has its length before it: start and end."""
    if pos < end and data[pos] < 0x80:  # nearly always: spares a call
        length = data[pos]
        pos += 1
    else:
        length, pos = read_varint(data, pos, end)
    stop = pos + length
    if stop > end:
        raise CodecError("unexpected end of message")
    return pos, stop


def skip(data: bytes, pos: int, end: int, tag: int) -> int:
    """Over a field nobody knows, whatever it holds."""
    groups: list[int] = []
    while True:
        number, wire_type = tag >> 3, tag & 7
        if number == 0 or number >= 1 << 29:
            raise CodecError(f"illegal field number {number}")
        if wire_type == VARINT:
            _, pos = read_varint(data, pos, end)
        elif wire_type == BYTES:
            _, pos = extent(data, pos, end)
        elif wire_type in (FIXED64, FIXED32):
            pos += 8 if wire_type == FIXED64 else 4
            if pos > end:
                raise CodecError("unexpected end of message")
        elif wire_type == START_GROUP and len(groups) < MAX_DEPTH:
            groups.append(number)
        elif wire_type != END_GROUP or not groups or groups.pop() != number:
            raise CodecError(f"illegal wire type {wire_type} of field {number}")
        if not groups:
            return pos
        tag, pos = read_varint(data, pos, end)
