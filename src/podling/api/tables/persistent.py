"""Persistent volumes and claims as tables."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

from podling.api.tables.columns import AGE, NAME, UNSET, Cells, Object, Table, age, column, metadata, name

_MODES: Final = (
    ("ReadWriteOnce", "RWO"),
    ("ReadOnlyMany", "ROX"),
    ("ReadWriteMany", "RWX"),
    ("ReadWriteOncePod", "RWOP"),
)
_CLASS: Final = "storageClassName is the name of the StorageClass this belongs to."
_ATTRIBUTES: Final = "Name of the VolumeAttributesClass this belongs to."
_VOLUME_MODE: Final = column("VolumeMode", "volumeMode defines what type of volume is meant.", wide=True)


def _access(modes: Any) -> str:
    return ",".join(short for mode, short in _MODES if mode in (modes or ()))


def _volume_cells(volume: Object, now: datetime) -> Cells:
    spec, status = volume.get("spec") or {}, volume.get("status") or {}
    claim = spec.get("claimRef")
    phase = "Terminating" if metadata(volume).get("deletionTimestamp") else status.get("phase", "")
    return [
        name(volume),
        (spec.get("capacity") or {}).get("storage", "0"),
        _access(spec.get("accessModes")),
        spec.get("persistentVolumeReclaimPolicy", ""),
        phase,
        f"{claim.get('namespace', '')}/{claim.get('name', '')}" if claim else "",
        spec.get("storageClassName", ""),
        spec.get("volumeAttributesClassName") or UNSET,
        status.get("reason", ""),
        age(volume, now),
        spec.get("volumeMode") or UNSET,
    ]


PERSISTENT_VOLUMES: Final = Table(
    columns=(
        NAME,
        column("Capacity", "capacity is the description of the volume's resources and capacity."),
        column("Access Modes", "accessModes contains all ways the volume can be mounted."),
        column("Reclaim Policy", "What happens to the volume when it is released from its claim."),
        column("Status", "phase indicates if a volume is available, bound to a claim, or released."),
        column("Claim", "claimRef is the claim the volume is bound to."),
        column("StorageClass", _CLASS),
        column("VolumeAttributesClass", _ATTRIBUTES),
        column("Reason", "reason is a brief string that describes any failure."),
        AGE,
        _VOLUME_MODE,
    ),
    cells=_volume_cells,
)


def _claim_cells(claim: Object, now: datetime) -> Cells:
    spec, status = claim.get("spec") or {}, claim.get("status") or {}
    bound = bool(spec.get("volumeName"))
    phase = "Terminating" if metadata(claim).get("deletionTimestamp") else status.get("phase", "")
    return [
        name(claim),
        phase,
        spec.get("volumeName", ""),
        (status.get("capacity") or {}).get("storage", "0") if bound else "",
        _access(status.get("accessModes")) if bound else "",
        spec.get("storageClassName", ""),
        spec.get("volumeAttributesClassName") or UNSET,
        age(claim, now),
        spec.get("volumeMode") or UNSET,
    ]


CLAIMS: Final = Table(
    columns=(
        NAME,
        column("Status", "phase represents the current phase of the claim."),
        column("Volume", "volumeName is the binding reference to the volume backing this claim."),
        column("Capacity", "capacity represents the actual resources of the underlying volume."),
        column("Access Modes", "accessModes contains the actual access modes of the volume."),
        column("StorageClass", _CLASS),
        column("VolumeAttributesClass", _ATTRIBUTES),
        AGE,
        _VOLUME_MODE,
    ),
    cells=_claim_cells,
)
