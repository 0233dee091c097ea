"""The node's last word on a pod."""

from __future__ import annotations

import pytest

from podling.kubelet.admission import admit

from .builders import make_pod

ALLOCATABLE = {"cpu": "2", "memory": "4Gi", "pods": "110"}
MAIN = {"name": "main", "image": "busybox"}


@pytest.mark.parametrize(
    ("taken", "refused"),
    [
        (("0.0.0.0", "TCP", 8080), True),
        (("127.0.0.1", "TCP", 8080), True),
        (("0.0.0.0", "UDP", 8080), False),
        (("0.0.0.0", "TCP", 8081), False),
    ],
)
def test_a_taken_port_of_the_node_is_refused(taken: tuple[str, str, int], refused: bool) -> None:
    pod = make_pod({**MAIN, "ports": [{"containerPort": 80, "hostPort": 8080}]})
    failure = admit(pod, [], ALLOCATABLE, taken_ports=[taken])
    assert (failure is not None) == refused
    if failure is not None:
        assert failure.reason == "NodePorts"
        assert failure.message == "Pod was rejected: Predicate NodePorts failed"


def test_more_than_the_node_has_is_refused() -> None:
    pod = make_pod({**MAIN, "resources": {"requests": {"cpu": "3"}}})
    failure = admit(pod, [], ALLOCATABLE)
    assert failure is not None
    assert failure.reason == "OutOfcpu"
    assert failure.message == (
        "Pod was rejected: Node didn't have enough resource: cpu, requested: 3000, used: 0, capacity: 2000"
    )
