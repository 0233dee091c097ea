"""Bytes to kinds and back: typed msgspec decoders, one a kind, made at first use.

Servers may send `null` where the schema says list or map (Go encodes a nil slice so); Kubernetes reads it
as absent. Decoding first tries the strict, fast way, and only when that fails removes the nulls and tries
again: the common answer pays nothing.
"""

from __future__ import annotations

from functools import cache
from typing import Any, Generic, TypeVar

import msgspec

from podling.api.resources import Object
from podling.client.errors import DecodeError

T = TypeVar("T", bound=Object)
D = TypeVar("D")


class ListBody(msgspec.Struct, Generic[T], kw_only=True):
    """`PodList` and its like."""

    items: list[T] = []
    metadata: ListBodyMeta = msgspec.field(default_factory=lambda: ListBodyMeta())


class ListBodyMeta(msgspec.Struct, kw_only=True, rename="camel"):
    resource_version: str = ""
    continue_: str = msgspec.field(default="", name="continue")
    remaining_item_count: int | None = None


class WatchLine(msgspec.Struct, kw_only=True):
    """One line of a watch; `object` stays bytes until `type` says what it is."""

    type: str
    object: msgspec.Raw


encode = msgspec.json.Encoder().encode
_any_decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder()
_watch_decoder = msgspec.json.Decoder(WatchLine)


@cache
def _decoder(kind: Any) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(kind)


@cache
def _list_decoder(kind: Any) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(ListBody[kind])


def decode(kind: type[D], body: bytes | msgspec.Raw) -> D:
    """`body` as `kind`. Raises DecodeError."""
    key: Any = kind  # mypy does not take type[D] for hashable
    value: D = _decode(_decoder(key), body, kind.__name__)
    return value


def decode_list(kind: type[T], body: bytes) -> ListBody[T]:
    value: ListBody[T] = _decode(_list_decoder(kind), body, f"{kind.__name__}List")
    return value


def decode_any(body: bytes) -> Any:
    """`body` as plain JSON values, every field kept."""
    return _decode(_any_decoder, body, "JSON")


def decode_watch_line(line: bytes) -> WatchLine:
    return _decode(_watch_decoder, line, "watch event")


def _decode(decoder: msgspec.json.Decoder[D], body: bytes | msgspec.Raw, what: str) -> D:
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as err:
        try:
            value: D = msgspec.convert(without_nulls(_any_decoder.decode(body)), decoder.type)
            return value
        except msgspec.ValidationError:
            raise DecodeError(f"cannot decode {what}: {err}") from err
    except msgspec.DecodeError as err:
        raise DecodeError(f"cannot decode {what}: {err}") from err


def without_nulls(value: Any) -> Any:
    """`value` without fields and list items that are null, at every depth."""
    if isinstance(value, dict):
        return {k: without_nulls(v) for k, v in value.items() if v is not None}
    if isinstance(value, list):
        return [without_nulls(v) for v in value if v is not None]
    return value
