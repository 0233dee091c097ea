"""The fields of every kind we serve, as data: strict decoding and merge keys from one table.

The table is Kubernetes' own OpenAPI definitions, cut to our kinds by tools/gen_schema.py. It is read
once in a process, at `preload()` (before the supervisor forks) or on first use, and compiled to what
decoding and patching need; descriptions are dropped and read again only when somebody asks for the
OpenAPI documents (`podling.api.openapi`).
"""

from __future__ import annotations

import gzip
import importlib.resources
from collections.abc import Mapping
from functools import cache
from typing import Any, Final

import msgspec

from podling.api.decoding import (
    DecodeError,
    FieldWarning,
    cannot_be_handled,
    decode,
    decode_json,
    strict_error,
)
from podling.api.fieldtypes import Field, Is, Type, compile_types

__all__ = [
    "DecodeError", "Field", "FieldWarning", "Is", "Schema", "Type",
    "cannot_be_handled", "decode_json", "load_definitions", "preload", "schema", "strict_error",
]  # fmt: skip

TABLE: Final = "openapi_v1_37.json.gz"


class Schema:
    """The types of one table, by definition and by kind."""

    def __init__(self, definitions: Mapping[str, Any]) -> None:
        self._types = compile_types(definitions)
        self._refs: dict[tuple[str, str], str] = {}
        for ref, definition in definitions.items():
            for gvk in definition.get("x-kubernetes-group-version-kind", ()):
                group, version = gvk["group"], gvk["version"]
                self._refs[f"{group}/{version}" if group else version, gvk["kind"]] = ref

    def ref(self, api_version: str, kind: str) -> str | None:
        """Return the definition's name for `v1`, `Pod` and the like; None for a kind not in the table."""
        return self._refs.get((api_version, kind))

    def type(self, ref: str) -> Type:
        """Return a type by the name of its definition. Raises KeyError for one not in the table."""
        return self._types[ref]

    def decode_strict(self, ref: str, obj: dict[str, Any]) -> list[FieldWarning]:
        """Normalise `obj` in place, as decoding it into Kubernetes' types would, and name what was dropped.

        Raises DecodeError at the first value of a wrong type. Normalising twice changes nothing.
        """
        return decode(self._types[ref], obj)


def load_definitions() -> dict[str, Any]:
    """Read the table with its descriptions; about 10 ms and 2 MB, and not kept."""
    packed = (importlib.resources.files("podling.api") / TABLE).read_bytes()
    document = msgspec.json.decode(gzip.decompress(packed))
    definitions: dict[str, Any] = document["definitions"]
    return definitions


@cache
def schema() -> Schema:
    """Return the schema of this process, read on first use."""
    return Schema(load_definitions())


def preload() -> None:
    """Read the table now: call it before forking, so that the children share the pages."""
    schema()
