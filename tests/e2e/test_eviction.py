"""Pods that a node cannot keep: beyond their own limits, or the node is short of something.

Kubernetes documentation, "Node-pressure Eviction" and "Local ephemeral storage".
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from e2e.bare_node import KUBECONFIG, BareNode
from e2e.shorthand import ready, wait_event
from podling.testing.cluster import PodlingCluster, busybox, eventually, pod

NAME = "kube-low"
FLAGS = (
    f"--kubeconfig={KUBECONFIG}",
    "--fail-swap-on=false",
    "--config=/var/lib/kubelet/config.yaml",
    "--register-with-taints=only=low:NoSchedule",
)
CONFIG = """\
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication: {x509: {clientCAFile: /etc/kubernetes/pki/ca.crt}}
"""
RELAXED = ("--eviction-hard=memory.available<1Mi",)
LOW = (
    *RELAXED,
    # Nothing ever has so much: the kernel itself needs more. Soft, since it is not taken off the allocatable.
    "--eviction-soft=memory.available<99.99%",
    "--eviction-soft-grace-period=memory.available=1s",
    "--eviction-max-pod-grace-period=2",
    "--eviction-pressure-transition-period=1s",
)


def evicted(cluster: PodlingCluster, namespace: str, name: str) -> str:
    """The message of the status, once the pod has been evicted."""

    def look() -> str:
        status = cluster.get("pod", name, "-n", namespace)["status"]
        assert (status["phase"], status.get("reason")) == ("Failed", "Evicted"), status
        assert status["containerStatuses"][0]["state"].keys() == {"terminated"}
        condition = next(c for c in status["conditions"] if c["type"] == "DisruptionTarget")
        assert (condition["status"], condition["reason"]) == ("True", "TerminationByKubelet")
        assert condition["message"] == status["message"]
        return str(status["message"])

    return eventually(look, timeout_s=60)


def test_pods_beyond_their_local_storage_are_evicted(cluster: PodlingCluster, namespace: str) -> None:
    def filler(where: str, **container: Any) -> dict[str, Any]:
        return busybox(command=f"dd if=/dev/zero of={where} bs=1M count=3; sleep 3600", **container)

    volume = {"name": "x", "emptyDir": {"sizeLimit": "1Mi"}}
    mount = [{"name": "x", "mountPath": "/x"}]
    limits = {"limits": {"ephemeral-storage": "2Mi"}}
    kept = {"name": "x", "emptyDir": {"sizeLimit": "8Mi"}}
    for name, container, volumes in (
        ("volume", filler("/x/file", volumeMounts=mount), [volume]),
        ("layer", filler("/file", resources=limits), []),
        ("within", filler("/x/file", volumeMounts=mount), [kept]),
    ):
        cluster.apply([pod(name, container, volumes=volumes, namespace=namespace)])
    text = 'Usage of EmptyDir volume "x" exceeds the limit "1Mi". '
    assert evicted(cluster, namespace, "volume") == text
    wait_event(cluster, namespace, "volume", "Evicted", text)
    text = "Pod ephemeral local storage usage exceeds the total limit of containers 2Mi. "
    assert evicted(cluster, namespace, "layer") == text
    assert cluster.get("pod", "within", "-n", namespace)["status"]["phase"] == "Running"


@pytest.fixture
def node(cluster: PodlingCluster) -> Iterator[BareNode]:
    with BareNode(cluster, NAME, 204) as made:
        made.write_credentials()
        (made.paths.bind("kubelet") / "config.yaml").write_text(CONFIG)
        yield made


def pressure(cluster: PodlingCluster) -> tuple[str, str, set[str]]:
    """Status and reason of MemoryPressure, and the keys of the node's taints."""
    found = cluster.get("node", NAME)
    condition = next(c for c in found["status"]["conditions"] if c["type"] == "MemoryPressure")
    return condition["status"], condition["reason"], {t["key"] for t in found["spec"].get("taints", [])}


def test_a_node_short_of_memory_evicts_and_keeps_pods_away(
    cluster: PodlingCluster, node: BareNode, namespace: str
) -> None:
    taint = "node.kubernetes.io/memory-pressure"
    asks = {"requests": {"memory": "64Mi"}}
    critical = {"priorityClassName": "system-node-critical", "priority": 2_000_001_000}
    with node.agent(*FLAGS, *RELAXED):
        node.wait_ready()
        assert pressure(cluster)[:2] == ("False", "KubeletHasSufficientMemory")
        apply = [
            pod("modest", busybox(resources=asks), nodeName=NAME, namespace=namespace),
            pod("greedy", busybox(), nodeName=NAME, namespace=namespace),
            pod("critical", busybox(), nodeName=NAME, namespace=namespace, **critical),
        ]
        cluster.apply(apply)
        ready(cluster, namespace, "modest", "greedy", "critical")
    with node.agent(*FLAGS, *LOW):
        message = evicted(cluster, namespace, "greedy")
        assert message.startswith("The node was low on resource: memory. Threshold quantity: ")
        assert ", request is 0, has larger consumption of memory. " in message
        wait_event(cluster, namespace, "greedy", "Evicted", message)
        assert "request is" not in evicted(cluster, namespace, "modest")

        def tainted() -> None:
            status, reason, taints = pressure(cluster)
            assert (status, reason) == ("True", "KubeletHasInsufficientMemory")
            assert taint in taints

        eventually(tainted)
        cluster.apply([pod("late", busybox(), nodeName=NAME, namespace=namespace)])

        def refused() -> None:
            status = cluster.get("pod", "late", "-n", namespace)["status"]
            assert status.get("reason") == "Evicted"
            assert status["message"] == "Pod was rejected: The node had condition: [MemoryPressure]. "

        eventually(refused)
        assert cluster.get("pod", "critical", "-n", namespace)["status"]["phase"] == "Running"
        ended = {
            e["involvedObject"]["name"]: e["lastTimestamp"]
            for e in cluster.get("events", "-n", namespace, "--field-selector=reason=Evicted")["items"]
        }
        assert ended["greedy"] <= ended["modest"]
    with node.agent(*FLAGS, *RELAXED):

        def relaxed() -> None:
            status, reason, taints = pressure(cluster)
            assert (status, reason) == ("False", "KubeletHasSufficientMemory")
            assert taint not in taints

        eventually(relaxed, timeout_s=40)
    cluster.kubectl("delete", "pods", "--all", "-n", namespace, "--force", "--grace-period=0")
