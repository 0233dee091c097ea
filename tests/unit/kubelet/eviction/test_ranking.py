"""Who goes first."""

from __future__ import annotations

from typing import Any

import pytest

from podling.api import core_v1
from podling.kubelet.eviction.ranking import is_critical, rank
from podling.kubelet.eviction.usage import ContainerUse, DiskUse, PodUse
from podling.kubelet.names import PodUID
from unit.kubelet.builders import container, make_pod

MI = 1 << 20


def asking(name: str, memory: str = "", priority: int = 0, **spec: Any) -> core_v1.Pod:
    needs = {"resources": {"requests": {"memory": memory, "ephemeral-storage": memory}}} if memory else {}
    return make_pod(container(**needs), name=name, uid=name, priority=priority, **spec)


def using(**memory: int) -> dict[PodUID, PodUse]:
    return {
        PodUID(name): PodUse(containers={"main": ContainerUse(memory_bytes=amount * MI)})
        for name, amount in memory.items()
    }


def names(pods: list[core_v1.Pod]) -> list[str | None]:
    return [pod.metadata.name for pod in pods]


def test_memory_above_requests_then_priority_then_how_much_above() -> None:
    pods = [
        asking("within", "100Mi"),
        asking("precious", "10Mi", priority=5),
        asking("little", "50Mi"),
        asking("much", "10Mi"),
        asking("none"),
    ]
    used = using(within=90, precious=500, little=60, much=40, none=20)
    assert names(rank(pods, used, "memory.available")) == ["much", "none", "little", "precious", "within"]


def test_those_within_their_requests_go_by_priority() -> None:
    pods = [asking("high", "100Mi", priority=9), asking("low", "100Mi", priority=1)]
    assert names(rank(pods, using(high=1, low=1), "memory.available")) == ["low", "high"]


def test_processes_are_ranked_by_priority_and_number() -> None:
    pods = [asking("few"), asking("many"), asking("precious", priority=1)]
    used = {
        PodUID("few"): PodUse(processes=1),
        PodUID("many"): PodUse(processes=9),
        PodUID("precious"): PodUse(processes=99),
    }
    assert names(rank(pods, used, "pid.available")) == ["many", "few", "precious"]


@pytest.mark.parametrize(
    ("signal", "dedicated", "first"),
    [
        ("nodefs.available", False, "layered"),
        ("nodefs.available", True, "logging"),
        ("imagefs.available", True, "layered"),
        ("nodefs.inodesFree", True, "volumes"),
        ("nodefs.inodesFree", False, "volumes"),
    ],
)
def test_disk_counts_what_lies_on_the_file_system_that_is_full(
    signal: str, dedicated: bool, first: str
) -> None:
    pods = [asking("layered"), asking("logging"), asking("volumes")]
    used = {
        PodUID("layered"): PodUse(containers={"main": ContainerUse(layer=DiskUse(900, 1))}),
        PodUID("logging"): PodUse(containers={"main": ContainerUse(logs=DiskUse(500, 1))}),
        PodUID("volumes"): PodUse(
            volumes={"data": DiskUse(10, 100), "memory": DiskUse(10_000, 1)},
            memory_volumes=frozenset({"memory"}),
        ),
    }
    assert names(rank(pods, used, signal, dedicated_image_fs=dedicated))[0] == first


def test_static_pods_and_system_priorities_are_critical() -> None:
    assert is_critical(asking("system", priority=2_000_000_000))
    annotations = {"kubernetes.io/config.source": "file"}
    assert is_critical(asking("static", metadata={"annotations": annotations, "uid": "static"}))
    assert not is_critical(asking("other", priority=1_000_000_000))
