from __future__ import annotations

from dataclasses import replace

from podling.scheduler.state import node_info, pod_info

from .conftest import cluster, make_node, make_pod, pod


def test_amounts_are_whole_numbers_rounded_up() -> None:
    info = pod_info(make_pod(cpu="100.5m", memory="1.5Ki"))
    assert info.requests == {"cpu": 101, "memory": 1536}


def test_a_pod_counts_on_one_node_only() -> None:
    state = cluster(make_node("a"), make_node("b"))
    one = pod(cpu="1")
    state.set_pod(replace(one, node_name="a"))
    state.set_pod(replace(one, node_name="b"))
    assert state.nodes["a"].requested["cpu"] == 0
    assert state.nodes["b"].requested["cpu"] == 1000
    assert state.remove_pod(one.key) == "b"
    assert state.nodes["b"].scoring_cpu_milli == 0
    assert state.remove_pod(one.key) is None


def test_a_namesake_is_not_removed() -> None:
    state = cluster(make_node("a"))
    state.set_pod(replace(pod(), node_name="a"))
    assert state.remove_pod(("default", "web"), "another uid") is None
    assert len(state.nodes["a"].pods) == 1


def test_pods_are_kept_while_their_node_is_unknown_or_changes() -> None:
    state = cluster()
    state.set_pod(replace(pod(cpu="1"), node_name="a"))
    state.set_node(make_node("a"))
    assert state.nodes["a"].requested["cpu"] == 1000
    state.set_node(make_node("a", cpu="8"))
    assert state.nodes["a"].requested["cpu"] == 1000
    state.remove_node("a")
    state.set_node(make_node("a"))
    assert list(state.nodes["a"].pods) == [("default", "web")]


def test_a_node_may_say_nonsense() -> None:
    info = node_info(make_node(cpu="lots"))
    assert "cpu" not in info.allocatable
    assert info.max_pods == 110
