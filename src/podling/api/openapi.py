"""The OpenAPI documents that kubectl asks for: v3 by group version, v2 for the whole server.

They are made from the same table as `podling.api.schema`, with a path for every verb of every kind in
`podling.api.resources`. `kubectl explain` reads the descriptions; `kubectl apply` and `create` look for
the `fieldValidation` parameter of a kind's PATCH to learn that the server validates, which is why the
paths are there. Documents are made on first request (about 30 ms) and kept compressed.
"""

from __future__ import annotations

import hashlib
import re
import zlib
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, Final

import msgspec

from podling.api.openapi_proto import V2_PROTOBUF, encode_v2
from podling.api.resources import RESOURCES, ResourceInfo
from podling.api.schema import load_definitions

Document = dict[str, Any]

JSON: Final = "application/json"
_V2: Final = "/openapi/v2"
_V3: Final = "/openapi/v3"
_INFO: Final = {"title": "Kubernetes", "version": "v1.37.0"}
_META: Final = "io.k8s.apimachinery.pkg.apis.meta.v1"
_PATCH_TYPES: Final = (
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
)
# Query parameters by what an operation does: name, type, description.
_PRETTY: Final = ("pretty", "string", "If 'true', then the output is pretty printed.")
_DRY_RUN: Final = (
    "dryRun",
    "string",
    "When present, indicates that modifications should not be persisted. Valid values are: "
    "- All: all dry run stages will be processed",
)
_FIELD_MANAGER: Final = (
    "fieldManager",
    "string",
    "fieldManager is a name associated with the actor or entity that is making these changes.",
)
_FIELD_VALIDATION: Final = (
    "fieldValidation",
    "string",
    "fieldValidation instructs the server on how to handle objects in the request (POST/PUT/PATCH) "
    "containing unknown or duplicate fields. Valid values are: Ignore, Warn, Strict.",
)
_WRITE: Final = (_PRETTY, _DRY_RUN, _FIELD_MANAGER, _FIELD_VALIDATION)
_DELETE: Final = (
    _PRETTY,
    _DRY_RUN,
    ("gracePeriodSeconds", "integer", "The duration in seconds before the object should be deleted."),
    ("propagationPolicy", "string", "Whether and how garbage collection will be performed."),
)
_LIST: Final = (
    _PRETTY,
    ("continue", "string", "The continue option should be set when retrieving more results."),
    ("fieldSelector", "string", "A selector to restrict the list of returned objects by their fields."),
    ("labelSelector", "string", "A selector to restrict the list of returned objects by their labels."),
    ("limit", "integer", "limit is a maximum number of responses to return for a list call."),
    ("resourceVersion", "string", "resourceVersion sets a constraint on what resource versions to serve."),
    ("timeoutSeconds", "integer", "Timeout for the list/watch call."),
    ("watch", "boolean", "Watch for changes to the described resources."),
)
_PATH_PARAMETERS: Final = {
    "namespace": "object name and auth scope, such as for teams and projects",
    "name": "name of the object",
}


def document(path: str, accept: str = "") -> tuple[bytes, str] | None:
    """Return the document at a path and its content type, None where there is none.

    `/openapi/v2` comes as protobuf when `accept` prefers it, as kubectl does; all else is JSON.
    """
    if path == _V3:
        return _index(), JSON
    if path == _V2 and "proto-openapi.spec.v2" in accept:
        return zlib.decompress(_packed("v2.pb")), V2_PROTOBUF
    if path == _V2:
        return zlib.decompress(_packed("v2")), JSON
    group_version = path.removeprefix(f"{_V3}/")
    if group_version != path and group_version in _group_versions():
        return zlib.decompress(_packed(group_version)), JSON
    return None


@cache
def _packed(name: str) -> bytes:
    return zlib.compress(_build(name), 1)


def _build(name: str) -> bytes:
    match name:
        case "v2":
            return msgspec.json.encode(v2_document())
        case "v2.pb":
            return encode_v2(v2_document())
        case _:
            return msgspec.json.encode(v3_document(name))


@cache
def _index() -> bytes:
    """List the documents by group version; the hash changes with the content, so clients may cache."""
    paths = {}
    for group_version in _group_versions():
        digest = hashlib.sha256(zlib.decompress(_packed(group_version))).hexdigest().upper()
        paths[group_version] = {"serverRelativeURL": f"{_V3}/{group_version}?hash={digest}"}
    return msgspec.json.encode({"paths": paths})


def _group_versions() -> dict[str, list[tuple[str, ResourceInfo]]]:
    """Return the kinds of every group version, which is written as in a URL: `api/v1`, `apis/a/v1`."""
    found: dict[str, list[tuple[str, ResourceInfo]]] = {}
    for kind, info in RESOURCES.items():
        root = info.path().rpartition("/")[0].lstrip("/")
        found.setdefault(root, []).append((kind.__name__, info))
    return found


def v3_document(group_version: str) -> Document:
    """Return the OpenAPI v3 document of one group version."""
    definitions = load_definitions()
    kinds = _group_versions()[group_version]
    paths: Document = {}
    used = {f"{_META}.Status", f"{_META}.DeleteOptions", f"{_META}.Patch"}
    for kind, info in kinds:
        ref = _find(definitions, info, kind)
        used |= {ref, f"{ref}List"}
        paths |= _paths(kind, info, ref, _v3_operation, status="status" in definitions[ref]["properties"])
    schemas = {ref: _v3_schema(definitions[ref]) for ref in sorted(_closure(definitions, used))}
    return {"openapi": "3.0.0", "info": _INFO, "paths": paths, "components": {"schemas": schemas}}


def v2_document() -> Document:
    """Return the OpenAPI v2 (swagger) document of the server."""
    definitions = load_definitions()
    paths: Document = {}
    for kinds in _group_versions().values():
        for kind, info in kinds:
            ref = _find(definitions, info, kind)
            status = "status" in definitions[ref]["properties"]
            paths |= _paths(kind, info, ref, _v2_operation, status=status)
    return {"swagger": "2.0", "info": _INFO, "paths": paths, "definitions": definitions}


def _find(definitions: Mapping[str, Any], info: ResourceInfo, kind: str) -> str:
    wanted = {"group": info.group, "version": info.version, "kind": kind}
    return next(r for r, d in definitions.items() if wanted in d.get("x-kubernetes-group-version-kind", ()))


def _closure(definitions: Mapping[str, Any], roots: set[str]) -> set[str]:
    waiting, seen = list(roots), set()
    while waiting:
        ref = waiting.pop()
        if ref not in seen:
            seen.add(ref)
            waiting += _references(definitions[ref])
    return seen


def _references(schema: Any) -> Iterator[str]:
    if isinstance(schema, dict):
        if isinstance(schema.get("$ref"), str):
            yield schema["$ref"].rpartition("/")[2]
        for inner in schema.values():
            yield from _references(inner)


def _v3_schema(schema: Any) -> Any:
    """Turn a swagger definition into OpenAPI v3, where a reference stands alone."""
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        ref = {"$ref": schema["$ref"].replace("#/definitions/", "#/components/schemas/")}
        others = {key: value for key, value in schema.items() if key != "$ref"}
        return {"allOf": [ref], **others} if others else ref
    return {
        key: {name: _v3_schema(field) for name, field in value.items()}
        if key == "properties"
        else _v3_schema(value)
        for key, value in schema.items()
    }


# Paths


def _paths(kind: str, info: ResourceInfo, ref: str, operation: Any, *, status: bool) -> Document:
    """Return a kind's paths, with operations made by `operation`."""
    collection = info.path("{namespace}") if info.namespaced else info.path()
    one = f"{collection}/{{name}}"
    scope = ("Namespaced" if info.namespaced else "") + kind
    gvk = {"group": info.group, "version": info.version, "kind": kind}

    def make(verb: str, name: str, action: str, answer: str, query: Any, body: str = "") -> Document:
        found: Document = operation(verb, name, answer, query, body)
        return {**found, "x-kubernetes-action": action, "x-kubernetes-group-version-kind": gvk}

    def at(path: str, operations: Document) -> Document:
        given = re.findall(r"\{(\w+)\}", path)
        return {**operations, "parameters": [_path_parameter(name, operation) for name in given]}

    def single(suffix: str) -> Document:
        return {
            "get": make("get", f"read{scope}{suffix}", "get", ref, (_PRETTY,)),
            "put": make("put", f"replace{scope}{suffix}", "put", ref, _WRITE, ref),
            "patch": make("patch", f"patch{scope}{suffix}", "patch", ref, _WRITE, f"{_META}.Patch"),
        }

    paths = {
        collection: at(
            collection,
            {
                "get": make("get", f"list{scope}", "list", f"{ref}List", _LIST),
                "post": make("post", f"create{scope}", "post", ref, _WRITE, ref),
                "delete": make(
                    "delete", f"deleteCollection{scope}", "deletecollection", f"{_META}.Status", _LIST
                ),
            },
        ),
        one: at(
            one,
            {
                **single(""),
                "delete": make("delete", f"delete{scope}", "delete", ref, _DELETE, f"{_META}.DeleteOptions"),
            },
        ),
    }
    if status:
        paths[f"{one}/status"] = at(one, single("Status"))
    if info.namespaced:
        everywhere = make("get", f"list{kind}ForAllNamespaces", "list", f"{ref}List", _LIST)
        paths[info.path()] = {"get": everywhere}
    return paths


def _path_parameter(name: str, operation: Any) -> Document:
    common = {"name": name, "in": "path", "description": _PATH_PARAMETERS[name], "required": True}
    if operation is _v2_operation:
        return {**common, "type": "string", "uniqueItems": True}
    return {**common, "schema": {"type": "string", "uniqueItems": True}}


def _v3_operation(verb: str, name: str, answer: str, query: Any, body: str) -> Document:
    parameters = [
        {"name": n, "in": "query", "description": d, "schema": {"type": t, "uniqueItems": True}}
        for n, t, d in query
    ]
    content = {JSON: {"schema": {"$ref": f"#/components/schemas/{answer}"}}}
    operation: Document = {
        "operationId": name,
        "parameters": parameters,
        "responses": {"200": {"description": "OK", "content": content}},
    }
    if body:
        types = _PATCH_TYPES if verb == "patch" else (JSON,)
        schema = {"schema": {"$ref": f"#/components/schemas/{body}"}}
        operation["requestBody"] = {"content": dict.fromkeys(types, schema)}
    return operation


def _v2_operation(verb: str, name: str, answer: str, query: Any, body: str) -> Document:
    parameters: list[Document] = [
        {"name": n, "in": "query", "description": d, "type": t, "uniqueItems": True} for n, t, d in query
    ]
    if body:
        schema = {"$ref": f"#/definitions/{body}"}
        parameters.insert(0, {"name": "body", "in": "body", "required": True, "schema": schema})
    return {
        "operationId": name,
        "consumes": list(_PATCH_TYPES) if verb == "patch" else ["*/*"],
        "produces": [JSON],
        "parameters": parameters,
        "responses": {
            "200": {"description": "OK", "schema": {"$ref": f"#/definitions/{answer}"}},
            "401": {"description": "Unauthorized"},
        },
    }
