"""Pods beyond their own limits, and the words for them."""

from __future__ import annotations

import pytest

from podling.kubelet.eviction import messages
from podling.kubelet.eviction.local_storage import exceeded, has_local_limit
from podling.kubelet.eviction.pressure import Rule
from podling.kubelet.eviction.signals import Observation
from podling.kubelet.eviction.usage import ContainerUse, DiskUse, PodUse
from podling.kubelet.thresholds import Threshold
from unit.kubelet.builders import container, make_pod

MI = 1 << 20


def limited(name: str, limit: str) -> dict[str, object]:
    return container(name, resources={"limits": {"ephemeral-storage": limit}})


def use(a: int = 0, b: int = 0, data: int = 0) -> PodUse:
    return PodUse(
        containers={
            "a": ContainerUse(layer=DiskUse(a * MI), logs=DiskUse(a * MI)),
            "b": ContainerUse(layer=DiskUse(b * MI)),
        },
        volumes={"data": DiskUse(data * MI)},
    )


POD = make_pod(
    limited("a", "4Mi"),
    limited("b", "6Mi"),
    volumes=[{"name": "data", "emptyDir": {"sizeLimit": "8Mi"}}],
)


@pytest.mark.parametrize(
    ("used", "why"),
    [
        (use(), None),
        (use(a=2, b=4, data=2), None),
        (use(data=9), 'Usage of EmptyDir volume "data" exceeds the limit "8Mi". '),
        (
            use(a=2, b=4, data=3),
            "Pod ephemeral local storage usage exceeds the total limit of containers 10Mi. ",
        ),
        (use(a=3), 'Container a exceeded its local ephemeral storage limit "4Mi". '),
    ],
)
def test_limits(used: PodUse, why: str | None) -> None:
    assert exceeded(POD, used) == why


def test_a_volume_in_memory_counts_for_its_own_limit_only() -> None:
    pod = make_pod(limited("a", "4Mi"), volumes=[{"name": "data", "emptyDir": {"medium": "Memory"}}])
    used = PodUse(
        containers={"a": ContainerUse()},
        volumes={"data": DiskUse(9 * MI)},
        memory_volumes=frozenset({"data"}),
    )
    assert exceeded(pod, used) is None


def test_pods_without_limits_are_not_measured() -> None:
    assert has_local_limit(POD)
    assert not has_local_limit(
        make_pod(container("a"), limited("b", "0"), volumes=[{"name": "x", "emptyDir": {}}])
    )


def test_the_message_names_the_containers_that_use_more_than_they_asked_for() -> None:
    pod = make_pod(container("a", resources={"requests": {"memory": "1Mi"}}), container("b"))
    used = PodUse(
        containers={"a": ContainerUse(memory_bytes=2 * MI), "b": ContainerUse(memory_bytes=0)},
    )
    rule = Rule(threshold=Threshold("memory.available", "50%"))
    assert messages.node_low(rule, Observation(3 * MI, 8 * MI), pod, used) == (
        "The node was low on resource: memory. Threshold quantity: 4Mi, available: 3Mi. "
        "Container a was using 2Mi, request is 1Mi, has larger consumption of memory. "
    )


def test_inodes_are_told_as_numbers() -> None:
    rule = Rule(threshold=Threshold("nodefs.inodesFree", "5%"))
    assert messages.node_low(rule, Observation(7, 4000), make_pod(), PodUse()) == (
        "The node was low on resource: inodes. Threshold quantity: 200, available: 7. "
    )
