"""One fault of one field, worded as Kubernetes words it.

`str(fault)` is `spec.containers[0].image: Required value`; `reason` is what goes into the causes of a
Status (FieldValueRequired and so on). Checks take the path of what they look at and a list they add
their faults to, so that all faults of an object are told at once.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

Object = Mapping[str, Any]
Faults = list["FieldError"]

IMMUTABLE = "field is immutable"


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldError:
    field: str
    """As in `spec.containers[0].image`."""
    reason: str
    """FieldValueInvalid, FieldValueRequired, ...: the reason of a cause."""
    message: str
    """All but the field: `Invalid value: "x": must be y`."""

    def __str__(self) -> str:
        return f"{self.field}: {self.message}"


def invalid(path: str, value: Any, detail: str) -> FieldError:
    return FieldError(
        field=path, reason="FieldValueInvalid", message=f"Invalid value: {show(value)}: {detail}"
    )


def required(path: str, detail: str = "") -> FieldError:
    return FieldError(field=path, reason="FieldValueRequired", message=_with("Required value", detail))


def duplicate(path: str, value: Any) -> FieldError:
    return FieldError(field=path, reason="FieldValueDuplicate", message=f"Duplicate value: {show(value)}")


def not_found(path: str, value: Any) -> FieldError:
    return FieldError(field=path, reason="FieldValueNotFound", message=f"Not found: {show(value)}")


def unsupported(path: str, value: Any, supported: Iterable[str]) -> FieldError:
    choices = ", ".join(f'"{choice}"' for choice in supported)
    message = f"Unsupported value: {show(value)}: supported values: {choices}"
    return FieldError(field=path, reason="FieldValueNotSupported", message=message)


def forbidden(path: str, detail: str) -> FieldError:
    return FieldError(field=path, reason="FieldValueForbidden", message=f"Forbidden: {detail}")


def too_long(path: str, limit_bytes: int) -> FieldError:
    message = f"Too long: may not be more than {limit_bytes} bytes"
    return FieldError(field=path, reason="FieldValueTooLong", message=message)


def too_many(path: str, actual: int, limit: int) -> FieldError:
    message = f"Too many: {actual}: must have at most {limit} items"
    return FieldError(field=path, reason="FieldValueTooMany", message=message)


def show(value: Any) -> str:
    """Write a value as it stands in a fault: text quoted, the rest as JSON."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _with(message: str, detail: str) -> str:
    return f"{message}: {detail}" if detail else message


def check_text(path: str, value: Any, problems: Iterable[str], faults: Faults) -> None:
    """Add an invalid fault for each of the problems some check found with a value."""
    faults.extend(invalid(path, value, problem) for problem in problems)


def check_choice(path: str, value: Any, supported: Iterable[str], faults: Faults) -> None:
    """Add a fault where a value is absent or none of those supported."""
    if not value:
        faults.append(required(path))
    elif value not in supported:
        faults.append(unsupported(path, value, supported))


def check_not_negative(path: str, value: int | None, faults: Faults) -> None:
    if value is not None and value < 0:
        faults.append(invalid(path, value, "must be greater than or equal to 0"))


def same(left: Any, right: Any) -> bool:
    """Compare as Go's zero values have it: absent, null, empty, zero and false are one."""
    if isinstance(left, dict) and isinstance(right, dict):
        return all(same(left.get(key), right.get(key)) for key in left.keys() | right.keys())
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(same, left, right))
    return bool(left == right) or (not left and not right)
