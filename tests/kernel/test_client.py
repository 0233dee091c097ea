"""Client and informer against the real API server, over HTTPS and in process alike."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import pytest

from kernel.api_local import LocalAPI, eventually, make_node, make_pod, running
from podling.api.core_v1 import ConfigMap, Event, Node, Pod
from podling.api.meta_v1 import ObjectMeta
from podling.client import errors
from podling.client.client import Client, PatchType
from podling.client.events import EventRecorder
from podling.client.informer import Informer


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[LocalAPI]:
    local = LocalAPI(tmp_path)
    await local.start()
    yield local
    await local.server.stop()


@pytest.fixture(params=["https", "local"])
async def client(api: LocalAPI, request: pytest.FixtureRequest) -> AsyncIterator[Client]:
    client = api.https() if request.param == "https" else api.local()
    yield client
    await client.close()


def config_map(name: str, **data: str) -> ConfigMap:
    return ConfigMap(metadata=ObjectMeta(name=name, namespace="default"), data=data)


async def test_an_object_lives_from_create_to_delete(client: Client) -> None:
    made = await client.create(config_map("a", x="1"))
    assert made.metadata.uid
    with pytest.raises(errors.AlreadyExistsError, match='configmaps "a" already exists'):
        await client.create(config_map("a"))
    patched = await client.patch(ConfigMap, "a", {"data": {"y": "2"}}, "default")
    assert patched.data == {"x": "1", "y": "2"}
    with pytest.raises(errors.ConflictError):
        await client.update(made)
    listed = await client.list(ConfigMap, "default", field_selector="metadata.name=a")
    assert [c.data for c in listed.items] == [patched.data]
    with pytest.raises(errors.ConflictError):
        await client.delete(ConfigMap, "a", "default", uid="another")
    await client.delete(ConfigMap, "a", "default", uid=made.metadata.uid)
    with pytest.raises(errors.NotFoundError, match='configmaps "a" not found'):
        await client.delete(ConfigMap, "a", "default")


async def test_lists_come_in_pages(client: Client) -> None:
    for number in range(5):
        await client.create(config_map(f"page-{number}"))
    first = await client.list(ConfigMap, "default", limit=2)
    rest = await client.list(ConfigMap, "default", limit=100, continue_token=first.continue_token)
    names = [c.metadata.name for c in (*first.items, *rest.items)]
    assert len(first.items) == 2
    assert names == sorted(f"page-{n}" for n in range(5))
    assert rest.continue_token == ""


async def test_what_is_wrong_is_said_by_field(client: Client) -> None:
    with pytest.raises(errors.InvalidError, match='Pod "x" is invalid'):
        await client.create(make_pod("x", restartPolicy="Sometimes"))


async def test_binding_twice_is_a_conflict(client: Client) -> None:
    await client.create(make_node("node-1"))
    pod = await client.create(make_pod("web"))
    await client.bind("default", "web", pod.metadata.uid, "node-1")
    with pytest.raises(errors.ConflictError):
        await client.bind("default", "web", pod.metadata.uid, "node-1")
    bound = await client.get(Pod, "web", "default")
    assert bound.spec is not None
    assert bound.spec.node_name == "node-1"


async def test_a_watch_shows_the_life_of_an_object(client: Client) -> None:
    start = (await client.list(ConfigMap, "default")).resource_version
    await client.create(config_map("a"))
    await client.patch(ConfigMap, "a", {"data": {"large": "x" * 900_000}}, "default")
    await client.delete(ConfigMap, "a", "default")
    seen = []
    async with (
        asyncio.timeout(10),
        aclosing(client.watch(ConfigMap, "default", resource_version=start)) as events,
    ):
        async for event in events:
            seen.append((event.type.value, len(event.object.data.get("large", ""))))
            if event.type == "DELETED":
                break
    assert seen == [("ADDED", 0), ("MODIFIED", 900_000), ("DELETED", 900_000)]


async def test_an_informer_follows_selection(client: Client) -> None:
    await client.create(make_node("node-1"))
    informer = Informer(client, Pod, field_selector="spec.nodeName=node-1")
    async with running(informer.run):
        await informer.wait_synced()
        pod = await client.create(make_pod("web"))
        await client.bind("default", "web", pod.metadata.uid, "node-1")

        async def arrived() -> bool:
            return informer.get("web", "default") is not None

        await eventually(arrived)
        await client.delete(Pod, "web", "default", grace_period_s=0)

        async def left() -> bool:
            return not informer.store

        await eventually(left)


async def test_an_informer_survives_a_restart_of_the_server(api: LocalAPI) -> None:
    client = api.https()
    informer = Informer(client, ConfigMap, "default")
    deleted: list[str] = []
    informer.add_handler(
        lambda old, new: deleted.append(old.metadata.name or "") if old and not new else None
    )
    async with running(informer.run):
        await informer.wait_synced()
        await client.create(config_map("before"))
        await api.stop()
        await asyncio.sleep(0.2)
        await api.server.start()
        other = api.https()
        await other.create(config_map("after"))
        await other.delete(ConfigMap, "before", "default")

        async def caught_up() -> bool:
            return [name for _, name in informer.store] == ["after"]

        await eventually(caught_up)
        await other.close()
    assert deleted == ["before"]
    await client.close()


async def test_events_of_a_burst_are_counted(client: Client) -> None:
    recorder = EventRecorder(client, "kubelet", "node-1", linger_s=0.02)
    pod = await client.create(make_pod("web"))
    async with running(recorder.run):
        for number in range(7):
            recorder.event(pod, "Warning", "BackOff", "Back-off restarting failed container")
            if number % 3 == 0:
                await recorder.flush(5)
        await recorder.flush(5)
    [event] = (await client.list(Event, "default", field_selector="involvedObject.name=web")).items
    assert event.count == 7
    assert event.involved_object is not None
    assert event.involved_object.uid == pod.metadata.uid


async def test_a_strategic_patch_of_conditions_keeps_the_others(client: Client) -> None:
    await client.create(make_node("node-1"))
    added = {"type": "DiskPressure", "status": "False", "reason": "x", "message": "y"}
    node = await client.patch(
        Node,
        "node-1",
        {"status": {"conditions": [added]}},
        subresource="status",
        patch_type=PatchType.STRATEGIC,
    )
    assert node.status is not None
    assert {c.type for c in node.status.conditions} == {"Ready", "DiskPressure"}


async def test_a_stranger_is_refused(api: LocalAPI) -> None:
    stranger = api.https("mallory", "nobodies")
    with pytest.raises(errors.ForbiddenError, match='User "mallory" cannot list resource "pods"'):
        await stranger.list(Pod)
    await stranger.close()
