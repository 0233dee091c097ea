"""From the text of a manifest to the static pod it means: pure.

The pod's name gets the node's as its suffix, and unless the manifest says a UID it is a hash of the manifest,
the node and the manifest's place: the next kubelet finds the pod's containers by it, and a changed manifest
is another pod (upstream: `pkg/kubelet/config/common.go`, "applyDefaults").
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from typing import Any

import msgspec
import yaml

from podling.api import core_v1
from podling.api.decoding import DecodeError
from podling.api.defaults import apply_defaults
from podling.api.references import referenced_resources
from podling.api.schema import schema
from podling.api.validation import validate_create

HASH_ANNOTATION = "kubernetes.io/config.hash"
MIRROR_ANNOTATION = "kubernetes.io/config.mirror"
SOURCE_ANNOTATION = "kubernetes.io/config.source"
SEEN_ANNOTATION = "kubernetes.io/config.seen"

FILE = "file"
HTTP = "http"
"""Values of the source annotation."""

CRITICAL = {"system-node-critical": 2_000_001_000, "system-cluster-critical": 2_000_000_000}
"""Priority classes every cluster has: no API server is asked for them."""

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class ManifestError(ValueError):
    """A manifest that means no pod; the text says why."""


def read_manifest(
    data: bytes, *, source: str, place: str, node: str, now: datetime, many: bool = False
) -> list[core_v1.Pod]:
    """The pods of a manifest (YAML or JSON): one, or with `many` also those of a list.

    `source` is FILE or HTTP, `place` the path or URL. Raises ManifestError.
    """
    try:
        document = yaml.load(data, Loader=_Loader)
        # Through JSON: dates become text again, and keys that are no strings have no place in it.
        document = msgspec.json.decode(msgspec.json.encode(document))
    except (yaml.YAMLError, msgspec.MsgspecError, UnicodeDecodeError, TypeError) as err:
        raise ManifestError(f"couldn't parse as pod: {' '.join(str(err).split())}") from err
    if not isinstance(document, dict):
        raise ManifestError("couldn't parse as pod: Object 'Kind' is missing")
    items = [document]
    if many and document.get("kind") in ("PodList", "List"):
        items = [{"apiVersion": "v1", "kind": "Pod", **item} for item in document.get("items") or []]
    return [_pod(item, source=source, place=place, node=node, now=now) for item in items]


def _pod(obj: dict[str, Any], *, source: str, place: str, node: str, now: datetime) -> core_v1.Pod:
    if (obj.get("apiVersion"), obj.get("kind")) != ("v1", "Pod"):
        raise ManifestError(
            f'couldn\'t parse as pod: found "{obj.get("kind")}" of version "{obj.get("apiVersion")}"'
        )
    ref = schema().ref("v1", "Pod")
    assert ref is not None
    try:
        dropped = schema().decode_strict(ref, obj)
    except DecodeError as err:
        raise ManifestError(f"couldn't parse as pod: {err}") from err
    if dropped:
        # Differs from upstream, which drops what it does not know: nobody is there to be warned.
        raise ManifestError(f"strict decoding error: {', '.join(map(str, dropped))}")
    metadata, spec = obj.setdefault("metadata", {}), obj.setdefault("spec", {})
    if not metadata.get("name"):
        raise ManifestError("invalid pod: name is needed for the pod")
    obj.pop("status", None)
    uid = metadata.get("uid") or _hash(obj, source=source, place=place, node=node)
    metadata["uid"] = uid
    metadata["name"] = f"{metadata['name']}-{node}".lower()
    metadata["namespace"] = metadata.get("namespace") or "default"
    metadata["annotations"] = {
        **(metadata.get("annotations") or {}),
        HASH_ANNOTATION: uid,
        SOURCE_ANNOTATION: source,
        SEEN_ANNOTATION: now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
    }
    spec["nodeName"] = node
    # No taint ends it: nobody would start it elsewhere.
    spec["tolerations"] = [*(spec.get("tolerations") or []), {"operator": "Exists", "effect": "NoExecute"}]
    if spec.get("priorityClassName") in CRITICAL:
        spec["priority"] = CRITICAL[spec["priorityClassName"]]
    apply_defaults("Pod", obj)
    _check(obj)
    return msgspec.convert(obj, core_v1.Pod)


def _hash(obj: dict[str, Any], *, source: str, place: str, node: str) -> str:
    """32 hexadecimal digits, as upstream's; MD5 is no secret here, only a name."""
    text = msgspec.json.encode([node, source, place, obj], order="sorted")
    return hashlib.md5(text, usedforsecurity=False).hexdigest()


def _check(obj: dict[str, Any]) -> None:
    if resources := referenced_resources(obj["spec"]):
        raise ManifestError(f"invalid pod: static pods may not reference {resources[0]}")
    faults = validate_create("Pod", obj)
    if faults:
        listed = ", ".join(f"{fault.field}: {fault.message}" for fault in faults)
        raise ManifestError(f"invalid pod: {listed}")
