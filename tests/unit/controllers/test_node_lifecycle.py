from __future__ import annotations

from typing import Any

import msgspec
import pytest

from podling.api.core_v1 import Node, Taint
from podling.controllers.node_lifecycle import unknown_conditions, wanted_taints

NOW = "2026-01-01T00:00:00Z"


def node(conditions: dict[str, str], **spec: Any) -> Node:
    return msgspec.convert(
        {
            "metadata": {"name": "node-1", "creationTimestamp": "2025-01-01T00:00:00Z"},
            "spec": spec,
            "status": {
                "conditions": [
                    {"type": t, "status": s, "lastHeartbeatTime": "2025-06-01T00:00:00Z"}
                    for t, s in conditions.items()
                ]
            },
        },
        Node,
    )


def taints(found: list[Taint]) -> list[str]:
    return [f"{t.key.removeprefix('node.kubernetes.io/')}:{t.effect}" for t in found]


@pytest.mark.parametrize(
    ("conditions", "expected"),
    [
        ({"Ready": "True"}, []),
        ({"Ready": "False"}, ["not-ready:NoSchedule", "not-ready:NoExecute"]),
        ({"Ready": "Unknown"}, ["unreachable:NoSchedule", "unreachable:NoExecute"]),
        ({}, ["not-ready:NoSchedule"]),
        ({"Ready": "True", "DiskPressure": "True"}, ["disk-pressure:NoSchedule"]),
        ({"Ready": "True", "DiskPressure": "False"}, []),
    ],
)
def test_conditions_become_taints(conditions: dict[str, str], expected: list[str]) -> None:
    assert taints(wanted_taints(node(conditions), NOW)) == expected


def test_a_cordon_becomes_a_taint() -> None:
    assert taints(wanted_taints(node({"Ready": "True"}, unschedulable=True), NOW)) == [
        "unschedulable:NoSchedule"
    ]


def test_foreign_taints_stay_and_stale_ones_of_ours_go() -> None:
    before = [
        {"key": "mine", "effect": "NoExecute", "value": "x"},
        {"key": "node.kubernetes.io/unreachable", "effect": "NoExecute", "timeAdded": "2025-01-01T00:00:00Z"},
        {"key": "node.kubernetes.io/not-ready", "effect": "NoExecute", "timeAdded": "2025-02-01T00:00:00Z"},
    ]
    found = wanted_taints(node({"Ready": "False"}, taints=before), NOW)
    assert taints(found) == ["mine:NoExecute", "not-ready:NoExecute", "not-ready:NoSchedule"]
    assert [t.time_added for t in found] == [None, "2025-02-01T00:00:00Z", NOW]
    assert taints(wanted_taints(node({"Ready": "True"}, taints=before), NOW)) == ["mine:NoExecute"]


def test_a_silent_nodes_conditions_become_unknown() -> None:
    found = unknown_conditions(node({"Ready": "True", "DiskPressure": "Unknown"}), NOW)
    assert [(c["type"], c["reason"]) for c in found] == [
        ("Ready", "NodeStatusUnknown"),
        ("MemoryPressure", "NodeStatusNeverUpdated"),
        ("PIDPressure", "NodeStatusNeverUpdated"),
    ]
    assert found[0]["message"] == "Kubelet stopped posting node status."
    assert found[1]["message"] == "Kubelet never posted node status."
    assert found[0]["lastHeartbeatTime"] == "2025-06-01T00:00:00Z"
    assert {c["status"] for c in found} == {"Unknown"}
