"""Which thresholds are met, since when, and what follows: pure, the time is an argument.

A hard threshold acts at once, a soft one when it has been met for its grace period without a break. Once
met, a threshold is resolved only when its minimum reclaim is there besides. A condition outlives its cause by
the transition period, so that a node near a threshold does not flap.

Kubernetes documentation, "Node-pressure Eviction", "Eviction thresholds"; upstream's
`pkg/kubelet/eviction/helpers.go`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from podling.kubelet.config import KubeletConfig
from podling.kubelet.eviction.signals import CONDITION_OF, Observation
from podling.kubelet.thresholds import Threshold


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A threshold with what belongs to it."""

    threshold: Threshold
    hard: bool = True
    grace_s: float = 0.0
    minimum_reclaim: Threshold | None = None

    @property
    def signal(self) -> str:
        return self.threshold.signal

    def met(self, seen: Observation, *, with_reclaim: bool = False) -> bool:
        wanted = self.threshold.amount(seen.capacity)
        if with_reclaim and self.minimum_reclaim is not None:
            wanted += self.minimum_reclaim.amount(seen.capacity)
        return seen.available < wanted


def rules_of(config: KubeletConfig) -> tuple[Rule, ...]:
    def reclaim(signal: str) -> Threshold | None:
        text = config.eviction_minimum_reclaim.get(signal)
        return Threshold(signal, text) if text else None

    hard = [
        Rule(threshold=threshold, minimum_reclaim=reclaim(threshold.signal))
        for threshold in config.eviction_hard
    ]
    soft = [
        Rule(
            threshold=threshold,
            hard=False,
            grace_s=config.eviction_soft_grace_period_s.get(threshold.signal, 0.0),
            minimum_reclaim=reclaim(threshold.signal),
        )
        for threshold in config.eviction_soft
    ]
    return (*hard, *soft)


class Pressure:
    """Remembers what was met before."""

    def __init__(self, rules: Sequence[Rule], transition_period_s: float) -> None:
        self._rules = rules
        self._transition_period_s = transition_period_s
        self._met_since: dict[Rule, float] = {}
        self._condition_seen: dict[str, float] = {}
        self.conditions: frozenset[str] = frozenset()
        """Of the node: MemoryPressure, DiskPressure, PIDPressure."""

    def observe(self, seen: Mapping[str, Observation], now: float) -> list[Rule]:
        """The rules to act on, the most urgent first: memory before all else, hard before soft."""
        met = [
            rule
            for rule in self._rules
            if rule.signal in CONDITION_OF
            and rule.signal in seen
            and rule.met(seen[rule.signal], with_reclaim=rule in self._met_since)
        ]
        self._met_since = {rule: self._met_since.get(rule, now) for rule in met}
        for rule in met:
            self._condition_seen[CONDITION_OF[rule.signal]] = now
        self.conditions = frozenset(
            name
            for name, last in self._condition_seen.items()
            if last == now or now - last < self._transition_period_s
        )
        acting = [rule for rule in met if now - self._met_since[rule] >= rule.grace_s]
        return sorted(acting, key=lambda rule: (rule.signal != "memory.available", not rule.hard))
