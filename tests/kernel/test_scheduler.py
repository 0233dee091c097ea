"""The scheduler against the real API server, in one process as `podling server` runs them."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from kernel.api_local import LocalAPI, eventually, make_node, make_pod, running
from podling.api.core_v1 import Event, Node, Pod
from podling.api.pods import get_condition
from podling.client.client import Client
from podling.scheduler.scheduler import Scheduler


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[LocalAPI]:
    local = LocalAPI(tmp_path)
    await local.start()
    yield local
    await local.server.stop()


@pytest.fixture
async def client(api: LocalAPI) -> Client:
    return api.local()


@pytest.fixture
async def scheduler(api: LocalAPI) -> AsyncIterator[None]:
    async with running(Scheduler(api.local("system:kube-scheduler")).run):
        yield


async def node_of(client: Client, name: str) -> str | None:
    pod = await client.get(Pod, name, "default")
    return pod.spec.node_name if pod.spec else None


async def events_of(client: Client, name: str, reason: str) -> list[Event]:
    found = await client.list(Event, "default", field_selector=f"involvedObject.name={name},reason={reason}")
    return found.items


@pytest.mark.usefixtures("scheduler")
async def test_a_pod_is_assigned_and_told_so(client: Client) -> None:
    await client.create(make_node("node-1"))
    await client.create(make_pod("web"))
    assert await eventually(lambda: node_of(client, "web")) == "node-1"
    pod = await client.get(Pod, "web", "default")
    condition = get_condition(pod.status, "PodScheduled")
    assert condition is not None
    assert condition.status == "True"
    [event] = await eventually(lambda: events_of(client, "web", "Scheduled"))
    assert event.message == "Successfully assigned default/web to node-1"
    assert event.source is not None
    assert event.source.component == "default-scheduler"
    assert event.type == "Normal"


@pytest.mark.usefixtures("scheduler")
async def test_fifty_pods_at_once_spread_over_three_nodes(client: Client) -> None:
    for number in range(3):
        await client.create(make_node(f"node-{number}", cpu="16"))
    watch = client.watch(
        Pod, "default", resource_version=(await client.list(Pod, "default")).resource_version
    )
    started = time.perf_counter()
    await asyncio.gather(*(client.create(make_pod(f"web-{n}", cpu="100m")) for n in range(50)))
    assigned: Counter[str] = Counter()
    async with asyncio.timeout(30):
        async for event in watch:
            if event.type == "MODIFIED" and event.object.spec and event.object.spec.node_name:
                assigned[event.object.spec.node_name] += 1
                if assigned.total() == 50:
                    break
    await watch.aclose()
    print(f"50 pods created and assigned in {time.perf_counter() - started:.3f} s")
    assert sorted(assigned.values()) == [16, 17, 17]


@pytest.mark.usefixtures("scheduler")
async def test_a_pod_that_fits_nowhere_says_why_until_it_does(client: Client) -> None:
    await client.create(
        make_node(
            "kube-master",
            taints=[{"key": "node-role.kubernetes.io/control-plane", "effect": "NoSchedule"}],
        )
    )
    await client.create(make_node("node-1", cpu="1"))
    await client.create(make_pod("first", cpu="800m"))
    await eventually(lambda: node_of(client, "first"))
    await client.create(make_pod("second", cpu="500m"))
    [event] = await eventually(lambda: events_of(client, "second", "FailedScheduling"))
    message = (
        "0/2 nodes are available: 1 Insufficient cpu, 1 node(s) had untolerated taint(s). "
        "preemption: 0/2 nodes are available: 1 No preemption victims found for incoming pod, "
        "1 Preemption is not helpful for scheduling."
    )
    assert (event.type, event.message) == ("Warning", message)
    condition = get_condition((await client.get(Pod, "second", "default")).status, "PodScheduled")
    assert condition is not None
    assert (condition.status, condition.reason, condition.message) == ("False", "Unschedulable", message)
    await client.delete(Pod, "first", "default", grace_period_s=0)
    assert await eventually(lambda: node_of(client, "second")) == "node-1"
    condition = get_condition((await client.get(Pod, "second", "default")).status, "PodScheduled")
    assert condition is not None
    assert condition.status == "True"


@pytest.mark.usefixtures("scheduler")
async def test_a_pod_waits_for_a_node_to_become_ready(client: Client) -> None:
    await client.create(make_pod("web"))
    [event] = await eventually(lambda: events_of(client, "web", "FailedScheduling"))
    assert event.message == "no nodes available to schedule pods"
    await client.create(make_node("node-1", ready="False"))
    ready = {"type": "Ready", "status": "True", "reason": "KubeletReady"}
    await client.patch(Node, "node-1", {"status": {"conditions": [ready]}}, subresource="status")
    started = time.perf_counter()
    assert await eventually(lambda: node_of(client, "web")) == "node-1"
    assert time.perf_counter() - started < 1


@pytest.mark.usefixtures("scheduler")
async def test_uncordon_helps_a_waiting_pod(client: Client) -> None:
    await client.create(make_node("node-1", unschedulable=True))
    await client.create(make_pod("web"))
    [event] = await eventually(lambda: events_of(client, "web", "FailedScheduling"))
    assert event.message.startswith("0/1 nodes are available: 1 node(s) were unschedulable.")
    await client.patch(Node, "node-1", {"spec": {"unschedulable": None}})
    assert await eventually(lambda: node_of(client, "web")) == "node-1"


@pytest.mark.usefixtures("scheduler")
async def test_pods_of_other_schedulers_are_left_alone(client: Client) -> None:
    await client.create(make_node("node-1"))
    await client.create(make_pod("theirs", schedulerName="custom"))
    await client.create(make_pod("ours"))
    await eventually(lambda: node_of(client, "ours"))
    assert await node_of(client, "theirs") is None


async def test_a_restarted_scheduler_counts_what_is_there(api: LocalAPI, client: Client) -> None:
    await client.create(make_node("node-1", cpu="1"))
    await client.create(make_pod("first", cpu="800m"))
    async with running(Scheduler(api.local()).run):
        await eventually(lambda: node_of(client, "first"))
    await client.create(make_pod("second", cpu="500m"))
    async with running(Scheduler(api.local()).run):
        await eventually(lambda: events_of(client, "second", "FailedScheduling"))
    assert await node_of(client, "second") is None
