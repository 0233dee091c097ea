from __future__ import annotations

from typing import Any

import msgspec

from podling.api.core_v1 import EndpointSubset, Pod, Service
from podling.controllers.endpoints import compute_subsets


def service(*ports: dict[str, Any], **spec: Any) -> Service:
    return msgspec.convert(
        {
            "metadata": {"name": "web", "namespace": "default"},
            "spec": {"selector": {"app": "web"}, "ports": list(ports), **spec},
        },
        Service,
    )


def pod(name: str, ip: str | None, *, ready: bool = True, app: str = "web", **fields: Any) -> Pod:
    status = {
        "conditions": [{"type": "Ready", "status": str(ready)}],
        "phase": fields.pop("phase", "Running"),
    }
    if ip:
        status["podIP"] = ip
    deleted = {"deletionTimestamp": "2026-01-01T00:00:00Z"} if fields.pop("deleting", False) else {}
    return msgspec.convert(
        {
            "metadata": {
                "name": name,
                "namespace": "default",
                "uid": f"uid-{name}",
                "labels": {"app": app},
                **deleted,
            },
            "spec": {"nodeName": "node-1", "containers": [{"name": "c", **fields}]},
            "status": status,
        },
        Pod,
    )


def short(subsets: list[EndpointSubset]) -> list[tuple[list[str], list[str], list[int]]]:
    return [
        (
            [a.ip for a in s.addresses],
            [a.ip for a in s.not_ready_addresses],
            [p.port for p in s.ports],
        )
        for s in subsets
    ]


PORT = {"port": 80, "targetPort": 8080}


def test_ready_and_not_ready_in_order_of_address() -> None:
    pods = [pod("a", "10.244.2.10"), pod("b", "10.244.2.9"), pod("c", "10.244.1.2", ready=False)]
    found = compute_subsets(service(PORT), pods)
    assert short(found) == [(["10.244.2.9", "10.244.2.10"], ["10.244.1.2"], [8080])]
    target = found[0].addresses[0].target_ref
    assert target is not None
    assert (target.kind, target.name, target.uid) == ("Pod", "b", "uid-b")


def test_pods_that_cannot_be_reached_do_not_count() -> None:
    pods = [
        pod("other", "10.244.1.1", app="db"),
        pod("starting", None),
        pod("ended", "10.244.1.2", phase="Succeeded"),
        pod("leaving", "10.244.1.3", deleting=True),
    ]
    assert compute_subsets(service(PORT), pods) == []


def test_a_service_may_publish_what_is_not_ready() -> None:
    pods = [pod("a", "10.244.1.1", ready=False)]
    found = compute_subsets(service(PORT, publishNotReadyAddresses=True), pods)
    assert short(found) == [(["10.244.1.1"], [], [8080])]


def test_a_named_port_is_what_each_pod_says() -> None:
    pods = [
        pod("a", "10.244.1.1", ports=[{"name": "http", "containerPort": 8000}]),
        pod("b", "10.244.1.2", ports=[{"name": "http", "containerPort": 9000}]),
        pod("c", "10.244.1.3"),
    ]
    found = compute_subsets(service({"name": "web", "port": 80, "targetPort": "http"}), pods)
    assert short(found) == [(["10.244.1.1"], [], [8000]), (["10.244.1.2"], [], [9000])]


def test_without_a_target_the_port_itself_is_meant() -> None:
    assert short(compute_subsets(service({"port": 80}), [pod("a", "10.244.1.1")]))[0][2] == [80]


def test_a_headless_service_needs_no_ports() -> None:
    found = compute_subsets(service(clusterIP="None"), [pod("a", "10.244.1.1")])
    assert short(found) == [(["10.244.1.1"], [], [])]
