"""When a threshold counts, and how long its condition stays."""

from __future__ import annotations

from pathlib import Path

from podling.kubelet.config import KubeletConfig
from podling.kubelet.eviction.pressure import Pressure, Rule, rules_of
from podling.kubelet.eviction.signals import Observation
from podling.kubelet.thresholds import Threshold, thresholds

MEMORY = "memory.available"


def hard(text: str, signal: str = MEMORY, reclaim: str = "") -> Rule:
    more = Threshold(signal, reclaim) if reclaim else None
    return Rule(threshold=Threshold(signal, text), minimum_reclaim=more)


def soft(text: str, grace_s: float) -> Rule:
    return Rule(threshold=Threshold(MEMORY, text), hard=False, grace_s=grace_s)


def left(amount: int, signal: str = MEMORY) -> dict[str, Observation]:
    return {signal: Observation(amount, 1000)}


def test_a_hard_threshold_acts_at_once_and_at_less_than_its_amount_only() -> None:
    rule = hard("10%")
    pressure = Pressure([rule], 0)
    assert pressure.observe(left(100), 1) == []
    assert not pressure.conditions
    assert pressure.observe(left(99), 2) == [rule]
    assert pressure.conditions == {"MemoryPressure"}


def test_a_soft_threshold_acts_when_it_was_met_for_its_grace_period_without_a_break() -> None:
    rule = soft("100", grace_s=30)
    pressure = Pressure([rule], 0)
    assert pressure.observe(left(50), 0) == []
    assert pressure.conditions == {"MemoryPressure"}, "the condition does not wait"
    assert pressure.observe(left(200), 20) == []
    assert pressure.observe(left(50), 40) == []
    assert pressure.observe(left(50), 69) == []
    assert pressure.observe(left(50), 70) == [rule]


def test_once_met_it_is_resolved_with_the_minimum_reclaim_only() -> None:
    rule = hard("100", reclaim="5%")
    pressure = Pressure([rule], 0)
    assert pressure.observe(left(120), 0) == []
    assert pressure.observe(left(99), 1) == [rule]
    assert pressure.observe(left(120), 2) == [rule]
    assert pressure.observe(left(150), 3) == []
    assert pressure.observe(left(120), 4) == []


def test_a_condition_stays_for_the_transition_period() -> None:
    pressure = Pressure([hard("100", "nodefs.available")], 60)
    pressure.observe(left(1, "nodefs.available"), 0)
    pressure.observe(left(500, "nodefs.available"), 59)
    assert pressure.conditions == {"DiskPressure"}
    pressure.observe(left(500, "nodefs.available"), 60)
    assert not pressure.conditions


def test_memory_comes_before_disk_and_hard_before_soft() -> None:
    disk, slow, fast = hard("10%", "nodefs.inodesFree"), soft("20%", 0), hard("10%")
    pressure = Pressure([disk, slow, fast], 0)
    assert pressure.observe(left(1) | left(1, "nodefs.inodesFree"), 0) == [fast, slow, disk]
    assert pressure.conditions == {"MemoryPressure", "DiskPressure"}


def test_what_is_not_observed_is_not_met() -> None:
    pressure = Pressure([hard("10%", "imagefs.available"), hard("10%", "containerfs.available")], 0)
    assert pressure.observe(left(1, "containerfs.available"), 0) == []


def test_rules_of_a_configuration() -> None:
    config = KubeletConfig(
        node_name="n",
        node_ip="10.0.0.1",
        root_dir=Path("/nowhere"),
        eviction_hard=thresholds({"nodefs.available": "10%"}),
        eviction_soft=thresholds({MEMORY: "300Mi"}),
        eviction_soft_grace_period_s={MEMORY: 90.0},
        eviction_minimum_reclaim={"nodefs.available": "500Mi"},
    )
    assert rules_of(config) == (hard("10%", "nodefs.available", "500Mi"), soft("300Mi", 90))
