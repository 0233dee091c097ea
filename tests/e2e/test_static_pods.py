"""E24: manifests in a node's /etc/kubernetes/manifests run without the API server and appear in it as mirror
pods; and what a kubelet does while its API server is away."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from e2e.bare_node import KUBECONFIG, PODLING, BareNode
from e2e.shorthand import container_status, inside, ready
from podling.machine import record
from podling.machine.paths import ClusterPaths
from podling.testing.cluster import PodlingCluster, busybox, eventually, pod

NODE = "kube-node-1"
DIRECTORY = "/etc/kubernetes/manifests"


def static(name: str, command: str = "while true; do echo $MARK; sleep 1; done", mark: str = "one") -> str:
    made = pod(name, busybox(command=command, env=[{"name": "MARK", "value": mark}]))
    return yaml.safe_dump(made)


def put(cluster: PodlingCluster, name: str, text: str) -> Path:
    """A manifest into the node's directory, written as people do."""
    manifests = ClusterPaths.of(cluster.name).node(NODE).bind("etc-kubernetes") / "manifests"
    path = manifests / name
    path.write_text(text)
    return path


@pytest.fixture
def manifest(cluster: PodlingCluster, request: pytest.FixtureRequest) -> Iterator[Path]:
    """The path of a manifest on the node, removed afterwards and its pod with it."""
    name = request.node.originalname.removeprefix("test_")[:20].strip("_").replace("_", "-")
    path = put(cluster, f"{name}.yaml", static(name))
    yield path
    path.unlink(missing_ok=True)
    eventually(lambda: absent(cluster, mirror(path)))


def mirror(manifest: Path) -> str:
    return f"{manifest.stem}-{NODE}"


def absent(cluster: PodlingCluster, name: str) -> None:
    assert name not in cluster.kubectl("get", "pods", "-o", "name")
    assert name not in cluster.node(NODE, "podling", "ps", "-a")


def appears(cluster: PodlingCluster, name: str) -> dict[str, Any]:
    def look() -> dict[str, Any]:
        done = cluster.kubectl_run("wait", f"pod/{name}", "--for=condition=Ready", "--timeout=5s")
        assert done.returncode == 0, done.stderr
        return cluster.get("pod", name)

    return eventually(look, timeout_s=40)


def container_id(cluster: PodlingCluster, name: str) -> str:
    return str(container_status(cluster, "default", name, "busybox").get("containerID"))


def test_a_manifest_runs_and_is_mirrored(cluster: PodlingCluster, manifest: Path) -> None:
    name = mirror(manifest)
    found = appears(cluster, name)
    annotations = found["metadata"]["annotations"]
    assert annotations["kubernetes.io/config.source"] == "file"
    assert annotations["kubernetes.io/config.mirror"] == annotations["kubernetes.io/config.hash"]
    assert annotations["kubernetes.io/config.seen"]
    (owner,) = found["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["name"], owner["controller"]) == ("Node", NODE, True)
    assert found["spec"]["nodeName"] == NODE

    def logged() -> None:
        assert "one" in cluster.kubectl("logs", name)

    eventually(logged)
    assert inside(cluster, "default", name, "echo $MARK") == "one"
    described = cluster.kubectl("describe", "pod", name)
    assert f"Controlled By:  Node/{NODE}" in described
    assert "Created container: busybox" in described
    listed = json.loads(kubelet(cluster, "/pods"))["items"]
    (seen,) = [item for item in listed if item["metadata"]["name"] == name]
    assert seen["metadata"]["uid"] == annotations["kubernetes.io/config.hash"]
    assert seen["status"]["phase"] == "Running"


def kubelet(cluster: PodlingCluster, path: str) -> str:
    pki = ClusterPaths.of(cluster.name).pki / "apiserver-kubelet-client"
    url = f"https://{record.require(cluster.name).config.node(NODE).address}:10250{path}"
    argv = ["curl", "-s", "--fail", "--insecure", "--cert", f"{pki}.crt", "--key", f"{pki}.key", url]
    return cluster.run(argv, check=True, timeout_s=30).stdout


def test_a_deleted_mirror_comes_back(cluster: PodlingCluster, manifest: Path) -> None:
    name = mirror(manifest)
    before = appears(cluster, name)
    container = container_id(cluster, name)
    cluster.kubectl("delete", "pod", name)
    after = appears(cluster, name)
    assert after["metadata"]["uid"] != before["metadata"]["uid"]
    assert container_id(cluster, name) == container
    assert after["status"]["startTime"] == before["status"]["startTime"]


def test_a_changed_manifest_replaces_the_pod(cluster: PodlingCluster, manifest: Path) -> None:
    name = mirror(manifest)
    before = appears(cluster, name)
    manifest.write_text(static(manifest.stem, mark="two"))

    def replaced() -> None:
        found = appears(cluster, name)
        assert found["metadata"]["uid"] != before["metadata"]["uid"]
        assert inside(cluster, "default", name, "echo $MARK") == "two"

    eventually(replaced, timeout_s=40)
    assert cluster.node(NODE, "podling", "ps").count(f"_{name}_") == 2


def test_a_broken_manifest_is_named_and_harms_nothing(cluster: PodlingCluster, manifest: Path) -> None:
    name = mirror(manifest)
    before = appears(cluster, name)
    broken = manifest.with_name("broken-one.yaml")
    try:
        broken.write_text("apiVersion: v1\nkind: Pod\nmetadata: {name: broken}\nspec: {containers: []}\n")
        manifest.write_text("{ not YAML")

        def told() -> None:
            messages = cluster.kubectl("events", "--for", f"node/{NODE}")
            assert (
                f"Can't process manifest file {DIRECTORY}/{broken.name}: invalid pod: spec.containers"
                in messages
            )
            assert (
                f"Can't process manifest file {DIRECTORY}/{manifest.name}: couldn't parse as pod" in messages
            )

        eventually(told)
        assert cluster.get("pod", name)["metadata"]["uid"] == before["metadata"]["uid"]
    finally:
        broken.unlink()


def test_a_mirror_cannot_be_made_anything_else(cluster: PodlingCluster, manifest: Path) -> None:
    name = mirror(manifest)
    appears(cluster, name)
    done = cluster.kubectl_run("annotate", "pod", name, "kubernetes.io/config.mirror-", "--overwrite")
    assert done.returncode == 1
    assert "may not remove or update mirror pod annotation" in done.stderr
    done = cluster.kubectl_run(
        "patch", "pod", name, "-p", '{"spec":{"containers":[{"name":"busybox","command":["x"]}]}}'
    )
    assert "pod updates may not change fields other than" in done.stderr


# Apart from the API server (issue item 8)


@contextmanager
def api_server_stopped(cluster: PodlingCluster) -> Iterator[None]:
    """It answers nobody, as when its machine hangs; connections to it stay."""
    process = record.require(cluster.name).processes["control-plane"]
    os.kill(process.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(process.pid, signal.SIGCONT)


def kill_agent(cluster: PodlingCluster) -> None:
    before = record.require(cluster.name).processes[f"agent@{NODE}"]
    os.kill(before.pid, signal.SIGKILL)

    def back() -> None:
        now = record.require(cluster.name).processes.get(f"agent@{NODE}")
        assert now is not None
        assert now.pid != before.pid

    eventually(back)


def ps(cluster: PodlingCluster) -> list[str]:
    return cluster.node(NODE, "podling", "ps").splitlines()


def running(cluster: PodlingCluster, *names: str) -> list[str]:
    """IDs of the containers of these pods, as their node has them."""
    return sorted(line.split()[0] for line in ps(cluster) if any(f"_{name}_" in line for name in names))


def test_pods_live_on_while_the_api_server_is_away(
    cluster: PodlingCluster, manifest: Path, namespace: str
) -> None:
    name = mirror(manifest)
    appears(cluster, name)
    cluster.apply([pod("plain", busybox(), namespace=namespace, nodeName=NODE)])
    ready(cluster, namespace, "plain")
    other = manifest.with_name("meanwhile.yaml")
    try:
        with api_server_stopped(cluster):
            kept = running(cluster, "plain", name)
            assert len(kept) == 4
            # A container that dies is started again, its pod's others are left alone.
            (victim,) = [line.split()[0] for line in ps(cluster) if "k8s_busybox_plain_" in line]
            cluster.node(NODE, "podling", "kill", victim)

            def restarted() -> None:
                now = running(cluster, "plain", name)
                assert len(now) == 4
                assert len(set(now) & set(kept)) == 3

            eventually(restarted)
            kept = running(cluster, "plain", name)
            # Killed, the agent finds what runs, and static pods need no API server.
            kill_agent(cluster)
            other.write_text(static("meanwhile"))
            eventually(lambda: check(len(running(cluster, f"meanwhile-{NODE}")) == 2), timeout_s=30)
            meanwhile = running(cluster, f"meanwhile-{NODE}")
            assert running(cluster, "plain", name) == kept
        appears(cluster, f"meanwhile-{NODE}")
        ready(cluster, namespace, "plain")

        def counted() -> None:
            assert container_status(cluster, namespace, "plain", "busybox")["restartCount"] == 1

        eventually(counted)
        # Nothing restarts only because the API server is back.
        assert running(cluster, "plain", name) == kept
        assert running(cluster, f"meanwhile-{NODE}") == meanwhile
    finally:
        other.unlink(missing_ok=True)
        eventually(lambda: absent(cluster, f"meanwhile-{NODE}"))


def check(condition: bool) -> None:
    assert condition


# On its own


@pytest.fixture(scope="module")
def bare(cluster: PodlingCluster) -> Iterator[BareNode]:
    with BareNode(cluster, "kube-alone", 202) as node:
        yield node


FLAGS = (f"--pod-manifest-path={DIRECTORY}", "--fail-swap-on=false", "--hostname-override=kube-alone")


def test_a_node_without_an_api_server_runs_static_pods_and_joins_later(
    cluster: PodlingCluster, bare: BareNode
) -> None:
    manifests = bare.paths.bind("etc-kubernetes") / "manifests"
    (manifests / "alone.yaml").write_text(static("alone"))
    address = f"--node-ip={bare.config.address}"

    def containers() -> list[str]:
        lines = bare.out(*PODLING, "ps").splitlines()
        return sorted(line.split()[0] for line in lines if "_alone-kube-alone_" in line)

    with bare.agent(*FLAGS, address):
        eventually(lambda: check(len(containers()) == 2), timeout_s=40)
        before = containers()
        (pid,) = bare.agent_pids()
    # Killed without a word, and asked back with an API server.
    assert containers() == before
    bare.write_credentials()
    with bare.agent(
        *FLAGS, address, f"--kubeconfig={KUBECONFIG}", "--client-ca-file=/etc/kubernetes/pki/ca.crt"
    ):
        assert pid not in bare.agent_pids()
        found = appears(cluster, "alone-kube-alone")
        assert found["status"]["containerStatuses"][0]["restartCount"] == 0
        assert containers() == before

        def logged() -> None:
            assert "one" in cluster.kubectl("logs", "alone-kube-alone")

        eventually(logged)
        (manifests / "alone.yaml").unlink()
        eventually(lambda: check(not containers()))


def test_manifests_come_from_a_url_too(cluster: PodlingCluster, bare: BareNode, tmp_path: Path) -> None:
    """Served on the machine's own address on the switch."""
    host = str(record.require(cluster.name).config.switch_address.ip)
    items = [yaml.safe_load(static(name)) for name in ("first", "second")]
    (tmp_path / "pods.json").write_text(json.dumps({"apiVersion": "v1", "kind": "PodList", "items": items}))
    argv = [sys.executable, "-m", "http.server", "--bind", host, "--directory", str(tmp_path), "8099"]
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            bare.write_credentials()
            flags = (
                f"--manifest-url=http://{host}:8099/pods.json",
                "--http-check-frequency=500ms",
                f"--kubeconfig={KUBECONFIG}",
                f"--node-ip={bare.config.address}",
            )
            with bare.agent(*FLAGS, *flags):
                for name in ("first", "second"):
                    found = appears(cluster, f"{name}-kube-alone")
                    assert found["metadata"]["annotations"]["kubernetes.io/config.source"] == "http"
                (tmp_path / "pods.json").write_text(json.dumps(items[0]))

                def gone() -> None:
                    names = cluster.kubectl("get", "pods", "-o", "name")
                    assert "second-kube-alone" not in names
                    assert "first-kube-alone" in names

                eventually(gone, timeout_s=40)
                (tmp_path / "pods.json").write_text(
                    json.dumps({"apiVersion": "v1", "kind": "PodList", "items": []})
                )
                eventually(lambda: check("kube-alone" not in bare.out(*PODLING, "ps", "-a")), timeout_s=40)
        finally:
            server.kill()
            server.wait()
