"""Persistent volumes and claims, as objects."""

from __future__ import annotations

from typing import Final

from podling.api import names
from podling.api.validation.faults import (
    Faults,
    Object,
    check_choice,
    forbidden,
    invalid,
    required,
    same,
    unsupported,
)
from podling.api.validation.meta import check_label_selector, check_metadata, check_metadata_update
from podling.api.validation.resources import check_amounts

_ACCESS_MODES: Final = ("ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod")
_RECLAIM_POLICIES: Final = ("Delete", "Recycle", "Retain")
_VOLUME_MODES: Final = ("Block", "Filesystem")
_SOURCES: Final = (
    "awsElasticBlockStore", "azureDisk", "azureFile", "cephfs", "cinder", "csi", "fc", "flexVolume",
    "flocker", "gcePersistentDisk", "glusterfs", "hostPath", "iscsi", "local", "nfs", "photonPersistentDisk",
    "portworxVolume", "quobyte", "rbd", "scaleIO", "storageos", "vsphereVolume",
)  # fmt: skip
_CLAIM_KEPT: Final = (
    "spec is immutable after creation except resources.requests and volumeAttributesClassName "
    "for bound claims"
)


def check_persistent_volume(obj: Object, faults: Faults) -> None:
    check_metadata(obj.get("metadata", {}), names.check_subdomain, faults, namespaced=False)
    _check_volume_spec(obj.get("spec") or {}, faults)


def check_persistent_volume_update(new: Object, old: Object, faults: Faults) -> None:
    check_metadata_update(new.get("metadata", {}), old.get("metadata", {}), faults)
    after, before = new.get("spec") or {}, old.get("spec") or {}
    _check_volume_spec(after, faults)
    if any(not same(after.get(source), before.get(source)) for source in _SOURCES):
        faults.append(
            forbidden(
                "spec.persistentvolumesource", "spec.persistentvolumesource is immutable after creation"
            )
        )


def _check_volume_spec(spec: Object, faults: Faults) -> None:
    _check_modes(spec, faults)
    capacity = spec.get("capacity") or {}
    if not capacity:
        faults.append(required("spec.capacity"))
    elif list(capacity) != ["storage"]:
        faults.append(unsupported("spec.capacity", sorted(capacity), ("storage",)))
    check_amounts(capacity, "spec.capacity", faults)
    if spec.get("persistentVolumeReclaimPolicy"):
        check_choice(
            "spec.persistentVolumeReclaimPolicy",
            spec["persistentVolumeReclaimPolicy"],
            _RECLAIM_POLICIES,
            faults,
        )
    sources = [source for source in _SOURCES if spec.get(source) is not None]
    if not sources:
        faults.append(required("spec", "must specify a volume type"))
    for extra in sources[1:]:
        faults.append(forbidden(f"spec.{extra}", "may not specify more than 1 volume type"))


def check_claim(obj: Object, faults: Faults) -> None:
    check_metadata(obj.get("metadata", {}), names.check_subdomain, faults, namespaced=True)
    spec = obj.get("spec") or {}
    _check_modes(spec, faults)
    if spec.get("selector"):
        check_label_selector(spec["selector"], "spec.selector", faults)
    requests = (spec.get("resources") or {}).get("requests") or {}
    if "storage" not in requests:
        faults.append(required("spec.resources[storage]"))
    check_amounts(requests, "spec.resources.requests", faults)


def check_claim_update(new: Object, old: Object, faults: Faults) -> None:
    check_metadata_update(new.get("metadata", {}), old.get("metadata", {}), faults)
    after, before = new.get("spec") or {}, old.get("spec") or {}
    munged = {**after, "volumeAttributesClassName": before.get("volumeAttributesClassName")}
    if not before.get("volumeName"):
        munged["volumeName"] = before.get("volumeName")  # binding is the one first change
    munged["resources"] = before.get("resources")
    if not same(munged, before):
        faults.append(forbidden("spec", _CLAIM_KEPT))


def _check_modes(spec: Object, faults: Faults) -> None:
    modes = spec.get("accessModes") or ()
    if not modes:
        faults.append(required("spec.accessModes", "at least 1 access mode is required"))
    for mode in modes:
        if mode not in _ACCESS_MODES:
            faults.append(unsupported("spec.accessModes", mode, _ACCESS_MODES))
    if "ReadWriteOncePod" in modes and len(modes) > 1:
        detail = "may not use ReadWriteOncePod with other access modes"
        faults.append(forbidden("spec.accessModes", detail))
    mode = spec.get("volumeMode")
    if mode and mode not in _VOLUME_MODES:
        faults.append(unsupported("spec.volumeMode", mode, _VOLUME_MODES))
    if spec.get("storageClassName"):
        for problem in names.check_subdomain(spec["storageClassName"]):
            faults.append(invalid("spec.storageClassName", spec["storageClassName"], problem))
