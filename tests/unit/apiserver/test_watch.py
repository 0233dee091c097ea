"""Watches: order, selections, bookmarks, starts, ends."""

from __future__ import annotations

import asyncio

import pytest

from podling.apiserver.handlers import watch as watch_handler
from unit.apiserver.harness import CONFIG_MAPS, PODS, config_map, pod

TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io"


def here(api):
    return str(api.cluster.store.revision)


async def test_a_watch_shows_what_happens_after_its_version(api):
    await api.created(CONFIG_MAPS, config_map("before"))
    watcher = await api.watch(CONFIG_MAPS, resourceVersion=here(api))
    made = await api.created(CONFIG_MAPS, config_map("a"))
    _, changed = await api.patch(f"{CONFIG_MAPS}/a", {"data": {"x": "1"}})
    await api.delete(f"{CONFIG_MAPS}/a")
    assert await watcher.next() == ("ADDED", made)
    assert await watcher.next() == ("MODIFIED", changed)
    kind, last = await watcher.next()
    assert kind == "DELETED"
    # A deletion has a version of its own, so that a watch resumed there does not see it again.
    assert last["metadata"].pop("resourceVersion") == here(api)
    del changed["metadata"]["resourceVersion"]
    assert last == changed
    await watcher.close()


@pytest.mark.parametrize("version", ["", "0"])
async def test_a_watch_without_a_version_begins_with_what_is_there(api, version):
    await api.created(CONFIG_MAPS, config_map("a"))
    watcher = await api.watch(CONFIG_MAPS, resourceVersion=version)
    await api.created(CONFIG_MAPS, config_map("b"))
    assert await watcher.next_names(2) == [("ADDED", "a"), ("ADDED", "b")]
    await watcher.close()


async def test_a_watch_is_bounded_by_namespace_and_kind(api):
    watcher = await api.watch(CONFIG_MAPS, resourceVersion=here(api))
    await api.created("/api/v1/namespaces/kube-system/configmaps", config_map("other"))
    await api.created(PODS, pod())
    await api.created(CONFIG_MAPS, config_map("mine"))
    assert await watcher.next_names(1) == [("ADDED", "mine")]
    await watcher.close()


async def test_an_object_that_enters_or_leaves_the_selection_is_added_or_deleted(api):
    on_node = await api.watch("/api/v1/pods", resourceVersion=here(api), fieldSelector="spec.nodeName=n1")
    pending = await api.watch("/api/v1/pods", resourceVersion=here(api), fieldSelector="spec.nodeName=")
    await api.created(PODS, pod())
    await api.post(f"{PODS}/web/binding", {"metadata": {"name": "web"}, "target": {"name": "n1"}})
    await api.patch(f"{PODS}/web/status", {"status": {"phase": "Running"}})
    assert await on_node.next_names(2) == [("ADDED", "web"), ("MODIFIED", "web")]
    assert (await pending.next_names(1)) == [("ADDED", "web")]
    kind, left = await pending.next()
    assert kind == "DELETED"
    assert "nodeName" not in left["spec"]
    await on_node.close()
    await pending.close()


async def test_labels_select_too(api):
    watcher = await api.watch(CONFIG_MAPS, resourceVersion=here(api), labelSelector="tier=front")
    await api.created(CONFIG_MAPS, config_map("a"))
    await api.patch(f"{CONFIG_MAPS}/a", {"metadata": {"labels": {"tier": "front"}}})
    await api.patch(f"{CONFIG_MAPS}/a", {"metadata": {"labels": {"tier": "back"}}})
    assert await watcher.next_names(2) == [("ADDED", "a"), ("DELETED", "a")]
    await watcher.close()


async def test_a_single_object_can_be_watched_by_its_path(api):
    await api.created(CONFIG_MAPS, config_map("a"))
    watcher = await api.watch(f"{CONFIG_MAPS}/a", resourceVersion="0")
    await api.created(CONFIG_MAPS, config_map("b"))
    await api.patch(f"{CONFIG_MAPS}/a", {"data": {"x": "1"}})
    assert await watcher.next_names(2) == [("ADDED", "a"), ("MODIFIED", "a")]
    await watcher.close()


async def test_bookmarks_say_how_far_a_quiet_watch_is(api, monkeypatch):
    monkeypatch.setattr(watch_handler, "BOOKMARK_INTERVAL_S", 0.01)
    watcher = await api.watch(PODS, resourceVersion=here(api), allowWatchBookmarks="true")
    await api.created(CONFIG_MAPS, config_map())
    kind, mark = await watcher.next()
    assert (kind, mark["kind"], mark["apiVersion"]) == ("BOOKMARK", "Pod", "v1")
    assert mark["metadata"] == {"resourceVersion": here(api)}
    await watcher.close()


async def test_initial_events_end_with_a_bookmark(api):
    await api.created(CONFIG_MAPS, config_map("a"))
    query = {
        "sendInitialEvents": "true",
        "resourceVersionMatch": "NotOlderThan",
        "allowWatchBookmarks": "true",
    }
    watcher = await api.watch(CONFIG_MAPS, **query)
    assert await watcher.next_names(1) == [("ADDED", "a")]
    kind, mark = await watcher.next()
    assert kind == "BOOKMARK"
    assert mark["metadata"]["annotations"] == {"k8s.io/initial-events-end": "true"}
    await watcher.close()
    status, _ = await api.get(CONFIG_MAPS, watch="true", sendInitialEvents="true")
    assert status == 422


async def test_a_version_that_is_too_old_is_an_error_event(api):
    await api.created(CONFIG_MAPS, config_map("a"))
    await api.cluster.store.compact(api.cluster.store.revision)
    watcher = await api.watch(CONFIG_MAPS, resourceVersion="2")
    kind, status = await watcher.next()
    assert (kind, status["code"], status["reason"]) == ("ERROR", 410, "Expired")
    assert status["message"].startswith("too old resource version: 2 (")
    with pytest.raises(StopAsyncIteration):
        await watcher.next()


async def test_a_version_of_another_store_makes_the_client_list_again(api):
    watcher = await api.watch(CONFIG_MAPS, resourceVersion="100000")
    kind, status = await watcher.next()
    assert (kind, status["code"]) == ("ERROR", 410)


async def test_a_watch_ends_after_its_timeout(api):
    watcher = await api.watch(CONFIG_MAPS, resourceVersion=here(api), timeoutSeconds="1")
    async with asyncio.timeout(5):
        with pytest.raises(StopAsyncIteration):
            await watcher.next()


async def test_table_watches_send_their_columns_once(api):
    watcher = await api.watch(PODS, resourceVersion=here(api), accept=TABLE)
    await api.created(PODS, pod("a"))
    await api.created(PODS, pod("b"))
    (_, first), (_, second) = await watcher.next(), await watcher.next()
    assert first["kind"] == "Table"
    assert first["columnDefinitions"]
    assert not second["columnDefinitions"]
    assert second["rows"][0]["cells"][0] == "b"
    await watcher.close()


async def test_a_closed_watch_is_forgotten(api):
    collection = api.cluster.store._collections.of("configmaps/")
    watcher = await api.watch(CONFIG_MAPS, resourceVersion="0")
    waiting = asyncio.create_task(watcher.next())
    await asyncio.sleep(0)
    assert len(collection.watches) == 1
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    await watcher.close()
    assert not collection.watches
