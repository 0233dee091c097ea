"""Where the time goes: durations of named phases, kept in a ring buffer.

    timer = Timings()
    with timer.phase("cni add", sandbox_id):
        ...

One entry costs about a microsecond, so it is always on. `podling bench` and the tests read `summary()`; each
entry is also a debug log line. Nothing is carried in context variables: the subject is passed by hand, which
keeps concurrent pods apart and costs nothing at task switches.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

log = logging.getLogger(__name__)

KEPT = 4096


@dataclass(frozen=True, slots=True)
class Entry:
    phase: str
    subject: str
    """The sandbox's or container's id."""
    start_s: float
    """time.perf_counter."""
    duration_s: float


@dataclass(frozen=True, slots=True)
class Summary:
    """Milliseconds of one phase."""

    count: int
    p50_ms: float
    p99_ms: float
    max_ms: float


class Timings:
    def __init__(self, kept: int = KEPT) -> None:
        self.entries: deque[Entry] = deque(maxlen=kept)

    @contextmanager
    def phase(self, name: str, subject: str = "") -> Iterator[None]:
        """Time the block, also when it fails."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.add(name, subject, start)

    def add(self, name: str, subject: str, start_s: float) -> None:
        duration = time.perf_counter() - start_s
        self.entries.append(Entry(name, subject, start_s, duration))
        if log.isEnabledFor(logging.DEBUG):
            log.debug("%s %s %.2f ms", subject[:12], name, duration * 1e3)

    def clear(self) -> None:
        self.entries.clear()

    def summary(self) -> dict[str, Summary]:
        """Phase -> its figures, in the order in which the phases were first seen."""
        by_phase: dict[str, list[float]] = {}
        for entry in self.entries:
            by_phase.setdefault(entry.phase, []).append(entry.duration_s * 1e3)
        return {phase: _summarise(sorted(values)) for phase, values in by_phase.items()}


def _summarise(values: list[float]) -> Summary:
    return Summary(
        len(values),
        values[len(values) // 2],
        values[min(len(values) - 1, len(values) * 99 // 100)],
        values[-1],
    )
