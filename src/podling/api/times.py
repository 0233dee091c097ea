"""Times as Kubernetes writes them, and durations as kubectl shows them.

`Time` is RFC 3339 in UTC with whole seconds, `MicroTime` has six decimals (Kubernetes API
conventions, "Units"). Functions that ask for the present take it as a parameter where behaviour
depends on it.
"""

from __future__ import annotations

from datetime import UTC, datetime


def now_rfc3339() -> str:
    """Return the present as a `Time`: 2025-01-31T12:00:00Z."""
    return format_time(datetime.now(UTC))


def now_micro() -> str:
    """Return the present as a `MicroTime`: 2025-01-31T12:00:00.000000Z."""
    return format_micro(datetime.now(UTC))


def format_time(moment: datetime) -> str:
    """Write an aware time as a `Time`; fractions of a second are dropped, as Kubernetes does."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def format_micro(moment: datetime) -> str:
    """Write an aware time as a `MicroTime`."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def parse_time(text: str) -> datetime:
    """Read a `Time` or a `MicroTime`, also with an offset or nine decimals. Raises ValueError."""
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None or len(text) < 20:
        raise ValueError(f"{text!r} is no RFC 3339 time with a zone")
    return moment.astimezone(UTC)


def seconds_between(earlier: str, later: datetime) -> float:
    """Return how many seconds `earlier` lies before `later`; negative if it lies after."""
    return (later - parse_time(earlier)).total_seconds()


def human_duration(seconds: float) -> str:
    """Write a duration in at most two units and three digits, as in the AGE column of kubectl."""
    if seconds <= -2:
        return "<invalid>"
    total = max(0, int(seconds))
    minutes, hours = total // 60, total // 3600
    if total < 120:
        return f"{total}s"
    if minutes < 10:
        return _two(minutes, "m", total % 60, "s")
    if minutes < 180:
        return f"{minutes}m"
    if hours < 8:
        return _two(hours, "h", minutes % 60, "m")
    if hours < 48:
        return f"{hours}h"
    if hours < 24 * 8:
        return _two(hours // 24, "d", hours % 24, "h")
    if hours < 24 * 365 * 2:
        return f"{hours // 24}d"
    if hours < 24 * 365 * 8:
        return _two(hours // 24 // 365, "y", hours // 24 % 365, "d")
    return f"{hours // 24 // 365}y"


def _two(large: int, large_unit: str, small: int, small_unit: str) -> str:
    return f"{large}{large_unit}{small}{small_unit}" if small else f"{large}{large_unit}"
