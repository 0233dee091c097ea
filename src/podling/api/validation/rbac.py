"""Roles and their bindings."""

from __future__ import annotations

from typing import Final

from podling.api import names
from podling.api.validation.faults import Faults, Object, check_text, invalid, required, same, unsupported
from podling.api.validation.meta import check_label_selector, check_metadata, check_metadata_update

GROUP: Final = "rbac.authorization.k8s.io"


def check_role(obj: Object, faults: Faults) -> None:
    check_metadata(obj.get("metadata", {}), names.check_path_segment, faults, namespaced=True)
    _check_rules(obj, faults, namespaced=True)


def check_cluster_role(obj: Object, faults: Faults) -> None:
    check_metadata(obj.get("metadata", {}), names.check_path_segment, faults, namespaced=False)
    _check_rules(obj, faults, namespaced=False)
    _check_aggregation(obj, faults)


def check_role_update(new: Object, old: Object, faults: Faults) -> None:
    check_metadata_update(new.get("metadata", {}), old.get("metadata", {}), faults)
    _check_rules(new, faults, namespaced=True)


def check_cluster_role_update(new: Object, old: Object, faults: Faults) -> None:
    check_metadata_update(new.get("metadata", {}), old.get("metadata", {}), faults)
    _check_rules(new, faults, namespaced=False)
    _check_aggregation(new, faults)


def _check_rules(obj: Object, faults: Faults, *, namespaced: bool) -> None:
    for index, rule in enumerate(obj.get("rules") or ()):
        path = f"rules[{index}]"
        if not rule.get("verbs"):
            faults.append(required(f"{path}.verbs", "verbs must contain at least one value"))
        urls = rule.get("nonResourceURLs")
        if urls and namespaced:
            detail = "namespaced rules cannot apply to non-resource URLs"
            faults.append(invalid(f"{path}.nonResourceURLs", urls, detail))
        elif urls:
            if any(rule.get(key) for key in ("apiGroups", "resources", "resourceNames")):
                detail = "rules cannot apply to both regular resources and non-resource URLs"
                faults.append(invalid(f"{path}.nonResourceURLs", urls, detail))
        else:
            if not rule.get("apiGroups"):
                detail = "resource rules must supply at least one api group"
                faults.append(required(f"{path}.apiGroups", detail))
            if not rule.get("resources"):
                detail = "resource rules must supply at least one resource"
                faults.append(required(f"{path}.resources", detail))


def _check_aggregation(obj: Object, faults: Faults) -> None:
    rule = obj.get("aggregationRule")
    if rule is None:
        return
    path = "aggregationRule.clusterRoleSelectors"
    selectors = rule.get("clusterRoleSelectors") or ()
    if not selectors:
        faults.append(
            required(path, "at least one clusterRoleSelector required if aggregationRule is non-nil")
        )
    for index, selector in enumerate(selectors):
        check_label_selector(selector, f"{path}[{index}]", faults)


def check_role_binding(obj: Object, faults: Faults) -> None:
    check_metadata(obj.get("metadata", {}), names.check_path_segment, faults, namespaced=True)
    _check_binding(obj, faults, kinds=("Role", "ClusterRole"))


def check_cluster_role_binding(obj: Object, faults: Faults) -> None:
    check_metadata(obj.get("metadata", {}), names.check_path_segment, faults, namespaced=False)
    _check_binding(obj, faults, kinds=("ClusterRole",))


def check_role_binding_update(new: Object, old: Object, faults: Faults) -> None:
    _check_binding_update(new, old, faults, kinds=("Role", "ClusterRole"))


def check_cluster_role_binding_update(new: Object, old: Object, faults: Faults) -> None:
    _check_binding_update(new, old, faults, kinds=("ClusterRole",))


def _check_binding_update(new: Object, old: Object, faults: Faults, *, kinds: tuple[str, ...]) -> None:
    check_metadata_update(new.get("metadata", {}), old.get("metadata", {}), faults)
    _check_binding(new, faults, kinds=kinds)
    if not same(new.get("roleRef"), old.get("roleRef")):
        faults.append(invalid("roleRef", new.get("roleRef"), "cannot change roleRef"))


def _check_binding(obj: Object, faults: Faults, *, kinds: tuple[str, ...]) -> None:
    ref = obj.get("roleRef") or {}
    if ref.get("apiGroup") != GROUP:
        faults.append(unsupported("roleRef.apiGroup", ref.get("apiGroup") or "", [GROUP]))
    if ref.get("kind") not in kinds:
        faults.append(unsupported("roleRef.kind", ref.get("kind") or "", kinds))
    if not ref.get("name"):
        faults.append(required("roleRef.name"))
    else:
        check_text("roleRef.name", ref["name"], names.check_path_segment(ref["name"]), faults)
    for index, subject in enumerate(obj.get("subjects") or ()):
        _check_subject(subject, f"subjects[{index}]", faults)


def _check_subject(subject: Object, path: str, faults: Faults) -> None:
    kind, name, group = (subject.get(key) or "" for key in ("kind", "name", "apiGroup"))
    if not name:
        faults.append(required(f"{path}.name"))
    if kind == "ServiceAccount":
        if name:
            check_text(f"{path}.name", name, names.check_subdomain(name), faults)
        if group:
            faults.append(unsupported(f"{path}.apiGroup", group, [""]))
        if not subject.get("namespace"):
            faults.append(required(f"{path}.namespace"))
    elif kind in ("User", "Group"):
        if group != GROUP:
            faults.append(unsupported(f"{path}.apiGroup", group, [GROUP]))
    else:
        faults.append(unsupported(f"{path}.kind", kind, ["ServiceAccount", "User", "Group"]))
