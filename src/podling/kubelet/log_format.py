"""The CRI log format: `2025-01-31T12:00:00.123456789Z stdout F the text`.

Kubernetes design, "CRI: Log management"; the tag is F for a full line and P for a part of one that goes
on in the next record. Pure, on bytes: a program's output need not be text.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class LogLine:
    timestamp: str
    """RFC 3339 with nanoseconds."""
    stream: str
    """`stdout` or `stderr`."""
    partial: bool
    content: bytes
    """With its newline when the line is complete."""


def parse_line(raw: bytes) -> LogLine | None:
    """One record with its newline; None for what is no record (a torn write after a crash)."""
    parts = raw.removesuffix(b"\n").split(b" ", 3)
    if len(parts) < 3 or parts[1] not in (b"stdout", b"stderr"):
        return None
    partial = parts[2].startswith(b"P")
    content = parts[3] if len(parts) > 3 else b""
    return LogLine(
        # UTC is Z in what `kubectl logs --timestamps` shows, however the monitor wrote it.
        timestamp=parts[0].decode("ascii", "replace").replace("+00:00", "Z"),
        stream=parts[1].decode(),
        partial=partial,
        content=content if partial else content + b"\n",
    )


def timestamp_seconds(text: str) -> float | None:
    """Seconds since the epoch; None when it is no time stamp."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
