"""The OpenAPI v2 document in the protobuf form that client-go asks for.

Messages and field numbers are those of gnostic's OpenAPIv2.proto. Only what a Kubernetes document
holds is written: definitions with their extensions, and paths with their operations.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import msgspec

# Asked for as `...spec.v2@v1.0+protobuf`, but Go's own parser refuses an answer with the @ in it.
V2_PROTOBUF: Final = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"

_LENGTH_DELIMITED: Final = 2
_VARINT: Final = 0


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def _bytes(field: int, value: bytes) -> bytes:
    return _varint(field << 3 | _LENGTH_DELIMITED) + _varint(len(value)) + value


def _text(field: int, value: str | None) -> bytes:
    return _bytes(field, value.encode()) if value else b""


def _flag(field: int, value: object) -> bytes:
    return _varint(field << 3 | _VARINT) + b"\x01" if value else b""


def _texts(field: int, values: Iterable[str]) -> bytes:
    return b"".join(_bytes(field, value.encode()) for value in values)


def _named(field: int, items: Mapping[str, Any], encode: Callable[[Any], bytes]) -> bytes:
    """Write a map as gnostic does: repeated messages of name and value."""
    return b"".join(_bytes(field, _text(1, name) + _bytes(2, encode(item))) for name, item in items.items())


def _any(value: Any) -> bytes:
    # gnostic's Any keeps a value as YAML, of which JSON is a part.
    return _text(2, msgspec.json.encode(value).decode() + "\n")


def _extensions(field: int, holder: Mapping[str, Any]) -> bytes:
    return _named(field, {k: v for k, v in holder.items() if k.startswith("x-")}, _any)


def encode_v2(document: Mapping[str, Any]) -> bytes:
    """Return the Document message."""
    info = document["info"]
    return b"".join((
        _text(1, document["swagger"]),
        _bytes(2, _text(1, info["title"]) + _text(2, info["version"])),
        _bytes(8, _named(2, document["paths"], _path_item)),
        _bytes(9, _named(1, document["definitions"], _schema)),
    ))  # fmt: skip


def _schema(schema: Mapping[str, Any]) -> bytes:
    parts = [
        _text(1, schema.get("$ref")),
        _text(2, schema.get("format")),
        _text(4, schema.get("description")),
        _texts(19, schema.get("required", ())),
    ]
    if isinstance(schema.get("additionalProperties"), dict):
        parts.append(_bytes(21, _bytes(1, _schema(schema["additionalProperties"]))))
    if "type" in schema:
        parts.append(_bytes(22, _text(1, schema["type"])))
    if "items" in schema:
        parts.append(_bytes(23, _bytes(1, _schema(schema["items"]))))
    if "properties" in schema:
        parts.append(_bytes(25, _named(1, schema["properties"], _schema)))
    parts.append(_extensions(31, schema))
    return b"".join(parts)


_METHODS: Final = {"get": 2, "put": 3, "post": 4, "delete": 5, "options": 6, "head": 7, "patch": 8}


def _path_item(item: Mapping[str, Any]) -> bytes:
    operations = b"".join(_bytes(n, _operation(item[m])) for m, n in _METHODS.items() if m in item)
    return operations + b"".join(_bytes(9, _parameter(p)) for p in item.get("parameters", ()))


def _operation(operation: Mapping[str, Any]) -> bytes:
    return b"".join((
        _text(5, operation["operationId"]),
        _texts(6, operation["produces"]),
        _texts(7, operation["consumes"]),
        *(_bytes(8, _parameter(parameter)) for parameter in operation["parameters"]),
        _bytes(9, _named(1, operation["responses"], _response)),
        _extensions(13, operation),
    ))  # fmt: skip


def _response(response: Mapping[str, Any]) -> bytes:
    body = _text(1, response["description"])
    if "schema" in response:
        # ResponseValue, Response, SchemaItem, Schema.
        body += _bytes(2, _bytes(1, _schema(response["schema"])))
    return _bytes(1, body)


def _parameter(parameter: Mapping[str, Any]) -> bytes:
    """Return a ParametersItem: a body parameter, or one of the query or path."""
    if parameter["in"] == "body":
        body = b"".join((
            _text(2, parameter["name"]),
            _text(3, "body"),
            _flag(4, parameter["required"]),
            _bytes(5, _schema(parameter["schema"])),
        ))  # fmt: skip
        return _bytes(1, _bytes(1, body))
    in_query = parameter["in"] == "query"
    # Query and path sub-schemas number alike but for allowEmptyValue, which shifts what follows it.
    shift = 1 if in_query else 0
    fields = b"".join((
        _flag(1, parameter.get("required")),
        _text(2, parameter["in"]),
        _text(3, parameter["description"]),
        _text(4, parameter["name"]),
        _text(5 + shift, parameter["type"]),
    ))  # fmt: skip
    return _bytes(1, _bytes(2, _bytes(3 if in_query else 4, fields)))
