"""ConfigMaps and Secrets."""

from __future__ import annotations

import base64
import json
from typing import Final

from podling.api import names
from podling.api.validation.faults import (
    IMMUTABLE,
    Faults,
    Object,
    check_text,
    forbidden,
    invalid,
    required,
    same,
    too_long,
)
from podling.api.validation.meta import check_metadata, check_metadata_update

MAX_BYTES: Final = 1024 * 1024
_FROZEN: Final = "field is immutable when `immutable` is set"
_ACCOUNT: Final = "kubernetes.io/service-account.name"
# Keys that a type of secret must have.
_KEYS: Final = {
    "kubernetes.io/dockercfg": (".dockercfg",),
    "kubernetes.io/dockerconfigjson": (".dockerconfigjson",),
    "kubernetes.io/ssh-auth": ("ssh-privatekey",),
    "kubernetes.io/tls": ("tls.crt", "tls.key"),
}


def check_config_map(obj: Object, faults: Faults) -> None:
    check_metadata(obj.get("metadata", {}), names.check_subdomain, faults, namespaced=True)
    _check_config_map_data(obj, faults)


def _check_config_map_data(obj: Object, faults: Faults) -> None:
    data, binary = obj.get("data", {}), obj.get("binaryData", {})
    for key in data:
        check_text(f"data[{key}]", key, names.check_config_key(key), faults)
        if key in binary:
            faults.append(invalid(f"data[{key}]", key, "duplicate of key present in binaryData"))
    for key in binary:
        check_text(f"binaryData[{key}]", key, names.check_config_key(key), faults)
    size = sum(len(text.encode()) for text in data.values()) + sum(map(_decoded_size, binary.values()))
    if size > MAX_BYTES:
        # Upstream has no path here either.
        faults.append(too_long("[]", MAX_BYTES))


def check_config_map_update(new: Object, old: Object, faults: Faults) -> None:
    check_metadata_update(new.get("metadata", {}), old.get("metadata", {}), faults)
    _check_frozen(new, old, ("data", "binaryData"), faults)
    _check_config_map_data(new, faults)


def check_secret(obj: Object, faults: Faults) -> None:
    check_metadata(obj.get("metadata", {}), names.check_subdomain, faults, namespaced=True)
    _check_secret_data(obj, faults)


def _check_secret_data(obj: Object, faults: Faults) -> None:
    data = obj.get("data", {})
    for key in data:
        check_text(f"data[{key}]", key, names.check_config_key(key), faults)
    if sum(map(_decoded_size, data.values())) > MAX_BYTES:
        faults.append(too_long("data", MAX_BYTES))
    kind = obj.get("type", "Opaque")
    for key in _KEYS.get(kind, ()):
        if key not in data:
            faults.append(required(f"data[{key}]"))
        elif key.startswith(".docker") and not _is_json(data[key]):
            detail = "unexpected end of JSON input" if not data[key] else "invalid character"
            faults.append(invalid(f"data[{key}]", "<secret contents redacted>", detail))
    if kind == "kubernetes.io/basic-auth" and not ("username" in data or "password" in data):
        faults.append(required("data[username]"))
        faults.append(required("data[password]"))
    annotations = obj.get("metadata", {}).get("annotations", {})
    if kind == "kubernetes.io/service-account-token" and not annotations.get(_ACCOUNT):
        faults.append(required(f"metadata.annotations[{_ACCOUNT}]"))


def check_secret_update(new: Object, old: Object, faults: Faults) -> None:
    check_metadata_update(new.get("metadata", {}), old.get("metadata", {}), faults)
    if new.get("type") != old.get("type"):
        faults.append(invalid("type", new.get("type"), IMMUTABLE))
    _check_frozen(new, old, ("data",), faults)
    _check_secret_data(new, faults)


def _check_frozen(new: Object, old: Object, fields: tuple[str, ...], faults: Faults) -> None:
    if not old.get("immutable"):
        return
    if not new.get("immutable"):
        faults.append(forbidden("immutable", _FROZEN))
    for field in fields:
        if not same(new.get(field), old.get(field)):
            faults.append(forbidden(field, _FROZEN))


def _decoded_size(text: str) -> int:
    return len(text) * 3 // 4 - text.count("=", -2)


def _is_json(text: str) -> bool:
    try:
        json.loads(base64.b64decode(text))
    except ValueError:
        return False
    return True
