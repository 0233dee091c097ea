"""Settings, each declared once: attribute, type, default, flag, field of the configuration file and help.

A dataclass whose fields are made with `setting` is a component's settings. From the declarations follow
the command line (`flags.py`), the file (`config_file.py`), the help text and `/configz`. A `Kind` is how
values of a type are written: one way on a command line (as Go's pflag reads it), one in a file (as JSON).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Generic, TypeVar

from podling.api import core_v1
from podling.api.durations import format_duration, parse_duration
from podling.api.quantity import parse_quantity

T = TypeVar("T")

_METADATA = "setting"
_TRUE = ("1", "t", "T", "true", "TRUE", "True")
_FALSE = ("0", "f", "F", "false", "FALSE", "False")
EFFECTS = ("NoSchedule", "PreferNoSchedule", "NoExecute")


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind(Generic[T]):
    """How values of a type are written. `parse` and `read` raise ValueError that says what is wrong."""

    name: str
    """As help texts show it: `int`, `duration`, `strings`."""
    parse: Callable[[str], T]
    """From a flag's text."""
    read: Callable[[Any], T]
    """From a file's value."""
    show: Callable[[T], Any]
    """As a file has it."""
    text: Callable[[T], str]
    """As a command line has it; empty for what need not be shown."""
    combine: Callable[[T, T], T] | None = None
    """What a flag given twice means; None: the last one counts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One declaration."""

    attribute: str
    kind: Kind[Any]
    default: Any
    """`dataclasses.MISSING` when whoever loads the settings finds it out."""
    help: str
    flag: str = ""
    """Without dashes; empty: only a file can say it."""
    file: str = ""
    """Dotted path in the file; empty: only a flag can say it."""
    zero_is_default: bool = True
    """A file's 0, "" or 0s means "not said", as in Go's structures without pointers."""


def setting(
    default: Any = dataclasses.MISSING,
    *,
    kind: Kind[Any],
    help: str,
    flag: str = "",
    file: str = "",
    zero_is_default: bool = True,
) -> Any:
    """A field of a dataclass of settings."""
    declared = {"kind": kind, "help": help, "flag": flag, "file": file, "zero_is_default": zero_is_default}
    metadata = {_METADATA: declared}
    if isinstance(default, dict):
        return dataclasses.field(default_factory=lambda: dict(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


@cache
def settings_of(cls: type[Any]) -> tuple[Setting, ...]:
    """Every declaration of a dataclass, in order."""
    found = []
    for field in dataclasses.fields(cls):
        if _METADATA in field.metadata:
            made = field.default_factory
            default = field.default if made is dataclasses.MISSING else made()
            found.append(Setting(attribute=field.name, default=default, **field.metadata[_METADATA]))
    return tuple(found)


# Kinds


def _strings(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _bool(text: str) -> bool:
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    raise ValueError(f'strconv.ParseBool: parsing "{text}": invalid syntax')


def _int(text: str) -> int:
    try:
        return int(text, 10)
    except ValueError:
        raise ValueError(f'strconv.ParseInt: parsing "{text}": invalid syntax') from None


def _expect(type_: type[T], name: str) -> Callable[[Any], T]:
    def read(value: Any) -> T:
        # A bool is an int to Python, and is none to a file's reader.
        if not isinstance(value, type_) or (type_ is int and isinstance(value, bool)):
            raise ValueError(f"cannot unmarshal {_json_type(value)} into a field of type {name}")
        return value

    return read


def _json_type(value: Any) -> str:
    for type_, name in ((bool, "bool"), (str, "string"), (dict, "object"), (list, "array"), (int, "number")):
        if isinstance(value, type_):
            return name
    return "null" if value is None else "number"


def _read_duration(value: Any) -> float:
    return parse_duration(_expect(str, "Duration")(value))


def _read_strings(value: Any) -> tuple[str, ...]:
    return tuple(_expect(str, "string")(item) for item in _expect(list, "[]string")(value))


def pairs(text: str, separator: str = "=") -> dict[str, str]:
    """`a=1,b=2` as a map. Raises ValueError."""
    result = {}
    for part in _strings(text):
        key, found, value = part.partition(separator)
        if not found:
            raise ValueError(f"malformed pair, expect string{separator}string: {part!r}")
        result[key.strip()] = value.strip()
    return result


def _read_map(value: Any) -> dict[str, str]:
    return {
        key: _expect(str, "string")(item) for key, item in _expect(dict, "map[string]string")(value).items()
    }


def joined(values: Mapping[str, object], separator: str = "=") -> str:
    return ",".join(f"{key}{separator}{value}" for key, value in values.items())


def _merge(old: Mapping[str, T], new: Mapping[str, T]) -> dict[str, T]:
    return {**old, **new}


def _check_quantities(amounts: dict[str, str]) -> dict[str, str]:
    for name, amount in amounts.items():
        if name not in ("cpu", "memory", "ephemeral-storage", "pid"):
            raise ValueError(f'cannot reserve "{name}" resource')
        try:
            negative = parse_quantity(amount) < 0
        except ValueError as err:
            raise ValueError(f"{name}: {err}") from err
        if negative:
            raise ValueError(f'resource quantity for "{name}" cannot be negative: {amount}')
    return amounts


def _check_size(text: str) -> str:
    if parse_quantity(text) <= 0:
        raise ValueError(f"must be a positive quantity, not {text}")
    return text


def _taint(text: str) -> core_v1.Taint:
    body, _, effect = text.rpartition(":")
    key, _, value = body.partition("=")
    if not key or effect not in EFFECTS:
        raise ValueError(f"invalid taint spec: {text}, unsupported taint effect")
    return core_v1.Taint(key=key, value=value or None, effect=effect)


def _taint_text(taint: core_v1.Taint) -> str:
    return f"{taint.key}={taint.value or ''}:{taint.effect}"


def _read_taints(value: Any) -> tuple[core_v1.Taint, ...]:
    taints = []
    for item in _expect(list, "[]Taint")(value):
        body = _read_map(item)
        taints.append(_taint(f"{body.get('key', '')}={body.get('value', '')}:{body.get('effect', '')}"))
    return tuple(taints)


def _gates(given: Mapping[str, str]) -> dict[str, bool]:
    result = {}
    for name, value in given.items():
        try:
            result[name] = _bool(value)
        except ValueError as err:
            raise ValueError(f"invalid value of {name}={value}, err: {err}") from err
    return result


STRING: Kind[str] = Kind(name="string", parse=str, read=_expect(str, "string"), show=str, text=str)
PATH: Kind[Path | None] = Kind(
    name="string",
    parse=lambda text: Path(text) if text else None,
    read=lambda value: Path(value) if _expect(str, "string")(value) else None,
    show=lambda path: str(path or ""),
    text=lambda path: str(path or ""),
)
INT: Kind[int] = Kind(name="int", parse=_int, read=_expect(int, "int32"), show=int, text=str)
BOOL: Kind[bool] = Kind(
    name="bool", parse=_bool, read=_expect(bool, "bool"), show=bool, text=lambda on: str(on).lower()
)
DURATION: Kind[float] = Kind(
    name="duration", parse=parse_duration, read=_read_duration, show=format_duration, text=format_duration
)
"""Seconds."""
STRINGS: Kind[tuple[str, ...]] = Kind(
    name="strings",
    parse=_strings,
    read=_read_strings,
    show=list,
    text=",".join,
    combine=lambda old, new: old + new,
)
PAIRS: Kind[Mapping[str, str]] = Kind(
    name="mapStringString", parse=pairs, read=_read_map, show=dict, text=joined, combine=_merge
)
QUANTITIES: Kind[Mapping[str, str]] = Kind(
    name="mapStringString",
    parse=lambda text: _check_quantities(pairs(text)),
    read=lambda value: _check_quantities(_read_map(value)),
    show=dict,
    text=joined,
    combine=_merge,
)
SIZE: Kind[str] = Kind(
    name="quantity",
    parse=_check_size,
    read=lambda value: _check_size(_expect(str, "string")(value)),
    show=str,
    text=str,
)
"""Of bytes, as a Kubernetes quantity."""
DURATIONS: Kind[Mapping[str, float]] = Kind(
    name="mapStringString",
    parse=lambda text: {key: parse_duration(value) for key, value in pairs(text).items()},
    read=lambda value: {key: parse_duration(item) for key, item in _read_map(value).items()},
    show=lambda values: {key: format_duration(seconds) for key, seconds in values.items()},
    text=lambda values: joined({key: format_duration(seconds) for key, seconds in values.items()}),
    combine=_merge,
)
TAINTS: Kind[tuple[core_v1.Taint, ...]] = Kind(
    name="taints",
    parse=lambda text: tuple(_taint(part) for part in _strings(text)),
    read=_read_taints,
    show=lambda taints: [{"key": t.key, "value": t.value or "", "effect": t.effect} for t in taints],
    text=lambda taints: ",".join(map(_taint_text, taints)),
    combine=lambda old, new: old + new,
)
GATES: Kind[Mapping[str, bool]] = Kind(
    name="mapStringBool",
    parse=lambda text: _gates(pairs(text)),
    read=lambda value: {
        key: _expect(bool, "bool")(item) for key, item in _expect(dict, "map[string]bool")(value).items()
    },
    show=dict,
    text=lambda gates: joined({name: str(on).lower() for name, on in gates.items()}),
    combine=_merge,
)


def one_of(*values: str, why: str = "") -> Kind[str]:
    """A word of a few. `why` says why no other."""

    def check(text: str) -> str:
        if text not in values:
            allowed = " or ".join(f'"{value}"' for value in values)
            raise ValueError(f'must be {allowed}, not "{text}"{": " + why if why else ""}')
        return text

    return Kind(
        name="string",
        parse=check,
        read=lambda value: check(_expect(str, "string")(value)),
        show=str,
        text=str,
    )


def within(low: int, high: int) -> Kind[int]:
    """A number from `low` to `high`, inclusive."""

    def check(value: int) -> int:
        if not low <= value <= high:
            raise ValueError(f"{value} must be between {low} and {high}, inclusive")
        return value

    return Kind(
        name="int",
        parse=lambda text: check(_int(text)),
        read=lambda value: check(_expect(int, "int32")(value)),
        show=int,
        text=str,
    )


def shown(settings: Iterable[Setting], values: object) -> dict[str, Any]:
    """The settings a file can say, as one would."""
    document: dict[str, Any] = {}
    for item in settings:
        if item.file:
            *parents, last = item.file.split(".")
            place = document
            for name in parents:
                place = place.setdefault(name, {})
            place[last] = item.kind.show(getattr(values, item.attribute))
    return document
