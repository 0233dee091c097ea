"""The patch that carries a status to the API."""

from __future__ import annotations

from podling.api import core_v1
from podling.kubelet.runtime_state import PodRuntime
from podling.kubelet.status import StatusInputs, compute_status
from podling.kubelet.status_manager import compute_patch, status_to_json

from .builders import make_pod, record, runtime


def status_of(state, previous=None) -> core_v1.PodStatus:
    return compute_status(
        StatusInputs(
            pod=make_pod(),
            runtime=state,
            previous=previous or core_v1.PodStatus(),
            host_ip="10.192.0.3",
            now="2025-01-31T12:00:00Z",
        )
    )


def test_nothing_changed_is_no_patch() -> None:
    status = status_to_json(status_of(runtime(record())))
    assert compute_patch(status, status) == {}


def test_fields_that_clients_require_are_present_though_zero() -> None:
    (main,) = status_to_json(status_of(PodRuntime()))["containerStatuses"]
    assert main["ready"] is False
    assert main["restartCount"] == 0
    assert main["imageID"] == ""
    (ended,) = status_to_json(status_of(runtime(record(exit_code=0))))["containerStatuses"]
    assert ended["state"]["terminated"]["exitCode"] == 0
    assert ended["lastState"] == {}


def test_a_lost_reason_is_set_to_null() -> None:
    pending = status_of(PodRuntime())
    patch = compute_patch(
        status_to_json(pending), status_to_json(status_of(runtime(record()), previous=pending))
    )
    ready = next(c for c in patch["conditions"] if c["type"] == "Ready")
    assert ready["status"] == "True"
    assert ready["reason"] is None
    assert ready["message"] is None
    assert "hostIP" not in patch
    assert [c["type"] for c in patch["conditions"]] == [
        "PodReadyToStartContainers",
        "Ready",
        "ContainersReady",
    ]


def test_a_new_address_replaces_the_old_one_instead_of_joining_it() -> None:
    patch = compute_patch({"podIPs": [{"ip": "10.244.1.5"}]}, {"podIPs": [{"ip": "10.244.1.6"}]})
    assert patch == {"podIPs": [{"$patch": "replace"}, {"ip": "10.244.1.6"}]}
    assert compute_patch({}, {"podIPs": [{"ip": "10.244.1.6"}]}) == {"podIPs": [{"ip": "10.244.1.6"}]}


def test_conditions_of_others_are_left_alone() -> None:
    theirs = {"type": "example.com/lb", "status": "True"}
    assert compute_patch({"conditions": [theirs]}, {"conditions": []}) == {}
