"""Durations as Go writes them: `1h30m`, `10s`, `100ms`. Seconds in Python."""

from __future__ import annotations

import re

_UNITS_S = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_PART = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|μs|ms|s|m|h)")
_WHOLE = re.compile(rf"(?:{_PART.pattern})+")


def parse_duration(text: str) -> float:
    """Seconds. Raises ValueError in Go's words."""
    body = text.removeprefix("-") if text.startswith("-") else text.removeprefix("+")
    if body == "0":
        return 0.0
    if not _WHOLE.fullmatch(body):
        known = re.fullmatch(r"[\d.]+", body)
        fault = "missing unit in duration" if known else "invalid duration"
        raise ValueError(f'time: {fault} "{text}"')
    seconds = sum(float(number) * _UNITS_S[unit] for number, unit in _PART.findall(body))
    return -seconds if text.startswith("-") else seconds


def format_duration(seconds: float) -> str:
    """As Go prints a duration: 0s, 500ms, 10s, 2m0s, 1h0m0s."""
    sign = "-" if seconds < 0 else ""
    seconds = abs(seconds)
    if 0 < seconds < 1:
        for unit, factor in (("ms", 1e3), ("µs", 1e6)):
            if seconds * factor >= 1:
                return f"{sign}{seconds * factor:.6g}{unit}"
        return f"{sign}{seconds * 1e9:.0f}ns"
    hours, rest = divmod(seconds, 3600)
    minutes, rest = divmod(rest, 60)
    left = f"{rest:.6f}".rstrip("0").rstrip(".") + "s"
    if hours:
        return f"{sign}{hours:.0f}h{minutes:.0f}m{left}"
    return f"{sign}{minutes:.0f}m{left}" if minutes else f"{sign}{left}"
