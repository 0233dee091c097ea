from __future__ import annotations

from collections import Counter
from dataclasses import replace

from podling.scheduler.scores import (
    balanced_allocation,
    best_node,
    least_allocated,
    owner_spread,
    preferred_affinity,
    untainted,
)

from .conftest import cluster, make_node, node, pod


def test_pods_without_requests_spread_evenly() -> None:
    state = cluster(*(make_node(f"node-{i}") for i in range(3)))
    for number in range(9):
        one = pod(f"web-{number}")
        chosen = best_node(one, list(state.nodes.values()))
        state.set_pod(replace(one, node_name=chosen.name))
    assert Counter(len(n.pods) for n in state.nodes.values()) == {3: 3}


def test_equal_nodes_are_told_apart_by_name() -> None:
    assert best_node(pod(), [node("b"), node("a")]).name == "a"


def test_pods_of_one_owner_keep_apart_even_from_free_nodes() -> None:
    busy, free = node("busy", cpu="8", memory="16Gi"), node("free", cpu="8", memory="16Gi")
    busy.add(pod("other-1"))
    busy.add(pod("other-2"))
    free.add(pod("web-1", owner="rs"))
    assert owner_spread(pod(owner="rs"), [busy, free]) == [100, 0]
    assert best_node(pod(owner="rs"), [busy, free]).name == "busy"


def test_least_allocated_prefers_the_freer_node() -> None:
    busy, free = node("a"), node("b")
    busy.add(pod("there", cpu="1", memory="2Gi"))
    low, high = least_allocated(pod(cpu="500m", memory="1Gi"), [busy, free])
    assert (round(low), round(high)) == (25, 75)


def test_balanced_allocation_prefers_even_use() -> None:
    lopsided, even = node("a"), node("b")
    lopsided.add(pod("there", cpu="1", memory="1Mi"))
    even.add(pod("there", cpu="500m", memory="1Gi"))
    low, high = balanced_allocation(pod(cpu="500m", memory="1Gi"), [lopsided, even])
    assert low < high == 100


def test_a_node_without_numbers_is_full_not_an_error() -> None:
    assert least_allocated(pod(), [node(cpu="0", memory="0")]) == [0]


def test_preferred_affinity_sums_matching_weights() -> None:
    def term(weight: int, key: str) -> dict[str, object]:
        return {
            "weight": weight,
            "preference": {"matchExpressions": [{"key": key, "operator": "Exists"}]},
        }

    preferred = {"preferredDuringSchedulingIgnoredDuringExecution": [term(80, "ssd"), term(20, "near")]}
    wants = pod(affinity={"nodeAffinity": preferred})
    nodes = [node("a", labels={"near": ""}), node("b", labels={"ssd": "", "near": ""}), node("c")]
    assert preferred_affinity(wants, nodes) == [20, 100, 0]
    assert best_node(wants, nodes).name == "b"


def test_a_node_that_would_rather_not_is_the_last_resort() -> None:
    shy = node("a", taints=[{"key": "old", "effect": "PreferNoSchedule"}])
    busy = node("b")
    busy.add(pod("there", cpu="1", memory="2Gi"))
    assert untainted(pod(), [shy, busy]) == [0, 100]
    assert best_node(pod(), [shy, busy]).name == "b"
    tolerant = pod(tolerations=[{"key": "old", "operator": "Exists"}])
    assert best_node(tolerant, [shy, busy]).name == "a"
