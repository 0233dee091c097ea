"""Object metadata: names, labels, annotations, finalizers, owners; and label selectors."""

from __future__ import annotations

from collections.abc import Callable
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

NameCheck = Callable[[str], list[str]]

MAX_ANNOTATIONS_BYTES: Final = 256 * 1024
# Finalizers of Kubernetes itself; every other name carries its domain.
_STANDARD_FINALIZERS: Final = ("kubernetes", "orphan", "foregroundDeletion")
_IMMUTABLE_FIELDS: Final = ("name", "namespace", "uid", "creationTimestamp")


def check_metadata(metadata: Object, check_name: NameCheck, faults: Faults, *, namespaced: bool) -> None:
    path = "metadata"
    base = metadata.get("generateName")
    if base:
        # The random end makes a name of what ends in a hyphen or a dot.
        check_text(f"{path}.generateName", base, check_name(base.rstrip("-.") + "a"), faults)
    name = metadata.get("name")
    if name:
        check_text(f"{path}.name", name, check_name(name), faults)
    else:
        faults.append(required(f"{path}.name", "name or generateName is required"))
    namespace = metadata.get("namespace")
    if not namespaced:
        if namespace:
            faults.append(forbidden(f"{path}.namespace", "not allowed on this type"))
    elif namespace:
        check_text(f"{path}.namespace", namespace, names.check_label(namespace), faults)
    else:
        faults.append(required(f"{path}.namespace"))
    _check_contents(metadata, path, faults)


def check_metadata_update(new: Object, old: Object, faults: Faults) -> None:
    for name in _IMMUTABLE_FIELDS:
        if not same(new.get(name), old.get(name)):
            faults.append(invalid(f"metadata.{name}", new.get(name) or "", IMMUTABLE))
    if old.get("deletionTimestamp"):
        added = [f for f in new.get("finalizers", ()) if f not in old.get("finalizers", ())]
        if added:
            detail = "no new finalizers can be added if the object is being deleted, found new finalizers"
            shown = ", ".join(f'"{finalizer}"' for finalizer in added)
            faults.append(forbidden("metadata.finalizers", f"{detail} []string{{{shown}}}"))
    _check_contents(new, "metadata", faults)


def check_template_metadata(metadata: Object, path: str, faults: Faults) -> None:
    """Check the metadata of a pod template at `path`, which has no name of its own."""
    if "labels" in metadata:
        # Upstream leaves `metadata` out of these paths.
        check_labels(metadata["labels"], f"{path}.labels", faults)
    if "annotations" in metadata:
        _check_annotations(metadata["annotations"], f"{path}.annotations", faults)


def _check_contents(metadata: Object, path: str, faults: Faults) -> None:
    if "labels" in metadata:
        check_labels(metadata["labels"], f"{path}.labels", faults)
    if "annotations" in metadata:
        _check_annotations(metadata["annotations"], f"{path}.annotations", faults)
    for index, finalizer in enumerate(metadata.get("finalizers", ())):
        where = f"{path}.finalizers[{index}]"
        check_text(where, finalizer, names.check_qualified_name(finalizer), faults)
        if "/" not in finalizer and finalizer not in _STANDARD_FINALIZERS:
            detail = "name is neither a standard finalizer name nor is it fully qualified"
            faults.append(invalid(where, finalizer, detail))
    if "ownerReferences" in metadata:
        _check_owners(metadata["ownerReferences"], f"{path}.ownerReferences", faults)


def check_labels(labels: Object, path: str, faults: Faults) -> None:
    for key, value in labels.items():
        check_text(path, key, names.check_qualified_name(key), faults)
        check_text(path, value, names.check_label_value(value), faults)


def _check_annotations(annotations: Object, path: str, faults: Faults) -> None:
    size = 0
    for key, value in annotations.items():
        check_text(path, key, names.check_qualified_name(key.lower()), faults)
        size += len(key.encode()) + len(value.encode())
    if size > MAX_ANNOTATIONS_BYTES:
        faults.append(too_long(path, MAX_ANNOTATIONS_BYTES))


def _check_owners(owners: list[Object], path: str, faults: Faults) -> None:
    controller = ""
    for owner in owners:
        if not owner.get("apiVersion"):
            faults.append(invalid(f"{path}.apiVersion", "", "version must not be empty"))
        for key in ("kind", "name", "uid"):
            if not owner.get(key):
                faults.append(invalid(f"{path}.{key}", "", f"{key} must not be empty"))
        if owner.get("controller"):
            this = f"{owner.get('kind')}/{owner.get('name')}"
            if controller:
                detail = (
                    "Only one reference can have Controller set to true. "
                    f'Found "true" in references for {controller} and {this}'
                )
                faults.append(invalid(path, owners, detail))
            controller = controller or this


def check_label_selector(selector: Object, path: str, faults: Faults) -> None:
    check_labels(selector.get("matchLabels", {}), f"{path}.matchLabels", faults)
    for index, expression in enumerate(selector.get("matchExpressions", ())):
        check_requirement(expression, f"{path}.matchExpressions[{index}]", faults)


def check_requirement(requirement: Object, path: str, faults: Faults) -> None:
    operator, values = requirement.get("operator", ""), requirement.get("values", ())
    check_operator(operator, values, path, faults)
    key = requirement.get("key", "")
    check_text(f"{path}.key", key, names.check_qualified_name(key), faults)


def check_operator(
    operator: str, values: list[str], path: str, faults: Faults, *, numbers: bool = False
) -> None:
    """Check that an operator is known and has the values it needs; Gt and Lt only with `numbers`."""
    if operator in ("In", "NotIn"):
        if not values:
            faults.append(required(f"{path}.values", "must be specified when `operator` is 'In' or 'NotIn'"))
    elif operator in ("Exists", "DoesNotExist"):
        if values:
            detail = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'"
            faults.append(forbidden(f"{path}.values", detail))
    elif operator in ("Gt", "Lt") and numbers:
        if len(values) != 1:
            detail = "must be specified single value when `operator` is 'Lt' or 'Gt'"
            faults.append(required(f"{path}.values", detail))
    else:
        faults.append(invalid(f"{path}.operator", operator, "not a valid selector operator"))
