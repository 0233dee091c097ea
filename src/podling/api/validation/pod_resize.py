"""What pods/resize may change: CPU and memory of containers that are there.

Kubernetes documentation, "Resize CPU and Memory Resources assigned to Containers", "Limitations"; words are
upstream's (`pkg/apis/core/validation`, "ValidatePodResize").
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from podling.api.pods import qos_class_of
from podling.api.validation.faults import Faults, Object, forbidden, invalid, same

_MUTABLE = ("cpu", "memory")
_KINDS = ("requests", "limits")


def check_resize(new: Object, old: Object, faults: Faults) -> None:
    """Both are whole pods; what the new spec itself must be like is checked elsewhere."""
    after, before = new.get("spec") or {}, old.get("spec") or {}
    for key in ("containers", "initContainers"):
        pairs = (after.get(key) or [], before.get(key) or [])
        if [c.get("name") for c in pairs[0]] != [c.get("name") for c in pairs[1]]:
            faults.append(forbidden(f"spec.{key}", "containers may not be renamed or reordered on resize"))
            return
        for index, (container, was) in enumerate(zip(*pairs, strict=True)):
            path = f"spec.{key}[{index}].resources"
            _check_removed(container.get("resources") or {}, was.get("resources") or {}, path, faults)
    if before.get("resources"):
        faults.append(forbidden("spec", "pods with pod-level resources cannot be resized"))
    quality = qos_class_of(new)
    if quality != qos_class_of(old):
        detail = "Pod QOS Class may not change as a result of resizing"
        faults.append(invalid("spec", quality, detail))
    if not same(_without_mutable(after), _without_mutable(before)):
        faults.append(forbidden("spec", "only cpu and memory resources are mutable"))


def _check_removed(new: Object, old: Object, path: str, faults: Faults) -> None:
    for kind in _KINDS:
        gone = set(old.get(kind) or ()) - set(new.get(kind) or ())
        if gone:
            faults.append(forbidden(f"{path}.{kind}", f"resource {kind} cannot be removed"))


def _without_mutable(spec: Object) -> Object:
    def bare(container: Mapping[str, Any]) -> Object:
        resources = dict(container.get("resources") or {})
        for kind in _KINDS:
            left = {name: v for name, v in (resources.pop(kind, None) or {}).items() if name not in _MUTABLE}
            if left:
                resources[kind] = left
        # Plain init containers have run: theirs is not to be changed.
        return {**container, "resources": resources}

    return {
        **spec,
        "containers": [bare(c) for c in spec.get("containers") or ()],
        "initContainers": [
            bare(c) if c.get("restartPolicy") == "Always" else dict(c)
            for c in spec.get("initContainers") or ()
        ],
    }
