"""A pod's status from what the runtime and the probes say."""

from __future__ import annotations

import pytest

from podling.api import core_v1
from podling.api.pods import get_condition
from podling.kubelet.runtime_state import PodRuntime
from podling.kubelet.status import Failure, StatusInputs, Waiting, compute_status

from .builders import container, make_pod, record, runtime, sandbox

NOW = "2025-01-31T12:00:00Z"


def compute(pod, state, **fields) -> core_v1.PodStatus:
    previous = fields.pop("previous", pod.status or core_v1.PodStatus())
    fields.setdefault("now", NOW)
    return compute_status(
        StatusInputs(pod=pod, runtime=state, previous=previous, host_ip="10.192.0.3", **fields)
    )


def condition(status: core_v1.PodStatus, type_: str) -> tuple[str, str | None]:
    found = get_condition(status, type_)
    assert found is not None
    return found.status, found.reason


def test_a_pod_that_has_nothing_yet_is_pending_and_creates_its_containers() -> None:
    status = compute(make_pod(), PodRuntime())
    assert status.phase == "Pending"
    assert status.container_statuses[0].state.waiting.reason == "ContainerCreating"
    assert condition(status, "Ready") == ("False", "ContainersNotReady")
    assert condition(status, "PodReadyToStartContainers") == ("False", None)
    assert condition(status, "PodScheduled") == ("True", None)
    assert status.start_time == NOW
    assert status.host_ip == "10.192.0.3"
    assert status.qos_class == "BestEffort"


def test_a_running_pod_is_ready_and_has_its_address() -> None:
    status = compute(make_pod(), runtime(record()))
    assert (status.phase, status.pod_ip) == ("Running", "10.244.1.5")
    assert [ip.ip for ip in status.pod_i_ps] == ["10.244.1.5"]
    (main,) = status.container_statuses
    assert main.ready
    assert main.started
    assert main.container_id == "podling://main-0"
    assert main.image_id == "sha256:1234"
    assert main.state.running.started_at == "1970-01-01T00:00:50Z"
    assert condition(status, "Ready") == ("True", None)
    assert condition(status, "PodReadyToStartContainers") == ("True", None)


def test_a_host_network_pod_has_the_nodes_address() -> None:
    status = compute(make_pod(hostNetwork=True), runtime(record(), sandboxes=(sandbox(ip=""),)))
    assert status.pod_ip == "10.192.0.3"


def test_the_message_names_the_containers_that_are_not_ready() -> None:
    pod = make_pod(container("a"), container("b"), container("c"))
    status = compute(pod, runtime(record("a"), record("b")), ready={"b-0": False})
    ready = get_condition(status, "ContainersReady")
    assert ready.message == "containers with unready status: [b c]"
    assert status.phase == "Pending"


def test_transition_times_move_only_with_the_status() -> None:
    pod = make_pod()
    first = compute(pod, PodRuntime(), now="2025-01-01T00:00:00Z")
    second = compute(pod, runtime(record()), previous=first)
    assert get_condition(second, "Ready").last_transition_time == NOW
    assert get_condition(second, "PodScheduled").last_transition_time == "2025-01-01T00:00:00Z"
    assert second.start_time == "2025-01-01T00:00:00Z"


def test_a_restarted_container_shows_its_last_end_and_count() -> None:
    state = runtime(record(exit_code=3), record(attempt=1))
    (main,) = compute(make_pod(), state, messages={"main-0": "bad day"}).container_statuses
    assert main.restart_count == 1
    last = main.last_state.terminated
    assert (last.exit_code, last.reason, last.message) == (3, "Error", "bad day")
    assert last.finished_at == "1970-01-01T00:01:40Z"


def test_back_off_is_a_waiting_container_with_a_past_in_a_running_pod() -> None:
    waiting = {"main": Waiting(reason="CrashLoopBackOff", message="back-off 10s")}
    status = compute(make_pod(), runtime(record(exit_code=1)), waiting=waiting)
    (main,) = status.container_statuses
    assert main.state.waiting.reason == "CrashLoopBackOff"
    assert main.last_state.terminated.exit_code == 1
    assert status.phase == "Running"


@pytest.mark.parametrize(
    ("policy", "codes", "phase", "reason"),
    [
        ("Never", (0, 0), "Succeeded", "PodCompleted"),
        ("Never", (0, 1), "Failed", "PodFailed"),
        ("OnFailure", (0, 0), "Succeeded", "PodCompleted"),
        ("OnFailure", (0, 1), "Running", "ContainersNotReady"),
        ("Always", (0, 0), "Running", "ContainersNotReady"),
    ],
)
def test_the_phase_of_a_pod_whose_containers_all_ended(policy, codes, phase, reason) -> None:
    pod = make_pod(container("a"), container("b"), restartPolicy=policy)
    state = runtime(*(record(name, exit_code=code) for name, code in zip("ab", codes, strict=True)))
    status = compute(pod, state)
    assert status.phase == phase
    assert condition(status, "Ready") == ("False", reason)


def test_reasons_of_ends() -> None:
    (ok,) = compute(make_pod(), runtime(record(exit_code=0))).container_statuses
    assert ok.state.terminated.reason == "Completed"
    killed = record(exit_code=137)
    killed.status.reason = "OOMKilled"
    (oom,) = compute(make_pod(), runtime(killed)).container_statuses
    assert oom.state.terminated.reason == "OOMKilled"


def test_init_containers_hold_the_pod_in_pending() -> None:
    pod = make_pod(initContainers=[container("one"), container("two")])
    status = compute(pod, runtime(record("one", exit_code=0), record("two")))
    assert status.phase == "Pending"
    assert [s.ready for s in status.init_container_statuses] == [True, False]
    assert status.container_statuses[0].state.waiting.reason == "PodInitializing"
    found = get_condition(status, "Initialized")
    assert found.message == "containers with incomplete status: [two]"
    assert found.reason == "ContainersNotInitialized"


def test_a_failed_init_container_fails_a_pod_that_never_restarts() -> None:
    pod = make_pod(initContainers=[container("one")], restartPolicy="Never")
    status = compute(pod, runtime(record("one", exit_code=1)), terminated=True)
    assert status.phase == "Failed"
    assert status.container_statuses[0].state.waiting.reason == "PodInitializing"


def test_a_pod_is_initialized_once_its_init_containers_are_done() -> None:
    pod = make_pod(initContainers=[container("one")])
    status = compute(pod, runtime(record("one", exit_code=0), record("main")))
    assert condition(status, "Initialized") == ("True", None)
    assert status.phase == "Running"


def test_a_deleted_pod_ends_in_a_final_phase() -> None:
    killed = compute(make_pod(), runtime(record(exit_code=137)), terminated=True)
    assert killed.phase == "Failed"
    clean = compute(make_pod(), runtime(record(exit_code=0)), terminated=True)
    assert clean.phase == "Succeeded"


def test_containers_that_never_ran_do_not_look_alive_in_the_last_status() -> None:
    status = compute(make_pod(), PodRuntime(), terminated=True)
    end = status.container_statuses[0].state.terminated
    assert (end.exit_code, end.reason) == (137, "ContainerStatusUnknown")


def test_a_final_phase_is_never_left() -> None:
    previous = core_v1.PodStatus(phase="Succeeded")
    assert compute(make_pod(), runtime(record()), previous=previous).phase == "Succeeded"


def test_a_refused_pod_is_failed_with_the_reason_and_no_containers() -> None:
    failure = Failure(reason="OutOfcpu", message="Pod was rejected: ...")
    status = compute(make_pod(), PodRuntime(), failure=failure, terminated=True)
    assert (status.phase, status.reason) == ("Failed", "OutOfcpu")
    assert status.container_statuses == []


def test_an_ended_pod_keeps_its_last_address() -> None:
    pod = make_pod(restartPolicy="Never")
    running = compute(pod, runtime(record()))
    ended = compute(pod, runtime(record(exit_code=0), sandboxes=(sandbox(ready=False),)), previous=running)
    assert ended.pod_ip == "10.244.1.5"


def test_a_container_the_runtime_forgot_keeps_its_count() -> None:
    pod = make_pod()
    before = compute(pod, runtime(record(attempt=2)))
    (main,) = compute(pod, PodRuntime(), previous=before).container_statuses
    assert main.restart_count == 2
    assert main.last_state.terminated.reason == "ContainerStatusUnknown"


def test_readiness_gates_are_asked_of_the_api() -> None:
    pod = make_pod(readinessGates=[{"conditionType": "example.com/lb"}])
    status = compute(pod, runtime(record()))
    ready = get_condition(status, "Ready")
    assert (ready.status, ready.reason) == ("False", "ReadinessGatesNotReady")
    assert condition(status, "ContainersReady") == ("True", None)
    opened = {"conditions": [{"type": "example.com/lb", "status": "True"}]}
    pod = make_pod(readinessGates=[{"conditionType": "example.com/lb"}], status=opened)
    assert condition(compute(pod, runtime(record())), "Ready") == ("True", None)
