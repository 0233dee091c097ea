"""Kinds that make pods from a template: replication controllers, replica sets, deployments."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from podling.api import names
from podling.api.intstr import percent
from podling.api.meta_v1 import LabelSelector
from podling.api.selectors import match_label_selector
from podling.api.validation.faults import (
    IMMUTABLE,
    Faults,
    Object,
    check_choice,
    check_not_negative,
    check_text,
    forbidden,
    invalid,
    required,
    same,
    unsupported,
)
from podling.api.validation.meta import (
    check_label_selector,
    check_metadata,
    check_metadata_update,
    check_template_metadata,
)
from podling.api.validation.pod import check_pod_spec

_MISMATCH: Final = "`selector` does not match template `labels`"
_EMPTY_SELECTOR: Final = "empty selector is invalid for deployment"
_NOT_AN_AMOUNT: Final = "a valid percent string must be a numeric string followed by an ending '%'"


def check_replication_controller(obj: Object, faults: Faults) -> None:
    check_metadata(obj.get("metadata", {}), names.check_subdomain, faults, namespaced=True)
    _check_rc_spec(obj.get("spec") or {}, faults)


def check_replication_controller_update(new: Object, old: Object, faults: Faults) -> None:
    check_metadata_update(new.get("metadata", {}), old.get("metadata", {}), faults)
    _check_rc_spec(new.get("spec") or {}, faults)


def _check_rc_spec(spec: Object, faults: Faults) -> None:
    check_not_negative("spec.minReadySeconds", spec.get("minReadySeconds"), faults)
    selector = spec.get("selector")
    if not selector:
        faults.append(required("spec.selector"))
    check_not_negative("spec.replicas", spec.get("replicas"), faults)
    template = spec.get("template")
    if not template:
        faults.append(required("spec.template"))
        return
    _check_template(template, {"matchLabels": selector} if selector else None, "", faults)


def check_replica_set(obj: Object, faults: Faults) -> None:
    check_metadata(obj.get("metadata", {}), names.check_subdomain, faults, namespaced=True)
    _check_replicas_spec(obj.get("spec") or {}, "ReplicaSet", faults)


def check_replica_set_update(new: Object, old: Object, faults: Faults) -> None:
    _check_selector_kept(new, old, faults)
    _check_replicas_spec(new.get("spec") or {}, "ReplicaSet", faults)


def check_deployment(obj: Object, faults: Faults) -> None:
    check_metadata(obj.get("metadata", {}), names.check_subdomain, faults, namespaced=True)
    _check_deployment_spec(obj.get("spec") or {}, faults)


def check_deployment_update(new: Object, old: Object, faults: Faults) -> None:
    _check_selector_kept(new, old, faults)
    _check_deployment_spec(new.get("spec") or {}, faults)


def check_controller_revision(obj: Object, faults: Faults) -> None:
    check_metadata(obj.get("metadata", {}), names.check_subdomain, faults, namespaced=True)
    check_not_negative("revision", obj.get("revision"), faults)


def check_controller_revision_update(new: Object, old: Object, faults: Faults) -> None:
    check_metadata_update(new.get("metadata", {}), old.get("metadata", {}), faults)
    check_not_negative("revision", new.get("revision"), faults)
    if not same(new.get("data"), old.get("data")):
        faults.append(invalid("data", new.get("data"), IMMUTABLE))


def _check_selector_kept(new: Object, old: Object, faults: Faults) -> None:
    check_metadata_update(new.get("metadata", {}), old.get("metadata", {}), faults)
    after, before = new.get("spec") or {}, old.get("spec") or {}
    if not same(after.get("selector"), before.get("selector")):
        faults.append(invalid("spec.selector", after.get("selector"), IMMUTABLE))


def _check_replicas_spec(spec: Object, kind: str, faults: Faults) -> None:
    check_not_negative("spec.replicas", spec.get("replicas"), faults)
    if kind == "ReplicaSet":
        check_not_negative("spec.minReadySeconds", spec.get("minReadySeconds"), faults)
    selector = spec.get("selector")
    if selector is None:
        faults.append(required("spec.selector"))
    else:
        check_label_selector(selector, "spec.selector", faults)
        if not selector.get("matchLabels") and not selector.get("matchExpressions"):
            faults.append(invalid("spec.selector", selector, _EMPTY_SELECTOR))
    template = spec.get("template")
    if not template:
        faults.append(required("spec.template"))
    else:
        _check_template(template, selector, "ReplicaSet", faults)


def _check_template(template: Object, selector: Object | None, kind: str, faults: Faults) -> None:
    """A pod template of something that keeps its pods running."""
    metadata, spec = template.get("metadata") or {}, template.get("spec") or {}
    labels = metadata.get("labels") or {}
    if selector and not match_label_selector(_selector(selector), labels):
        faults.append(invalid("spec.template.metadata.labels", labels, _MISMATCH))
    check_template_metadata(metadata, "spec.template", faults)
    check_pod_spec(spec, "spec.template.spec", faults)
    policy = spec.get("restartPolicy")
    if policy in ("OnFailure", "Never"):
        faults.append(unsupported("spec.template.spec.restartPolicy", policy, ("Always",)))
    if spec.get("activeDeadlineSeconds") is not None:
        detail = f"activeDeadlineSeconds in {kind or 'ReplicationController'} is not Supported"
        faults.append(forbidden("spec.template.spec.activeDeadlineSeconds", detail))


def _selector(selector: Object) -> LabelSelector:
    return msgspec.convert(dict(selector), LabelSelector)


def _check_deployment_spec(spec: Object, faults: Faults) -> None:
    _check_replicas_spec(spec, "Deployment", faults)
    _check_strategy(spec.get("strategy") or {}, faults)
    check_not_negative("spec.minReadySeconds", spec.get("minReadySeconds"), faults)
    check_not_negative("spec.revisionHistoryLimit", spec.get("revisionHistoryLimit"), faults)
    deadline = spec.get("progressDeadlineSeconds")
    if deadline is not None:
        check_not_negative("spec.progressDeadlineSeconds", deadline, faults)
        if deadline <= (spec.get("minReadySeconds") or 0):
            detail = "must be greater than minReadySeconds"
            faults.append(invalid("spec.progressDeadlineSeconds", deadline, detail))


def _check_strategy(strategy: Object, faults: Faults) -> None:
    kind, rolling = strategy.get("type"), strategy.get("rollingUpdate")
    if kind == "Recreate":
        if rolling:
            detail = "may not be specified when strategy `type` is 'Recreate'"
            faults.append(forbidden("spec.strategy.rollingUpdate", detail))
    elif kind == "RollingUpdate":
        path = "spec.strategy.rollingUpdate"
        if rolling is None:
            faults.append(required(path, "this should be defaulted and never be nil"))
            return
        unavailable, surge = rolling.get("maxUnavailable"), rolling.get("maxSurge")
        _check_amount(unavailable, f"{path}.maxUnavailable", faults)
        _check_amount(surge, f"{path}.maxSurge", faults)
        if unavailable in (0, "0%") and surge in (0, "0%"):
            detail = "may not be 0 when `maxSurge` is 0"
            faults.append(invalid(f"{path}.maxUnavailable", unavailable, detail))
        share = percent(unavailable)
        if share is not None and share > 100:
            faults.append(invalid(f"{path}.maxUnavailable", unavailable, "must not be greater than 100%"))
    else:
        check_choice("spec.strategy.type", kind, ("Recreate", "RollingUpdate"), faults)


def _check_amount(value: Any, path: str, faults: Faults) -> None:
    if isinstance(value, str):
        problems = [] if percent(value) is not None else [_NOT_AN_AMOUNT]
        check_text(path, value, problems, faults)
    else:
        check_not_negative(path, value, faults)
