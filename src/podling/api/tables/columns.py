"""What the kinds' tables share: column definitions and the texts that fill empty cells."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from podling.api.times import human_duration, seconds_between

Object = Mapping[str, Any]
Cells = list[Any]

NONE: Final = "<none>"
UNKNOWN: Final = "<unknown>"
UNSET: Final = "<unset>"
_FEW: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """How a kind is shown: its columns, and a row's cells in their order."""

    columns: Sequence[Mapping[str, Any]]
    cells: Callable[[Object, datetime], Cells]


def column(
    name: str, description: str, *, type_: str = "string", wide: bool = False, format_: str = ""
) -> Mapping[str, Any]:
    """Define a column; kubectl shows one of priority 1 only with `-o wide`."""
    return {
        "name": name,
        "type": type_,
        "format": format_,
        "description": description,
        "priority": 1 if wide else 0,
    }


NAME: Final = column(
    "Name",
    "Name must be unique within a namespace. Is required when creating resources, although some resources "
    "may allow a client to request the generation of an appropriate name automatically.",
    format_="name",
)
AGE: Final = column(
    "Age",
    "CreationTimestamp is a timestamp representing the server time when this object was created.",
)


def metadata(obj: Object) -> Object:
    found: Object = obj.get("metadata") or {}
    return found


def name(obj: Object) -> str:
    return str(metadata(obj).get("name", ""))


def age(obj: Object, now: datetime) -> str:
    return since(metadata(obj).get("creationTimestamp"), now)


def since(text: str | None, now: datetime) -> str:
    """Write how long ago a time was, `<unknown>` for none."""
    return human_duration(seconds_between(text, now)) if text else UNKNOWN


def pairs(labels: Object | None) -> str:
    """Write labels as `a=b,c=d`, `<none>` for none."""
    return ",".join(f"{key}={value}" for key, value in sorted((labels or {}).items())) or NONE


def few(texts: Sequence[str]) -> str:
    """Write the first three, and how many more; `<unset>` for none."""
    shown = ",".join(texts[:_FEW])
    more = len(texts) - _FEW
    return f"{shown} + {more} more..." if more > 0 else shown or UNSET
