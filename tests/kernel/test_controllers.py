"""The controllers against the real API server, in one process as `podling server` runs them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import pytest

from kernel.api_local import LocalAPI, eventually, make_node, make_pod, running
from podling.api.coordination_v1 import Lease
from podling.api.core_v1 import (
    ConfigMap,
    Endpoints,
    Event,
    Namespace,
    Node,
    Pod,
    Secret,
    Service,
    ServiceAccount,
)
from podling.api.meta_v1 import ObjectMeta
from podling.api.pods import get_condition, get_node_condition
from podling.api.times import now_micro
from podling.client.client import Client, PatchType
from podling.client.errors import NotFoundError
from podling.controllers.manager import ControllerConfig, ControllerManager

T = TypeVar("T", ConfigMap, Endpoints, Lease, Namespace, Node, Pod, Secret, Service, ServiceAccount)

GRACE_S = 0.6
CONFIG = ControllerConfig(
    node_grace_period_s=GRACE_S, pod_gc_quarantine_s=0.1, ended_pods_limit=2, root_ca="the CA"
)


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[LocalAPI]:
    local = LocalAPI(tmp_path)
    await local.start()
    yield local
    await local.server.stop()


@pytest.fixture
async def client(api: LocalAPI) -> AsyncIterator[Client]:
    async with running(ControllerManager(api.local("system:kube-controller-manager"), CONFIG).run):
        yield api.local()


async def look(client: Client, kind: type[T], name: str, namespace: str | None = None) -> T | None:
    try:
        return await client.get(kind, name, namespace)
    except NotFoundError:
        return None


async def gone(client: Client, kind: type[T], name: str, namespace: str | None = None) -> bool:
    return await look(client, kind, name, namespace) is None


async def make_namespace(client: Client, name: str) -> None:
    await client.create(Namespace(metadata=ObjectMeta(name=name)))


async def set_status(client: Client, pod: str, **status: Any) -> None:
    await client.patch(
        Pod, pod, {"status": status}, "default", subresource="status", patch_type=PatchType.STRATEGIC
    )


async def test_a_namespace_gets_its_account_and_authority(client: Client) -> None:
    await make_namespace(client, "dev")
    for namespace in ("dev", "default", "kube-system"):
        await eventually(lambda ns=namespace: look(client, ServiceAccount, "default", ns))
        found = await eventually(lambda ns=namespace: look(client, ConfigMap, "kube-root-ca.crt", ns))
        assert found.data == {"ca.crt": "the CA"}


async def test_account_and_authority_come_back(client: Client) -> None:
    account = await eventually(lambda: look(client, ServiceAccount, "default", "default"))
    await eventually(lambda: look(client, ConfigMap, "kube-root-ca.crt", "default"))
    await client.delete(ServiceAccount, "default", "default")
    await client.patch(ConfigMap, "kube-root-ca.crt", {"data": {"ca.crt": "mine", "x": "y"}}, "default")

    async def restored() -> bool:
        now = await look(client, ServiceAccount, "default", "default")
        data = (await client.get(ConfigMap, "kube-root-ca.crt", "default")).data
        return now is not None and now.metadata.uid != account.metadata.uid and data == {"ca.crt": "the CA"}

    await eventually(restored)


async def test_a_deleted_namespace_takes_everything_with_it(client: Client) -> None:
    await make_namespace(client, "dev")
    await client.create(ConfigMap(metadata=ObjectMeta(name="a", namespace="dev"), data={"a": "b"}))
    await client.create(Secret(metadata=ObjectMeta(name="a", namespace="dev")))
    pod = make_pod("web")
    pod.metadata.namespace = "dev"
    await client.create(pod)
    await eventually(lambda: look(client, ServiceAccount, "default", "dev"))
    await client.delete(Namespace, "dev")
    await eventually(lambda: gone(client, Namespace, "dev"))
    assert (await client.list(ConfigMap, "dev")).items == []
    assert (await client.list(Pod, "dev")).items == []


async def test_a_finalizer_holds_the_namespace_and_is_named(client: Client) -> None:
    await make_namespace(client, "dev")
    held = ConfigMap(metadata=ObjectMeta(name="held", namespace="dev", finalizers=["example.com/keep"]))
    await client.create(held)
    await client.delete(Namespace, "dev")

    async def remaining() -> str | None:
        namespace = await client.get(Namespace, "dev")
        found = namespace.status.conditions if namespace.status else []
        return next((c.message for c in found if c.type == "NamespaceFinalizersRemaining"), None)

    assert await eventually(remaining) == (
        "Some content in the namespace has finalizers remaining: example.com/keep in 1 resource instances"
    )
    await client.patch(ConfigMap, "held", {"metadata": {"finalizers": None}}, "dev")
    await eventually(lambda: gone(client, Namespace, "dev"))


async def test_a_namespace_waits_for_pods_that_end_gracefully(client: Client) -> None:
    await make_namespace(client, "dev")
    await client.create(make_node("node-1"))
    pod = make_pod("web", nodeName="node-1")
    pod.metadata.namespace = "dev"
    await client.create(pod)
    await client.delete(Namespace, "dev")

    async def ending() -> bool:
        return (await client.get(Pod, "web", "dev")).metadata.deletion_timestamp is not None

    await eventually(ending)
    assert await look(client, Namespace, "dev") is not None
    await client.delete(Pod, "web", "dev", grace_period_s=0)  # what its kubelet does at the end
    await eventually(lambda: gone(client, Namespace, "dev"))


async def test_a_node_without_a_subnet_gets_one(client: Client) -> None:
    await client.create(make_node("brings-its-own", podCIDR="10.244.0.0/24", podCIDRs=["10.244.0.0/24"]))
    await client.create(make_node("joins"))

    async def subnet() -> str | None:
        node = await client.get(Node, "joins")
        return node.spec.pod_cidr if node.spec else None

    assert await eventually(subnet) == "10.244.1.0/24"


async def test_a_silent_node_is_unreachable_and_loses_its_pods(client: Client) -> None:
    await client.create(make_node("node-1"))
    await client.create(make_pod("web", nodeName="node-1"))
    patient = {"operator": "Exists"}
    await client.create(make_pod("patient", nodeName="node-1", tolerations=[patient]))
    brief = {
        "key": "node.kubernetes.io/unreachable",
        "operator": "Exists",
        "effect": "NoExecute",
        "tolerationSeconds": 1,
    }
    await client.create(make_pod("brief", nodeName="node-1", tolerations=[brief]))
    await set_status(client, "patient", phase="Running", conditions=[{"type": "Ready", "status": "True"}])

    async def unreachable() -> Node | None:
        node = await client.get(Node, "node-1")
        return node if node.spec and len(node.spec.taints) == 2 else None

    node = await eventually(unreachable)
    ready = get_node_condition(node, "Ready")
    assert ready is not None
    assert (ready.status, ready.reason, ready.message) == (
        "Unknown",
        "NodeStatusUnknown",
        "Kubelet stopped posting node status.",
    )
    assert [(t.key, t.effect) for t in node.spec.taints] == [
        ("node.kubernetes.io/unreachable", "NoSchedule"),
        ("node.kubernetes.io/unreachable", "NoExecute"),
    ]

    async def patient_not_ready() -> bool:
        condition = get_condition((await client.get(Pod, "patient", "default")).status, "Ready")
        return condition is not None and condition.status == "False"

    await eventually(patient_not_ready)

    async def brief_leaves() -> bool:
        return (await client.get(Pod, "brief", "default")).metadata.deletion_timestamp is not None

    await eventually(brief_leaves)
    brief_pod = await client.get(Pod, "brief", "default")
    target = get_condition(brief_pod.status, "DisruptionTarget")
    assert target is not None
    assert target.reason == "DeletionByTaintManager"
    for staying in ("web", "patient"):  # `web` tolerates it for 300 s by admission
        assert (await client.get(Pod, staying, "default")).metadata.deletion_timestamp is None
    events = await eventually(
        lambda: _events(client, "involvedObject.kind=Node,involvedObject.name=node-1,reason=NodeNotReady")
    )
    assert events[0].message == "Node node-1 status is now: NodeNotReady"


async def _events(client: Client, selector: str) -> list[Event]:
    return (await client.list(Event, field_selector=selector)).items


async def test_a_lease_keeps_a_node_alive_and_a_return_clears_its_taints(client: Client) -> None:
    await client.create(make_node("node-1"))
    lease = msgspec.convert(
        {"metadata": {"name": "node-1", "namespace": "kube-node-lease"}, "spec": {"renewTime": now_micro()}},
        Lease,
    )
    await eventually(lambda: look(client, Namespace, "kube-node-lease"))
    await client.create(lease)
    loop = asyncio.get_running_loop()
    until = loop.time() + 2 * GRACE_S
    while loop.time() < until:
        await client.patch(Lease, "node-1", {"spec": {"renewTime": now_micro()}}, "kube-node-lease")
        ready = get_node_condition(await client.get(Node, "node-1"), "Ready")
        assert ready is not None
        assert ready.status == "True"
        await asyncio.sleep(GRACE_S / 6)

    async def tainted() -> bool:
        node = await client.get(Node, "node-1")
        return node.spec is not None and bool(node.spec.taints)

    await eventually(tainted)
    back = {"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "back"}
    await client.patch(
        Node,
        "node-1",
        {"status": {"conditions": [back]}},
        subresource="status",
        patch_type=PatchType.STRATEGIC,
    )

    async def clean() -> bool:
        return not await tainted()

    await eventually(clean)


async def test_cordon_shows_as_a_taint(client: Client) -> None:
    await client.create(make_node("node-1", unschedulable=True))

    async def taints() -> list[str]:
        node = await client.get(Node, "node-1")
        return [t.key for t in node.spec.taints] if node.spec else []

    assert await eventually(taints) == ["node.kubernetes.io/unschedulable"]


async def test_pods_of_a_node_that_does_not_exist_are_removed(client: Client) -> None:
    await client.create(make_node("node-1"))
    await client.create(make_pod("orphan", nodeName="node-1"))
    await client.create(make_pod("stray", nodeName="never-was"))
    await client.delete(Node, "node-1")
    await eventually(lambda: gone(client, Pod, "orphan", "default"))
    await eventually(lambda: gone(client, Pod, "stray", "default"))


async def test_the_oldest_of_too_many_ended_pods_go(client: Client) -> None:
    await client.create(make_node("node-1"))
    for number in range(4):
        await client.create(make_pod(f"job-{number}", nodeName="node-1"))
        await set_status(client, f"job-{number}", phase="Succeeded")

    async def two_left() -> bool:
        return len((await client.list(Pod, "default")).items) == 2

    await eventually(two_left)


async def test_endpoints_follow_labels_and_readiness(client: Client) -> None:
    await client.create(make_node("node-1"))
    service = {
        "metadata": {"name": "web", "namespace": "default"},
        "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}]},
    }
    await client.create(msgspec.convert(service, Service))
    await eventually(lambda: look(client, Endpoints, "web", "default"))
    await client.create(make_pod("a", labels={"app": "web"}, nodeName="node-1"))
    running_status = {"phase": "Running", "podIP": "10.244.1.5", "podIPs": [{"ip": "10.244.1.5"}]}
    await set_status(client, "a", conditions=[{"type": "Ready", "status": "True"}], **running_status)

    async def addresses() -> tuple[list[str], list[str]]:
        found = await client.get(Endpoints, "web", "default")
        return (
            [a.ip for s in found.subsets for a in s.addresses],
            [a.ip for s in found.subsets for a in s.not_ready_addresses],
        )

    async def are(ready: list[str], not_ready: list[str]) -> bool:
        return await addresses() == (ready, not_ready)

    await eventually(lambda: are(["10.244.1.5"], []))
    await set_status(client, "a", conditions=[{"type": "Ready", "status": "False"}])
    await eventually(lambda: are([], ["10.244.1.5"]))
    await client.patch(Pod, "a", {"metadata": {"labels": {"app": "other"}}}, "default")
    await eventually(lambda: are([], []))
    await client.delete(Service, "web", "default")
    await eventually(lambda: gone(client, Endpoints, "web", "default"))
