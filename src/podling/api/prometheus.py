"""Prometheus' text exposition format 0.0.4, in which every component shows its counters."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

CONTENT_TYPE = "text/plain; version=0.0.4"

_ESCAPES = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})


@dataclass(slots=True)
class Family:
    """One metric with all its labels."""

    name: str
    type: str
    help: str
    samples: list[tuple[str, Mapping[str, str], float]] = field(default_factory=list)

    def add(self, value: float | None, **labels: str) -> None:
        if value is not None:
            self.samples.append(("", labels, value))

    def add_histogram(
        self, buckets: Iterable[tuple[float, int]], total: float, count: int, **labels: str
    ) -> None:
        """`buckets`: upper bounds with how many are not above them; `+Inf` is added."""
        for bound, below in [*buckets, (float("inf"), count)]:
            le = "+Inf" if bound == float("inf") else f"{bound:g}"
            self.samples.append(("_bucket", {**labels, "le": le}, below))
        self.samples.append(("_sum", labels, total))
        self.samples.append(("_count", labels, count))

    def lines(self) -> Iterable[str]:
        yield f"# HELP {self.name} {self.help}"
        yield f"# TYPE {self.name} {self.type}"
        for suffix, labels, value in self.samples:
            inside = ",".join(f'{key}="{text.translate(_ESCAPES)}"' for key, text in labels.items())
            name = self.name + suffix
            yield f"{name}{{{inside}}} {value:.17g}" if inside else f"{name} {value:.17g}"


def page(families: Iterable[Family]) -> str:
    return "".join(f"{line}\n" for family in families if family.samples for line in family.lines())
