"""Pods and nodes as short as a test wants them."""

from __future__ import annotations

from typing import Any

import msgspec

from podling.api.core_v1 import Node, Pod
from podling.scheduler.state import ClusterState, NodeInfo, PodInfo, node_info, pod_info


def make_pod(name: str = "web", *, cpu: str = "", memory: str = "", **spec: Any) -> Pod:
    requests = {k: v for k, v in {"cpu": cpu, "memory": memory}.items() if v}
    ports = spec.pop("ports", [])
    owner = spec.pop("owner", "")
    return msgspec.convert(
        {
            "metadata": {
                "name": name,
                "namespace": "default",
                "uid": f"uid-{name}",
                "ownerReferences": [{"uid": owner, "controller": True, "kind": "ReplicaSet", "name": owner}]
                if owner
                else [],
            },
            "spec": {
                "containers": [{"name": "c", "resources": {"requests": requests}, "ports": ports}],
                **spec,
            },
        },
        Pod,
    )


def pod(name: str = "web", **spec: Any) -> PodInfo:
    return pod_info(make_pod(name, **spec))


def make_node(
    name: str = "node-1",
    *,
    cpu: str = "2",
    memory: str = "4Gi",
    pods: str = "110",
    ready: str = "True",
    labels: dict[str, str] | None = None,
    **spec: Any,
) -> Node:
    return msgspec.convert(
        {
            "metadata": {"name": name, "labels": labels or {}},
            "spec": spec,
            "status": {
                "allocatable": {"cpu": cpu, "memory": memory, "pods": pods},
                "conditions": [{"type": "Ready", "status": ready}] if ready else [],
            },
        },
        Node,
    )


def node(name: str = "node-1", **fields: Any) -> NodeInfo:
    return node_info(make_node(name, **fields))


def cluster(*nodes: Node) -> ClusterState:
    state = ClusterState()
    for each in nodes:
        state.set_node(each)
    return state
