"""Where a pod may run: node selectors, affinity, tolerations, spreading."""

from __future__ import annotations

from typing import Final

from podling.api import names
from podling.api.validation.faults import (
    Faults,
    Object,
    check_text,
    invalid,
    required,
    unsupported,
)
from podling.api.validation.meta import check_label_selector, check_labels, check_operator

EFFECTS: Final = ("NoSchedule", "PreferNoSchedule", "NoExecute")
_REQUIRED: Final = "requiredDuringSchedulingIgnoredDuringExecution"
_PREFERRED: Final = "preferredDuringSchedulingIgnoredDuringExecution"


def check_scheduling(spec: Object, path: str, faults: Faults) -> None:
    if "nodeSelector" in spec:
        check_labels(spec["nodeSelector"], f"{path}.nodeSelector", faults)
    affinity = spec.get("affinity")
    if affinity:
        _check_affinity(affinity, f"{path}.affinity", faults)
    if "tolerations" in spec:
        check_tolerations(spec["tolerations"], f"{path}.tolerations", faults)
    for index, constraint in enumerate(spec.get("topologySpreadConstraints", ())):
        _check_spread(constraint, f"{path}.topologySpreadConstraints[{index}]", faults)
    for index, gate in enumerate(spec.get("schedulingGates", ())):
        name = gate.get("name", "")
        check_text(f"{path}.schedulingGates[{index}]", name, names.check_qualified_name(name), faults)


def _check_affinity(affinity: Object, path: str, faults: Faults) -> None:
    node = affinity.get("nodeAffinity", {})
    where = f"{path}.nodeAffinity"
    if _REQUIRED in node:
        check_node_selector(node[_REQUIRED], f"{where}.{_REQUIRED}", faults)
    for index, term in enumerate(node.get(_PREFERRED, ())):
        inner = f"{where}.{_PREFERRED}[{index}]"
        _check_weight(term, inner, faults)
        _check_node_term(term.get("preference", {}), f"{inner}.preference", faults)
    for key in ("podAffinity", "podAntiAffinity"):
        pods, where = affinity.get(key, {}), f"{path}.{key}"
        for index, term in enumerate(pods.get(_REQUIRED, ())):
            _check_pod_term(term, f"{where}.{_REQUIRED}[{index}]", faults)
        for index, weighted in enumerate(pods.get(_PREFERRED, ())):
            inner = f"{where}.{_PREFERRED}[{index}]"
            _check_weight(weighted, inner, faults)
            _check_pod_term(weighted.get("podAffinityTerm", {}), f"{inner}.podAffinityTerm", faults)


def _check_weight(term: Object, path: str, faults: Faults) -> None:
    weight = term.get("weight", 0)
    if not 1 <= weight <= 100:
        faults.append(invalid(f"{path}.weight", weight, "must be in the range 1-100"))


def check_node_selector(selector: Object, path: str, faults: Faults) -> None:
    terms = selector.get("nodeSelectorTerms") or ()
    if not terms:
        faults.append(required(f"{path}.nodeSelectorTerms", "must have at least one node selector term"))
    for index, term in enumerate(terms):
        _check_node_term(term, f"{path}.nodeSelectorTerms[{index}]", faults)


def _check_node_term(term: Object, path: str, faults: Faults) -> None:
    for index, expression in enumerate(term.get("matchExpressions", ())):
        where, key = f"{path}.matchExpressions[{index}]", expression.get("key", "")
        operator, values = expression.get("operator", ""), expression.get("values", [])
        check_operator(operator, values, where, faults, numbers=True)
        check_text(f"{where}.key", key, names.check_qualified_name(key), faults)
    for index, expression in enumerate(term.get("matchFields", ())):
        where, key = f"{path}.matchFields[{index}]", expression.get("key", "")
        if expression.get("operator") not in ("In", "NotIn"):
            detail = "not a valid selector operator"
            faults.append(invalid(f"{where}.operator", expression.get("operator", ""), detail))
        elif len(expression.get("values", ())) != 1:
            detail = "must be only one value when `operator` is 'In' or 'NotIn' for node field selector"
            faults.append(required(f"{where}.values", detail))
        if key != "metadata.name":
            faults.append(invalid(f"{where}.key", key, "not a valid field selector key"))


def _check_pod_term(term: Object, path: str, faults: Faults) -> None:
    for key in ("labelSelector", "namespaceSelector"):
        if key in term:
            check_label_selector(term[key], f"{path}.{key}", faults)
    for namespace in term.get("namespaces", ()):
        check_text(f"{path}.namespace", namespace, names.check_label(namespace), faults)
    key = term.get("topologyKey", "")
    if not key:
        faults.append(required(f"{path}.topologyKey", "can not be empty"))
    check_text(f"{path}.topologyKey", key, names.check_qualified_name(key), faults)


def check_tolerations(tolerations: list[Object], path: str, faults: Faults) -> None:
    for index, toleration in enumerate(tolerations):
        where = f"{path}[{index}]"
        key, operator = toleration.get("key", ""), toleration.get("operator", "")
        value, effect = toleration.get("value", ""), toleration.get("effect", "")
        if key:
            check_text(f"{where}.key", key, names.check_qualified_name(key), faults)
        elif operator != "Exists":
            detail = (
                'operator must be Exists when `key` is empty, which means "match all values and all keys"'
            )
            faults.append(invalid(f"{where}.operator", operator, detail))
        if toleration.get("tolerationSeconds") is not None and effect != "NoExecute":
            detail = "effect must be 'NoExecute' when `tolerationSeconds` is set"
            faults.append(invalid(f"{where}.effect", effect, detail))
        if operator in ("", "Equal"):
            problems = names.check_label_value(value)
            if problems:
                faults.append(invalid(f"{where}.operator", value, ";".join(problems)))
        elif operator == "Exists":
            if value:
                detail = "value must be empty when `operator` is 'Exists'"
                faults.append(invalid(f"{where}.operator", toleration, detail))
        else:
            faults.append(unsupported(f"{where}.operator", operator, ("Equal", "Exists")))
        if effect and effect not in EFFECTS:
            faults.append(unsupported(f"{where}.effect", effect, EFFECTS))


def _check_spread(constraint: Object, path: str, faults: Faults) -> None:
    skew, key = constraint.get("maxSkew", 0), constraint.get("topologyKey", "")
    if skew <= 0:
        faults.append(invalid(f"{path}.maxSkew", skew, "must be greater than zero"))
    if not key:
        faults.append(required(f"{path}.topologyKey", "can not be empty"))
    else:
        check_text(f"{path}.topologyKey", key, names.check_qualified_name(key), faults)
    unsatisfiable = constraint.get("whenUnsatisfiable", "")
    choices = ("DoNotSchedule", "ScheduleAnyway")
    if unsatisfiable not in choices:
        faults.append(unsupported(f"{path}.whenUnsatisfiable", unsatisfiable, choices))
    if "labelSelector" in constraint:
        check_label_selector(constraint["labelSelector"], f"{path}.labelSelector", faults)
