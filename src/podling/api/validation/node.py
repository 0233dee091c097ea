"""Nodes: taints, pod subnets, capacities."""

from __future__ import annotations

import ipaddress

from podling.api import names
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
from podling.api.validation.meta import check_metadata, check_metadata_update
from podling.api.validation.resources import check_amounts
from podling.api.validation.scheduling import EFFECTS


def check_node(obj: Object, faults: Faults) -> None:
    check_metadata(obj.get("metadata", {}), names.check_subdomain, faults, namespaced=False)
    _check_contents(obj, faults)


def check_node_update(new: Object, old: Object, faults: Faults) -> None:
    check_metadata_update(new.get("metadata", {}), old.get("metadata", {}), faults)
    _check_contents(new, faults)
    after, before = new.get("spec") or {}, old.get("spec") or {}
    for field, name in (("podCIDRs", "podCIDR"), ("providerID", "providerID")):
        if before.get(field) and before[field] != after.get(field):
            detail = f'node updates may not change {name} except from "" to valid'
            faults.append(forbidden(f"spec.{field}", detail))


def _check_contents(obj: Object, faults: Faults) -> None:
    spec, status = obj.get("spec") or {}, obj.get("status") or {}
    taken: set[tuple[str, str]] = set()
    for index, taint in enumerate(spec.get("taints", ())):
        where = f"spec.taints[{index}]"
        key, value, effect = taint.get("key", ""), taint.get("value", ""), taint.get("effect", "")
        check_text(f"{where}.key", key, names.check_qualified_name(key), faults)
        check_text(f"{where}.value", value, names.check_label_value(value), faults)
        if not effect:
            faults.append(required(f"{where}.effect"))
        elif effect not in EFFECTS:
            faults.append(unsupported(f"{where}.effect", effect, EFFECTS))
        if (key, effect) in taken:
            faults.append(duplicate(where, dict(taint)))
        taken.add((key, effect))
    for index, subnet in enumerate(spec.get("podCIDRs", ())):
        if not _is_subnet(subnet):
            detail = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)"
            faults.append(invalid(f"spec.podCIDRs[{index}]", subnet, detail))
    for key in ("capacity", "allocatable"):
        check_amounts(status.get(key, {}), f"status.{key}", faults)


def _is_subnet(text: str) -> bool:
    try:
        ipaddress.ip_network(text, strict=False)
    except ValueError:
        return False
    return "/" in text
