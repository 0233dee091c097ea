"""Numbers: how a scenario reports them, how they are written to files and shown as a table."""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    name: str
    unit: str
    samples: tuple[float, ...]
    goal: float | None = None
    """What the median (or, for `worst`, the 99th percentile) should not exceed; None: only told."""
    worst: bool = False
    at_least: bool = False
    """The goal is a floor, not a ceiling."""

    @property
    def value(self) -> float:
        return percentile(self.samples, 99) if self.worst else statistics.median(self.samples)

    @property
    def met(self) -> bool | None:
        if self.goal is None:
            return None
        return self.value >= self.goal if self.at_least else self.value <= self.goal


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    scenario: str
    metrics: tuple[Metric, ...]
    notes: tuple[str, ...] = field(default=())


def percentile(samples: Sequence[float], percent: float) -> float:
    """Nearest rank."""
    ordered = sorted(samples)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


def write(report: Report) -> Path:
    RESULTS.mkdir(parents=True, exist_ok=True)
    document = {
        **asdict(report),
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {
            "cpus": os.cpu_count(),
            "kernel": platform.release(),
            "python": platform.python_version(),
        },
    }
    path = RESULTS / f"{report.scenario}.json"
    path.write_text(json.dumps(document, indent=2) + "\n")
    return path


def table(reports: Sequence[Report]) -> str:
    rows = [("what", "value", "min", "max", "runs", "goal", "")]
    for report in reports:
        for m in report.metrics:
            verdict = {None: "", True: "met", False: "MISSED"}[m.met]
            sign = "" if m.goal is None else (">= " if m.at_least else "<= ") + f"{m.goal:g}"
            label = f"{report.scenario}: {m.name}" + (" (p99)" if m.worst else "")
            spread = (f"{min(m.samples):.4g}", f"{max(m.samples):.4g}", str(len(m.samples)))
            rows.append((label, f"{m.value:.4g} {m.unit}", *spread, sign, verdict))
    widths = [max(len(r[i]) for r in rows) for i in range(7)]
    lines = ["  ".join(c.ljust(w) for c, w in zip(r, widths, strict=True)).rstrip() for r in rows]
    notes = [f"{r.scenario}: {note}" for r in reports for note in r.notes]
    return "\n".join([*lines, "", *notes])
