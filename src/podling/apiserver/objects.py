"""Objects and their bytes.

An object is stored as JSON that begins `{"kind":...,"apiVersion":...,"metadata":{`, without its
resourceVersion: that is the store's revision, put back by inserting a few bytes behind this head. So a
LIST or a watch never decodes or encodes an object, and a stored value never contradicts its revision.
"""

from __future__ import annotations

from typing import Any, TypedDict

import msgspec

from podling.apiserver.resource import Resource
from podling.store.interface import Entry

Object = dict[str, Any]

encode = msgspec.json.Encoder().encode
decode: Any = msgspec.json.Decoder().decode


def to_value(resource: Resource, obj: Object) -> bytes:
    """What the store keeps of `obj`. Its resourceVersion is dropped."""
    metadata = dict(obj["metadata"])
    metadata.pop("resourceVersion", None)
    body = {"kind": resource.kind, "apiVersion": resource.group_version, "metadata": metadata}
    body |= {key: value for key, value in obj.items() if key not in body}
    return encode(body)


def from_entry(entry: Entry) -> Object:
    """A fresh copy, with its resourceVersion."""
    obj: Object = decode(entry.value)
    obj["metadata"]["resourceVersion"] = str(entry.revision)
    return obj


def wire(resource: Resource, entry: Entry, revision: int = 0) -> bytes:
    """The JSON of one object, alone or in a watch event; `revision` overrides the entry's (deletions)."""
    head = resource.head
    return b'%b"resourceVersion":"%d",%b' % (head, revision or entry.revision, entry.value[len(head) :])


def list_item(resource: Resource, entry: Entry) -> bytes:
    """The JSON of one object in a list, where Kubernetes leaves kind and apiVersion out."""
    rest = entry.value[len(resource.head) :]
    return b'{"metadata":{"resourceVersion":"%d",%b' % (entry.revision, rest)


class _Metadata(TypedDict, total=False):
    name: str
    uid: str
    namespace: str
    labels: dict[str, str]
    deletionTimestamp: str


class View(TypedDict, total=False):
    """The fields that selectors, authorization and admission look at."""

    metadata: _Metadata
    spec: _Spec
    status: _Status
    involvedObject: dict[str, Any]
    reason: str
    reportingComponent: str
    source: dict[str, Any]
    type: str


class _Spec(TypedDict, total=False):
    nodeName: str
    restartPolicy: str
    schedulerName: str
    serviceAccountName: str
    hostNetwork: bool
    unschedulable: bool
    clusterIP: str
    type: str


class _Status(TypedDict, total=False):
    phase: str
    podIP: str
    podIPs: list[dict[str, str]]
    nominatedNodeName: str


_view_decoder = msgspec.json.Decoder(View)


def view(entry: Entry) -> View:
    """The few fields of interest, decoded once an entry (a tenth of the cost and size of all of it)."""
    if entry.memo is None:
        entry.memo = _view_decoder.decode(entry.value)
    found: View = entry.memo
    return found
