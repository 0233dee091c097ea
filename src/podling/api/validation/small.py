"""Kinds of which there is little to check: namespaces, events, leases, service accounts."""

from __future__ import annotations

from podling.api import names
from podling.api.validation.faults import Faults, Object, check_not_negative, invalid, required
from podling.api.validation.meta import check_metadata, check_metadata_update


def check_namespace(obj: Object, faults: Faults) -> None:
    check_metadata(obj.get("metadata", {}), names.check_label, faults, namespaced=False)
    for index, finalizer in enumerate((obj.get("spec") or {}).get("finalizers", ())):
        for problem in names.check_qualified_name(finalizer):
            faults.append(invalid(f"spec.finalizers[{index}]", finalizer, problem))


def check_event(obj: Object, faults: Faults) -> None:
    check_metadata(obj.get("metadata", {}), names.check_path_segment, faults, namespaced=True)
    involved = (obj.get("involvedObject") or {}).get("namespace", "")
    namespace = obj.get("metadata", {}).get("namespace", "")
    # What lies in no namespace is told of in the default one.
    if namespace != (involved or "default"):
        faults.append(invalid("involvedObject.namespace", involved, "does not match event.namespace"))


def check_lease(obj: Object, faults: Faults) -> None:
    check_metadata(obj.get("metadata", {}), names.check_subdomain, faults, namespaced=True)
    _check_lease_spec(obj.get("spec") or {}, faults)


def check_lease_update(new: Object, old: Object, faults: Faults) -> None:
    check_metadata_update(new.get("metadata", {}), old.get("metadata", {}), faults)
    _check_lease_spec(new.get("spec") or {}, faults)


def _check_lease_spec(spec: Object, faults: Faults) -> None:
    duration = spec.get("leaseDurationSeconds")
    if duration is not None and duration <= 0:
        faults.append(invalid("spec.leaseDurationSeconds", duration, "must be greater than 0"))
    check_not_negative("spec.leaseTransitions", spec.get("leaseTransitions"), faults)
    if spec.get("preferredHolder") and not spec.get("strategy"):
        detail = "strategy must be specified when preferredHolder is specified"
        faults.append(required("spec.strategy", detail))


def check_service_account(obj: Object, faults: Faults) -> None:
    check_metadata(obj.get("metadata", {}), names.check_subdomain, faults, namespaced=True)


def check_any_update(new: Object, old: Object, faults: Faults) -> None:
    check_metadata_update(new.get("metadata", {}), old.get("metadata", {}), faults)
