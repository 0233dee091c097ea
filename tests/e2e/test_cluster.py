"""The life of a cluster: experiment E17, several at once, mistakes, crashes, and that nothing is left."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from e2e.leftovers import STATE, leftovers
from podling.testing.cluster import PodlingCluster, busybox, eventually, pod


def test_up_makes_the_three_nodes_of_the_text(cluster: PodlingCluster) -> None:
    """E17"""
    rows = [
        line.split() for line in cluster.kubectl("get", "nodes", "-o", "wide", "--no-headers").splitlines()
    ]
    nodes = {row[0]: row for row in rows}
    assert sorted(nodes) == ["kube-master", "kube-node-1", "kube-node-2"]
    assert all(row[1] == "Ready" for row in rows)
    assert nodes["kube-master"][2] == "control-plane"
    addresses = {n["metadata"]["name"]: internal_ip(n) for n in cluster.get("nodes")["items"]}
    switch = f"10.192.{cluster.index}"
    assert addresses == {
        "kube-master": f"{switch}.2",
        "kube-node-1": f"{switch}.3",
        "kube-node-2": f"{switch}.4",
    }
    assert cluster.podling("node", "exec", "kube-master", "--", "hostname").strip() == "kube-master"
    shell = cluster.podling(
        "node", "shell", "kube-master", input=b"hostname; ip -br addr show eth0; exit 7\n", check=False
    )
    assert shell.splitlines()[0] == "kube-master"
    assert f"{switch}.2/24" in shell


def internal_ip(node: dict[str, Any]) -> str:
    (found,) = [a["address"] for a in node["status"]["addresses"] if a["type"] == "InternalIP"]
    return str(found)


def test_a_second_up_of_the_same_name_is_refused_and_harms_nothing(cluster: PodlingCluster) -> None:
    before = cluster.kubectl("get", "nodes")
    argv = [sys.executable, "-m", "podling.cli", "up", "--name", cluster.name]
    done = subprocess.run(argv, env=cluster.env, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert f'node(s) already exist for a cluster with the name "{cluster.name}"' in done.stderr
    assert cluster.kubectl("get", "nodes").split()[0] == before.split()[0]


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (("--name", "Bad_Name"), 1, "'Bad_Name' is not a valid cluster name"),
        (("--workers", "-1"), 1, "--workers -1: must be between 0 and"),
        (("--workers", "many"), 2, "'many' is not a valid integer"),
        (("--wrokers", "1"), 2, "No such option"),
        (
            ("--network", "flannel:wireguard"),
            1,
            '--network flannel:wireguard: flannel has no backend "wireguard"',
        ),
        (("--network", "nosuch.conf"), 1, "--network nosuch.conf: neither flannel:vxlan"),
    ],
)
def test_a_mistake_on_the_command_line_makes_nothing(args: tuple[str, ...], code: int, words: str) -> None:
    before = leftovers("nothing")
    done = subprocess.run(
        [sys.executable, "-m", "podling.cli", "up", *args],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code
    assert words in done.stderr
    assert leftovers("nothing") == before


def test_two_clusters_live_side_by_side_and_leave_nothing(cluster: PodlingCluster, tmp_path: Path) -> None:
    before = leftovers("second")
    # A copy: other tests go on with the first cluster's own, whatever becomes of this one.
    kubeconfig = tmp_path / "config"
    shutil.copy(cluster.env["KUBECONFIG"], kubeconfig)
    contexts = yaml.safe_load(kubeconfig.read_text())
    second = PodlingCluster("second", workers=1)
    second.env["KUBECONFIG"] = str(kubeconfig)
    with second:
        merged = yaml.safe_load(kubeconfig.read_text())
        assert merged["current-context"] == "podling-second"
        assert {c["name"] for c in merged["contexts"]} == {f"podling-{cluster.name}", "podling-second"}
        second.apply(pod("inside", busybox("main")))
        second.wait("pod/inside", "condition=Ready")
        assert second.get("pod", "inside")["status"]["podIP"].startswith(f"10.{244 + second.index}.")
        listed = cluster.kubectl("--context", f"podling-{cluster.name}", "get", "nodes", "-o", "name").split()
        assert len(listed) == 3
        # Left running: removing the cluster must take the pod along.
    assert leftovers("second") == before
    kubeconfig_now = yaml.safe_load(kubeconfig.read_text())
    assert [c["name"] for c in kubeconfig_now["contexts"]] == [c["name"] for c in contexts["contexts"]]


def test_up_works_after_everything_was_killed(images: None) -> None:
    before = leftovers("crash")
    crash = PodlingCluster("crash", workers=1)
    crash.__enter__()
    crash.apply(pod("inside", busybox("main")))
    crash.wait("pod/inside", "condition=Ready")
    record = json.loads((STATE / "crash" / "cluster.json").read_text())
    victims = [record["supervisor"], *record["processes"].values(), *record["nodes"].values()]
    for victim in victims:
        os.kill(victim["pid"], signal.SIGKILL)
    with crash:
        crash.apply(pod("again", busybox("main")))
        crash.wait("pod/again", "condition=Ready")
        assert [p["metadata"]["name"] for p in crash.get("pods")["items"]] == ["again"]
    assert leftovers("crash") == before


def test_a_killed_agent_comes_back_and_containers_live_on(images: None) -> None:
    with PodlingCluster("agentless", workers=1) as cluster:
        cluster.apply(pod("steady", busybox("main"), nodeName="kube-node-1"))
        cluster.wait("pod/steady", "condition=Ready")
        before = cluster.get("pod", "steady")["status"]["containerStatuses"][0]
        record = json.loads((STATE / "agentless" / "cluster.json").read_text())
        os.kill(record["processes"]["agent@kube-node-1"]["pid"], signal.SIGKILL)

        def another_agent() -> None:
            now = json.loads((STATE / "agentless" / "cluster.json").read_text())
            assert now["processes"].get("agent@kube-node-1") not in (
                None,
                record["processes"]["agent@kube-node-1"],
            )

        eventually(another_agent)
        cluster.apply(pod("after", busybox("main"), nodeName="kube-node-1"))
        cluster.wait("pod/after", "condition=Ready")
        after = cluster.get("pod", "steady")["status"]["containerStatuses"][0]
        assert (after["containerID"], after["restartCount"]) == (before["containerID"], 0)


def test_acknowledged_writes_survive_a_killed_control_plane(images: None) -> None:
    with PodlingCluster("writes", workers=0) as cluster:
        record = json.loads((STATE / "writes" / "cluster.json").read_text())
        for n in range(20):
            cluster.kubectl("create", "configmap", f"written-{n}", f"--from-literal=n={n}")
        os.kill(record["processes"]["control-plane"]["pid"], signal.SIGKILL)
        listed = cluster.kubectl("get", "configmaps", "-o", "name", timeout_s=30).split()
        assert {f"configmap/written-{n}" for n in range(20)} <= set(listed)


def test_down_of_a_cluster_that_is_not_there_is_no_error() -> None:
    argv = [sys.executable, "-m", "podling.cli", "down", "--name", "never-was"]
    assert subprocess.run(argv, capture_output=True, check=False).returncode == 0
