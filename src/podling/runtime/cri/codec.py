"""Protobuf for the messages of the CRI: any `Struct` whose fields carry number and wire type.

    data = encode(message)
    message = decode(cri.VersionRequest, data)

Each class is compiled once, at its first use, into two tables of small functions: writers in the order of
the field numbers, readers by tag. Semantics are proto3's (protobuf.dev, "Encoding"): zero values are left
out, repeated scalars are written packed and read either way, a message that comes twice is merged, fields
nobody knows are skipped, an enum value nobody knows stays a number.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import cache
from typing import Any, Final, TypeVar

import msgspec

from podling.runtime.cri.wire import (
    ALL_BITS,
    BYTES,
    VARINT,
    CodecError,
    Field,
    append_varint,
    extent,
    fields_of,
    read_varint,
    signed,
    skip,
    tag_of,
    wire_type_of,
)

__all__ = ["CodecError", "decode", "encode"]

T = TypeVar("T", bound=msgspec.Struct)

_RANGES: Final = {
    "int32": (-(1 << 31), (1 << 31) - 1),
    "int64": (-(1 << 63), (1 << 63) - 1),
    "uint32": (0, (1 << 32) - 1),
    "uint64": (0, (1 << 64) - 1),
    "enum": (-(1 << 31), (1 << 31) - 1),
}

Writer = Callable[[bytearray, Any], None]
"""Append one value without its tag."""
Reader = Callable[[bytes, int, int], tuple[Any, int]]
"""Read one value at a position; gives it and the position behind it. The second number is where to stop."""
Assign = Callable[[Any, bytes, int, int], int]
"""Read a field into a message."""


def encode(message: msgspec.Struct) -> bytes:
    """Raises `CodecError` naming the field whose value does not fit its wire type."""
    out = bytearray()
    _write(out, message)
    return bytes(out)


def decode(kind: type[T], data: bytes) -> T:
    """Raises `CodecError`."""
    message = kind()
    _read(message, data, 0, len(data))
    return message


# writing


@cache
def _writers(kind: type[msgspec.Struct]) -> tuple[tuple[str, Writer, bool], ...]:
    """Name, writer, and whether a false value other than None may be worth writing."""
    return tuple((f.name, _field_writer(f), f.wrapped or f.wire == "double") for f in fields_of(kind))


def _write(out: bytearray, message: msgspec.Struct) -> None:
    kind: type[msgspec.Struct] = type(message)
    for name, write, zero_counts in _writers(kind):
        value = getattr(message, name)
        if value or (zero_counts and value is not None):
            try:
                write(out, value)
            except CodecError:
                raise
            except (TypeError, ValueError, AttributeError, struct.error) as err:
                raise CodecError(f"{kind.__name__}.{name}: {err}") from err


def _field_writer(field: Field) -> Writer:
    if field.key:
        return _map_writer(field)
    value = _value_writer(field.wire)
    if field.wrapped:
        return _wrapper_writer(field, value)
    if not field.repeated:
        return _single_writer(field, value)
    tag = tag_of(field.number, BYTES)
    if field.wire in ("string", "bytes", "message"):

        def write_each(out: bytearray, values: Any) -> None:
            for item in values:
                out += tag
                value(out, item)

        return write_each

    def write_packed(out: bytearray, values: Any) -> None:
        packed = bytearray()
        for item in values:
            value(packed, item)
        out += tag
        append_varint(out, len(packed))
        out += packed

    return write_packed


def _single_writer(field: Field, value: Writer) -> Writer:
    tag = tag_of(field.number, wire_type_of(field.wire))
    if field.wire == "double":

        def write_double(out: bytearray, number: float) -> None:
            packed = struct.pack("<d", number)
            if packed != b"\0\0\0\0\0\0\0\0":  # -0.0 is not the default
                out += tag + packed

        return write_double

    def write(out: bytearray, item: Any) -> None:
        out += tag
        value(out, item)

    return write


def _wrapper_writer(field: Field, value: Writer) -> Writer:
    tag, inner_tag = tag_of(field.number, BYTES), tag_of(1, VARINT)

    def write(out: bytearray, number: int) -> None:
        inner = bytearray()
        if number:
            inner += inner_tag
            value(inner, number)
        out += tag
        append_varint(out, len(inner))
        out += inner

    return write


def _map_writer(field: Field) -> Writer:
    tag = tag_of(field.number, BYTES)
    key_tag, key = tag_of(1, wire_type_of(field.key)), _value_writer(field.key)
    value_tag, value = tag_of(2, wire_type_of(field.wire)), _value_writer(field.wire)

    def write(out: bytearray, entries: dict[Any, Any]) -> None:
        for name, item in entries.items():
            entry = bytearray(key_tag)
            key(entry, name)
            entry += value_tag
            value(entry, item)
            out += tag
            append_varint(out, len(entry))
            out += entry

    return write


def _value_writer(wire: str) -> Writer:
    if wire in _RANGES:
        return _number_writer(wire)
    return _WRITERS[wire]


def _number_writer(wire: str) -> Writer:
    low, high = _RANGES[wire]

    def write(out: bytearray, number: int) -> None:
        if not low <= number <= high:
            raise ValueError(f"{number} does not fit {wire}")
        # Negative numbers, int32 too, take ten bytes: two's complement of 64 bits.
        append_varint(out, number & ALL_BITS)

    return write


def _write_bool(out: bytearray, value: bool) -> None:
    out.append(1 if value else 0)


def _write_string(out: bytearray, text: str) -> None:
    data = text.encode()
    length = len(data)
    if length < 0x80:  # nearly always: spares a call
        out.append(length)
    else:
        append_varint(out, length)
    out += data


def _write_bytes(out: bytearray, data: bytes) -> None:
    append_varint(out, len(data))
    out += data


def _write_message(out: bytearray, message: msgspec.Struct) -> None:
    inner = bytearray()
    _write(inner, message)
    append_varint(out, len(inner))
    out += inner


def _write_double(out: bytearray, number: float) -> None:
    out += struct.pack("<d", number)


_WRITERS: Final[dict[str, Writer]] = {
    "bool": _write_bool,
    "string": _write_string,
    "bytes": _write_bytes,
    "message": _write_message,
    "double": _write_double,
}


# reading


@cache
def _readers(kind: type[msgspec.Struct]) -> dict[int, Assign]:
    """By tag: a field number with another wire type is a field nobody knows."""
    found: dict[int, Assign] = {}
    for field in fields_of(kind):
        if field.key:
            found[field.number << 3 | BYTES] = _map_reader(field)
            continue
        if field.wrapped:
            found[field.number << 3 | BYTES] = _wrapper_reader(field)
            continue
        wire_type = wire_type_of(field.wire)
        value = _value_reader(field.wire, field.kind)
        if field.repeated:
            found[field.number << 3 | wire_type] = _append_reader(field.name, value)
            if wire_type != BYTES:
                found[field.number << 3 | BYTES] = _packed_reader(field.name, value)
        elif field.wire == "message":
            found[field.number << 3 | BYTES] = _message_reader(field)
        else:
            found[field.number << 3 | wire_type] = _set_reader(field.name, value)
    return found


def _read(message: msgspec.Struct, data: bytes, pos: int, end: int) -> None:
    kind: type[msgspec.Struct] = type(message)
    readers = _readers(kind)
    while pos < end:
        tag, pos = read_varint(data, pos, end)
        assign = readers.get(tag)
        pos = skip(data, pos, end, tag) if assign is None else assign(message, data, pos, end)


def _set_reader(name: str, value: Reader) -> Assign:
    def assign(message: Any, data: bytes, pos: int, end: int) -> int:
        found, pos = value(data, pos, end)
        setattr(message, name, found)
        return pos

    return assign


def _append_reader(name: str, value: Reader) -> Assign:
    def assign(message: Any, data: bytes, pos: int, end: int) -> int:
        found, pos = value(data, pos, end)
        getattr(message, name).append(found)
        return pos

    return assign


def _packed_reader(name: str, value: Reader) -> Assign:
    def assign(message: Any, data: bytes, pos: int, end: int) -> int:
        pos, stop = extent(data, pos, end)
        values = getattr(message, name)
        while pos < stop:
            found, pos = value(data, pos, stop)
            values.append(found)
        return stop

    return assign


def _message_reader(field: Field) -> Assign:
    name, kind = field.name, field.kind

    def assign(message: Any, data: bytes, pos: int, end: int) -> int:
        pos, stop = extent(data, pos, end)
        inner = getattr(message, name)
        if inner is None:
            inner = kind()
            setattr(message, name, inner)
        _read(inner, data, pos, stop)
        return stop

    return assign


def _wrapper_reader(field: Field) -> Assign:
    name, value = field.name, _value_reader(field.wire, int)

    def assign(message: Any, data: bytes, pos: int, end: int) -> int:
        pos, stop = extent(data, pos, end)
        number = getattr(message, name) or 0
        while pos < stop:
            tag, pos = read_varint(data, pos, stop)
            if tag == 1 << 3 | VARINT:
                number, pos = value(data, pos, stop)
            else:
                pos = skip(data, pos, stop, tag)
        setattr(message, name, number)
        return stop

    return assign


def _map_reader(field: Field) -> Assign:
    name = field.name
    read_key, key_tag = _value_reader(field.key, None), 1 << 3 | wire_type_of(field.key)
    read_value, value_tag = _value_reader(field.wire, field.kind), 2 << 3 | wire_type_of(field.wire)
    no_key, no_value = _zero(field.key, None), _zero(field.wire, field.kind)

    def assign(message: Any, data: bytes, pos: int, end: int) -> int:
        pos, stop = extent(data, pos, end)
        key, value = no_key(), no_value()
        while pos < stop:
            tag, pos = read_varint(data, pos, stop)
            if tag == key_tag:
                key, pos = read_key(data, pos, stop)
            elif tag == value_tag:
                value, pos = read_value(data, pos, stop)
            else:
                pos = skip(data, pos, stop, tag)
        getattr(message, name)[key] = value
        return stop

    return assign


def _zero(wire: str, kind: Any) -> Callable[[], Any]:
    zeros: dict[str, Callable[[], Any]] = {"string": str, "bytes": bytes, "bool": bool, "double": float}
    if wire == "message":
        return lambda: kind()
    return zeros.get(wire, int)


def _value_reader(wire: str, kind: Any) -> Reader:
    if wire == "message":
        return _one_message(kind)
    if wire == "enum":
        members = kind._value2member_map_

        def to_enum(number: int) -> Any:
            number = signed(number, 32)
            return members.get(number, number)

        return _number_reader(to_enum)
    return _READERS[wire]


def _one_message(kind: Any) -> Reader:
    def read(data: bytes, pos: int, end: int) -> tuple[Any, int]:
        pos, stop = extent(data, pos, end)
        message = kind()
        _read(message, data, pos, stop)
        return message, stop

    return read


def _number_reader(make: Callable[[int], Any]) -> Reader:
    def read(data: bytes, pos: int, end: int) -> tuple[Any, int]:
        number, pos = read_varint(data, pos, end)
        return make(number), pos

    return read


def _read_string(data: bytes, pos: int, end: int) -> tuple[str, int]:
    pos, stop = extent(data, pos, end)
    try:
        return data[pos:stop].decode(), stop
    except UnicodeDecodeError as err:
        raise CodecError("string field contains invalid UTF-8") from err


def _read_bytes(data: bytes, pos: int, end: int) -> tuple[bytes, int]:
    pos, stop = extent(data, pos, end)
    return data[pos:stop], stop


def _read_double(data: bytes, pos: int, end: int) -> tuple[float, int]:
    if pos + 8 > end:
        raise CodecError("unexpected end of message")
    return struct.unpack_from("<d", data, pos)[0], pos + 8


_READERS: Final[dict[str, Reader]] = {
    "int32": _number_reader(lambda number: signed(number, 32)),
    "int64": _number_reader(lambda number: signed(number, 64)),
    "uint32": _number_reader(lambda number: number & 0xFFFFFFFF),
    "uint64": _number_reader(lambda number: number),
    "bool": _number_reader(bool),
    "string": _read_string,
    "bytes": _read_bytes,
    "double": _read_double,
}
