"""Network policies on two nodes, with real kubectl; `tests/kernel/test_network_policy.py` has one node."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from e2e.shorthand import inside, ready
from podling.testing.cluster import PodlingCluster, busybox, eventually, pod

NODES = ("kube-node-1", "kube-node-2")
SERVER = "echo served > /tmp/index.html; exec httpd -f -p 80 -h /tmp"


@pytest.fixture(scope="module")
def pods(cluster: PodlingCluster, module_namespace: str) -> str:
    """On each node a server and a client; and a service before the servers."""
    namespace = module_namespace
    manifests: list[dict[str, Any]] = [
        pod(
            f"{name}-{number}",
            busybox(command=command),
            namespace=namespace,
            labels={"app": name},
            nodeName=node,
        )
        for number, node in enumerate(NODES, 1)
        for name, command in (("server", SERVER), ("client", "sleep 3600"))
    ]
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "server", "namespace": namespace},
        "spec": {"selector": {"app": "server"}, "ports": [{"port": 80}]},
    }
    cluster.apply([*manifests, service])
    ready(cluster, namespace, *(m["metadata"]["name"] for m in manifests))
    return namespace


@pytest.fixture
def policy(cluster: PodlingCluster, pods: str) -> Iterator[Any]:
    def apply(**spec: Any) -> None:
        document = {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": {"name": "policy", "namespace": pods},
            "spec": {"podSelector": {"matchLabels": {"app": "server"}}, **spec},
        }
        cluster.apply(document)

    yield apply
    cluster.kubectl("delete", "netpol", "policy", "-n", pods, "--ignore-not-found")


def served(cluster: PodlingCluster, namespace: str, source: str, *targets: str) -> list[bool]:
    """Whether `source` gets each target's page: all are tried at once, in one exec."""
    tries = "".join(f"(timeout 1 wget -qO- http://{t}/ >/tmp/got-{i} 2>&1) & " for i, t in enumerate(targets))
    marks = "; ".join(f"grep -c served /tmp/got-{i}" for i in range(len(targets)))
    out = inside(cluster, namespace, source, f"{tries} wait; {marks}; true")
    return [line == "1" for line in out.splitlines()]


def ip_of(cluster: PodlingCluster, namespace: str, name: str) -> str:
    return str(cluster.get("pod", name, "-n", namespace)["status"]["podIP"])


def test_policies_hold_on_every_node_and_through_services(
    cluster: PodlingCluster, pods: str, policy: Any
) -> None:
    targets = [ip_of(cluster, pods, "server-1"), ip_of(cluster, pods, "server-2")]
    service = str(cluster.get("service", "server", "-n", pods)["spec"]["clusterIP"])

    def all_are(wanted: bool, source: str = "client-1") -> None:
        assert served(cluster, pods, source, *targets, service) == [wanted] * 3

    eventually(lambda: all_are(True))
    policy(policyTypes=["Ingress"])
    eventually(lambda: all_are(False))
    all_are(False, "client-2")
    policy(ingress=[{"from": [{"podSelector": {"matchLabels": {"app": "client"}}}], "ports": [{"port": 80}]}])
    eventually(lambda: all_are(True))
    all_are(True, "client-2")
    policy(ingress=[{"from": [{"podSelector": {"matchLabels": {"app": "client", "trusted": "yes"}}}]}])
    eventually(lambda: all_are(False))
    cluster.kubectl("label", "pod", "client-2", "-n", pods, "trusted=yes")
    eventually(lambda: all_are(True, "client-2"))
    all_are(False)
    cluster.kubectl("label", "pod", "client-2", "-n", pods, "trusted-")


def test_what_a_pod_sends_is_held_back_on_its_own_node(
    cluster: PodlingCluster, pods: str, policy: Any
) -> None:
    targets = [ip_of(cluster, pods, "server-1"), ip_of(cluster, pods, "server-2")]
    only_first = [{"ipBlock": {"cidr": f"{targets[0]}/32"}}]
    policy(
        podSelector={"matchLabels": {"app": "client"}}, policyTypes=["Egress"], egress=[{"to": only_first}]
    )
    for source in ("client-1", "client-2"):
        eventually(lambda s=source: _assert(served(cluster, pods, s, *targets) == [True, False]))  # type: ignore[misc]
    # Nodes reach their pods all the same: probes go on.
    assert "served" in cluster.node("kube-node-1", "curl", "-s", "-m", "5", f"http://{targets[0]}/")


def _assert(condition: bool) -> None:
    assert condition


def test_a_new_pod_is_held_from_its_first_packet(cluster: PodlingCluster, pods: str, policy: Any) -> None:
    """Its first command tries before the API knows the pod's address."""
    target = ip_of(cluster, pods, "server-1")
    policy(podSelector={"matchLabels": {"app": "held"}}, policyTypes=["Egress"])

    def first_answer(name: str, label: str) -> str:
        command = f"timeout 1 wget -qO- http://{target}/ || echo none; sleep 3600"
        cluster.apply(
            pod(name, busybox(command=command), namespace=pods, labels={"app": label}, nodeName=NODES[0])
        )

        def told() -> str:
            answers = {"served", "none"} & set(cluster.kubectl("logs", name, "-n", pods).split())
            assert answers
            return answers.pop()

        ready(cluster, pods, name)
        answer = eventually(told)
        cluster.delete("pod", name, "-n", pods)
        return answer

    for number in range(3):
        assert first_answer(f"held-{number}", "held") == "none"
        assert first_answer(f"free-{number}", "free") == "served"


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"ingress": [{"from": [{}]}]}, "spec.ingress[0].from[0]: Required value: must specify a peer"),
        (
            {"ingress": [{"from": [{"ipBlock": {"cidr": "10.0.0.0"}}]}]},
            'spec.ingress[0].from[0].ipBlock.cidr: Invalid value: "10.0.0.0": must be a valid CIDR value',
        ),
        (
            {"ingress": [{"from": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["11.0.0.0/16"]}}]}]},
            "must be a strict subset of `cidr`",
        ),
        (
            {"egress": [{"ports": [{"port": 90, "endPort": 80}]}]},
            "spec.egress[0].ports[0].endPort: Invalid value: 80: must be greater than or equal to `port`",
        ),
        ({"policyTypes": ["Sideways"]}, 'spec.policyTypes[0]: Unsupported value: "Sideways"'),
    ],
)
def test_policies_that_mean_nothing_are_refused(
    cluster: PodlingCluster, namespace: str, spec: dict[str, Any], words: str
) -> None:
    document = {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "bad", "namespace": namespace},
        "spec": {"podSelector": {}, **spec},
    }
    done = cluster.kubectl_run("create", "-f", "-", input=json.dumps(document))
    assert done.returncode == 1
    assert words in done.stderr


def test_a_policy_is_listed_and_described(cluster: PodlingCluster, pods: str, policy: Any) -> None:
    policy(ingress=[{"from": [{"namespaceSelector": {}}], "ports": [{"port": 80}]}])
    table = cluster.kubectl("get", "netpol", "-n", pods).splitlines()
    assert table[0].split() == ["NAME", "POD-SELECTOR", "AGE"]
    assert table[1].split()[:2] == ["policy", "app=server"]
    described = cluster.kubectl("describe", "netpol", "policy", "-n", pods)
    assert "To Port: 80/TCP" in described
    assert "Policy Types: Ingress" in described
