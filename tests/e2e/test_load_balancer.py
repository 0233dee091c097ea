"""Services of type LoadBalancer have an address that this machine reaches."""

from __future__ import annotations

import json
import urllib.request
from typing import Any

from e2e.shorthand import ready, wait_event
from podling.testing.cluster import PodlingCluster, busybox, eventually, pod

SERVER = "hostname > /tmp/index.html; exec httpd -f -p 80 -h /tmp"
NODES = ("kube-master", "kube-node-1", "kube-node-2")


def balancer(namespace: str, name: str = "web", **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"type": "LoadBalancer", "selector": {"app": "web"}, "ports": [{"port": 80}], **spec},
    }


def address_of(cluster: PodlingCluster, namespace: str, name: str = "web") -> str:
    def look() -> str:
        status = cluster.get("service", name, "-n", namespace)["status"]["loadBalancer"]
        assert status.get("ingress"), status
        return str(status["ingress"][0]["ip"])

    return eventually(look)


def page(address: str) -> str:
    """Raises AssertionError while nobody answers."""
    try:
        with urllib.request.urlopen(f"http://{address}/", timeout=5) as answer:
            return str(answer.read().decode().strip())
    except OSError as err:
        raise AssertionError(f"http://{address}/: {err}") from err


def holders(cluster: PodlingCluster, address: str) -> list[str]:
    def holds(node: str) -> bool:
        shown = json.loads(cluster.node(node, "ip", "-j", "addr", "show", "eth0"))
        return any(a["local"] == address for a in shown[0]["addr_info"])

    return [node for node in NODES if holds(node)]


def test_the_machine_reaches_the_address_of_a_load_balancer(cluster: PodlingCluster, namespace: str) -> None:
    servers = [
        pod(
            f"web-{node[-1]}",
            busybox(command=SERVER),
            namespace=namespace,
            labels={"app": "web"},
            nodeName=node,
        )
        for node in NODES[1:]
    ]
    cluster.apply([*servers, balancer(namespace)])
    ready(cluster, namespace, "web-1", "web-2")
    address = address_of(cluster, namespace)
    assert address.startswith(f"10.192.{cluster.index}.2")
    row = cluster.kubectl("get", "svc", "web", "-n", namespace).splitlines()[1].split()
    assert row[:2] == ["web", "LoadBalancer"]
    assert row[3] == address

    def reached() -> None:
        assert page(address) in ("web-1", "web-2")

    eventually(reached)
    # Connections are spread, and one node answers for the address.
    eventually(lambda: _assert({page(address) for _ in range(10)} == {"web-1", "web-2"}))
    (first,) = holders(cluster, address)

    # That node is taken out of load balancing: another one takes over, and says so.
    label = "node.kubernetes.io/exclude-from-external-load-balancers"
    cluster.kubectl("label", "node", first, f"{label}=")
    try:
        eventually(lambda: _assert(holders(cluster, address) not in ([], [first])))
        eventually(reached)
    finally:
        cluster.kubectl("label", "node", first, f"{label}-")
    eventually(lambda: _assert(holders(cluster, address) == [first]))

    cluster.kubectl("patch", "svc", "web", "-n", namespace, "-p", '{"spec":{"type":"ClusterIP"}}')

    def given_back() -> None:
        assert cluster.get("service", "web", "-n", namespace)["status"]["loadBalancer"] == {}
        assert holders(cluster, address) == []

    eventually(given_back)


def _assert(condition: bool) -> None:
    assert condition


def test_only_nodes_with_a_backend_answer_when_the_policy_is_local(
    cluster: PodlingCluster, namespace: str
) -> None:
    server = pod(
        "web-1", busybox(command=SERVER), namespace=namespace, labels={"app": "web"}, nodeName=NODES[2]
    )
    cluster.apply([server, balancer(namespace, externalTrafficPolicy="Local")])
    ready(cluster, namespace, "web-1")
    address = address_of(cluster, namespace)
    eventually(lambda: _assert(holders(cluster, address) == [NODES[2]]))
    eventually(lambda: _assert(page(address) == "web-1"))


def test_an_address_that_cannot_be_had_is_told_on_the_service(
    cluster: PodlingCluster, namespace: str
) -> None:
    cluster.apply(balancer(namespace, loadBalancerIP="192.0.2.7"))
    words = "Error syncing load balancer: loadBalancerIP 192.0.2.7 is not one of"
    wait_event(cluster, namespace, "web", "SyncLoadBalancerFailed", words)
    assert cluster.get("service", "web", "-n", namespace)["status"]["loadBalancer"] == {}
