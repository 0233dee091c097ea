"""What a pod is: experiments E1, E3, E4 and E12."""

from __future__ import annotations

import json
import re

import pytest

from podling.testing.cluster import PodlingCluster, busybox, eventually, pod


def node_of(cluster: PodlingCluster, namespace: str, name: str) -> str:
    return str(cluster.get("pod", name, "-n", namespace)["spec"]["nodeName"])


def inspect_pod(cluster: PodlingCluster, namespace: str, name: str) -> list[dict]:
    """`podling inspect` of every container of the pod, the pause container first."""
    found = cluster.get("pod", name, "-n", namespace)
    node, uid = found["spec"]["nodeName"], found["metadata"]["uid"]
    ids = [
        line.split()[0]
        for line in cluster.node(node, "podling", "ps", "--no-trunc").splitlines()
        if f"_{namespace}_{uid}_" in line
    ]
    documents = [json.loads(cluster.node(node, "podling", "inspect", i))[0] for i in ids]
    return sorted(documents, key=lambda d: "k8s_POD_" not in d["Name"])


def test_containers_of_a_pod_share_hostname_address_and_localhost(
    cluster: PodlingCluster, namespace: str
) -> None:
    """E1"""
    server = "echo hello from the neighbour > /tmp/index.html; exec httpd -f -p 8080 -h /tmp"
    cluster.apply(pod("two", busybox("server", server), busybox("client"), namespace=namespace))
    cluster.kubectl("wait", "-n", namespace, "pod/two", "--for=condition=Ready", "--timeout=30s")

    def in_container(name: str, *argv: str) -> str:
        return cluster.kubectl("exec", "-n", namespace, "two", "-c", name, "--", *argv).strip()

    assert in_container("server", "hostname") == in_container("client", "hostname") == "two"
    ip = cluster.get("pod", "two", "-n", namespace)["status"]["podIP"]
    for name in ("server", "client"):
        assert f"inet {ip}/" in in_container(name, "ip", "addr", "show", "eth0")
    assert in_container("client", "wget", "-qO-", "http://localhost:8080/") == "hello from the neighbour"


def test_two_containers_cannot_bind_one_port(cluster: PodlingCluster, namespace: str) -> None:
    """E1"""
    first = busybox("first", "exec httpd -f -p 80")
    second = busybox("second", "sleep 1; exec httpd -f -p 80")
    cluster.apply(pod("conflict", first, second, namespace=namespace, restartPolicy="Never"))

    def second_failed() -> dict:
        statuses = cluster.get("pod", "conflict", "-n", namespace)["status"].get("containerStatuses", [])
        by_name = {s["name"]: s["state"] for s in statuses}
        assert by_name.get("second", {}).get("terminated", {}).get("exitCode") == 1
        return by_name

    states = eventually(second_failed)
    assert "running" in states["first"]
    log = cluster.kubectl("logs", "-n", namespace, "conflict", "-c", "second")
    assert "Address already in use" in log


def test_every_container_joined_the_namespaces_of_a_pause_container_made_before_it(
    cluster: PodlingCluster, namespace: str
) -> None:
    """E3"""
    cluster.apply(pod("three", busybox("a"), busybox("b"), busybox("c"), namespace=namespace))
    cluster.kubectl("wait", "-n", namespace, "pod/three", "--for=condition=Ready", "--timeout=30s")
    node = node_of(cluster, namespace, "three")
    pause, *others = inspect_pod(cluster, namespace, "three")
    assert pause["Path"] == "/pause"
    assert len(others) == 3

    def namespaces(document: dict) -> dict[str, str]:
        out = cluster.node(
            node, "sh", "-c", f"cd /proc/{document['State']['Pid']}/ns && readlink net ipc uts pid mnt"
        )
        return dict(line.split(":") for line in out.split())

    shared = namespaces(pause)
    for other in others:
        assert pause["Created"] < other["Created"]
        theirs = namespaces(other)
        assert {k: theirs[k] for k in ("net", "ipc", "uts")} == {k: shared[k] for k in ("net", "ipc", "uts")}
        assert theirs["pid"] != shared["pid"]
        assert theirs["mnt"] != shared["mnt"]
    assert pause["State"]["Pid"] > 1


def test_a_shared_process_namespace_has_pause_as_pid_1(cluster: PodlingCluster, namespace: str) -> None:
    """E4"""
    cluster.apply(
        pod(
            "shared",
            busybox("a"),
            busybox("b", "sleep 4000"),
            namespace=namespace,
            shareProcessNamespace=True,
        )
    )
    cluster.kubectl("wait", "-n", namespace, "pod/shared", "--for=condition=Ready", "--timeout=30s")
    script = "ps -o pid,ppid,args; echo shell $$"
    out = cluster.kubectl("exec", "-n", namespace, "shared", "-c", "a", "--", "sh", "-c", script)
    assert re.search(r"^\s*1\s+0\s+/pause$", out, re.M)
    assert "sleep 4000" in out
    shell = re.search(r"shell (\d+)", out)
    assert shell is not None
    assert re.search(rf"^\s*{shell[1]}\s+0\s+sh -c", out, re.M), out


def test_a_process_namespace_of_its_own_has_the_command_as_pid_1(
    cluster: PodlingCluster, namespace: str
) -> None:
    """E4"""
    cluster.apply(pod("apart", busybox("a", "exec sleep 3600"), busybox("b"), namespace=namespace))
    cluster.kubectl("wait", "-n", namespace, "pod/apart", "--for=condition=Ready", "--timeout=30s")
    out = cluster.kubectl("exec", "-n", namespace, "apart", "-c", "a", "--", "ps", "-o", "pid,args")
    assert re.search(r"^\s*1\s+sleep 3600$", out, re.M)
    assert "/pause" not in out


@pytest.mark.parametrize(
    ("policy", "command", "phase", "restarts"),
    [
        ("Always", "exit 0", "Running", True),
        ("Always", "exit 3", "Running", True),
        ("OnFailure", "exit 3", "Running", True),
        ("OnFailure", "exit 0", "Succeeded", False),
        ("Never", "exit 0", "Succeeded", False),
        ("Never", "exit 3", "Failed", False),
    ],
)
def test_restart_policy_decides_what_follows_a_containers_end(
    cluster: PodlingCluster, policy: str, command: str, phase: str, restarts: bool
) -> None:
    """E12"""
    name = f"ends-{policy.lower()}-{command[-1]}"
    cluster.apply(pod(name, busybox("main", command), restartPolicy=policy))
    code = int(command[-1])

    def settled() -> None:
        status = cluster.get("pod", name)["status"]
        (container,) = status.get("containerStatuses") or [{}]
        state = container.get("state", {})
        assert status["phase"] == phase
        if restarts:
            # Restarted at once the first time, then held back: 10 s, 20 s, ...
            assert container["restartCount"] >= 1
            assert state.get("waiting", {}).get("reason") == "CrashLoopBackOff"
            assert container["lastState"]["terminated"]["exitCode"] == code
        else:
            assert container["restartCount"] == 0
            assert state["terminated"]["exitCode"] == code
            assert state["terminated"]["reason"] == ("Error" if code else "Completed")

    try:
        eventually(settled)
    finally:
        cluster.delete("pod", name)


def test_a_pod_with_users_of_its_own(cluster: PodlingCluster, namespace: str) -> None:
    """Root in the pod is nobody on the node, and every node can do it."""
    script = "cat /proc/self/uid_map; touch /tmp/mine && ls -ln /tmp/mine; exec sleep 1000"
    cluster.apply(pod("own", busybox("main", script), namespace=namespace, hostUsers=False))
    cluster.kubectl("wait", "-n", namespace, "pod/own", "--for=condition=Ready", "--timeout=30s")
    mapped, mine = cluster.kubectl("logs", "-n", namespace, "own").splitlines()
    inside, outside, length = map(int, mapped.split())
    assert (inside, length) == (0, 65536)
    assert outside >= 65536
    assert mine.split()[2] == "0"
    status = cluster.kubectl("exec", "-n", namespace, "own", "--", "cat", "/proc/self/status")
    assert "Seccomp:\t2" in status  # a pod that says nothing has the runtime's profile
    main = inspect_pod(cluster, namespace, "own")[1]
    node = node_of(cluster, namespace, "own")
    on_node = cluster.node(node, "grep", "Uid", f"/proc/{main['State']['Pid']}/status")
    assert on_node.split()[1] == str(outside)
