"""What the kubelet decides to do next."""

from __future__ import annotations

from podling.kubelet import names
from podling.kubelet.backoff import Backoff
from podling.kubelet.pod_actions import PodActions, ProbeView, backoff_key, compute_actions
from podling.kubelet.runtime_state import PodRuntime

from .builders import UID, container, make_pod, record, runtime, sandbox


def decide(pod, state, *, now=101.0, backoff=None, probes=None) -> PodActions:
    return compute_actions(pod, state, backoff=backoff or Backoff(), now=now, probes=probes)


def started(actions: PodActions) -> list[tuple[str, int]]:
    return [(start.container.name, start.attempt) for start in actions.start]


def test_a_new_pod_gets_a_sandbox_and_all_its_containers() -> None:
    actions = decide(make_pod(container("a"), container("b")), PodRuntime())
    assert actions.create_sandbox
    assert actions.sandbox_attempt == 0
    assert started(actions) == [("a", 0), ("b", 0)]


def test_a_running_pod_needs_nothing() -> None:
    actions = decide(make_pod(), runtime(record()))
    assert actions == PodActions()
    assert actions.idle


def test_containers_not_yet_created_are_started_in_the_sandbox_that_is_there() -> None:
    actions = decide(make_pod(container("a"), container("b")), runtime(record("a")))
    assert not actions.create_sandbox
    assert started(actions) == [("b", 0)]


def test_a_sandbox_without_an_address_is_replaced() -> None:
    actions = decide(make_pod(), runtime(sandboxes=(sandbox(ip=""),)))
    assert actions.create_sandbox
    assert actions.sandbox_attempt == 1
    assert actions.stop_sandboxes == ("sandbox-0",)


def test_a_host_network_sandbox_needs_no_address() -> None:
    actions = decide(make_pod(hostNetwork=True), runtime(record(), sandboxes=(sandbox(ip=""),)))
    assert actions == PodActions()


def test_a_killed_pause_restarts_every_container_in_a_new_sandbox() -> None:
    pod = make_pod(container("a"), container("b"))
    state = runtime(record("a"), record("b", exit_code=137), sandboxes=(sandbox(ready=False),))
    actions = decide(pod, state)
    assert actions.create_sandbox
    assert actions.sandbox_attempt == 1
    assert started(actions) == [("a", 1), ("b", 1)]
    assert [(kill.record.name, kill.immediate) for kill in actions.kill] == [("a", True)]


def test_a_killed_pause_is_not_held_back_by_the_containers_back_off() -> None:
    pod = make_pod()
    backoff = Backoff()
    backoff.advance(backoff_key(pod, pod.spec.containers[0]), 99, 99)
    state = runtime(record(exit_code=137), sandboxes=(sandbox(ready=False),))
    assert started(decide(pod, state, backoff=backoff)) == [("main", 1)]


def test_a_pod_that_never_restarts_gets_no_second_sandbox() -> None:
    pod = make_pod(restartPolicy="Never")
    actions = decide(pod, runtime(record(exit_code=137), sandboxes=(sandbox(ready=False),)))
    assert actions.finished
    assert not actions.create_sandbox


def test_under_on_failure_a_new_sandbox_runs_only_what_did_not_succeed() -> None:
    pod = make_pod(container("a"), container("b"), restartPolicy="OnFailure")
    state = runtime(record("a", exit_code=0), record("b"), sandboxes=(sandbox(ready=False),))
    assert started(decide(pod, state)) == [("b", 1)]


def test_the_first_restart_is_immediate_and_the_second_waits_ten_seconds() -> None:
    pod = make_pod()
    backoff = Backoff()
    first = decide(pod, runtime(record(exit_code=1)), backoff=backoff)
    assert started(first) == [("main", 1)]
    assert first.start[0].follows is not None
    backoff.advance(backoff_key(pod, pod.spec.containers[0]), 100, 100)
    state = runtime(record(exit_code=1), record(attempt=1, exit_code=1, finished_at_s=102))
    second = decide(pod, state, now=103, backoff=backoff)
    assert second.start == ()
    assert second.backing_off[0].delay_s == 10
    assert second.wake_at == 112
    assert started(decide(pod, state, now=112, backoff=backoff)) == [("main", 2)]


def test_restart_policy_decides_whether_a_container_is_started_again() -> None:
    for policy, code, again in [
        ("Always", 0, True),
        ("Always", 1, True),
        ("OnFailure", 0, False),
        ("OnFailure", 1, True),
        ("Never", 0, False),
        ("Never", 1, False),
    ]:
        actions = decide(make_pod(restartPolicy=policy), runtime(record(exit_code=code)))
        assert bool(actions.start) is again, (policy, code)
        assert actions.finished is not again, (policy, code)


def test_a_pod_is_not_finished_while_one_container_runs() -> None:
    pod = make_pod(container("a"), container("b"), restartPolicy="Never")
    actions = decide(pod, runtime(record("a", exit_code=0), record("b")))
    assert not actions.finished
    assert actions.start == ()


def test_init_containers_run_one_after_the_other_before_the_rest() -> None:
    pod = make_pod(container("main"), initContainers=[container("one"), container("two")])
    assert started(decide(pod, PodRuntime())) == [("one", 0)]
    assert started(decide(pod, runtime(record("one")))) == []
    assert started(decide(pod, runtime(record("one", exit_code=0)))) == [("two", 0)]
    done = runtime(record("one", exit_code=0), record("two", exit_code=0))
    assert started(decide(pod, done)) == [("main", 0)]


def test_a_failed_init_container_is_restarted_or_ends_the_pod() -> None:
    state = runtime(record("one", exit_code=1))
    always = make_pod(initContainers=[container("one")])
    assert started(decide(always, state)) == [("one", 1)]
    never = make_pod(initContainers=[container("one")], restartPolicy="Never")
    assert decide(never, state).finished


def test_init_containers_do_not_run_again_when_they_were_removed_after_their_work() -> None:
    pod = make_pod(initContainers=[container("one")])
    assert decide(pod, runtime(record("main"))) == PodActions()


def test_a_sidecar_only_has_to_be_started_before_the_next_goes_on() -> None:
    pod = make_pod(initContainers=[container("side", restartPolicy="Always"), container("one")])
    assert started(decide(pod, PodRuntime())) == [("side", 0)]
    assert started(decide(pod, runtime(record("side")))) == [("one", 0)]
    waiting = ProbeView(starting=frozenset({"side-0"}))
    assert started(decide(pod, runtime(record("side")), probes=waiting)) == []


def test_a_dead_sidecar_is_restarted_beside_running_containers() -> None:
    pod = make_pod(initContainers=[container("side", restartPolicy="Always")])
    assert started(decide(pod, runtime(record("side", exit_code=1), record("main")))) == [("side", 1)]


def test_a_pod_whose_containers_are_done_is_finished_though_its_sidecar_runs() -> None:
    pod = make_pod(initContainers=[container("side", restartPolicy="Always")], restartPolicy="Never")
    assert decide(pod, runtime(record("side"), record("main", exit_code=0))).finished


def test_an_unhealthy_container_is_killed_and_comes_back_after_its_end() -> None:
    text = "Container main failed liveness probe, will be restarted"
    actions = decide(make_pod(), runtime(record()), probes=ProbeView(unhealthy={"main-0": text}))
    assert [kill.message for kill in actions.kill] == [text]
    assert actions.start == ()


def test_a_changed_image_replaces_the_container() -> None:
    pod = make_pod()
    same = names.container_hash(pod.spec.containers[0])
    assert decide(pod, runtime(record(**{names.HASH_ANNOTATION: same}))).idle
    actions = decide(pod, runtime(record(**{names.HASH_ANNOTATION: "other"})))
    assert [kill.message for kill in actions.kill] == ["Container main definition changed, will be restarted"]
    assert started(actions) == [("main", 1)]


def test_a_container_that_was_only_created_is_replaced_under_the_same_count() -> None:
    assert started(decide(make_pod(), runtime(record(attempt=3, created_only=True)))) == [("main", 3)]


def test_only_the_newest_dead_container_of_a_name_is_kept() -> None:
    state = runtime(
        record(attempt=0, exit_code=1),
        record(attempt=1, exit_code=1, sandbox_attempt=1),
        record(attempt=2, sandbox_attempt=1),
        sandboxes=(sandbox(0, ready=False), sandbox(1)),
    )
    actions = decide(make_pod(), state)
    assert [r.id for r in actions.remove] == ["main-0"]
    assert actions.remove_sandboxes == ("sandbox-0",)


def test_an_old_sandbox_stays_while_it_holds_the_last_dead_container() -> None:
    state = runtime(
        record(attempt=0, exit_code=1),
        record(attempt=1, sandbox_attempt=1),
        sandboxes=(sandbox(0, ready=False), sandbox(1)),
    )
    assert decide(make_pod(), state) == PodActions()


def test_restart_counts_go_on_after_the_runtime_forgot_everything() -> None:
    status = {
        "containerStatuses": [
            {"name": "main", "containerID": "podling://gone", "restartCount": 4, "image": "", "imageID": ""}
        ]
    }
    assert started(decide(make_pod(status=status), PodRuntime())) == [("main", 5)]


def test_a_kill_in_a_shared_process_namespace_may_be_the_end_of_the_sandbox() -> None:
    pod = make_pod(shareProcessNamespace=True)
    state = runtime(record(exit_code=137, finished_at_s=100))
    early = decide(pod, state, now=100.01)
    assert early.start == ()
    assert not early.finished
    assert early.wake_at == 100.05
    assert started(decide(pod, state, now=100.06)) == [("main", 1)]


def test_ephemeral_containers_start_once() -> None:
    pod = make_pod(ephemeralContainers=[container("debug")])
    assert started(decide(pod, runtime(record("main")))) == [("debug", 0)]
    assert started(decide(pod, runtime(record("main"), record("debug", exit_code=0)))) == []


def test_the_uid_is_part_of_the_back_off_key() -> None:
    pod = make_pod()
    assert backoff_key(pod, pod.spec.containers[0])[0] == UID
