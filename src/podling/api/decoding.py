"""Decoding JSON objects as Kubernetes' Go types would take them.

`decode` walks an object beside its Type: it finds unknown fields, refuses wrong types in Go's words,
drops nulls and empty optional lists and maps, writes quantities canonically and fills required
scalars with their zero. `decode_json` also finds keys that stand twice in one JSON object.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal, NoReturn

import msgspec

from podling.api.fieldtypes import PYTHON, ZERO, Field, Is, Type
from podling.api.quantity import QuantityError, canonicalize, from_json

# Upstream stops collecting at this many, so that a hostile body cannot make a huge answer.
_MAX_WARNINGS: Final = 100


class DecodeError(ValueError):
    """A value of the wrong type; the message is what Go's decoder says."""


@dataclass(frozen=True, slots=True)
class FieldWarning:
    """A field that is dropped; an error when the client asks for strict validation."""

    fault: Literal["unknown", "duplicate"]
    path: str
    """As in `spec.containers[0].imagee`."""

    def __str__(self) -> str:
        return f'{self.fault} field "{self.path}"'


# Where we are, outermost last: (parent, key). Turned to text only for a fault.
_Where = tuple[Any, str | int] | None


def decode(type_: Type, obj: dict[str, Any]) -> list[FieldWarning]:
    """Normalise `obj` in place and name what was dropped. Raises DecodeError at the first wrong type.

    Normalising twice changes nothing.
    """
    warnings: list[FieldWarning] = []
    _decode_struct(type_, obj, None, warnings)
    return warnings


def _decode_struct(type_: Type, obj: dict[str, Any], where: _Where, warnings: list[FieldWarning]) -> None:
    fields = type_.fields
    dropped = []
    for key, value in obj.items():
        spec = fields.get(key)
        if spec is None:
            if len(warnings) < _MAX_WARNINGS:
                warnings.append(FieldWarning("unknown", _path((where, key))))
            dropped.append(key)
        elif value is None:
            dropped.append(key)
        elif spec.kind is Is.INT:
            if type(value) is not int or not -spec.limit <= value < spec.limit:
                _refuse(value, spec, type_, (where, key))
        elif spec.kind <= Is.BOOL:
            if type(value) is not PYTHON[spec.kind]:
                _refuse(value, spec, type_, (where, key))
        elif spec.kind is Is.STRUCT:
            if type(value) is not dict:
                _refuse(value, spec, type_, (where, key))
            assert spec.type is not None
            _decode_struct(spec.type, value, (where, key), warnings)
        else:
            decoded = _decode(spec, type_, value, (where, key), warnings)
            if decoded is not value:
                obj[key] = decoded
            if not spec.required and not decoded and spec.kind in (Is.LIST, Is.MAP):
                dropped.append(key)
    for key in dropped:
        del obj[key]
    for key, zero in type_.zeros:
        if key not in obj:
            obj[key] = zero


def _decode(spec: Field, owner: Type, value: Any, where: _Where, warnings: list[FieldWarning]) -> Any:
    """Return the value as it is kept. Containers are changed in place."""
    match spec.kind:
        case Is.STRING | Is.INT | Is.BOOL:
            if type(value) is not PYTHON[spec.kind]:
                _refuse(value, spec, owner, where)
        case Is.STRUCT:
            if type(value) is not dict:
                _refuse(value, spec, owner, where)
            assert spec.type is not None
            _decode_struct(spec.type, value, where, warnings)
        case Is.LIST:
            if type(value) is not list:
                _refuse(value, spec, owner, where)
            _decode_list(spec, owner, value, where, warnings)
        case Is.MAP:
            if type(value) is not dict:
                _refuse(value, spec, owner, where)
            _decode_map(spec, owner, value, where, warnings)
        case Is.QUANTITY:
            try:
                return canonicalize(value) if type(value) is str else from_json(value)
            except QuantityError as err:
                raise DecodeError(str(err)) from None
        case Is.TIME:
            _check_time(value)
        case Is.INT_OR_STRING:
            if type(value) is not str and type(value) is not int:
                raise DecodeError(f"json: cannot unmarshal {_json_kind(value)} into Go value of type int32")
        case Is.BYTES:
            _check_base64(value, spec, owner, where)
        case Is.NUMBER:
            if type(value) not in (int, float):
                _refuse(value, spec, owner, where)
    return value


def _decode_list(
    spec: Field, owner: Type, values: list[Any], where: _Where, warnings: list[FieldWarning]
) -> None:
    assert spec.item is not None
    for index, value in enumerate(values):
        if value is None:
            value = values[index] = _zero_of(spec.item)
        decoded = _decode(spec.item, owner, value, (where, index), warnings)
        if decoded is not value:
            values[index] = decoded


def _decode_map(
    spec: Field, owner: Type, values: dict[str, Any], where: _Where, warnings: list[FieldWarning]
) -> None:
    item = spec.item
    assert item is not None
    if item.kind is Is.STRING and all(type(v) is str for v in values.values()):
        return
    for key, value in values.items():
        if value is None:
            value = values[key] = _zero_of(item)
        decoded = _decode(item, owner, value, where, warnings)
        if decoded is not value:
            values[key] = decoded


def _zero_of(spec: Field) -> Any:
    """Return what Go makes of a null inside a list or map."""
    match spec.kind:
        case Is.STRUCT | Is.MAP:
            return {}
        case Is.LIST:
            return []
        case Is.QUANTITY:
            return "0"
        case kind:
            return ZERO.get(kind, "")


def _check_time(value: Any) -> None:
    if type(value) is not str:
        raise DecodeError(f"json: cannot unmarshal {_json_kind(value)} into Go value of type string")
    try:
        # Python also reads other ISO 8601 forms; the T and the zone must be there.
        if datetime.fromisoformat(value).tzinfo is not None and value[10:11] == "T" and len(value) >= 20:
            return
    except ValueError:
        pass
    layout = "2006-01-02T15:04:05Z07:00"
    raise DecodeError(
        f'parsing time {json.dumps(value)} as "{layout}": cannot parse {json.dumps(value)} as "2006"'
    )


def _check_base64(value: Any, spec: Field, owner: Type, where: _Where) -> None:
    if type(value) is not str:
        _refuse(value, spec, owner, where)
    text = value.replace("\n", "").replace("\r", "")
    body = text.rstrip("=")
    for index, char in enumerate(body):
        if not (char.isascii() and char.isalnum()) and char not in "+/":
            raise DecodeError(f"illegal base64 data at input byte {index}")
    if len(text) % 4 or len(text) - len(body) > 2:
        raise DecodeError(f"illegal base64 data at input byte {len(text) // 4 * 4}")


def _refuse(value: Any, spec: Field, owner: Type, where: _Where) -> NoReturn:
    keys = ".".join(str(key) for key in _keys(where) if isinstance(key, str))
    raise DecodeError(
        f"json: cannot unmarshal {_json_kind(value)} into Go struct field {owner.name}.{keys} "
        f"of type {spec.go_type}"
    )


def _json_kind(value: Any) -> str:
    match value:
        case bool():
            return "bool"
        case int() if -(2**31) <= value < 2**31:
            return "number"
        case int() | float():
            return f"number {value}"
        case str():
            return "string"
        case list():
            return "array"
        case _:
            return "object"


def _keys(where: _Where) -> list[str | int]:
    keys = []
    while where is not None:
        where, key = where
        keys.append(key)
    return keys[::-1]


def _path(where: _Where) -> str:
    text = ""
    for key in _keys(where):
        text += f"[{key}]" if isinstance(key, int) else f".{key}" if text else key
    return text


# JSON text


class _Repeated(dict[str, Any]):
    """A JSON object, with the keys that stood in it more than once."""

    repeated: tuple[str, ...] = ()


def decode_json(body: bytes) -> tuple[Any, list[FieldWarning]]:
    """Read JSON and name the fields given twice, of which the last counts.

    Raises msgspec.DecodeError for what is no JSON.
    """
    found = False

    def build(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        nonlocal found
        obj = dict(pairs)
        if len(obj) == len(pairs):
            return obj
        found = True
        marked = _Repeated(obj)
        counts = Counter(key for key, _ in pairs)
        marked.repeated = tuple(key for key, count in counts.items() if count > 1)
        return marked

    try:
        # msgspec is the stricter and the faster reader, but does not see repeated keys.
        document = msgspec.json.decode(body)
        marked = json.loads(body, object_pairs_hook=build)
    except RecursionError:
        raise msgspec.DecodeError("exceeded max depth") from None
    except UnicodeDecodeError as err:
        raise msgspec.DecodeError(f"invalid UTF-8 at byte {err.start}") from None
    return document, _find_repeated(marked, None) if found else []


def _find_repeated(value: Any, where: _Where) -> list[FieldWarning]:
    warnings = []
    if isinstance(value, dict):
        if isinstance(value, _Repeated):
            warnings += [FieldWarning("duplicate", _path((where, key))) for key in value.repeated]
        for key, inner in value.items():
            warnings += _find_repeated(inner, (where, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            warnings += _find_repeated(inner, (where, index))
    return warnings[:_MAX_WARNINGS]


def strict_error(warnings: list[FieldWarning]) -> str:
    """Return the text of the error that strict field validation makes of the warnings."""
    return f"strict decoding error: {', '.join(map(str, warnings))}"


def cannot_be_handled(api_version: str, kind: str, why: str) -> str:
    """Return the message of the 400 that a body which cannot be decoded gets."""
    return f'{kind} in version "{api_version.rpartition("/")[2]}" cannot be handled as a {kind}: {why}'
