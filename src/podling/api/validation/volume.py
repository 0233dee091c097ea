"""Volumes of a pod: names, exactly one source each, and what common sources need."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from podling.api import names
from podling.api.quantity import parse_quantity
from podling.api.validation.faults import (
    Faults,
    Object,
    check_text,
    duplicate,
    forbidden,
    invalid,
    required,
    unsupported,
)
from podling.api.validation.reference import check_field_ref, check_resource_ref

_HOST_PATH_TYPES: Final = (
    "", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket",
)  # fmt: skip
_PULL_POLICIES: Final = ("Always", "IfNotPresent", "Never")
_MODE_FAULT: Final = "must be a number between 0 and 0777 (octal), both inclusive"
_VOLUME_FIELDS: Final = frozenset(
    f"metadata.{name}" for name in ("annotations", "labels", "name", "namespace", "uid")
)


def check_volumes(volumes: list[Object], path: str, faults: Faults) -> dict[str, Object]:
    """Check all volumes and return those that are well named, by name."""
    found: dict[str, Object] = {}
    for index, volume in enumerate(volumes):
        where = f"{path}[{index}]"
        before = len(faults)
        _check_source(volume, where, faults)
        name = volume.get("name", "")
        if not name:
            faults.append(required(f"{where}.name"))
        else:
            check_text(f"{where}.name", name, names.check_label(name), faults)
        if name in found:
            faults.append(duplicate(f"{where}.name", name))
        if len(faults) == before:
            found[name] = volume
    return found


def _check_source(volume: Object, path: str, faults: Faults) -> None:
    sources = [key for key in volume if key != "name"]
    if not sources:
        faults.append(required(path, "must specify a volume type"))
        return
    for extra in sources[1:]:
        faults.append(forbidden(f"{path}.{extra}", "may not specify more than 1 volume type"))
    check = _SOURCES.get(sources[0])
    if check is not None:
        check(volume[sources[0]], f"{path}.{sources[0]}", faults)


def _empty_dir(source: Object, path: str, faults: Faults) -> None:
    limit = source.get("sizeLimit")
    if limit is not None and parse_quantity(limit) < 0:
        faults.append(forbidden(f"{path}.sizeLimit", "SizeLimit field must be a valid resource quantity"))


def _host_path(source: Object, path: str, faults: Faults) -> None:
    if not source.get("path"):
        faults.append(required(f"{path}.path"))
    else:
        check_no_backsteps(source["path"], f"{path}.path", faults)
    if source.get("type", "") not in _HOST_PATH_TYPES:
        faults.append(unsupported(f"{path}.type", source["type"], _HOST_PATH_TYPES))


def _config_map(source: Object, path: str, faults: Faults) -> None:
    if not source.get("name"):
        faults.append(required(f"{path}.name"))
    _check_mode(source.get("defaultMode"), f"{path}.defaultMode", faults)
    _check_items(source, path, faults)


def _secret(source: Object, path: str, faults: Faults) -> None:
    if not source.get("secretName"):
        faults.append(required(f"{path}.secretName"))
    _check_mode(source.get("defaultMode"), f"{path}.defaultMode", faults)
    _check_items(source, path, faults)


def _check_items(source: Object, path: str, faults: Faults) -> None:
    for index, item in enumerate(source.get("items", ())):
        where = f"{path}.items[{index}]"
        if not item.get("key"):
            faults.append(required(f"{where}.key"))
        if not item.get("path"):
            faults.append(required(f"{where}.path"))
        else:
            _check_local_path(item["path"], f"{where}.path", faults)
        _check_mode(item.get("mode"), f"{where}.mode", faults)


def _downward_api(source: Object, path: str, faults: Faults) -> None:
    _check_mode(source.get("defaultMode"), f"{path}.defaultMode", faults)
    where = path  # Upstream names no index here.
    for item in source.get("items", ()):
        if not item.get("path"):
            faults.append(required(f"{where}.path"))
        else:
            _check_local_path(item["path"], f"{where}.path", faults)
        if "fieldRef" in item:
            check_field_ref(item["fieldRef"], f"{where}.fieldRef", _VOLUME_FIELDS, faults)
            if "resourceFieldRef" in item:
                detail = "fieldRef and resourceFieldRef can not be specified simultaneously"
                faults.append(invalid(where, "resource", detail))
        elif "resourceFieldRef" in item:
            check_resource_ref(item["resourceFieldRef"], f"{where}.resourceFieldRef", faults, in_volume=True)
        else:
            faults.append(required(where, "one of fieldRef and resourceFieldRef is required"))
        _check_mode(item.get("mode"), f"{where}.mode", faults)


def _projected(source: Object, path: str, faults: Faults) -> None:
    _check_mode(source.get("defaultMode"), f"{path}.defaultMode", faults)
    paths: set[str] = set()
    for index, projection in enumerate(source.get("sources", ())):
        where = f"{path}.sources[{index}]"
        kinds = list(projection)
        if not kinds:
            faults.append(required(where, "must specify a projected volume source"))
            continue
        for extra in kinds[1:]:
            faults.append(forbidden(f"{where}.{extra}", "may not specify more than 1 volume type per source"))
        content, inner = projection[kinds[0]], f"{where}.{kinds[0]}"
        if kinds[0] in ("secret", "configMap"):
            if not content.get("name"):
                faults.append(required(f"{inner}.name"))
            _check_items(content, inner, faults)
        elif kinds[0] == "downwardAPI":
            _downward_api(content, inner, faults)
        elif kinds[0] == "serviceAccountToken":
            _check_token(content, inner, faults)
        for target in [content.get("path"), *(item.get("path") for item in content.get("items", ()))]:
            if target and target in paths:
                faults.append(invalid(inner, target, "conflicting duplicate paths"))
            if target:
                paths.add(target)


def _check_token(content: Object, path: str, faults: Faults) -> None:
    expiration = content.get("expirationSeconds", 3600)
    if expiration < 600:
        detail = "may not specify a duration less than 10 minutes"
        faults.append(invalid(f"{path}.expirationSeconds", expiration, detail))
    if expiration > 2**32:
        detail = "may not specify a duration larger than 2^32 seconds"
        faults.append(invalid(f"{path}.expirationSeconds", expiration, detail))
    if not content.get("path"):
        faults.append(required(f"{path}.path"))
    else:
        _check_local_path(content["path"], f"{path}.path", faults)


def _image(source: Object, path: str, faults: Faults) -> None:
    if not source.get("reference"):
        faults.append(required(f"{path}.reference"))
    policy = source.get("pullPolicy", "")
    if policy and policy not in _PULL_POLICIES:
        faults.append(unsupported(f"{path}.pullPolicy", policy, _PULL_POLICIES))


def _needs(*fields: str) -> Callable[[Object, str, Faults], None]:
    def check(source: Object, path: str, faults: Faults) -> None:
        faults.extend(required(f"{path}.{field}") for field in fields if not source.get(field))

    return check


_SOURCES: Final[dict[str, Callable[[Object, str, Faults], None]]] = {
    "configMap": _config_map,
    "downwardAPI": _downward_api,
    "emptyDir": _empty_dir,
    "hostPath": _host_path,
    "image": _image,
    "nfs": _needs("server", "path"),
    "persistentVolumeClaim": _needs("claimName"),
    "projected": _projected,
    "secret": _secret,
}


def _check_mode(mode: int | None, path: str, faults: Faults) -> None:
    if mode is not None and not 0 <= mode <= 0o777:
        faults.append(invalid(path, mode, _MODE_FAULT))


def check_no_backsteps(text: str, path: str, faults: Faults) -> None:
    if ".." in text.replace("\\", "/").split("/"):
        faults.append(invalid(path, text, "must not contain '..'"))


def check_descending_path(text: str, path: str, faults: Faults) -> None:
    """A path below something: relative and without steps back."""
    if text.startswith("/"):
        faults.append(invalid(path, text, "must be a relative path"))
    check_no_backsteps(text, path, faults)


def _check_local_path(text: str, path: str, faults: Faults) -> None:
    check_descending_path(text, path, faults)
    # `..data` and the like are the kubelet's own, in the same directory.
    if text.startswith("..") and not text.startswith("../"):
        faults.append(invalid(path, text, "must not start with '..'"))
