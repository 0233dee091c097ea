"""Bodies of requests: from bytes to the object they must be.

Order of checks and texts are upstream's (`rest/create.go`, `rest/rest.go transformDecodeError`): content
type, syntax, group, version and kind, then the schema. What `fieldValidation` asks for decides whether
unknown and duplicate fields are errors, warnings or dropped in silence; wrong types are always errors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from podling.api.defaults import apply_defaults
from podling.api.protobuf import MEDIA_TYPE as PROTOBUF
from podling.api.protobuf import ProtobufError, decode_object
from podling.api.schema import DecodeError, cannot_be_handled, decode_json, schema
from podling.apiserver import errors, gojson
from podling.apiserver.request import Request
from podling.apiserver.resource import Object

JSON = "application/json"
YAML = "application/yaml"
ACCEPTED = (JSON, YAML, PROTOBUF)
MAX_BODY_BYTES = 3 * 1024 * 1024
"""Upstream's limit for any request; etcd's own is 1.5 MiB."""

_decoder = msgspec.json.Decoder()


@dataclass(frozen=True, slots=True)
class Kind:
    """What a body must be."""

    kind: str
    group: str = ""
    version: str = "v1"

    @property
    def group_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version


def field_validation(request: Request) -> str:
    """`Strict`, `Warn` or `Ignore`. Raises APIError 400."""
    level = request.query.get("fieldValidation") or "Warn"
    if level not in ("Strict", "Warn", "Ignore"):
        raise errors.bad_request(f'invalid fieldValidation value: "{level}"')
    return level


def read_object(request: Request, kind: Kind) -> Object:
    """The request's body as an object of `kind`, normalised and with its defaults.

    Raises APIError 400 and 415; adds to the request's warnings.
    """
    level = field_validation(request)
    obj, duplicates = _parse(request, kind, strict=level != "Ignore")
    check_kind(obj, kind, request.body)
    conform(request, obj, kind, level=level, duplicates=duplicates)
    return obj


def conform(request: Request, obj: Object, kind: Kind, *, level: str, duplicates: Sequence[str] = ()) -> None:
    """Hold `obj` against the schema of `kind` and complete it, in place. Raises APIError 400."""
    obj["kind"], obj["apiVersion"] = kind.kind, kind.group_version
    ref = schema().ref(kind.group_version, kind.kind)
    assert ref is not None, f"{kind.kind} is served but has no schema"
    try:
        dropped = schema().decode_strict(ref, obj)
    except DecodeError as err:
        raise errors.bad_request(cannot_be_handled(kind.group_version, kind.kind, str(err))) from err
    faults = [*duplicates, *map(str, dropped)]
    if faults and level == "Strict":
        why = f"strict decoding error: {', '.join(faults)}"
        raise errors.bad_request(cannot_be_handled(kind.group_version, kind.kind, why))
    if level == "Warn":
        request.warnings.extend(faults)
    obj.setdefault("metadata", {})
    apply_defaults(kind.kind, obj)


def read_options(request: Request, kind: str, group: str = "") -> Object:
    """An optional body such as DeleteOptions; an empty one is an empty object."""
    if not request.body.strip():
        return {}
    obj, _ = _parse(request, Kind(kind, group), strict=False)
    if obj.get("kind") not in (None, "", kind):
        raise errors.bad_request(f"decoded object cannot be converted to {kind}")
    return obj


def parse_json(data: bytes) -> Any:
    """Raises ValueError in Go's words."""
    try:
        return _decoder.decode(data)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as err:
        raise ValueError(gojson.describe(data)) from err


def parse_yaml(data: bytes) -> Any:
    """Raises ValueError."""
    import yaml  # Slow to import, and kubectl sends JSON.

    try:
        document = yaml.load(data, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        # Dates become text again; binary and keys that are no strings have no place in JSON.
        return _decoder.decode(msgspec.json.encode(document))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, TypeError) as err:
        raise ValueError(f"error converting YAML to JSON: yaml: {' '.join(str(err).split())}") from err


def _parse(request: Request, kind: Kind, *, strict: bool) -> tuple[Object, list[str]]:
    """The body, and its duplicate fields when `strict`. Raises APIError 400, 415."""
    media_type = request.content_type.partition(";")[0].strip().lower() or JSON
    if media_type not in ACCEPTED:
        raise errors.unsupported_media_type(ACCEPTED)
    body = request.body
    if media_type == PROTOBUF:
        return _parse_protobuf(body, kind), []
    parse, what = (parse_yaml, "") if media_type == YAML else (parse_json, "json parse error: ")
    try:
        obj = parse(body)
    except ValueError as err:
        raise _unrecognized(kind, f"couldn't get version/kind; {what}{err}", body) from err
    if not isinstance(obj, dict):
        text = f"json: cannot unmarshal {_go_type(obj)} into Go value of type struct"
        raise _unrecognized(kind, f"couldn't get version/kind; json parse error: {text}", body)
    if not strict:
        return obj, []
    return obj, _duplicate_yaml_keys(body) if media_type == YAML else _duplicate_fields(body)


def _parse_protobuf(body: bytes, kind: Kind) -> Object:
    try:
        return decode_object(body, kind.group_version, kind.kind)
    except ProtobufError as err:
        raise _unrecognized(kind, str(err), body) from err


def _duplicate_fields(body: bytes) -> list[str]:
    try:
        return [str(fault) for fault in decode_json(body)[1]]
    except msgspec.DecodeError as err:
        raise errors.bad_request(f"json parse error: {err}") from err


def _duplicate_yaml_keys(data: bytes) -> list[str]:
    """`line 4: key "image" already set in map`, as upstream's YAML library words it."""
    import yaml

    found: list[str] = []

    def walk(node: Any) -> None:
        if isinstance(node, yaml.MappingNode):
            keys: set[str] = set()
            for key, value in node.value:
                if key.value in keys:
                    found.append(f'line {key.start_mark.line + 1}: key "{key.value}" already set in map')
                keys.add(key.value)
                walk(value)
        elif isinstance(node, yaml.SequenceNode):
            for item in node.value:
                walk(item)

    walk(yaml.compose(data, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)))
    return found


def check_kind(obj: Object, kind: Kind, body: bytes = b"") -> None:
    for key in ("kind", "apiVersion"):
        value = obj.get(key)
        if value is not None and not isinstance(value, str):
            text = f"json: cannot unmarshal {_go_type(value)} into Go struct field .{key} of type string"
            raise _unrecognized(kind, f"couldn't get version/kind; json parse error: {text}", body)
    given, version = obj.get("kind") or kind.kind, obj.get("apiVersion") or kind.group_version
    if given == kind.kind and version == kind.group_version:
        return
    if schema().ref(version, given):
        if version != kind.group_version:
            raise errors.bad_request(
                f"the API version in the data ({version}) does not match "
                f"the expected API version ({kind.group_version})"
            )
        why = f"converting (v1.{given}) to (core.{kind.kind}): unknown conversion"
    else:
        scheme = "pkg/api/legacyscheme/scheme.go:30"
        why = f'no kind "{given}" is registered for version "{version}" in scheme "{scheme}"'
    short = version.rpartition("/")[2]
    raise errors.bad_request(f'{given} in version "{short}" cannot be handled as a {kind.kind}: {why}')


def _unrecognized(kind: Kind, why: str, body: bytes) -> errors.APIError:
    return errors.bad_request(
        f"the object provided is unrecognized (must be of type {kind.kind}): {why} ({_summary(body)})"
    )


def _summary(body: bytes, limit: int = 30) -> str:
    if not body:
        return "<empty>"
    more = " ..." if len(body) > limit else ""
    start = body[:limit]
    return (start.decode("utf-8", "replace") if body[:1] == b"{" else start.hex()) + more


def _go_type(value: Any) -> str:
    match value:
        case bool():
            return "bool"
        case str():
            return "string"
        case int() | float():
            return "number"
        case list():
            return "array"
        case dict():
            return "object"
        case _:
            return "null"
