"""`kubectl debug` (Kubernetes documentation, "Ephemeral Containers" and "Debug Running Pods")."""

from __future__ import annotations

import json

import pytest

from e2e.shorthand import inside, ready
from podling.testing.cluster import PodlingCluster, busybox, eventually, pod


@pytest.mark.parametrize("version", ["1.27", "1.37"])
def test_a_debug_container_sees_its_targets_processes(
    cluster: PodlingCluster, namespace: str, version: str
) -> None:
    cluster.apply(pod("web", busybox("server", "exec httpd -f -p 8080"), namespace=namespace))
    ready(cluster, namespace, "web")
    debug = ("debug", "-i", "web", "-n", namespace, "--image=busybox", "--target=server", "-c", "debugger")
    script = "ps; ip -o addr show eth0; exit 0\n"
    shown = cluster.kubectl(*debug, "--", "sh", version=version, input=script)
    assert "httpd -f -p 8080" in shown
    address = cluster.get("pod", "web", "-n", namespace)["status"]["podIP"]
    assert f"inet {address}/" in shown

    def ended() -> None:
        (status,) = cluster.get("pod", "web", "-n", namespace)["status"]["ephemeralContainerStatuses"]
        assert status["name"] == "debugger"
        assert status["state"]["terminated"]["exitCode"] == 0

    eventually(ended)
    # It is not started again, and nothing else of the pod has been touched.
    (server,) = cluster.get("pod", "web", "-n", namespace)["status"]["containerStatuses"]
    assert (server["restartCount"], server["ready"]) == (0, True)


def test_ephemeral_containers_stay_as_they_are(cluster: PodlingCluster, namespace: str) -> None:
    cluster.apply(pod("web", busybox(), namespace=namespace))
    ready(cluster, namespace, "web")
    path = f"/api/v1/namespaces/{namespace}/pods/web"

    def with_containers(*containers: dict[str, object]) -> str:
        current = cluster.get("pod", "web", "-n", namespace)
        current["spec"]["ephemeralContainers"] = list(containers)
        return json.dumps(current)

    def replace(document: str, subresource: str) -> tuple[int, str]:
        done = cluster.kubectl_run("replace", "--raw", f"{path}{subresource}", "-f", "-", input=document)
        return done.returncode, done.stderr

    first = {"name": "one", "image": "busybox", "command": ["sleep", "1000"]}
    assert replace(with_containers(first), "/ephemeralcontainers")[0] == 0
    eventually(lambda: _assert(inside(cluster, namespace, "web", "echo hi", container="one") == "hi"))
    code, why = replace(with_containers(), "/ephemeralcontainers")
    assert code == 1
    assert 'existing ephemeral containers "one" may not be removed' in why
    code, why = replace(with_containers({**first, "image": "nginx"}), "/ephemeralcontainers")
    assert code == 1
    assert 'existing ephemeral containers "one" may not be changed' in why
    # Only through their subresource.
    code, why = replace(with_containers(first, {"name": "two", "image": "busybox"}), "")
    assert code == 1
    assert "pod updates may not change fields other than" in why


def _assert(condition: bool) -> None:
    assert condition
