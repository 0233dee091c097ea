"""What keeps pods running: replication controllers, replica sets, deployments; experiment E13.

Connections through the service's own address are the network's tests; here are the objects behind it.
"""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from e2e.shorthand import inside, ready
from podling.testing.cluster import PodlingCluster, busybox, eventually, pod

SERVE = "mkdir -p /www; echo $HOSTNAME > /www/index.html; exec httpd -f -p 8080 -h /www"


def template(version: str) -> dict[str, Any]:
    """A web server that needs a moment until it is ready, and says which version it is."""
    container = busybox(
        "web",
        SERVE,
        env=[{"name": "VERSION", "value": version}],
        ports=[{"containerPort": 8080}],
        readinessProbe={"httpGet": {"port": 8080, "path": "/"}, "periodSeconds": 1},
    )
    spec = {"containers": [container], "terminationGracePeriodSeconds": 1}
    return {"metadata": {"labels": {"app": "web"}}, "spec": spec}


def workload(api_version: str, kind: str, namespace: str, **spec: Any) -> dict[str, Any]:
    meta = {"name": "web", "namespace": namespace}
    return {"apiVersion": api_version, "kind": kind, "metadata": meta, "spec": spec}


def deployment(namespace: str, *, replicas: int, version: str = "1", **spec: Any) -> dict[str, Any]:
    selector = {"matchLabels": {"app": "web"}}
    return workload(
        "apps/v1",
        "Deployment",
        namespace,
        replicas=replicas,
        selector=selector,
        template=template(version),
        **spec,
    )


def rolled_out(cluster: PodlingCluster, namespace: str) -> str:
    return cluster.kubectl("rollout", "status", "-n", namespace, "deploy/web", "--timeout=50s")


def ready_pods(cluster: PodlingCluster, namespace: str, selector: str = "app=web") -> dict[str, str]:
    """Address by name of the pods that are ready and stay."""
    found = {}
    for item in cluster.get("pods", "-n", namespace, "-l", selector)["items"]:
        conditions = {c["type"]: c["status"] for c in item["status"].get("conditions", [])}
        if conditions.get("Ready") == "True" and "deletionTimestamp" not in item["metadata"]:
            found[item["metadata"]["name"]] = item["status"]["podIP"]
    return found


def endpoints(cluster: PodlingCluster, namespace: str) -> set[str]:
    """Addresses behind the service `web` by its slices, which must be those of its Endpoints."""
    slices = cluster.get("endpointslices", "-n", namespace, "-l", "kubernetes.io/service-name=web")["items"]
    of_slices = {
        address
        for item in slices
        for endpoint in item.get("endpoints") or []
        if endpoint["conditions"]["ready"]
        for address in endpoint["addresses"]
    }
    subsets = cluster.get("endpoints", "web", "-n", namespace).get("subsets") or []
    of_endpoints = {a["ip"] for subset in subsets for a in subset.get("addresses", [])}
    assert of_slices == of_endpoints
    return of_slices


def test_endpoints_follow_the_labels(cluster: PodlingCluster, namespace: str) -> None:
    """E13"""
    for name in ("one", "two"):
        cluster.apply(pod(name, busybox("web", SERVE), namespace=namespace, labels={"app": "web"}))
    ready(cluster, namespace, "one", "two")
    exposed = cluster.kubectl(
        "expose",
        "-n",
        namespace,
        "pod",
        "one",
        "--name=web",
        "--port=80",
        "--target-port=8080",
        "-l",
        "app=web",
    )
    assert exposed == "service/web exposed\n"
    addresses = ready_pods(cluster, namespace)
    assert len(addresses) == 2

    def all_of(wanted: set[str]) -> None:
        assert endpoints(cluster, namespace) == wanted

    eventually(lambda: all_of(set(addresses.values())))
    cluster.kubectl("label", "-n", namespace, "pod", "two", "app=other", "--overwrite")
    eventually(lambda: all_of({addresses["one"]}))
    cluster.kubectl("label", "-n", namespace, "pod", "two", "app=web", "--overwrite")
    eventually(lambda: all_of(set(addresses.values())))
    cluster.kubectl("delete", "-n", namespace, "pod", "one", "--grace-period=1")
    eventually(lambda: all_of({addresses["two"]}))


def test_a_replication_controller_is_scaled_and_replaces_pods(
    cluster: PodlingCluster, namespace: str
) -> None:
    """E13"""
    cluster.apply(workload("v1", "ReplicationController", namespace, replicas=2, template=template("1")))

    def count(wanted: int) -> dict[str, str]:
        found = ready_pods(cluster, namespace)
        assert len(found) == wanted
        status = cluster.get("rc", "web", "-n", namespace)["status"]
        assert (status["replicas"], status.get("readyReplicas", 0)) == (wanted, wanted)
        return found

    before = eventually(lambda: count(2))
    scaled = cluster.kubectl("scale", "-n", namespace, "rc/web", "--replicas=4")
    assert scaled == "replicationcontroller/web scaled\n"
    assert before.keys() < eventually(lambda: count(4)).keys()
    lost = next(iter(before))
    cluster.kubectl("delete", "-n", namespace, "pod", lost, "--grace-period=1")
    assert lost not in eventually(lambda: count(4))
    cluster.kubectl("scale", "-n", namespace, "rc/web", "--replicas=1")
    eventually(lambda: count(1))
    cluster.kubectl("delete", "-n", namespace, "rc", "web")

    def nothing_left() -> None:
        assert cluster.get("pods", "-n", namespace)["items"] == []

    eventually(nothing_left)


def test_a_deployment_replaces_what_a_dead_process_or_a_person_takes(
    cluster: PodlingCluster, namespace: str
) -> None:
    cluster.apply(deployment(namespace, replicas=2))
    rolled_out(cluster, namespace)
    first, second = sorted(ready_pods(cluster, namespace))
    inside(cluster, namespace, first, "kill 1")  # the kubelet's business: the same pod, restarted
    cluster.kubectl("delete", "-n", namespace, "pod", second, "--grace-period=1")

    def whole_again() -> None:
        found = ready_pods(cluster, namespace)
        assert len(found) == 2
        assert first in found
        assert second not in found

    eventually(whole_again)


def test_a_rolling_update_never_has_fewer_ready_pods_than_wanted(
    cluster: PodlingCluster, namespace: str
) -> None:
    """E13. With maxUnavailable 0, asked on the node that answers all the while."""
    strategy = {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}
    cluster.apply(deployment(namespace, replicas=3, strategy=strategy))
    cluster.kubectl("expose", "-n", namespace, "deploy", "web", "--port=80", "--target-port=8080")
    rolled_out(cluster, namespace)
    before = ready_pods(cluster, namespace)
    cluster.apply(deployment(namespace, replicas=3, version="2", strategy=strategy))
    fewest, answered, deadline = 3, 0, time.monotonic() + 50
    while True:
        status = cluster.get("deploy", "web", "-n", namespace)["status"]
        now = ready_pods(cluster, namespace)
        fewest = min(fewest, len(now))
        assert status["replicas"] <= 4
        name, address = sorted(now.items())[0]
        page = cluster.node("kube-master", "curl", "-sS", "--max-time", "2", f"{address}:8080", check=False)
        answered += page.strip() == name
        if status.get("updatedReplicas") == status["replicas"] == 3 == status.get("availableReplicas"):
            break
        assert time.monotonic() < deadline
    assert fewest == 3
    assert answered
    rolled_out(cluster, namespace)
    after = ready_pods(cluster, namespace)
    assert not before.keys() & after.keys()
    versions = {inside(cluster, namespace, name, "echo $VERSION") for name in after}
    assert versions == {"2"}

    def only_the_new() -> None:
        assert endpoints(cluster, namespace) == set(after.values())

    eventually(only_the_new)


@pytest.mark.parametrize("version", ["1.27", "1.37"])
def test_rollout_commands_work_as_known(cluster: PodlingCluster, namespace: str, version: str) -> None:
    def kubectl(*args: str, check: bool = True) -> str:
        return cluster.kubectl("-n", namespace, *args, version=version, check=check)

    # It ends when told to: a shell's `sleep` as process 1 would be waited for.
    stays = ("sh", "-c", "trap exit TERM; sleep 3600 & wait")
    kubectl("create", "deployment", "web", "--image=busybox", "--replicas=2", "--", *stays)
    assert kubectl("rollout", "status", "deploy/web").endswith("successfully rolled out\n")
    kubectl("set", "image", "deploy/web", "busybox=busybox:no-such-tag")

    def one_cannot_start() -> None:
        waiting = [
            (status.get("state", {}).get("waiting") or {}).get("reason")
            for item in cluster.get("pods", "-n", namespace)["items"]
            for status in item["status"].get("containerStatuses", [])
        ]
        assert set(waiting) & {"ErrImagePull", "ImagePullBackOff"}

    eventually(one_cannot_start)
    deployed = json.loads(kubectl("get", "deploy", "web", "-o", "json"))
    assert deployed["status"]["availableReplicas"] == 2
    assert kubectl("rollout", "undo", "deploy/web") == "deployment.apps/web rolled back\n"
    assert kubectl("rollout", "status", "deploy/web").endswith("successfully rolled out\n")
    shown = [line.split()[0] for line in kubectl("rollout", "history", "deploy/web").splitlines()[2:] if line]
    assert shown == ["2", "3"]
    assert kubectl("rollout", "pause", "deploy/web") == "deployment.apps/web paused\n"
    assert kubectl("rollout", "restart", "deploy/web", check=False) == ""
    assert kubectl("rollout", "resume", "deploy/web") == "deployment.apps/web resumed\n"
    assert kubectl("rollout", "restart", "deploy/web") == "deployment.apps/web restarted\n"
    assert kubectl("rollout", "status", "deploy/web").endswith("successfully rolled out\n")
    kubectl("delete", "deploy", "web", "--cascade=foreground", "--timeout=50s")
    assert kubectl("get", "rs", "-o", "name") == ""


def test_what_is_in_a_namespace_goes_with_it(cluster: PodlingCluster, namespace: str) -> None:
    cluster.kubectl("create", "namespace", f"{namespace}-x")
    cluster.apply(deployment(f"{namespace}-x", replicas=2))
    rolled_out(cluster, f"{namespace}-x")
    cluster.kubectl("delete", "namespace", f"{namespace}-x", "--timeout=50s")
    everywhere = cluster.kubectl("get", "deploy,rs,pods,endpointslices", "-A")
    assert f"{namespace}-x" not in everywhere


def test_some_kinds_live_in_namespaces_and_some_do_not(cluster: PodlingCluster) -> None:
    """E13"""
    inside_names = cluster.kubectl("api-resources", "--namespaced=true", "-o", "name").split()
    outside_names = cluster.kubectl("api-resources", "--namespaced=false", "-o", "name").split()
    assert {"pods", "services", "replicationcontrollers", "deployments.apps", "persistentvolumeclaims"} <= {
        *inside_names
    }
    assert {"namespaces", "nodes", "persistentvolumes"} <= {*outside_names}
