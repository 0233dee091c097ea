"""What a resized pod is granted, and what its containers lack of it."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from podling.api import core_v1
from podling.kubelet import resources
from podling.kubelet.backoff import Backoff
from podling.kubelet.pod_actions import compute_actions
from podling.kubelet.resize import PodResize, refused
from podling.kubelet.status import Failure
from podling.kubelet.status_manager import compute_patch
from podling.runtime.cri import messages as cri

from .builders import container, make_pod, record, runtime

ALLOCATABLE = {"cpu": "2", "memory": "4Gi"}


class Services:
    """What of a node is asked here."""

    node_memory_bytes = 8 << 30


def sized(
    cpu: str, memory: str = "64Mi", *, status: dict[str, Any] | None = None, **fields: Any
) -> core_v1.Pod:
    needs = {"requests": {"cpu": cpu, "memory": memory}, "limits": {"cpu": cpu, "memory": memory}}
    return make_pod(container(resources=needs, **fields), status=status)


def resize_of(pod: core_v1.Pod, *answers: Failure | None) -> PodResize:
    left = list(answers)
    return PodResize(Services(), pod, lambda _: left.pop(0))  # type: ignore[arg-type]


def has(pod: core_v1.Pod) -> str:
    assert pod.spec is not None
    assert pod.spec.containers[0].resources is not None
    return pod.spec.containers[0].resources.requests["cpu"]


@pytest.mark.parametrize(
    ("cpu", "others", "reason", "message"),
    [
        ("2", [], None, ""),
        ("3", [], "Infeasible", "Node didn't have enough capacity: cpu, requested: 3000, capacity: 2000"),
        (
            "1500m",
            ["1"],
            "Deferred",
            "Node didn't have enough resource: cpu, requested: 1500, used: 1000, capacity: 2000",
        ),
    ],
)
def test_what_the_node_can_never_grant_and_what_it_cannot_now(
    cpu: str, others: list[str], reason: str | None, message: str
) -> None:
    found = refused(sized(cpu), [{"cpu": Decimal(other)} for other in others], ALLOCATABLE)
    assert (found.reason if found else None) == reason
    assert found is None or found.message == message


def test_a_pod_keeps_what_it_has_until_the_node_grants_more() -> None:
    no = Failure(reason="Deferred", message="later")
    resize = resize_of(sized("1"), no, no, None)
    assert has(resize.settle(sized("1"))) == "1"
    assert not resize.conditions(2)
    assert has(resize.settle(sized("2"))) == "1"
    told = resize.conditions(2)[0]
    assert (told.type, told.status, told.reason, told.message) == (
        "PodResizePending",
        "True",
        "Deferred",
        "later",
    )
    assert has(resize.settle(sized("2"))) == "1"
    assert has(resize.settle(sized("2"))) == "2"
    assert not resize.conditions(2)


def test_a_withdrawn_wish_is_not_pending() -> None:
    resize = resize_of(sized("1"), Failure(reason="Infeasible", message="never"))
    resize.settle(sized("5"))
    assert resize.pending
    assert has(resize.settle(sized("1"))) == "1"
    assert not resize.pending


def test_a_new_kubelet_knows_from_the_status_what_was_granted() -> None:
    status = {
        "containerStatuses": [
            {
                "name": "main",
                "allocatedResources": {"cpu": "1", "memory": "64Mi"},
                "resources": {
                    "requests": {"cpu": "1", "memory": "64Mi"},
                    "limits": {"cpu": "1", "memory": "64Mi"},
                },
            }
        ]
    }
    pod = sized("5", status=status)
    resize = resize_of(pod, Failure(reason="Infeasible", message="never"))
    assert has(resize.settle(pod)) == "1"
    assert resize.pending


def running(pod: core_v1.Pod) -> Any:
    """As the runtime has it after a start from this spec."""
    assert pod.spec is not None
    found = record()
    limits = resources.container_resources(pod, pod.spec.containers[0], Services.node_memory_bytes)
    found.status.resources = cri.ContainerResources(linux=limits)
    return found


@pytest.mark.parametrize(
    ("policy", "new", "restarts"),
    [
        ([], ("2", "64Mi"), False),
        ([{"resourceName": "memory", "restartPolicy": "RestartContainer"}], ("2", "64Mi"), False),
        ([{"resourceName": "memory", "restartPolicy": "RestartContainer"}], ("1", "96Mi"), True),
        ([{"resourceName": "cpu", "restartPolicy": "RestartContainer"}], ("2", "64Mi"), True),
    ],
)
def test_a_container_with_other_limits_is_changed_or_replaced(
    policy: list[dict[str, str]], new: tuple[str, str], restarts: bool
) -> None:
    old, wanted = sized("1"), sized(*new, resizePolicy=policy)
    resize = resize_of(old, None)
    state = runtime(running(old))
    assert resize.changes(resize.settle(old), state) == []
    assert not resize.busy
    found = resize.changes(resize.settle(wanted), state)
    assert [change.restarts for change in found] == [restarts]
    assert [condition.type for condition in resize.conditions(2)] == ["PodResizeInProgress"]
    actions = compute_actions(
        wanted,
        state,
        backoff=Backoff(),
        now=1000,
        outgrown={change.record.id: "grown" for change in found if change.restarts},
    )
    assert [kill.message for kill in actions.kill] == ["grown"] * restarts
    assert len(actions.start) == restarts
    # The container has it, the pod's cgroup not yet.
    assert resize.changes(wanted, runtime(running(wanted))) == []
    assert resize.busy


def test_a_runtime_that_does_not_tell_limits_is_left_alone() -> None:
    resize = resize_of(sized("1"), None)
    pod = resize.settle(sized("2"))
    assert resize.changes(pod, runtime(record())) == []


def test_the_wider_limit_of_two_is_none_when_one_has_none() -> None:
    small, large, open_ = (
        resources.pod_resources(pod) for pod in (sized("1", "1Mi"), sized("2", "2Mi"), make_pod())
    )
    assert resources.wider(small, large) == large
    assert resources.wider(large, open_).memory_limit_in_bytes == 0


def test_a_status_tells_the_limits_in_force_in_the_words_of_the_spec() -> None:
    pod = sized("1500m", "64Mi")
    assert pod.spec is not None
    main = pod.spec.containers[0]
    same = resources.container_resources(pod, main, 1)
    assert resources.actual_resources(main, same) == main.resources
    other = sized("1", "32Mi").spec.containers[0]  # type: ignore[union-attr]
    had = resources.container_resources(pod, other, 1)
    assert resources.actual_resources(main, had) == core_v1.ResourceRequirements(
        requests={"cpu": "1", "memory": "64Mi"}, limits={"cpu": "1", "memory": "32Mi"}
    )


def test_conditions_of_a_resize_go_when_it_is_done() -> None:
    old = {"conditions": [{"type": "PodResizePending", "status": "True"}, {"type": "x", "status": "True"}]}
    patch = compute_patch(old, {"conditions": []})
    assert patch == {"conditions": [{"$patch": "delete", "type": "PodResizePending"}]}
