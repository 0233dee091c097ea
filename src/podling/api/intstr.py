"""IntOrString: a number of pods, or a share of them in percent."""

from __future__ import annotations

import math
import re

_PERCENT = re.compile(r"([0-9]+)%")


def percent(value: int | str | None) -> int | None:
    """The number before the percent sign; None when `value` is no percentage."""
    found = _PERCENT.fullmatch(value) if isinstance(value, str) else None
    return int(found[1]) if found else None


def scaled(value: int | str | None, total: int, *, round_up: bool) -> int:
    """`value`, or that percentage of `total`. Zero for None and for text that is no percentage."""
    if isinstance(value, int):
        return value
    share = percent(value)
    if share is None:
        return 0
    exact = share * total / 100
    return math.ceil(exact) if round_up else math.floor(exact)
