"""Enum values that this version of the CRI does not have.

The codec keeps them as numbers, so that a client reads what a newer runtime says. In a request they ask for
something that we cannot do, and nobody below the socket should have to think of them.
"""

from __future__ import annotations

from functools import cache

import msgspec

from podling.runtime.cri.wire import Field, fields_of


def unknown_value(message: msgspec.Struct) -> str:
    """The first one, as `config.port_mappings.protocol: 77 is no Protocol`, or nothing."""
    for field in _fields(type(message)):
        value = getattr(message, field.name)
        for item in value if field.repeated else (value,):
            if item is None:
                continue
            if field.wire == "message":
                if found := unknown_value(item):
                    return f"{field.name}.{found}"
            elif not isinstance(item, field.kind):
                return f"{field.name}: {item} is no {field.kind.__name__}"
    return ""


@cache
def _fields(kind: type[msgspec.Struct]) -> tuple[Field, ...]:
    return tuple(f for f in fields_of(kind) if f.wire in ("enum", "message") and not f.key)
