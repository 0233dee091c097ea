"""The story of the texts on `examples/pause-test.yaml`: experiments E6, E7, E8, E9, E11 and E22."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from podling.testing.cluster import PodlingCluster, eventually

CONTAINERS = ["busybox", "ghost", "nginx"]


@pytest.fixture(scope="module")
def pause_test(cluster: PodlingCluster, examples: Path) -> Iterator[str]:
    cluster.kubectl("apply", "-f", str(examples / "pause-test.yaml"))
    cluster.wait("pod/pause-test", "condition=Ready")
    yield "pause-test"
    cluster.kubectl("delete", "pod", "pause-test", "--grace-period=1")


def node_of(cluster: PodlingCluster, pod: str) -> str:
    return str(cluster.get("pod", pod)["spec"]["nodeName"])


def ip_of(cluster: PodlingCluster, pod: str) -> str:
    return str(cluster.get("pod", pod)["status"]["podIP"])


def test_get_pod_wide_shows_the_columns_users_know(cluster: PodlingCluster, pause_test: str) -> None:
    """E6"""
    header, row = cluster.kubectl("get", "pod", pause_test, "-o", "wide").splitlines()
    assert re.split(r" {2,}", header.strip()) == [
        *("NAME", "READY", "STATUS", "RESTARTS", "AGE", "IP", "NODE", "NOMINATED NODE", "READINESS GATES")
    ]
    name, ready, status, restarts, age, ip, node, nominated, gates = re.split(r" {2,}", row.strip())
    assert (name, ready, status, restarts) == ("pause-test", "3/3", "Running", "0")
    assert re.fullmatch(r"\d+[sm].*", age)
    assert re.fullmatch(rf"10\.{244 + cluster.index}\.\d+\.\d+", ip)
    assert node in ("kube-node-1", "kube-node-2")
    assert (nominated, gates) == ("<none>", "<none>")


def test_ps_on_the_node_shows_every_container_under_its_known_name(
    cluster: PodlingCluster, pause_test: str
) -> None:
    """E7"""
    pod = cluster.get("pod", pause_test)
    suffix = f"{pause_test}_default_{pod['metadata']['uid']}"
    listed = cluster.node(pod["spec"]["nodeName"], "podling", "ps", "-a")
    assert re.split(r" {2,}", listed.splitlines()[0].strip())[:5] == [
        *("CONTAINER ID", "IMAGE", "COMMAND", "CREATED", "STATUS")
    ]
    for container in CONTAINERS:
        (line,) = [x for x in listed.splitlines() if f"k8s_{container}_{suffix}_0" in x]
        assert "Up " in line
    (sandbox,) = [x for x in listed.splitlines() if f"k8s_POD_{suffix}_0" in x]
    assert '"/pause"' in sandbox


def test_inspect_says_whose_network_a_container_uses(cluster: PodlingCluster, pause_test: str) -> None:
    """E22"""
    node = node_of(cluster, pause_test)
    uid = cluster.get("pod", pause_test)["metadata"]["uid"]

    def inspect(name: str) -> dict:
        return json.loads(cluster.node(node, "podling", "inspect", name))[0]

    pause = inspect(f"k8s_POD_{pause_test}_default_{uid}_0")
    nginx = inspect(f"k8s_nginx_{pause_test}_default_{uid}_0")
    assert nginx["HostConfig"]["NetworkMode"] == f"container:{pause['Id']}"


def test_exec_without_c_takes_the_first_container_and_says_so(
    cluster: PodlingCluster, pause_test: str
) -> None:
    """E8"""
    done = cluster.kubectl_run("exec", pause_test, "--", "/bin/sh", "-c", "netstat -ntl; ps", check=True)
    assert 'Defaulted container "busybox" out of: busybox, ghost, nginx' in done.stderr
    listening = {line.split()[3].rpartition(":")[2] for line in done.stdout.splitlines() if "LISTEN" in line}
    assert {"2368", "80"} <= listening
    processes = done.stdout[done.stdout.index("PID") :]
    assert re.search(r"^\s*1 root .* sleep 3600$", processes, re.M)
    assert "nginx" not in processes
    assert "/pause" not in processes


def test_a_reverse_proxy_written_in_the_container_turns_the_page_into_the_blog(
    cluster: PodlingCluster, pause_test: str
) -> None:
    """E9"""
    node, ip = node_of(cluster, pause_test), ip_of(cluster, pause_test)
    assert "Welcome to nginx!" in cluster.node(node, "curl", "-sS", "--max-time", "5", ip)
    conf = (
        "server { listen 80 default_server; server_name example.com www.example.com; "
        "location / { proxy_pass http://127.0.0.1:2368; } }"
    )
    in_nginx = ("exec", "-i", "-c", "nginx", pause_test, "--")
    cluster.kubectl(*in_nginx, "/bin/sh", "-c", "cat > /etc/nginx/conf.d/example.conf", input=conf)
    tested = cluster.kubectl_run(*in_nginx, "nginx", "-t", check=True)
    assert "syntax is ok" in tested.stderr
    assert "test is successful" in tested.stderr
    cluster.kubectl(*in_nginx, "nginx", "-s", "reload")

    def page_is_the_blog() -> None:
        page = cluster.node(node, "curl", "-sS", "--max-time", "5", ip)
        assert "Welcome to nginx!" not in page
        assert "blog" in page.lower()

    eventually(page_is_the_blog)


@pytest.mark.parametrize("signal", ["KILL", "TERM"])
def test_a_lost_pause_container_restarts_every_container_of_the_same_pod(
    cluster: PodlingCluster, pause_test: str, signal: str
) -> None:
    """E11"""
    before = cluster.get("pod", pause_test)
    node, uid = before["spec"]["nodeName"], before["metadata"]["uid"]
    counts = {s["name"]: s["restartCount"] for s in before["status"]["containerStatuses"]}
    (line,) = [
        x
        for x in cluster.node(node, "podling", "ps", "--no-trunc").splitlines()
        if f"k8s_POD_{pause_test}_default_{uid}" in x
    ]
    pid = json.loads(cluster.node(node, "podling", "inspect", line.split()[0]))[0]["State"]["Pid"]
    cluster.node(node, "kill", f"-{signal}", str(pid))

    def all_restarted_once() -> dict:
        now = cluster.get("pod", pause_test)
        statuses = {s["name"]: s for s in now["status"]["containerStatuses"]}
        assert {n: s["restartCount"] for n, s in statuses.items()} == {n: c + 1 for n, c in counts.items()}
        assert all(s["ready"] for s in statuses.values())
        return now

    after = eventually(all_restarted_once)
    assert after["metadata"]["uid"] == uid
    assert after["metadata"]["creationTimestamp"] == before["metadata"]["creationTimestamp"]
    listed = cluster.kubectl("get", "pod", pause_test)
    assert "3/3" in listed
    ip = after["status"]["podIP"]
    assert f"inet {ip}/" in cluster.kubectl("exec", pause_test, "-c", "busybox", "--", "ip", "addr")
    assert "<html" in cluster.node(node, "curl", "-sS", "--max-time", "5", ip).lower()
