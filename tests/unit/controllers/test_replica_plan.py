from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from podling.api.core_v1 import Pod
from podling.controllers.replica_plan import available_in_s, choose_to_delete, count_replicas, slow_start

NOW = datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC)


def pod(
    name: str,
    *,
    node: str | None = "node-1",
    phase: str = "Running",
    ready: str | None = "2026-01-01T11:00:00Z",
    created: str = "2026-01-01T10:00:00Z",
    restarts: int = 0,
    **metadata: Any,
) -> Pod:
    conditions = [{"type": "Ready", "status": "True", "lastTransitionTime": ready}] if ready else []
    return msgspec.convert(
        {
            "metadata": {"name": name, "namespace": "default", "creationTimestamp": created, **metadata},
            "spec": {"nodeName": node, "containers": [{"name": "c"}]},
            "status": {
                "phase": phase,
                "conditions": conditions,
                "containerStatuses": [{"name": "c", "restartCount": restarts}],
            },
        },
        Pod,
    )


COST = "controller.kubernetes.io/pod-deletion-cost"


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (pod("a", node=None, phase="Pending", ready=None), pod("b", phase="Pending", ready=None)),
        (pod("a", phase="Pending", ready=None), pod("b", ready=None)),
        (pod("a", ready=None), pod("b")),
        (pod("a", annotations={COST: "-5"}), pod("b")),
        (pod("a"), pod("b", annotations={COST: "5"})),
        (pod("a", ready="2026-01-01T11:30:00Z"), pod("b", ready="2026-01-01T11:00:00Z")),
        (pod("a", restarts=3), pod("b")),
        (pod("a", created="2026-01-01T10:30:00Z"), pod("b", created="2026-01-01T10:00:00Z")),
    ],
)
def test_the_least_loss_goes_first(first: Pod, second: Pod) -> None:
    assert choose_to_delete([second, first], 1) == [first]
    assert choose_to_delete([first, second], 1) == [first]


def test_crowded_nodes_are_relieved_before_age_decides() -> None:
    crowd = [pod("a"), pod("b")]
    alone = pod("c", node="node-2", created="2026-01-01T11:59:00Z")
    assert choose_to_delete([alone, *crowd], 1) == [crowd[0]]


def test_no_more_go_than_asked() -> None:
    assert choose_to_delete([pod("a")], 0) == []
    assert len(choose_to_delete([pod("a")], 5)) == 1


def test_a_pod_is_available_after_being_ready_for_long_enough() -> None:
    ready = pod("a", ready="2026-01-01T11:59:50Z")
    assert available_in_s(ready, 0, NOW) == 0
    assert available_in_s(ready, 10, NOW) == 0
    assert available_in_s(ready, 30, NOW) == 20
    assert available_in_s(pod("b", ready=None), 0, NOW) is None


def test_counts_are_those_of_the_status() -> None:
    pods = [
        pod("a", labels={"app": "web", "tier": "front"}),
        pod("b", labels={"app": "web"}, ready="2026-01-01T11:59:55Z"),
        pod("c", labels={"app": "web", "tier": "front"}, ready=None),
    ]
    counts = count_replicas(pods, {"app": "web", "tier": "front"}, 10, NOW)
    assert (counts.replicas, counts.fully_labeled, counts.ready, counts.available) == (3, 2, 2, 1)
    assert counts.next_available_s == 5


def test_batches_double() -> None:
    assert slow_start(0) == []
    assert slow_start(1) == [1]
    assert slow_start(10) == [1, 2, 4, 3]
