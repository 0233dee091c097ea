from __future__ import annotations

from typing import Any

import pytest

from podling.scheduler import filters
from podling.scheduler.filters import Refusal, check_node, find_feasible, unschedulable_message

from .conftest import node, pod


def reasons(refusal: Refusal | None) -> tuple[str, ...]:
    return refusal.reasons if refusal else ()


def test_a_plain_pod_fits_a_ready_node() -> None:
    assert check_node(pod(), node()) is None


def test_a_cordoned_node_takes_only_who_tolerates_it() -> None:
    cordoned = node(unschedulable=True)
    assert reasons(check_node(pod(), cordoned)) == ("node(s) were unschedulable",)
    tolerant = pod(tolerations=[{"key": "node.kubernetes.io/unschedulable", "operator": "Exists"}])
    assert check_node(tolerant, cordoned) is None


@pytest.mark.parametrize("ready", ["False", "Unknown", ""])
def test_a_node_that_is_not_ready_counts_as_tainted(ready: str) -> None:
    assert reasons(check_node(pod(), node(ready=ready))) == ("node(s) had untolerated taint(s)",)
    assert check_node(pod(tolerations=[{"operator": "Exists"}]), node(ready=ready)) is None


@pytest.mark.parametrize(
    ("effect", "toleration", "fits"),
    [
        ("NoSchedule", None, False),
        ("NoExecute", None, False),
        ("PreferNoSchedule", None, True),
        ("NoSchedule", {"key": "dedicated", "value": "db"}, True),
        ("NoSchedule", {"key": "dedicated", "value": "web"}, False),
        ("NoSchedule", {"key": "dedicated", "operator": "Exists", "effect": "NoExecute"}, False),
    ],
)
def test_taints(effect: str, toleration: dict[str, str] | None, fits: bool) -> None:
    tainted = node(taints=[{"key": "dedicated", "value": "db", "effect": effect}])
    assert (check_node(pod(tolerations=[toleration] if toleration else []), tainted) is None) is fits


def affinity(*expressions: dict[str, Any]) -> dict[str, Any]:
    terms = [{"matchExpressions": list(expressions)}]
    required = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}
    return {"affinity": {"nodeAffinity": required}}


@pytest.mark.parametrize(
    ("spec", "fits"),
    [
        ({"nodeSelector": {"disk": "ssd"}}, True),
        ({"nodeSelector": {"disk": "hdd"}}, False),
        ({"nodeSelector": {"zone": "a"}}, False),
        (affinity({"key": "disk", "operator": "In", "values": ["ssd", "nvme"]}), True),
        (affinity({"key": "disk", "operator": "NotIn", "values": ["ssd"]}), False),
        (affinity({"key": "disk", "operator": "DoesNotExist"}), False),
        ({"nodeSelector": {"disk": "hdd"}, **affinity({"key": "disk", "operator": "Exists"})}, False),
    ],
)
def test_selector_and_affinity(spec: dict[str, Any], fits: bool) -> None:
    refusal = check_node(pod(**spec), node(labels={"disk": "ssd"}))
    expected = () if fits else ("node(s) didn't match Pod's node affinity/selector",)
    assert reasons(refusal) == expected


def test_what_is_requested_must_be_free() -> None:
    small = node(cpu="1", memory="1Gi", pods="2")
    small.add(pod("there", cpu="600m", memory="512Mi"))
    assert filters.resources_fit(pod(cpu="400m", memory="512Mi"), small) is None
    assert reasons(filters.resources_fit(pod(cpu="401m", memory="513Mi"), small)) == (
        "Insufficient cpu",
        "Insufficient memory",
    )
    small.add(pod("there too"))
    assert reasons(filters.resources_fit(pod(), small)) == ("Too many pods",)


def test_a_resource_the_node_does_not_have_is_insufficient() -> None:
    gpu = pod(containers=[{"name": "c", "resources": {"requests": {"example.com/gpu": "1"}}}])
    refusal = filters.resources_fit(gpu, node())
    assert reasons(refusal) == ("Insufficient example.com/gpu",)
    assert refusal is not None
    assert not refusal.resolvable


@pytest.mark.parametrize(
    ("port", "fits"),
    [
        ({"hostPort": 80}, False),
        ({"hostPort": 80, "hostIP": "127.0.0.1"}, False),
        ({"hostPort": 80, "protocol": "UDP"}, True),
        ({"hostPort": 81}, True),
        ({"hostPort": 443, "hostIP": "127.0.0.2"}, True),
        ({"hostPort": 443, "hostIP": "127.0.0.1"}, False),
        ({"hostPort": 443}, False),
        ({}, True),
    ],
)
def test_host_ports_clash_on_the_same_address(port: dict[str, Any], fits: bool) -> None:
    taken = [
        {"containerPort": 80, "hostPort": 80},
        {"containerPort": 443, "hostPort": 443, "hostIP": "127.0.0.1"},
    ]
    busy = node()
    busy.add(pod("there", ports=taken))
    refusal = check_node(pod(ports=[{"containerPort": 1, **port}]), busy)
    assert reasons(refusal) == (
        () if fits else ("node(s) didn't have free ports for the requested pod ports",)
    )


def test_a_wanted_node_is_the_only_one() -> None:
    wants = pod(nodeName="node-2")
    assert reasons(filters.node_name(wants, node())) == ("node(s) didn't match the requested node name",)
    assert filters.node_name(wants, node("node-2")) is None


def test_the_message_is_upstreams() -> None:
    big = pod(cpu="3")
    full = node("node-2", cpu="4")
    full.add(pod("there", cpu="2"))
    nodes = [
        node(
            "kube-master", taints=[{"key": "node-role.kubernetes.io/control-plane", "effect": "NoSchedule"}]
        ),
        node("node-1"),
        full,
    ]
    feasible, refusals = find_feasible(big, nodes)
    assert not feasible
    assert unschedulable_message(big, refusals) == (
        "0/3 nodes are available: 1 node(s) had untolerated taint(s), 2 Insufficient cpu. "
        "preemption: 0/3 nodes are available: 1 No preemption victims found for incoming pod, "
        "2 Preemption is not helpful for scheduling."
    )


def test_the_message_without_nodes_or_preemption() -> None:
    assert unschedulable_message(pod(), []) == "no nodes available to schedule pods"
    meek = pod(cpu="3", preemptionPolicy="Never")
    _, refusals = find_feasible(meek, [node()])
    assert unschedulable_message(meek, refusals) == (
        "0/1 nodes are available: 1 Insufficient cpu. preemption: not eligible due to preemptionPolicy=Never."
    )
