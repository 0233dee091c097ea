"""Objects as the client wants to see them: whole, their metadata only, or as rows of a table."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec

from podling.api import tables
from podling.apiserver import errors, objects
from podling.apiserver.negotiation import YAML, Accepted
from podling.apiserver.objects import Object, encode
from podling.apiserver.request import Request, Response
from podling.apiserver.resource import Resource
from podling.store.interface import Entry

INCLUDE_OBJECT = ("None", "Metadata", "Object")


def json_response(status: int, value: Any, accept: Accepted | None = None) -> Response:
    return finish(status, encode(value), accept or Accepted())


def finish(status: int, body: bytes, accept: Accepted) -> Response:
    """`body`, which is JSON, in the encoding the client accepts."""
    if accept.media_type == YAML:
        return Response(status, to_yaml(body), YAML)
    return Response(status, body)


def to_yaml(body: bytes) -> bytes:
    import yaml  # Slow to import, and hardly anyone asks a server for YAML.

    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    text: bytes = yaml.dump(msgspec.json.decode(body), Dumper=dumper, encoding="utf-8", sort_keys=True)
    return text


def one(
    resource: Resource, body: bytes, accept: Accepted, request: Request, *, status: int = 200
) -> Response:
    """A single object whose JSON is `body`."""
    if accept.table:
        obj = objects.decode(body)
        version = obj["metadata"].get("resourceVersion", "")
        table = Table(resource, accept, request)
        return json_response(status, table.document([table.row(obj, body)], {"resourceVersion": version}))
    if accept.partial:
        return json_response(status, partial(objects.decode(body), accept))
    return finish(status, body, accept)


def partial(obj: Object, accept: Accepted) -> Object:
    return {
        "kind": "PartialObjectMetadata",
        "apiVersion": f"meta.k8s.io/{accept.version}",
        "metadata": obj["metadata"],
    }


def collection(
    resource: Resource, entries: list[Entry], metadata: Object, accept: Accepted, request: Request
) -> Response:
    """A list. Its `metadata` has the resourceVersion, and `continue` when there is more."""
    if accept.table:
        table = Table(resource, accept, request)
        rows = [table.row(objects.from_entry(e), objects.wire(resource, e)) for e in entries]
        return json_response(200, table.document(rows, metadata))
    if accept.partial:
        items = [partial(objects.from_entry(e), accept) for e in entries]
        api_version = f"meta.k8s.io/{accept.version}"
        document = {"kind": "PartialObjectMetadataList", "apiVersion": api_version, "metadata": metadata}
        return json_response(200, {**document, "items": items})
    head = b'{"kind":"%bList","apiVersion":"%b","metadata":%b,"items":[' % (
        resource.kind.encode(),
        resource.group_version.encode(),
        encode(metadata),
    )
    items_json = b",".join([objects.list_item(resource, entry) for entry in entries])
    return finish(200, b"%b%b]}" % (head, items_json), accept)


class Table:
    """Rows of `meta.k8s.io/v1 Table` for one answer or one watch."""

    def __init__(self, resource: Resource, accept: Accepted, request: Request) -> None:
        self._resource = resource
        self._accept = accept
        self._include = request.query.get("includeObject") or "Metadata"
        if self._include not in INCLUDE_OBJECT:
            raise errors.bad_request(
                f"includeObject: Unsupported value: {self._include!r}: "
                'supported values: "Metadata", "None", "Object"'
            )
        self._now = datetime.now(UTC)

    def row(self, obj: Object, body: bytes) -> Object:
        row: Object = {"cells": tables.row_cells(self._resource.kind, obj, self._now)}
        if self._include == "Object":
            row["object"] = msgspec.Raw(body)
        elif self._include == "Metadata":
            row["object"] = partial(obj, self._accept)
        return row

    def tick(self) -> None:
        """Ages are as of now: a watch lives longer than one answer."""
        self._now = datetime.now(UTC)

    def document(self, rows: list[Object], metadata: Object, *, headers: bool = True) -> Object:
        return {
            "kind": "Table",
            "apiVersion": f"meta.k8s.io/{self._accept.version}",
            "metadata": metadata,
            "columnDefinitions": tables.columns(self._resource.kind) if headers else [],
            "rows": rows,
        }
