"""Eviction thresholds: `memory.available<100Mi`, `nodefs.available<10%`. Acted on by `eviction/`.

Kubernetes documentation, "Node-pressure Eviction", "Eviction signals and thresholds".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from podling.api.quantity import parse_quantity
from podling.kubelet.settings import PAIRS, Kind, joined, pairs

SIGNALS = (
    "memory.available",
    "allocatableMemory.available",
    "nodefs.available",
    "nodefs.inodesFree",
    "imagefs.available",
    "imagefs.inodesFree",
    "containerfs.available",
    "containerfs.inodesFree",
    "pid.available",
)


@dataclass(frozen=True, slots=True)
class Threshold:
    """Met when less than this is left of what the signal measures."""

    signal: str
    text: str
    """As written: a quantity (`100Mi`, `1000`) or a percentage of the capacity (`10%`)."""

    def amount(self, capacity: int) -> int:
        """In the signal's unit: bytes, inodes or processes."""
        if self.text.endswith("%"):
            return int(Decimal(self.text[:-1]) * capacity / 100)
        return int(parse_quantity(self.text))


def parse_threshold(signal: str, text: str) -> Threshold | None:
    """None for 0% and 100%, which upstream takes as "none". Raises ValueError in upstream's words."""
    if signal not in SIGNALS:
        raise ValueError(f"unsupported eviction signal {signal}")
    try:
        value = Decimal(text[:-1]) if text.endswith("%") else parse_quantity(text)
    except (ArithmeticError, ValueError) as err:
        raise ValueError(
            f"eviction threshold {signal}: {text!r} is neither a quantity nor a percentage"
        ) from err
    if not text.endswith("%"):
        if value < 0:
            raise ValueError(f"eviction threshold {signal} must be positive: {text}")
        return Threshold(signal, text)
    if value < 0:
        raise ValueError(f"eviction percentage threshold {signal} must be >= 0%: {text}")
    if value > 100:
        raise ValueError(f"eviction percentage threshold {signal} must be <= 100%: {text}")
    return None if value in (0, 100) else Threshold(signal, text)


def thresholds(values: Mapping[str, str]) -> tuple[Threshold, ...]:
    parsed = (parse_threshold(signal, text) for signal, text in values.items())
    return tuple(threshold for threshold in parsed if threshold is not None)


def _as_map(given: tuple[Threshold, ...]) -> dict[str, Any]:
    return {threshold.signal: threshold.text for threshold in given}


THRESHOLDS: Kind[tuple[Threshold, ...]] = Kind(
    name="mapStringString",
    parse=lambda text: thresholds(pairs(text, "<")),
    read=lambda value: thresholds(PAIRS.read(value)),
    show=_as_map,
    text=lambda given: joined(_as_map(given), "<"),
    combine=lambda old, new: old + new,
)

DEFAULT_HARD = thresholds(
    {
        "memory.available": "100Mi",
        "nodefs.available": "10%",
        "nodefs.inodesFree": "5%",
        "imagefs.available": "15%",
        "imagefs.inodesFree": "5%",
    }
)
"""Upstream's on Linux."""
