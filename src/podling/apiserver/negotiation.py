"""Which representation of an answer the client accepts.

kubectl asks for tables and metadata with parameters of the media type
(`application/json;as=Table;v=v1;g=meta.k8s.io`); clients in Go put protobuf or CBOR first and JSON last.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from podling.apiserver import errors

JSON = "application/json"
YAML = "application/yaml"
_SUPPORTED = (JSON, YAML)
_CONVERTED = frozenset({"Table", "PartialObjectMetadata", "PartialObjectMetadataList"})


@dataclass(frozen=True, slots=True)
class Accepted:
    media_type: str = JSON
    convert: str = ""
    """`Table`, `PartialObjectMetadata`, `PartialObjectMetadataList`, or empty for the object itself."""
    version: str = "v1"
    """Of meta.k8s.io, for `convert`: v1 or v1beta1."""

    @property
    def table(self) -> bool:
        return self.convert == "Table"

    @property
    def partial(self) -> bool:
        return self.convert.startswith("Partial")


@dataclass(frozen=True, slots=True)
class _Clause:
    media_type: str
    parameters: dict[str, str]


@lru_cache(maxsize=256)
def accepted(header: str) -> Accepted:
    """The first clause of an Accept header that can be served. Raises APIError 406."""
    for clause in clauses(header):
        if clause.media_type in ("*/*", "application/*"):
            return Accepted()
        if clause.media_type not in _SUPPORTED:
            continue
        convert = clause.parameters.get("as", "")
        if not convert:
            return Accepted(clause.media_type)
        version = clause.parameters.get("v", "v1")
        if (
            convert in _CONVERTED
            and clause.parameters.get("g") == "meta.k8s.io"
            and version in ("v1", "v1beta1")
        ):
            return Accepted(clause.media_type, convert, version)
    raise errors.not_acceptable(_SUPPORTED)


@lru_cache(maxsize=256)
def clauses(header: str) -> tuple[_Clause, ...]:
    """The clauses of an Accept header in the order of preference; an empty header accepts all."""
    found: list[tuple[float, _Clause]] = []
    for text in header.split(",") if header.strip() else ["*/*"]:
        media_type, *rest = (part.strip() for part in text.split(";"))
        parameters = dict(part.split("=", 1) for part in rest if "=" in part)
        try:
            quality = float(parameters.pop("q", "1"))
        except ValueError:
            quality = 0.0
        found.append((quality, _Clause(media_type.lower(), parameters)))
    found.sort(key=lambda item: -item[0])
    return tuple(clause for _, clause in found)
