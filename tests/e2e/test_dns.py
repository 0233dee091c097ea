"""What a pod's resolver is told, and what it hears (Kubernetes docs, "DNS for Services and Pods")."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from podling.testing.cluster import PodlingCluster, busybox, eventually, pod

NODE = "kube-node-1"
DNS_CONFIG = {
    "nameservers": ["192.0.2.53"],
    "searches": ["lab.example", "svc.cluster.local"],
    "options": [{"name": "ndots", "value": "2"}, {"name": "edns0"}],
}


def headless(name: str, namespace: str, **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"selector": {"app": "slow"}, "clusterIP": "None", "ports": [{"port": 80}], **spec},
    }


@pytest.fixture(scope="module")
def home(cluster: PodlingCluster, module_namespace: str) -> Iterator[str]:
    """A pod of each policy, and one that never gets ready; the namespace."""
    policies: dict[str, dict[str, Any]] = {
        "first": {},
        "merged": {"dnsConfig": DNS_CONFIG},
        "default": {"dnsPolicy": "Default"},
        "host": {"hostNetwork": True, "dnsPolicy": "ClusterFirst"},
        "host-first": {"hostNetwork": True, "dnsPolicy": "ClusterFirstWithHostNet"},
        "none": {"dnsPolicy": "None", "dnsConfig": DNS_CONFIG},
    }
    made = [
        pod(name, busybox("main"), namespace=module_namespace, nodeName=NODE, **spec)
        for name, spec in policies.items()
    ]
    probe = {"exec": {"command": ["false"]}}
    slow = pod(
        "slow",
        busybox("main", readinessProbe=probe),
        namespace=module_namespace,
        nodeName=NODE,
        labels={"app": "slow"},
    )
    cluster.apply(
        [
            *made,
            slow,
            headless("ready-only", module_namespace),
            headless("published", module_namespace, publishNotReadyAddresses=True),
        ]
    )
    names = [f"pod/{name}" for name in policies]
    cluster.kubectl("wait", "-n", module_namespace, *names, "--for=condition=Ready", "--timeout=60s")
    yield module_namespace
    cluster.delete("pods", "--all", "-n", module_namespace)


def run(cluster: PodlingCluster, namespace: str, name: str, script: str) -> str:
    return cluster.kubectl("exec", "-n", namespace, name, "--", "sh", "-c", script, check=False)


def resolv_conf(text: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {"nameserver": [], "search": [], "options": []}
    for line in text.splitlines():
        words = line.split()
        if words and words[0] in found:
            found[words[0]] += words[1:]
    return found


def told(cluster: PodlingCluster, namespace: str, name: str) -> dict[str, list[str]]:
    return resolv_conf(run(cluster, namespace, name, "cat /etc/resolv.conf"))


def test_a_pods_dns_policy_and_config(cluster: PodlingCluster, home: str) -> None:
    """Sections "Pod's DNS Policy" and "Pod's DNS Config"."""
    service = cluster.get("service", "kube-dns", "-n", "kube-system")["spec"]["clusterIP"]
    node = resolv_conf(cluster.node(NODE, "cat", "/etc/resolv.conf"))
    domains = [f"{home}.svc.cluster.local", "svc.cluster.local", "cluster.local"]
    first = {
        "nameserver": [service],
        "search": list(dict.fromkeys([*domains, *node["search"]])),
        "options": ["ndots:5"],
    }
    assert told(cluster, home, "first") == first
    assert told(cluster, home, "host-first") == first
    assert told(cluster, home, "merged") == {
        "nameserver": [service, "192.0.2.53"],
        "search": list(dict.fromkeys([*first["search"], "lab.example"])),  # no search twice
        "options": ["ndots:2", "edns0"],  # the pod's own word counts
    }
    own = {**node, "nameserver": node["nameserver"][:3]}
    assert told(cluster, home, "default") == own
    assert told(cluster, home, "host") == own
    assert told(cluster, home, "none") == {
        "nameserver": ["192.0.2.53"],
        "search": ["lab.example", "svc.cluster.local"],
        "options": ["ndots:2", "edns0"],
    }
    # And it works: by way of the service from a pod of its own network and from one of the node's.
    for name in ("first", "host-first", "merged"):
        assert "Address" in run(cluster, home, name, "nslookup kubernetes.default.svc.cluster.local")


def test_addresses_of_pods_that_are_not_ready_are_told_where_a_service_publishes_them(
    cluster: PodlingCluster, home: str
) -> None:
    """DNS specification 2.4.1, and the API reference on publishNotReadyAddresses."""

    def look() -> None:
        address = cluster.get("pod", "slow", "-n", home)["status"]["podIP"]
        shown = run(cluster, home, "first", f"nslookup published.{home}.svc.cluster.local 2>&1")
        assert f"Address: {address}" in shown

    eventually(look, timeout_s=60)
    shown = run(cluster, home, "first", f"nslookup ready-only.{home}.svc.cluster.local 2>&1")
    assert "NXDOMAIN" in shown


def test_metrics_are_where_corednss_are(cluster: PodlingCluster, home: str) -> None:
    run(cluster, home, "first", "nslookup kubernetes.default.svc.cluster.local")
    url = "http://kube-dns.kube-system.svc.cluster.local:9153/metrics"
    shown = run(cluster, home, "first", f"wget -q -O - {url} 2>&1")
    assert 'coredns_dns_requests_total{server="dns://' in shown
    assert "coredns_dns_request_duration_seconds_bucket" in shown
