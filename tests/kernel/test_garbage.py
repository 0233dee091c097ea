"""Garbage collection by owner references on the real API server; and controllers that are restarted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from kernel.api_local import LocalAPI, eventually, running
from podling.api.apps_v1 import Deployment, ReplicaSet
from podling.api.core_v1 import ConfigMap, Namespace, Node, Pod
from podling.api.meta_v1 import ObjectMeta, OwnerReference
from podling.client.client import Client, PatchType
from podling.client.errors import NotFoundError
from podling.controllers.manager import ControllerManager

QUIET_S = 0.3
"""Long enough for the collector to do what it should not."""


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[LocalAPI]:
    local = LocalAPI(tmp_path)
    await local.start()
    yield local
    await local.server.stop()


@pytest.fixture
async def client(api: LocalAPI) -> AsyncIterator[Client]:
    async with running(ControllerManager(api.local("system:kube-controller-manager")).run):
        yield api.local()


async def make(client: Client, name: str, *owners: Any, block: bool = False, **meta: Any) -> ConfigMap:
    references = [
        OwnerReference(
            api_version=o.api_version,
            kind=o.kind,
            name=o.metadata.name,
            uid=o.metadata.uid,
            block_owner_deletion=block or None,
        )
        for o in owners
    ]
    made = ObjectMeta(name=name, namespace="default", owner_references=references)
    for key, value in meta.items():
        setattr(made, key, value)
    return await client.create(ConfigMap(metadata=made))


async def names(client: Client) -> set[str]:
    """Of the config maps a test made."""
    found = {c.metadata.name or "" for c in (await client.list(ConfigMap, "default")).items}
    return found - {"kube-root-ca.crt"}


async def names_are(client: Client, *wanted: str) -> None:
    async def look() -> bool:
        return await names(client) == set(wanted)

    await eventually(look)


async def test_what_depends_goes_in_turn(client: Client) -> None:
    one = await make(client, "one")
    two = await make(client, "two", one)
    await make(client, "three", two)
    await make(client, "other")
    await client.delete(ConfigMap, "one", "default")
    await names_are(client, "other")


async def test_an_object_stays_while_one_owner_does(client: Client) -> None:
    one, two = await make(client, "one"), await make(client, "two")
    await make(client, "theirs", one, two)
    await client.delete(ConfigMap, "one", "default")

    async def one_owner() -> bool:
        meta = (await client.get(ConfigMap, "theirs", "default")).metadata
        return [ref.name for ref in meta.owner_references] in (["two"], ["one", "two"])

    await eventually(one_owner)
    await asyncio.sleep(QUIET_S)
    assert await names(client) == {"two", "theirs"}
    await client.delete(ConfigMap, "two", "default")
    await names_are(client)


async def test_an_owner_that_never_was_takes_its_dependents(client: Client) -> None:
    one = await make(client, "one")
    one.metadata.uid = "00000000-0000-0000-0000-000000000000"  # of the same name, but another
    await make(client, "theirs", one)
    await names_are(client, "one")


async def test_owners_nobody_can_ask_for_are_believed(client: Client) -> None:
    unknown = ConfigMap(metadata=ObjectMeta(name="x", uid="u"))
    unknown.kind, unknown.api_version = "Widget", "example.com/v1"
    await make(client, "widgets", unknown)
    await asyncio.sleep(QUIET_S)
    assert await names(client) == {"widgets"}


async def test_an_owner_in_another_namespace_does_not_count(client: Client) -> None:
    await client.create(Namespace(metadata=ObjectMeta(name="far")))
    far = await client.create(ConfigMap(metadata=ObjectMeta(name="owner", namespace="far")))
    await make(client, "theirs", far)
    await names_are(client)


async def test_an_owner_of_the_cluster_may_have_dependents_in_namespaces(client: Client) -> None:
    node = await client.create(Node(metadata=ObjectMeta(name="node-1")))
    await make(client, "theirs", node)
    await asyncio.sleep(QUIET_S)
    assert await names(client) == {"theirs"}
    await client.delete(Node, "node-1")
    await names_are(client)


async def test_foreground_waits_for_those_that_block_only(client: Client) -> None:
    one = await make(client, "one")
    await make(client, "blocks", one, block=True, finalizers=["example.com/hold"])
    await make(client, "free", one, finalizers=["example.com/hold"])
    await client.delete(ConfigMap, "one", "default", propagation="Foreground")

    async def both_go() -> bool:
        found = [await client.get(ConfigMap, name, "default") for name in ("blocks", "free")]
        return all(c.metadata.deletion_timestamp for c in found)

    await eventually(both_go)
    assert "one" in await names(client)
    await client.patch(ConfigMap, "blocks", {"metadata": {"finalizers": None}}, "default")
    await names_are(client, "free")


async def test_a_circle_is_no_deadlock(client: Client) -> None:
    one = await make(client, "one")
    two = await make(client, "two", one, block=True)
    back = [{"apiVersion": "v1", "kind": "ConfigMap", "name": "two", "uid": two.metadata.uid}]
    back[0]["blockOwnerDeletion"] = True  # type: ignore[assignment]
    await client.patch(
        ConfigMap, "one", {"metadata": {"ownerReferences": back}}, "default", patch_type=PatchType.STRATEGIC
    )
    await client.delete(ConfigMap, "one", "default", propagation="Foreground")
    await names_are(client)


async def test_orphans_lose_the_reference_before_their_owner_goes(client: Client) -> None:
    one = await make(client, "one")
    await make(client, "theirs", one)
    await client.delete(ConfigMap, "one", "default", propagation="Orphan")
    await names_are(client, "theirs")
    assert (await client.get(ConfigMap, "theirs", "default")).metadata.owner_references == []
    await asyncio.sleep(QUIET_S)
    assert await names(client) == {"theirs"}


async def test_garbage_left_while_nobody_collected_is_collected_later(api: LocalAPI) -> None:
    client = api.local()
    one = await make(client, "one")
    two = await make(client, "two", one)
    await make(client, "three", two)
    await client.delete(ConfigMap, "one", "default")
    async with running(ControllerManager(api.local("system:kube-controller-manager")).run):
        await names_are(client)


# Restarts


def deployment(image: str, replicas: int) -> Deployment:
    labels = {"app": "web"}
    return msgspec.convert(
        {
            "metadata": {"name": "web", "namespace": "default"},
            "spec": {
                "replicas": replicas,
                "selector": {"matchLabels": labels},
                "template": {
                    "metadata": {"labels": labels},
                    "spec": {"containers": [{"name": "c", "image": image}]},
                },
            },
        },
        Deployment,
    )


async def pods_of(client: Client) -> list[Pod]:
    return (await client.list(Pod, "default")).items


async def test_controllers_that_die_at_any_moment_make_no_pod_twice(api: LocalAPI) -> None:
    client, most = api.local(), 0
    await client.create(deployment("web:1", 30))
    for life_s in (0.02, 0.05, 0.08, 0.1, 0.15):
        async with running(ControllerManager(api.local("system:kube-controller-manager")).run):
            await asyncio.sleep(life_s)
        most = max(most, len(await pods_of(client)))
    async with running(ControllerManager(api.local("system:kube-controller-manager")).run):

        async def all_there() -> bool:
            found = await client.get(Deployment, "web", "default")
            return found.status is not None and found.status.replicas == 30

        await eventually(all_there)
        assert len(await pods_of(client)) == 30
    assert most <= 30
    assert len((await client.list(ReplicaSet, "default")).items) == 1


async def test_an_api_server_that_restarts_in_between_changes_nothing(api: LocalAPI) -> None:
    client = api.https()
    manager = api.https("system:kube-controller-manager", "nobody")
    async with running(ControllerManager(manager).run):
        await client.create(deployment("web:1", 20))

        async def some() -> bool:
            return len(await pods_of(client)) >= 3

        await eventually(some)
        await api.stop()
        await api.start()

        async def all_there() -> bool:
            return len(await pods_of(client)) == 20

        await eventually(all_there)
        await asyncio.sleep(QUIET_S)
        assert len(await pods_of(client)) == 20
        await client.delete(Deployment, "web", "default")

        async def gone() -> bool:
            try:
                await client.get(Deployment, "web", "default")
            except NotFoundError:
                return not await pods_of(client)
            return False

        await eventually(gone)
    await client.close()
    await manager.close()
