"""Service accounts and RBAC as people use them: real kubectl, tokens of real pods.

Kubernetes documentation, "Configure Service Accounts for Pods" and "Using RBAC Authorization".
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from e2e.shorthand import inside, ready
from podling.testing.cluster import PodlingCluster, busybox, eventually, pod

DIRECTORY = "/var/run/secrets/kubernetes.io/serviceaccount"

AsToken = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def as_token(cluster: PodlingCluster, tmp_path: Path) -> AsToken:
    """kubectl with nothing but a token and the cluster's CA."""
    config = json.loads(cluster.kubectl("config", "view", "--raw", "--minify", "-o", "json"))
    path = tmp_path / "token.conf"

    def run(token: str, *args: str) -> subprocess.CompletedProcess[str]:
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "c", "cluster": config["clusters"][0]["cluster"]}],
            "users": [{"name": "u", "user": {"token": token}}],
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
            "current-context": "x",
        }
        path.write_text(json.dumps(document))
        return cluster.kubectl_run("--kubeconfig", str(path), *args)

    return run


def test_a_pod_acts_as_its_service_account(
    cluster: PodlingCluster, namespace: str, as_token: AsToken
) -> None:
    cluster.kubectl("create", "serviceaccount", "robot", "-n", namespace)
    cluster.apply(pod("worker", busybox(), namespace=namespace, serviceAccountName="robot"))
    ready(cluster, namespace, "worker")
    assert inside(cluster, namespace, "worker", f"cat {DIRECTORY}/namespace") == namespace
    authority = inside(cluster, namespace, "worker", f"cat {DIRECTORY}/ca.crt")
    assert authority.startswith("-----BEGIN CERTIFICATE-----")
    token = inside(cluster, namespace, "worker", f"cat {DIRECTORY}/token")

    who = json.loads(as_token(token, "auth", "whoami", "-o", "json").stdout)["status"]["userInfo"]
    assert who["username"] == f"system:serviceaccount:{namespace}:robot"
    assert who["extra"]["authentication.kubernetes.io/pod-name"] == ["worker"]
    refused = as_token(token, "get", "pods", "-n", namespace)
    assert refused.returncode == 1
    assert refused.stderr == (
        f'Error from server (Forbidden): pods is forbidden: User "system:serviceaccount:{namespace}:robot" '
        f'cannot list resource "pods" in API group "" in the namespace "{namespace}"\n'
    )

    cluster.kubectl("create", "role", "reader", "--verb=get,list", "--resource=pods", "-n", namespace)
    cluster.kubectl(
        "create",
        "rolebinding",
        "robot",
        "--role=reader",
        f"--serviceaccount={namespace}:robot",
        "-n",
        namespace,
    )
    assert "worker" in as_token(token, "get", "pods", "-n", namespace).stdout
    assert as_token(token, "get", "pods", "-n", "default").returncode == 1
    assert as_token(token, "delete", "pod", "worker", "-n", namespace).returncode == 1

    cluster.kubectl("delete", "pod", "worker", "-n", namespace, "--now")

    def ended() -> None:
        # Until a minute after the end of the grace period upstream believes it, and so do we.
        answer = as_token(token, "get", "pods", "-n", namespace)
        assert "Unauthorized" in answer.stderr or "logged in" in answer.stderr

    eventually(ended, timeout_s=10)


def test_only_the_user_of_a_pod_reads_its_token(cluster: PodlingCluster, namespace: str) -> None:
    cluster.apply(pod("user", busybox(), namespace=namespace, securityContext={"runAsUser": 1234}))
    ready(cluster, namespace, "user")
    shown = inside(
        cluster, namespace, "user", f"stat -L -c '%u %a' {DIRECTORY}/token; wc -c < {DIRECTORY}/token"
    )
    owner, size = shown.splitlines()
    assert owner == "1234 600"
    assert int(size) > 100


def test_rights_are_asked_for_and_listed(cluster: PodlingCluster, namespace: str) -> None:
    cluster.kubectl("create", "rolebinding", "ann", "--clusterrole=edit", "--user=ann", "-n", namespace)
    asked = ("auth", "can-i", "--as=ann", "-n", namespace)
    assert cluster.kubectl(*asked, "create", "deployments.apps") == "yes\n"
    assert cluster.kubectl(*asked, "create", "roles.rbac.authorization.k8s.io", check=False) == "no\n"
    listed = cluster.kubectl(*asked, "--list")
    assert "deployments.apps" in listed
    table = cluster.kubectl("get", "rolebindings", "-n", namespace, "-o", "wide")
    assert table.splitlines()[0].split() == ["NAME", "ROLE", "AGE", "USERS", "GROUPS", "SERVICEACCOUNTS"]
    assert table.splitlines()[1].split()[:2] == ["ann", "ClusterRole/edit"]
    described = cluster.kubectl("describe", "clusterrole", "view")
    assert "pods/log" in described


def test_cluster_roles_are_aggregated(cluster: PodlingCluster, namespace: str) -> None:
    name = f"{namespace}-widgets"
    label = "rbac.authorization.k8s.io/aggregate-to-view=true"
    cluster.kubectl("create", "clusterrole", name, "--verb=get", "--resource=secrets")
    try:
        cluster.kubectl("label", "clusterrole", name, label)

        def collected() -> None:
            rules = cluster.get("clusterrole", "view")["rules"]
            assert {"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]} in rules

        eventually(collected)
    finally:
        cluster.kubectl("delete", "clusterrole", name)
