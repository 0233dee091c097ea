"""The kubelet's server on 10250: what it tells, and whom (issue item 7)."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from podling.machine import pki, record
from podling.machine.paths import ClusterPaths
from podling.testing.cluster import PodlingCluster, busybox, eventually, pod

NODE = "kube-node-1"


class Caller:
    """Asks the server of NODE, with a client certificate or a token."""

    def __init__(self, cluster: PodlingCluster, *, cert: Path | None = None, token: str = "") -> None:
        self._url = f"https://{record.require(cluster.name).config.node(NODE).address}:10250"
        self._who = ["--cert", f"{cert}.crt", "--key", f"{cert}.key"] if cert else []
        if token:
            self._who = ["-H", f"Authorization: Bearer {token}"]

    def ask(self, path: str, *more: str) -> tuple[int, str]:
        argv = ["curl", "-s", "--insecure", "-w", "\n%{http_code}", *self._who, *more, f"{self._url}{path}"]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=True)
        body, _, code = done.stdout.rpartition("\n")
        return int(code), body

    def json(self, path: str) -> Any:
        code, body = self.ask(path)
        assert code == 200, body
        return json.loads(body)

    def metrics(self, path: str) -> dict[str, float]:
        """Samples by name and labels."""
        code, body = self.ask(path)
        assert code == 200, body
        lines = [line for line in body.splitlines() if not line.startswith("#")]
        assert len(lines) == len({line.rpartition(" ")[0] for line in lines}), "a sample stands twice"
        return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines}


@pytest.fixture(scope="module")
def api_server(cluster: PodlingCluster) -> Caller:
    """As the API server asks."""
    return Caller(cluster, cert=ClusterPaths.of(cluster.name).pki / "apiserver-kubelet-client")


@pytest.fixture(scope="module")
def busy(cluster: PodlingCluster, module_namespace: str) -> str:
    """A pod that works a little, probed by three probes."""
    probe = {"exec": {"command": ["true"]}, "periodSeconds": 1}
    failing = {"exec": {"command": ["false"]}, "periodSeconds": 1}
    containers = [
        busybox("work", "while true; do i=$((i+1)); done", livenessProbe=probe, startupProbe=probe),
        busybox("idle", "echo some output; sleep 3600", readinessProbe=failing),
    ]
    cluster.apply([pod("busy", *containers, namespace=module_namespace, nodeName=NODE)])
    cluster.kubectl(
        *("wait", "-n", module_namespace, "pod/busy", "--timeout=30s"),
        "--for=jsonpath={.status.containerStatuses[?(@.name=='work')].ready}=true",
    )
    return module_namespace


def test_the_summary_says_what_node_and_pods_use(api_server: Caller, busy: str) -> None:
    before = api_server.json("/stats/summary")
    node = before["node"]
    assert node["nodeName"] == NODE
    assert (
        0
        < node["memory"]["workingSetBytes"]
        < node["memory"]["workingSetBytes"] + node["memory"]["availableBytes"]
    )
    assert node["fs"]["capacityBytes"] >= node["fs"]["usedBytes"] > 0
    assert node["fs"]["inodes"] >= node["fs"]["inodesUsed"]
    assert node["runtime"]["imageFs"]["usedBytes"] > 0
    assert node["rlimit"]["curproc"] > 0

    def work(document: Any) -> Any:
        (found,) = [p for p in document["pods"] if p["podRef"]["namespace"] == busy]
        assert found["podRef"]["name"] == "busy"
        assert {c["name"] for c in found["containers"]} == {"work", "idle"}
        assert found["network"]["rxBytes"] >= 0
        assert found["network"]["name"] == "eth0"
        (idle,) = [c for c in found["containers"] if c["name"] == "idle"]
        assert idle["logs"]["usedBytes"] > 0
        assert idle["memory"]["workingSetBytes"] > 0
        (worker,) = [c for c in found["containers"] if c["name"] == "work"]
        return worker["cpu"]["usageCoreNanoSeconds"]

    first = work(before)

    def grown() -> None:
        document = api_server.json("/stats/summary")
        assert work(document) > first
        assert document["node"]["cpu"]["usageNanoCores"] > 0

    eventually(grown)


def test_the_pages_for_prometheus(api_server: Caller, busy: str) -> None:
    kubelet = api_server.metrics("/metrics")
    assert kubelet["kubelet_running_pods"] >= 1
    assert kubelet['kubelet_running_containers{container_state="running"}'] >= 2
    assert kubelet[f'kubelet_node_name{{node="{NODE}"}}'] == 1
    assert kubelet["process_resident_memory_bytes"] > 0

    resources = api_server.metrics("/metrics/resource")
    labels = f'{{container="work",namespace="{busy}",pod="busy"}}'
    assert resources[f"container_cpu_usage_seconds_total{labels}"] > 0
    assert resources[f"container_memory_working_set_bytes{labels}"] > 0
    assert resources[f"container_start_time_seconds{labels}"] > 1.6e9
    assert resources[f'pod_cpu_usage_seconds_total{{namespace="{busy}",pod="busy"}}'] > 0
    assert resources["node_cpu_usage_seconds_total"] > 0

    cadvisor = api_server.metrics("/metrics/cadvisor")
    mine = [name for name in cadvisor if f'namespace="{busy}"' in name]
    assert any(name.startswith("container_cpu_usage_seconds_total{") for name in mine)
    assert any(name.startswith("container_network_receive_bytes_total{") for name in mine)

    def probed() -> None:
        probes = api_server.metrics("/metrics/probes")
        found = {
            (m[1], m[2], m[3]): value
            for name, value in probes.items()
            if f'namespace="{busy}"' in name
            and (m := re.search(r'container="(\w+)".*probe_type="(\w+)",result="(\w+)"', name))
        }
        assert found["work", "Startup", "successful"] == 1
        assert found["work", "Liveness", "successful"] >= 1
        assert found["idle", "Readiness", "failed"] >= 1

    eventually(probed)


def test_running_pods_are_the_runtimes(api_server: Caller, busy: str) -> None:
    for path in ("/runningpods/", "/pods"):
        items = [p for p in api_server.json(path)["items"] if p["metadata"]["namespace"] == busy]
        assert [p["metadata"]["name"] for p in items] == ["busy"]
        assert {c["name"] for c in items[0]["spec"]["containers"]} == {"work", "idle"}


def test_a_checkpoint_says_why_there_is_none(api_server: Caller, busy: str) -> None:
    code, body = api_server.ask(f"/checkpoint/{busy}/busy/none", "-X", "POST")
    assert (code, "container none not found in pod busy" in body) == (404, True)
    code, body = api_server.ask(f"/checkpoint/{busy}/busy/idle", "-X", "POST")
    if code != 200:  # a runtime with CRIU writes one
        assert code == 500
        assert f"checkpointing of {busy}/busy/idle failed (checkpoint/restore not supported" in body


def test_run_answers_with_the_output(api_server: Caller, busy: str) -> None:
    code, body = api_server.ask(f"/run/{busy}/busy/idle?cmd=echo&cmd=hello", "-X", "POST")
    assert (code, body) == (200, "hello\n")


# Who may


@pytest.fixture(scope="module")
def stranger(cluster: PodlingCluster, tmp_path_factory: pytest.TempPathFactory) -> Caller:
    """Someone the cluster's CA knows and no role has heard of."""
    ca = pki.load(ClusterPaths.of(cluster.name).pki, "ca")
    directory = tmp_path_factory.mktemp("stranger")
    pki.issue(ca, "scraper", organizations=["people"]).write(directory, "scraper")
    return Caller(cluster, cert=directory / "scraper")


def test_who_is_nobody_gets_nothing(cluster: PodlingCluster) -> None:
    for path in ("/pods", "/healthz", "/metrics", "/stats/summary", "/exec/a/b/c"):
        assert Caller(cluster).ask(path) == (401, "Unauthorized")
        assert Caller(cluster, token="made.up").ask(path) == (401, "Unauthorized")


@pytest.fixture
def role(cluster: PodlingCluster) -> Iterator[str]:
    """A role that allows metrics and statistics of nodes, bound to nobody yet."""
    name = "e2e-scraper"
    cluster.kubectl(*("create", "clusterrole", name, "--verb=get"), "--resource=nodes/metrics,nodes/stats")
    yield name
    cluster.kubectl("delete", "clusterrole", name)
    cluster.kubectl("delete", "clusterrolebinding", name, "--ignore-not-found")


def test_roles_say_who_may_what(cluster: PodlingCluster, role: str, stranger: Caller, namespace: str) -> None:
    code, body = stranger.ask("/stats/summary")
    assert code == 403
    assert body == "Forbidden (user=scraper, verb=get, resource=nodes, subresource(s)=[stats])"
    cluster.kubectl("create", "serviceaccount", "-n", namespace, "scraper")
    subjects = ("--user=scraper", f"--serviceaccount={namespace}:scraper")
    cluster.kubectl("create", "clusterrolebinding", role, f"--clusterrole={role}", *subjects)
    token = cluster.kubectl("create", "token", "-n", namespace, "scraper").strip()

    for caller in (stranger, Caller(cluster, token=token)):
        # A refusal is believed for a while (30 s).
        eventually(lambda c=caller: _allowed(c, "/metrics/resource"), timeout_s=60)
        eventually(lambda c=caller: _allowed(c, "/stats/summary"), timeout_s=60)
        code, body = caller.ask("/pods")
        assert code == 403
        assert "verb=get, resource=nodes, subresource(s)=[pods proxy])" in body
        code, body = caller.ask(f"/run/{namespace}/x/y?cmd=id", "-X", "POST")
        assert code == 403
        assert "verb=create, resource=nodes, subresource(s)=[proxy])" in body


def _allowed(caller: Caller, path: str) -> None:
    code, body = caller.ask(path)
    assert code == 200, body
