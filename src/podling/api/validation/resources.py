"""Resource names and amounts: requests and limits of containers and pods, capacities of nodes."""

from __future__ import annotations

from typing import Final

from podling.api import names
from podling.api.quantity import parse_quantity
from podling.api.validation.faults import Faults, Object, check_text, invalid, required

_STANDARD: Final = ("cpu", "memory", "ephemeral-storage")
# May be asked for beyond what there is; all else must be requested exactly as limited.
_OVERCOMMIT: Final = ("cpu", "memory", "ephemeral-storage")


def check_requirements(resources: Object, path: str, faults: Faults) -> None:
    """Check the requests and limits of a container or of a whole pod."""
    limits, requests = resources.get("limits", {}), resources.get("requests", {})
    for which, amounts in (("limits", limits), ("requests", requests)):
        for name, amount in amounts.items():
            where = f"{path}.{which}[{name}]"
            if name not in _STANDARD:
                _check_name(name, where, faults)
            _check_amount(name, amount, where, faults)
    for name, amount in requests.items():
        limit = limits.get(name)
        if limit is None:
            if not _overcommits(name):
                faults.append(
                    required(f"{path}.limits", "Limit must be set for non overcommitable resources")
                )
        elif not _overcommits(name):
            if parse_quantity(amount) != parse_quantity(limit):
                faults.append(
                    invalid(f"{path}.requests", amount, f"must be equal to {name} limit of {limit}")
                )
        elif parse_quantity(amount) > parse_quantity(limit):
            detail = f"must be less than or equal to {name} limit of {limit}"
            faults.append(invalid(f"{path}.requests", amount, detail))
    _check_claims(resources, path, faults)


def _check_claims(resources: Object, path: str, faults: Faults) -> None:
    for index, claim in enumerate(resources.get("claims", ())):
        if not claim.get("name"):
            faults.append(required(f"{path}.claims[{index}].name"))


def check_amounts(amounts: Object, path: str, faults: Faults) -> None:
    """Check amounts by resource name, as a node's capacity has them."""
    for name, amount in amounts.items():
        _check_amount(name, amount, f"{path}.{name}", faults)


def _overcommits(name: str) -> bool:
    return name in _OVERCOMMIT


def _check_name(name: str, where: str, faults: Faults) -> None:
    check_text(where, name, names.check_qualified_name(name), faults)
    if "/" not in name and not name.startswith("hugepages-"):
        faults.append(invalid(where, name, "must be a standard resource type or fully qualified"))
        faults.append(invalid(where, name, "must be a standard resource for containers"))
    elif "/" in name and name.startswith("requests."):
        faults.append(invalid(where, name, "doesn't follow extended resource name standard"))


def _check_amount(name: str, amount: str, where: str, faults: Faults) -> None:
    value = parse_quantity(amount)
    if value < 0:
        faults.append(invalid(where, amount, "must be greater than or equal to 0"))
    if ("/" in name or name == "pods") and value != value.to_integral_value():
        faults.append(invalid(where, amount, "must be an integer"))
