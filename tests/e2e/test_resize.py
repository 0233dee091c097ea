"""CPU and memory of a running pod are changed in place.

Kubernetes documentation, "Resize CPU and Memory Resources assigned to Containers".
"""

from __future__ import annotations

import json
from typing import Any

from e2e.shorthand import container_status, inside, ready, wait_event
from podling.testing.cluster import PodlingCluster, busybox, eventually, pod

LIMITS = """\
if [ -e /sys/fs/cgroup/memory/memory.limit_in_bytes ]; then
  cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/cpu/cpu.cfs_quota_us
else
  cat /sys/fs/cgroup/memory.max; cut -d' ' -f1 /sys/fs/cgroup/cpu.max
fi"""
MI = 1 << 20


def amounts(memory: int, cpu: int) -> dict[str, Any]:
    """Mebibytes and thousandths of a core, as limits; half of it as requests."""
    return {
        "limits": {"memory": f"{memory}Mi", "cpu": f"{cpu}m"},
        "requests": {"memory": f"{memory // 2}Mi", "cpu": f"{cpu // 2}m"},
    }


def resize(cluster: PodlingCluster, namespace: str, name: str, resources: dict[str, Any]) -> str:
    """What kubectl says."""
    patch = {"spec": {"containers": [{"name": "busybox", "resources": resources}]}}
    done = cluster.kubectl_run(
        *("patch", "pod", name, "-n", namespace, "--subresource", "resize", "--patch", json.dumps(patch))
    )
    return done.stdout + done.stderr


def conditions(cluster: PodlingCluster, namespace: str, name: str) -> dict[str, tuple[str, str]]:
    """Reason and message of the conditions about a resize."""
    found = cluster.get("pod", name, "-n", namespace)["status"]["conditions"]
    return {
        c["type"]: (c.get("reason", ""), c.get("message", ""))
        for c in found
        if c["type"].startswith("PodResize")
    }


def test_limits_change_without_a_restart(cluster: PodlingCluster, namespace: str) -> None:
    cluster.apply([pod("web", busybox(resources=amounts(64, 200)), namespace=namespace)])
    ready(cluster, namespace, "web")
    before = container_status(cluster, namespace, "web", "busybox")
    assert before["resources"] == amounts(64, 200)
    assert before["allocatedResources"] == amounts(64, 200)["requests"]
    # Up, then down: the pod's own cgroup has to be widened before and narrowed after its container's.
    for memory, cpu in ((128, 400), (32, 100)):
        assert "patched" in resize(cluster, namespace, "web", amounts(memory, cpu))

        def in_force(memory: int = memory, cpu: int = cpu) -> None:
            assert inside(cluster, namespace, "web", LIMITS).split() == [str(memory * MI), str(cpu * 100)]
            now = container_status(cluster, namespace, "web", "busybox")
            assert now["resources"] == amounts(memory, cpu)
            assert now["allocatedResources"] == amounts(memory, cpu)["requests"]
            assert (now["containerID"], now["restartCount"]) == (before["containerID"], 0)
            assert conditions(cluster, namespace, "web") == {}

        eventually(in_force)
    found = cluster.get("pod", "web", "-n", namespace)
    assert found["metadata"]["generation"] == found["status"]["observedGeneration"]


def test_a_limit_below_what_is_used_waits(cluster: PodlingCluster, namespace: str) -> None:
    cluster.apply([pod("web", busybox(resources=amounts(64, 200)), namespace=namespace)])
    ready(cluster, namespace, "web")
    inside(cluster, namespace, "web", "dd if=/dev/zero of=/dev/shm/x bs=1M count=30 2>/dev/null")
    resize(cluster, namespace, "web", amounts(16, 200))

    def refused() -> None:
        reason, message = conditions(cluster, namespace, "web")["PodResizeInProgress"]
        assert reason == "Error"
        assert message.startswith(f"attempting to set memory limit of container busybox ({16 * MI}) below ")

    eventually(refused)
    status = container_status(cluster, namespace, "web", "busybox")
    assert status["allocatedResources"]["memory"] == "8Mi"
    assert status["resources"]["limits"]["memory"] == "64Mi"
    inside(cluster, namespace, "web", "rm /dev/shm/x")

    def done() -> None:
        assert inside(cluster, namespace, "web", LIMITS).split()[0] == str(16 * MI)
        assert conditions(cluster, namespace, "web") == {}

    eventually(done, timeout_s=60)
    assert container_status(cluster, namespace, "web", "busybox")["restartCount"] == 0


def test_a_container_whose_policy_says_so_is_replaced(cluster: PodlingCluster, namespace: str) -> None:
    policy = [{"resourceName": "memory", "restartPolicy": "RestartContainer"}]
    # PID 1 ignores SIGTERM unless it handles it.
    quick = "trap 'exit 0' TERM; while :; do sleep 0.1; done"
    container = busybox(command=quick, resources=amounts(64, 200), resizePolicy=policy)
    cluster.apply([pod("web", container, namespace=namespace)])
    ready(cluster, namespace, "web")
    resize(cluster, namespace, "web", {"limits": {"cpu": "300m"}})

    def faster() -> None:
        assert inside(cluster, namespace, "web", LIMITS).split() == [str(64 * MI), "30000"]

    eventually(faster)
    assert container_status(cluster, namespace, "web", "busybox")["restartCount"] == 0
    resize(cluster, namespace, "web", {"limits": {"memory": "96Mi"}})

    def replaced() -> None:
        now = container_status(cluster, namespace, "web", "busybox")
        assert now["restartCount"] == 1
        assert now["ready"]
        assert now["resources"]["limits"]["memory"] == "96Mi"
        assert inside(cluster, namespace, "web", LIMITS).split() == [str(96 * MI), "30000"]

    eventually(replaced)
    wait_event(cluster, namespace, "web", "Killing", "Container busybox resize requires restart")


def test_what_the_node_does_not_have_waits(cluster: PodlingCluster, namespace: str) -> None:
    cluster.apply([pod("web", busybox(resources=amounts(64, 200)), namespace=namespace)])
    ready(cluster, namespace, "web")
    node = cluster.get("pod", "web", "-n", namespace)["spec"]["nodeName"]
    cpus = cluster.get("node", node)["status"]["allocatable"]["cpu"]
    milli = int(cpus[:-1]) if cpus.endswith("m") else int(cpus) * 1000
    resize(cluster, namespace, "web", amounts(64, 2 * milli + 2000))

    def told(reason: str, words: str) -> None:
        pending = conditions(cluster, namespace, "web").get("PodResizePending")
        assert pending is not None
        assert pending[0] == reason
        assert pending[1].startswith(words)

    text = f"Node didn't have enough capacity: cpu, requested: {milli + 1000}, capacity: {milli}"
    eventually(lambda: told("Infeasible", text))
    assert inside(cluster, namespace, "web", LIMITS).split() == [str(64 * MI), "20000"]
    # Another pod has what this one wants, and goes.
    other = busybox(resources={"requests": {"cpu": f"{milli // 4}m"}})
    cluster.apply([pod("other", other, nodeName=node, namespace=namespace)])
    ready(cluster, namespace, "other")
    resize(cluster, namespace, "web", amounts(64, 2 * (milli - milli // 8)))
    eventually(lambda: told("Deferred", "Node didn't have enough resource: cpu, requested: "))
    status = container_status(cluster, namespace, "web", "busybox")
    assert status["allocatedResources"]["cpu"] == "100m"
    cluster.kubectl("delete", "pod", "other", "-n", namespace, "--grace-period=1")
    wanted = f"{milli - milli // 8}m"

    def granted() -> None:
        status = container_status(cluster, namespace, "web", "busybox")
        assert status["allocatedResources"]["cpu"] == wanted
        assert conditions(cluster, namespace, "web") == {}

    # Other tests' pods may be there too, and this one needs most of the node.
    if not _others_take(cluster, namespace, node):
        eventually(granted)


def _others_take(cluster: PodlingCluster, namespace: str, node: str) -> bool:
    found = cluster.get("pods", "-A", f"--field-selector=spec.nodeName={node}")["items"]
    return any(
        container.get("resources", {}).get("requests", {}).get("cpu")
        for item in found
        if item["metadata"]["namespace"] != namespace
        for container in item["spec"]["containers"]
    )


def test_what_may_not_change_is_refused(cluster: PodlingCluster, namespace: str) -> None:
    has = {"limits": {"memory": "64Mi"}, "requests": {"memory": "32Mi", "cpu": "100m"}}
    cluster.apply([pod("web", busybox(resources=has), namespace=namespace)])
    ready(cluster, namespace, "web")
    spec = cluster.get("pod", "web", "-n", namespace)["spec"]
    for resources, words in (
        ({"requests": {"cpu": None}}, "resource requests cannot be removed"),
        ({"limits": {"memory": None}}, "resource limits cannot be removed"),
        (
            {"requests": {"memory": "64Mi"}, "limits": {"cpu": "100m"}},
            "Pod QOS Class may not change as a result of resizing",
        ),
        ({"limits": {"ephemeral-storage": "1Gi"}}, "only cpu and memory resources are mutable"),
        ({"requests": {"memory": "1Gi"}}, "must be less than or equal to memory limit of 64Mi"),
    ):
        assert words in resize(cluster, namespace, "web", resources)
    assert cluster.get("pod", "web", "-n", namespace)["spec"] == spec
