"""Kubernetes' protobuf encoding of the built-in kinds, to the JSON objects everything else works on.

kubectl and clients in Go send these kinds as `application/vnd.kubernetes.protobuf` unless told otherwise.
A message is the magic `k8s\\0` and a `runtime.Unknown`: apiVersion, kind and the object's own bytes. The
result is what Go's encoding/json would make of the same object, so nothing behind this can tell which
encoding a client chose.

The table of fields is made by tools/gen_protobuf.py; it is read at the first message. Wire format:
protobuf.dev, "Encoding".
"""

from __future__ import annotations

import gzip
import importlib.resources
import struct
from base64 import b64encode
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any, Final

import msgspec

from podling.api.times import format_micro, format_time

MEDIA_TYPE: Final = "application/vnd.kubernetes.protobuf"
MAGIC: Final = b"k8s\0"
TABLE: Final = "protobuf_v1_37.json.gz"
MAX_DEPTH: Final = 100
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5

Object = dict[str, Any]


class ProtobufError(ValueError):
    """Not a message of Kubernetes, or not of the kind it says it is."""


class _Field(msgspec.Struct, frozen=True):
    type: str
    name: str = ""
    """In JSON; empty for a struct whose fields are the parent's."""
    list: bool = False
    map: bool = False
    """From strings to `type`."""
    keep: bool = False
    """Zero and empty are values, not absence: Go has a pointer here, or no omitempty."""


class _Table(msgspec.Struct):
    kinds: dict[str, str]
    messages: dict[str, dict[int, _Field]]


@cache
def _table() -> _Table:
    packed = (importlib.resources.files("podling.api") / TABLE).read_bytes()
    # Numbers as keys and flags are text and 0 or 1 in the file.
    return msgspec.json.decode(gzip.decompress(packed), type=_Table, strict=False)


def preload() -> None:
    """Read the table now (8 ms) rather than at the first body."""
    _table()


def decode_object(data: bytes, api_version: str, kind: str) -> Object:
    """The object in a message, with its kind and apiVersion; the arguments stand in for absent ones.

    Raises ProtobufError, also for a kind that is not in the table.
    """
    if not data.startswith(MAGIC):
        raise ProtobufError(
            "provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]"
        )
    try:
        api_version, kind, raw = _envelope(data[len(MAGIC) :], api_version, kind)
        message = _message_of(api_version, kind)
        obj = {"kind": kind, "apiVersion": api_version}
        return obj | _message(message, raw, 0)
    except (IndexError, struct.error, UnicodeDecodeError, OverflowError) as err:
        raise ProtobufError(f"proto: malformed message: {err}") from err


def _envelope(data: bytes, api_version: str, kind: str) -> tuple[str, str, bytes]:
    raw = b""
    for number, _, value in _fields(data):
        if number == 1:
            for inner, _, text in _fields(_as_bytes(value)):
                if inner == 1:
                    api_version = _as_bytes(text).decode() or api_version
                elif inner == 2:
                    kind = _as_bytes(text).decode() or kind
        elif number == 2:
            raw = _as_bytes(value)
        elif number == 3 and value:
            raise ProtobufError(f"unsupported content encoding {value!r}")
    return api_version, kind, raw


def _message_of(api_version: str, kind: str) -> str:
    kinds = _table().kinds
    # Options are registered with every group.
    found = kinds.get(f"{api_version}/{kind}") or kinds.get(f"meta.k8s.io/v1/{kind}")
    if found is None:
        raise ProtobufError(f'no kind "{kind}" is registered for version "{api_version}"')
    return found


def _message(message: str, data: bytes, depth: int) -> Object:
    if depth > MAX_DEPTH:
        raise ProtobufError("proto: exceeded max depth")
    fields = _table().messages[message]
    obj: Object = {}
    for number, wire_type, value in _fields(data):
        field = fields.get(number)
        if field is None:
            # Of a version newer than the table: protobuf readers skip what they do not know.
            continue
        if field.map:
            key, item = _entry(field, value, depth)
            obj.setdefault(field.name, {})[key] = item
        elif field.list:
            obj.setdefault(field.name, []).extend(_items(field, wire_type, value, depth))
        elif not field.name:
            obj.update(_message(field.type, _as_bytes(value), depth + 1))
        else:
            item = _value(field.type, value, depth)
            if item is not None and (item or field.keep or isinstance(item, dict)):
                obj[field.name] = item
    return obj


def _entry(field: _Field, value: int | bytes, depth: int) -> tuple[str, Any]:
    """A map's entry is a message of key and value, either left out when zero."""
    key, item = "", None
    for number, _, part in _fields(_as_bytes(value)):
        if number == 1:
            key = _as_bytes(part).decode()
        elif number == 2:
            item = _value(field.type, part, depth)
    return key, _value(field.type, b"", depth) if item is None else item


def _items(field: _Field, wire_type: int, value: int | bytes, depth: int) -> Iterator[Any]:
    if field.type in ("int", "uint", "bool") and wire_type == _BYTES:
        data, at = _as_bytes(value), 0
        while at < len(data):
            number, at = _varint(data, at)
            yield _value(field.type, number, depth)
    else:
        yield _value(field.type, value, depth)


def _value(type_: str, value: int | bytes, depth: int) -> Any:
    """One value as JSON has it; None for what Go would write as null."""
    reader = _READERS.get(type_)
    return reader(value) if reader is not None else _message(type_, _as_bytes(value), depth + 1)


def _int(value: int | bytes) -> int:
    number = value if isinstance(value, int) else 0
    return number - (1 << 64) if number >> 63 else number


def _float(value: int | bytes) -> float:
    (number,) = struct.unpack("<d", _as_bytes(value)) if value else (0.0,)
    return float(number)


def _strings(value: int | bytes) -> list[str]:
    return [_as_bytes(item).decode() for number, _, item in _fields(_as_bytes(value)) if number == 1]


def _first(value: int | bytes) -> dict[int, int | bytes]:
    """A small message, by number."""
    return {number: part for number, _, part in _fields(_as_bytes(value))}


def _moment(value: int | bytes) -> datetime | None:
    parts = _first(value)
    if not parts:
        return None
    nanos = _int(parts.get(2, 0))
    return _EPOCH + timedelta(seconds=_int(parts.get(1, 0)), microseconds=nanos // 1000)


def _time(value: int | bytes) -> str | None:
    moment = _moment(value)
    return None if moment is None else format_time(moment)


def _micro_time(value: int | bytes) -> str | None:
    moment = _moment(value)
    return None if moment is None else format_micro(moment)


def _int_or_string(value: int | bytes) -> int | str:
    parts = _first(value)
    return _as_bytes(parts.get(3, b"")).decode() if parts.get(1) else _int(parts.get(2, 0))


def _raw(value: int | bytes) -> Any:
    data = _as_bytes(_first(value).get(1, b""))
    try:
        return msgspec.json.decode(data) if data else None
    except msgspec.DecodeError as err:
        raise ProtobufError(f"proto: an embedded object is not JSON: {err}") from err


_READERS: Final[dict[str, Callable[[int | bytes], Any]]] = {
    "bool": bool,
    "int": _int,
    "uint": lambda value: value or 0,
    "float": _float,
    "string": lambda value: _as_bytes(value).decode(),
    "strings": _strings,
    "bytes": lambda value: b64encode(_as_bytes(value)).decode(),
    "quantity": lambda value: _as_bytes(_first(value).get(1, b"0")).decode(),
    "time": _time,
    "microtime": _micro_time,
    "duration": lambda value: f"{_int(_first(value).get(1, 0)) / 1e9:g}s",
    "intorstring": _int_or_string,
    "raw": _raw,
}


def _fields(data: bytes) -> Iterator[tuple[int, int, int | bytes]]:
    """Number, wire type and value of each field. Raises ProtobufError, IndexError."""
    at, end = 0, len(data)
    while at < end:
        key, at = _varint(data, at)
        wire_type = key & 7
        if wire_type == _VARINT:
            value: int | bytes
            value, at = _varint(data, at)
        elif wire_type == _BYTES:
            size, at = _varint(data, at)
            if at + size > end:
                raise ProtobufError("unexpected EOF")
            value = data[at : at + size]
            at += size
        elif wire_type in (_FIXED64, _FIXED32):
            size = 8 if wire_type == _FIXED64 else 4
            value = data[at : at + size]
            at += size
        else:
            raise ProtobufError(f"proto: illegal wireType {wire_type}")
        yield key >> 3, wire_type, value


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value & 0xFFFF_FFFF_FFFF_FFFF, at
        shift += 7
        if shift > 63:
            raise ProtobufError("proto: integer overflow")


def _as_bytes(value: int | bytes) -> bytes:
    if isinstance(value, int):
        raise ProtobufError("proto: wrong wireType")
    return value
