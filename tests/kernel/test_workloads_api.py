"""Workloads by kubectl, oldest and newest, on the real API server and controllers; no nodes.

What a kubelet would say of a pod is written by `Readiness`: the pod runs, has an address, is ready.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from kernel.api_local import eventually, running
from kernel.apiserver_local import Cluster
from podling.api.apps_v1 import Deployment, ReplicaSet
from podling.api.core_v1 import Pod, ReplicationController, Service
from podling.api.discovery_v1 import EndpointSlice
from podling.api.times import now_rfc3339
from podling.client.client import Client, PatchType
from podling.client.errors import ConflictError, NotFoundError
from podling.client.informer import Informer
from podling.controllers.manager import ControllerManager
from podling.machine.kubectl import KubectlNotFoundError, kubectl_path

Kubectl = Callable[..., Awaitable[str]]

RC = """\
apiVersion: v1
kind: ReplicationController
metadata: {name: web}
spec:
  replicas: 2
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: c, image: "web:1"}]}
"""


class Readiness:
    """Says of every new pod that it is ready, unless its image has the tag `broken`."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._pods = Informer(client, Pod)
        self._numbers = itertools.count(1)
        self._queue: asyncio.Queue[Pod] = asyncio.Queue()
        self.never_ready = False
        self.fewest_ready: int | None = None
        self.most = 0

    async def run(self) -> None:
        self._pods.add_handler(self._on_pod)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._pods.run())
            tasks.create_task(self._work())

    def watch_counts(self) -> None:
        self.fewest_ready, self.most = len(self._ready()), len(self._pods.store)

    def _ready(self) -> list[Pod]:
        return [p for p in self._pods.store.values() if p.status and p.status.phase == "Running"]

    def _on_pod(self, old: Pod | None, new: Pod | None) -> None:
        if old is None and new is not None:
            self._queue.put_nowait(new)
        if self.fewest_ready is not None:
            self.fewest_ready = min(self.fewest_ready, len(self._ready()))
            self.most = max(self.most, len(self._pods.store))

    async def _work(self) -> None:
        while True:
            pod = await self._queue.get()
            image = pod.spec.containers[0].image if pod.spec else ""
            if image and image.endswith(":broken"):
                continue
            ready = {"type": "Ready", "status": "True", "lastTransitionTime": now_rfc3339()}
            address = f"10.244.1.{next(self._numbers)}"
            status = {
                "phase": "Running",
                "podIP": address,
                "podIPs": [{"ip": address}],
                "conditions": [ready],
            }
            patch = {"metadata": {"uid": pod.metadata.uid}, "status": status}
            try:
                await self._client.patch(
                    Pod,
                    pod.metadata.name or "",
                    patch,
                    pod.metadata.namespace,
                    subresource="status",
                    patch_type=PatchType.STRATEGIC,
                )
            except (NotFoundError, ConflictError):
                continue


@pytest.fixture(params=["1.27", "1.37"])
def binary(request: pytest.FixtureRequest) -> Path:
    try:
        return kubectl_path(request.param)
    except KubectlNotFoundError as err:
        pytest.skip(f"needs kubectl {request.param}: {err}")


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    cluster = Cluster(tmp_path)
    await cluster.server.start()
    yield cluster
    await cluster.server.stop()


@pytest.fixture
def client(cluster: Cluster) -> Client:
    return Client(cluster.server.local_transport("admin", ("system:masters",)))


@pytest.fixture
async def pods(cluster: Cluster, client: Client) -> AsyncIterator[Readiness]:
    readiness = Readiness(client)
    manager = Client(cluster.server.local_transport("system:kube-controller-manager", ()))
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(running(readiness.run))
        await stack.enter_async_context(running(ControllerManager(manager).run))
        yield readiness


@pytest.fixture
def kubectl(cluster: Cluster, pods: Readiness, binary: Path) -> Kubectl:
    async def run(*args: str, fails: bool = False, **options: str) -> str:
        async with asyncio.timeout(40):
            ran = await cluster.kubectl(binary, *args, **options)
        assert (ran.code != 0) is fails, ran
        return ran.err if fails else ran.out

    return run


async def images(client: Client) -> list[str]:
    listed = (await client.list(Pod, "default")).items
    return sorted(p.spec.containers[0].image or "" for p in listed if p.spec)


async def pods_are(client: Client, *wanted: str) -> None:
    async def look() -> bool:
        return await images(client) == sorted(wanted)

    try:
        await eventually(look)
    except TimeoutError:
        raise AssertionError(f"pods of {await images(client)}, not {wanted}") from None


async def gone(client: Client, kind: type[Any], name: str) -> None:
    async def look() -> bool:
        try:
            await client.get(kind, name, "default")
        except NotFoundError:
            return True
        return False

    await eventually(look)


async def test_a_deployment_is_created_scaled_and_shown(kubectl: Kubectl, client: Client) -> None:
    out = await kubectl("create", "deployment", "web", "--image=web:1", "--replicas=2")
    assert out == "deployment.apps/web created\n"
    done = await kubectl("rollout", "status", "deploy/web")
    assert done.endswith('deployment "web" successfully rolled out\n')
    header, row = (await kubectl("get", "deploy", "-o", "wide")).splitlines()
    assert header.split() == [
        *("NAME", "READY", "UP-TO-DATE", "AVAILABLE", "AGE", "CONTAINERS", "IMAGES", "SELECTOR")
    ]
    assert [*row.split()[:4], *row.split()[5:]] == ["web", "2/2", "2", "2", "web", "web:1", "app=web"]
    assert await kubectl("scale", "deploy/web", "--replicas=5") == "deployment.apps/web scaled\n"
    await kubectl("rollout", "status", "deploy/web")
    await pods_are(client, *["web:1"] * 5)
    (rs,) = (await client.list(ReplicaSet, "default")).items
    name, labels = rs.metadata.name or "", rs.metadata.labels
    assert re.fullmatch(r"web-[bcdf-hj-np-tv-xz2456789]{1,10}", name)
    assert labels["pod-template-hash"] == name.removeprefix("web-")
    assert await kubectl("scale", "rs", name, "--replicas=1")
    await pods_are(client, *["web:1"] * 5)  # the deployment has the last word
    everything = await kubectl("get", "all")
    for line in ("deployment.apps/web", f"replicaset.apps/{name}", f"pod/{name}-", "service/kubernetes"):
        assert line in everything

    async def settled() -> bool:
        described = await kubectl("describe", "deploy", "web")
        counts = "5 desired | 5 updated | 5 total | 5 available | 0 unavailable" in described
        return counts and "NewReplicaSetAvailable" in described

    await eventually(settled)
    assert await kubectl("delete", "deploy", "web")
    await pods_are(client)
    assert (await client.list(ReplicaSet, "default")).items == []


async def test_a_rolling_update_keeps_its_pods_and_can_be_undone(
    kubectl: Kubectl, client: Client, pods: Readiness
) -> None:
    await kubectl("create", "deployment", "web", "--image=web:1", "--replicas=4")
    await kubectl("rollout", "status", "deploy/web")
    pods.watch_counts()
    assert await kubectl("set", "image", "deploy/web", "web=web:2") == "deployment.apps/web image updated\n"
    await kubectl("rollout", "status", "deploy/web")
    await pods_are(client, *["web:2"] * 4)
    assert pods.fewest_ready is not None
    assert pods.fewest_ready >= 3  # at most 25% of 4 are missing
    assert pods.most <= 5  # and at most 25% too many
    history = (await kubectl("rollout", "history", "deploy/web")).splitlines()
    assert [line.split()[0] for line in history if line[:1].isdigit()] == ["1", "2"]
    assert "web:1" in await kubectl("rollout", "history", "deploy/web", "--revision=1")
    assert "rolled back" in await kubectl("rollout", "undo", "deploy/web")
    await kubectl("rollout", "status", "deploy/web")
    await pods_are(client, *["web:1"] * 4)
    history = (await kubectl("rollout", "history", "deploy/web")).splitlines()
    assert [line.split()[0] for line in history if line[:1].isdigit()] == ["2", "3"]
    found = await client.get(Deployment, "web", "default")
    assert found.metadata.annotations["deployment.kubernetes.io/revision"] == "3"
    before = {p.metadata.uid for p in (await client.list(Pod, "default")).items}
    assert "restarted" in await kubectl("rollout", "restart", "deploy/web")
    await kubectl("rollout", "status", "deploy/web")

    async def replaced() -> bool:
        now = {p.metadata.uid for p in (await client.list(Pod, "default")).items}
        return len(now) == 4 and not now & before

    await eventually(replaced)


async def test_a_broken_image_stops_a_rollout_and_pause_holds_one(kubectl: Kubectl, client: Client) -> None:
    await kubectl("create", "deployment", "web", "--image=web:1", "--replicas=4")
    await kubectl("patch", "deploy", "web", "-p", '{"spec":{"progressDeadlineSeconds":1}}')
    await kubectl("rollout", "status", "deploy/web")
    await kubectl("set", "image", "deploy/web", "web=web:broken")
    late = await kubectl("rollout", "status", "deploy/web", fails=True)
    assert 'deployment "web" exceeded its progress deadline' in late
    await pods_are(client, *["web:1"] * 3, *["web:broken"] * 2)
    await kubectl("rollout", "undo", "deploy/web")
    await pods_are(client, *["web:1"] * 4)
    assert "paused" in await kubectl("rollout", "pause", "deploy/web")
    await kubectl("set", "image", "deploy/web", "web=web:3")
    await kubectl("scale", "deploy/web", "--replicas=2")
    await pods_are(client, *["web:1"] * 2)
    conditions = json.loads(await kubectl("get", "deploy", "web", "-o", "json"))["status"]["conditions"]
    assert {c["type"]: c["reason"] for c in conditions}["Progressing"] == "DeploymentPaused"
    assert "resumed" in await kubectl("rollout", "resume", "deploy/web")
    await kubectl("rollout", "status", "deploy/web")
    await pods_are(client, *["web:3"] * 2)


async def test_recreate_has_never_two_templates_at_once(
    kubectl: Kubectl, client: Client, pods: Readiness
) -> None:
    await kubectl("create", "deployment", "web", "--image=web:1", "--replicas=3")
    recreate = '{"spec":{"strategy":{"type":"Recreate","rollingUpdate":null}}}'
    await kubectl("patch", "deploy", "web", "-p", recreate)
    await kubectl("rollout", "status", "deploy/web")
    pods.watch_counts()
    await kubectl("set", "image", "deploy/web", "web=web:2")
    await kubectl("rollout", "status", "deploy/web")
    await pods_are(client, *["web:2"] * 3)
    assert pods.fewest_ready == 0
    assert pods.most == 3


async def test_old_revisions_are_forgotten_beyond_the_limit(kubectl: Kubectl, client: Client) -> None:
    await kubectl("create", "deployment", "web", "--image=web:1")
    await kubectl("patch", "deploy", "web", "-p", '{"spec":{"revisionHistoryLimit":1}}')
    for version in range(2, 5):
        await kubectl("set", "image", "deploy/web", f"web=web:{version}")
        await kubectl("rollout", "status", "deploy/web")

    async def two_are_left() -> bool:
        return len((await client.list(ReplicaSet, "default")).items) == 2

    await eventually(two_are_left)


async def test_a_replication_controller_replaces_adopts_and_lets_go(kubectl: Kubectl, client: Client) -> None:
    await kubectl("run", "loner", "--image=web:0", "--labels=app=web")
    await kubectl("apply", "-f", "-", stdin=RC)
    await pods_are(client, "web:0", "web:1")
    loner = await client.get(Pod, "loner", "default")
    assert [(r.kind, r.name, r.controller) for r in loner.metadata.owner_references] == [
        ("ReplicationController", "web", True)
    ]
    await kubectl("label", "pod", "loner", "app=other", "--overwrite")
    await pods_are(client, "web:0", "web:1", "web:1")
    assert (await client.get(Pod, "loner", "default")).metadata.owner_references == []
    await kubectl("scale", "rc", "web", "--replicas=3")
    await pods_are(client, "web:0", *["web:1"] * 3)
    await kubectl("delete", "pod", "-l", "app=web", "--wait=false")
    await pods_are(client, "web:0", *["web:1"] * 3)

    async def all_ready() -> bool:
        return "web    3         3         3" in await kubectl("get", "rc", "web")

    await eventually(all_ready)
    assert "Replicas:     3 current / 3 desired" in await kubectl("describe", "rc", "web")
    assert await kubectl("expose", "rc", "web", "--port=80") == "service/web exposed\n"
    events = await kubectl("get", "events")
    assert re.search(r"SuccessfulCreate +replicationcontroller/web +Created pod: web-", events)
    await kubectl("delete", "rc", "web", "--cascade=orphan")
    await gone(client, ReplicationController, "web")
    await asyncio.sleep(0.1)
    await pods_are(client, "web:0", *["web:1"] * 3)
    owners = [p.metadata.owner_references for p in (await client.list(Pod, "default")).items]
    assert owners == [[]] * 4
    await kubectl("apply", "-f", "-", stdin=RC)
    await pods_are(client, "web:0", "web:1", "web:1")


async def test_foreground_deletion_takes_the_pods_first(kubectl: Kubectl, client: Client) -> None:
    await kubectl("create", "deployment", "web", "--image=web:1", "--replicas=2")
    await kubectl("rollout", "status", "deploy/web")
    (pod, _) = (await client.list(Pod, "default")).items
    held = {"metadata": {"finalizers": ["example.com/hold"]}}
    await client.patch(Pod, pod.metadata.name or "", held, "default")
    await kubectl("delete", "deploy", "web", "--cascade=foreground", "--wait=false")
    await pods_are(client, "web:1")
    found = await client.get(Deployment, "web", "default")
    assert found.metadata.finalizers == ["foregroundDeletion"]
    assert found.metadata.deletion_timestamp is not None
    await client.patch(Pod, pod.metadata.name or "", {"metadata": {"finalizers": None}}, "default")
    await gone(client, Deployment, "web")
    assert (await client.list(ReplicaSet, "default")).items == []
    await pods_are(client)


async def test_orphaned_pods_of_a_deployment_stay(kubectl: Kubectl, client: Client) -> None:
    await kubectl("create", "deployment", "web", "--image=web:1")
    await kubectl("rollout", "status", "deploy/web")
    await kubectl("delete", "deploy", "web", "--cascade=orphan")
    (rs,) = (await client.list(ReplicaSet, "default")).items
    assert rs.metadata.owner_references == []
    await pods_are(client, "web:1")
    # And a new deployment of the same template takes them over.
    await kubectl("create", "deployment", "web", "--image=web:1")
    await kubectl("rollout", "status", "deploy/web")
    (adopted,) = (await client.list(ReplicaSet, "default")).items
    assert adopted.metadata.uid == rs.metadata.uid
    assert [r.kind for r in adopted.metadata.owner_references] == ["Deployment"]


async def test_a_config_map_goes_with_its_last_owner(kubectl: Kubectl, client: Client) -> None:
    refs = []
    for name in ("one", "two"):
        await kubectl("create", "configmap", name)
        uid = await kubectl("get", "cm", name, "-o", "jsonpath={.metadata.uid}")
        refs.append({"apiVersion": "v1", "kind": "ConfigMap", "name": name, "uid": uid})
    await kubectl("create", "configmap", "theirs")
    await kubectl("patch", "cm", "theirs", "-p", json.dumps({"metadata": {"ownerReferences": refs}}))
    await kubectl("delete", "cm", "one")

    async def owners() -> str:
        return await kubectl("get", "cm", "theirs", "-o", "jsonpath={.metadata.ownerReferences[*].name}")

    async def one_is_forgotten() -> bool:
        return await owners() in ("two", "one two")

    await eventually(one_is_forgotten)
    await kubectl("delete", "cm", "two")

    async def is_gone() -> bool:
        return "theirs" not in await kubectl("get", "cm", "-o", "name")

    await eventually(is_gone)


async def test_a_service_has_slices_of_its_pods(kubectl: Kubectl, client: Client) -> None:
    await kubectl("create", "deployment", "web", "--image=web:1", "--replicas=3", "--port=80")
    await kubectl("rollout", "status", "deploy/web")
    assert (
        await kubectl("expose", "deploy", "web", "--port=8080", "--target-port=80") == "service/web exposed\n"
    )

    async def slices() -> list[EndpointSlice]:
        label = "kubernetes.io/service-name=web"
        return (await client.list(EndpointSlice, "default", label_selector=label)).items

    async def three_ready() -> bool:
        found = await slices()
        ends = [e for s in found for e in s.endpoints]
        return len(found) == 1 and len(ends) == 3 and all(e.conditions and e.conditions.ready for e in ends)

    await eventually(three_ready)
    (only,) = await slices()
    assert [(p.port, p.protocol) for p in only.ports] == [(80, "TCP")]
    assert [(r.kind, r.name) for r in only.metadata.owner_references] == [("Service", "web")]
    row = (await kubectl("get", "endpointslices", "-l", "kubernetes.io/service-name=web")).splitlines()[1]
    assert row.split()[1:3] == ["IPv4", "80"]
    await kubectl("scale", "deploy/web", "--replicas=0")

    async def empty() -> bool:
        return [s.endpoints for s in await slices()] == [[]]

    await eventually(empty)
    await kubectl("delete", "svc", "web")
    await gone(client, Service, "web")

    async def none() -> bool:
        return not await slices()

    await eventually(none)
    assert "kubernetes   IPv4" in await kubectl("get", "endpointslices")


async def test_what_is_wrong_is_refused_in_kubernetes_words(kubectl: Kubectl) -> None:
    await kubectl("create", "deployment", "web", "--image=web:1")
    selector = '{"spec":{"selector":{"matchLabels":{"app":"other"}}}}'
    refused = await kubectl("patch", "deploy", "web", "-p", selector, fails=True)
    assert 'The Deployment "web" is invalid' in refused
    assert "spec.template.metadata.labels: Invalid value" in refused
    assert "`selector` does not match template `labels`" in refused
    assert "field is immutable" in refused
    surge = '{"spec":{"strategy":{"rollingUpdate":{"maxSurge":0,"maxUnavailable":0}}}}'
    assert "may not be 0 when `maxSurge` is 0" in await kubectl(
        "patch", "deploy", "web", "-p", surge, fails=True
    )
    refused = await kubectl("scale", "deploy/web", "--replicas=3", "--current-replicas=7", fails=True)
    assert "Expected replicas to be 7, was 1" in refused


async def test_volumes_and_claims_are_objects(kubectl: Kubectl) -> None:
    await kubectl(
        "apply",
        "-f",
        "-",
        stdin="""\
apiVersion: v1
kind: PersistentVolume
metadata: {name: disk}
spec: {capacity: {storage: 1Gi}, accessModes: [ReadWriteOnce], hostPath: {path: /tmp/disk}}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: data}
spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}
""",
    )
    volume = (await kubectl("get", "pv")).splitlines()[1].split()
    assert volume[:5] == ["disk", "1Gi", "RWO", "Retain", "Pending"]
    assert (await kubectl("get", "pvc")).splitlines()[1].split()[:2] == ["data", "Pending"]
    assert "Access Modes:" in await kubectl("describe", "pvc", "data")
    assert "HostPath (bare host directory volume)" in await kubectl("describe", "pv", "disk")
    await kubectl("delete", "pv/disk", "pvc/data")
