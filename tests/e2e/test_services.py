"""Services and their names on a real cluster: experiment E13, DNS, the way to the API server, node ports."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from podling.testing.cluster import PodlingCluster, busybox, eventually, pod

SERVER = "mkdir /www; hostname > /www/index.html; exec httpd -f -p 8080 -h /www"
NODES = ("kube-node-1", "kube-node-2")


def server(name: str, node: str, namespace: str, **labels: str) -> dict[str, Any]:
    made = pod(name, busybox("main", SERVER), namespace=namespace, nodeName=node, labels=labels)
    made["spec"]["containers"][0]["ports"] = [{"name": "http", "containerPort": 8080}]
    return made


def service(name: str, namespace: str, **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": "http"}], **spec},
    }


@pytest.fixture
def web(cluster: PodlingCluster, namespace: str) -> Iterator[str]:
    """Two servers, one on each node, and a client; the namespace."""
    pods = [server(f"web-{n}", node, namespace, app="web") for n, node in enumerate(NODES, 1)]
    client = pod("client", busybox("main"), namespace=namespace, nodeName=NODES[0])
    cluster.apply([*pods, client, service("web", namespace)])
    names = ["pod/web-1", "pod/web-2", "pod/client"]
    cluster.kubectl("wait", "-n", namespace, *names, "--for=condition=Ready", "--timeout=30s")
    yield namespace
    cluster.delete("pods", "--all", "-n", namespace)


def run(cluster: PodlingCluster, namespace: str, script: str, *, name: str = "client") -> str:
    return cluster.kubectl("exec", "-n", namespace, name, "--", "sh", "-c", script, check=False)


def fetch(cluster: PodlingCluster, namespace: str, url: str, count: int = 1, *, name: str = "client") -> Any:
    """How many of `count` connections each server answered."""
    script = f"for i in $(seq {count}); do wget -q -O - http://{url}/ 2>&1; done"
    return Counter(run(cluster, namespace, script, name=name).split())


def cluster_ip(cluster: PodlingCluster, namespace: str, name: str = "web") -> str:
    return str(cluster.get("service", name, "-n", namespace)["spec"]["clusterIP"])


def reaches(cluster: PodlingCluster, namespace: str, url: str, servers: set[str], **where: str) -> None:
    def look() -> None:
        assert set(fetch(cluster, namespace, url, 12 * len(servers), **where)) == servers

    eventually(look)


def test_connections_to_a_service_spread_and_follow_labels(cluster: PodlingCluster, web: str) -> None:
    """E13"""
    address = cluster_ip(cluster, web)
    reaches(cluster, web, address, {"web-1", "web-2"})
    count = fetch(cluster, web, address, 60)
    assert min(count["web-1"], count["web-2"]) > 10, count
    assert sum(count.values()) == 60
    # Endpoints follow labels: relabelled, a pod is out at once and runs on.
    cluster.kubectl("label", "pod", "web-1", "-n", web, "app=other", "--overwrite")
    reaches(cluster, web, address, {"web-2"})
    cluster.kubectl("label", "pod", "web-1", "-n", web, "app=web", "--overwrite")
    reaches(cluster, web, address, {"web-1", "web-2"})
    # From the nodes themselves, too, also from one that runs no pods.
    for node in ("kube-master", *NODES):
        shown = cluster.node(node, "busybox", "wget", "-q", "-O", "-", f"http://{address}/")
        assert shown.strip() in ("web-1", "web-2")


def test_a_service_without_pods_refuses(cluster: PodlingCluster, web: str) -> None:
    cluster.apply(service("nobody", web, selector={"app": "nobody"}))
    address = cluster_ip(cluster, web, "nobody")
    eventually(lambda: _refused(cluster, web, address))


def _refused(cluster: PodlingCluster, namespace: str, address: str) -> None:
    started = time.monotonic()
    assert "Connection refused" in run(cluster, namespace, f"wget -O - http://{address}/ 2>&1")
    assert time.monotonic() - started < 3


def test_names_resolve(cluster: PodlingCluster, web: str) -> None:
    address = cluster_ip(cluster, web)
    cluster.apply(
        [
            service("headless", web, clusterIP="None"),
            service("elsewhere", web, type="ExternalName", externalName=f"web.{web}.svc.cluster.local"),
        ]
    )
    ips = [cluster.get("pod", f"web-{n}", "-n", web)["status"]["podIP"] for n in (1, 2)]

    def lookup(name: str, *found: str) -> None:
        shown = run(cluster, web, f"nslookup {name} 2>&1")
        for each in found:
            assert each in shown

    eventually(lambda: lookup(f"web.{web}.svc.cluster.local", f"Address: {address}"))
    eventually(lambda: lookup(f"headless.{web}.svc.cluster.local", *ips))
    eventually(lambda: lookup(f"elsewhere.{web}.svc.cluster.local", "canonical name", f"web.{web}.svc"))
    lookup(address, f"web.{web}.svc.cluster.local")
    lookup("kubernetes.default", "Address", ".0.1")
    lookup("kubernetes.default.svc.cluster.local", ".0.1")
    lookup(f"nobody.{web}.svc.cluster.local", "NXDOMAIN")
    # The nodes' own processes may ask as well, each its own server.
    dns = cluster_ip(cluster, "kube-system", "kube-dns")
    for node in ("kube-master", *NODES):
        shown = cluster.node(node, "busybox", "nslookup", "kubernetes.default.svc.cluster.local", dns)
        assert ".0.1" in shown
    # As programs do it, with the search list.
    assert set(fetch(cluster, web, "web", 4)) <= {"web-1", "web-2"}
    assert set(fetch(cluster, web, f"web.{web}", 4)) <= {"web-1", "web-2"}
    assert set(fetch(cluster, web, "elsewhere", 4)) <= {"web-1", "web-2"}  # an alias brings its addresses


def test_pods_reach_the_api_server_by_its_service(cluster: PodlingCluster, web: str) -> None:
    shown = run(cluster, web, "echo $KUBERNETES_SERVICE_HOST:$KUBERNETES_SERVICE_PORT")
    host = cluster_ip(cluster, "default", "kubernetes")
    assert shown.strip() == f"{host}:443"
    # TLS is refused a plain request in words of HTTP or with an end: either way the server was there.
    shown = run(cluster, web, f"echo | nc -w 2 {host} 443 && echo connected")
    assert "connected" in shown
    shown = run(cluster, web, "wget -O - https://kubernetes.default.svc/version 2>&1 | head -3; echo")
    assert "can't connect" not in shown
    assert "bad address" not in shown


def test_a_node_port_is_open_on_every_node(cluster: PodlingCluster, web: str) -> None:
    cluster.apply(service("open", web, type="NodePort"))
    port = cluster.get("service", "open", "-n", web)["spec"]["ports"][0]["nodePort"]
    for node in ("kube-master", *NODES):
        nodes = json.loads(cluster.kubectl("get", "node", node, "-o", "json"))["status"]["addresses"]
        address = next(a["address"] for a in nodes if a["type"] == "InternalIP")
        reaches(cluster, web, f"{address}:{port}", {"web-1", "web-2"})


def test_a_pod_reaches_itself_through_its_service(cluster: PodlingCluster, web: str) -> None:
    reaches(cluster, web, cluster_ip(cluster, web), {"web-1", "web-2"}, name="web-1")


def test_flushed_rules_come_back(cluster: PodlingCluster, web: str) -> None:
    address = cluster_ip(cluster, web)
    reaches(cluster, web, address, {"web-1", "web-2"})
    cluster.node(NODES[0], "nft", "delete", "table", "ip", "podling_services")
    reaches(cluster, web, address, {"web-1", "web-2"})
