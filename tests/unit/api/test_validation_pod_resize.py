"""What pods/resize may change, and the words for what it may not."""

from __future__ import annotations

from typing import Any

import pytest

from podling.api.validation.faults import Faults
from podling.api.validation.pod_resize import check_resize

BURSTABLE = {"requests": {"cpu": "100m", "memory": "32Mi"}, "limits": {"memory": "64Mi"}}


def pod(*resources: dict[str, Any], **spec: Any) -> dict[str, Any]:
    containers = [{"name": f"c{i}", "image": "x", "resources": r} for i, r in enumerate(resources)]
    return {"metadata": {"name": "web"}, "spec": {"containers": containers, **spec}}


def told(new: dict[str, Any], old: dict[str, Any]) -> list[str]:
    faults: Faults = []
    check_resize(new, old, faults)
    return [str(fault) for fault in faults]


@pytest.mark.parametrize(
    "new",
    [
        BURSTABLE,
        {"requests": {"cpu": "200m", "memory": "16Mi"}, "limits": {"memory": "128Mi"}},
        {"requests": {"cpu": "100m", "memory": "32Mi"}, "limits": {"memory": "64Mi", "cpu": "1"}},
    ],
)
def test_amounts_change_and_limits_are_added(new: dict[str, Any]) -> None:
    assert told(pod(new), pod(BURSTABLE)) == []


@pytest.mark.parametrize(
    ("new", "words"),
    [
        (
            {**BURSTABLE, "requests": {"memory": "32Mi"}},
            ["spec.containers[0].resources.requests: Forbidden: resource requests cannot be removed"],
        ),
        (
            {"requests": BURSTABLE["requests"]},
            ["spec.containers[0].resources.limits: Forbidden: resource limits cannot be removed"],
        ),
        (
            {
                "requests": {"cpu": "100m", "memory": "64Mi"},
                "limits": {"cpu": "100m", "memory": "64Mi"},
            },
            [
                'spec: Invalid value: "Guaranteed": Pod QOS Class may not change as a result of resizing',
            ],
        ),
        (
            {**BURSTABLE, "limits": {"memory": "64Mi", "ephemeral-storage": "1Gi"}},
            ["spec: Forbidden: only cpu and memory resources are mutable"],
        ),
    ],
)
def test_refused(new: dict[str, Any], words: list[str]) -> None:
    assert told(pod(new), pod(BURSTABLE)) == words


def test_containers_stay_in_their_places() -> None:
    two = pod(BURSTABLE, BURSTABLE)
    swapped = pod(BURSTABLE, BURSTABLE)
    swapped["spec"]["containers"].reverse()
    words = ["spec.containers: Forbidden: containers may not be renamed or reordered on resize"]
    assert told(swapped, two) == words
    assert told(pod(BURSTABLE), two) == words


@pytest.mark.parametrize(("sidecar", "refused"), [("Always", False), (None, True)])
def test_of_init_containers_only_sidecars(sidecar: str | None, refused: bool) -> None:
    def with_init(cpu: str) -> dict[str, Any]:
        resources = {"requests": {"cpu": cpu}}
        init = {"name": "i", "image": "x", "restartPolicy": sidecar, "resources": resources}
        return pod(BURSTABLE, initContainers=[init])

    found = told(with_init("2"), with_init("1"))
    assert found == (["spec: Forbidden: only cpu and memory resources are mutable"] if refused else [])
