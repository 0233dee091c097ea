from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count

import pytest

from podling.api.core_v1 import ObjectReference, Pod
from podling.api.meta_v1 import ObjectMeta
from podling.client.client import Client
from podling.client.events import EventRecorder

from .conftest import ScriptedServer, status

POD = Pod(metadata=ObjectMeta(name="web", namespace="default", uid="u1", resource_version="3"))


@asynccontextmanager
async def running(client: Client) -> AsyncIterator[EventRecorder]:
    ticks = count()
    recorder = EventRecorder(client, "kubelet", "node-1", linger_s=0, now=lambda: f"t{next(ticks)}")
    task = asyncio.create_task(recorder.run())
    yield recorder
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_an_event_names_object_source_and_times(server: ScriptedServer, client: Client) -> None:
    server.answers({})
    async with running(client) as recorder:
        recorder.event(POD, "Normal", "Pulled", "image is there", field_path="spec.containers{nginx}")
        await recorder.flush(5)
    method, path, _, body = server.seen[0]
    assert (method, path) == ("POST", "/api/v1/namespaces/default/events")
    assert body["metadata"]["name"].startswith("web.")
    assert body["involvedObject"] == {
        "apiVersion": "v1",
        "kind": "Pod",
        "name": "web",
        "namespace": "default",
        "uid": "u1",
        "resourceVersion": "3",
        "fieldPath": "spec.containers{nginx}",
    }
    assert body["source"] == {"component": "kubelet", "host": "node-1"}
    assert (body["type"], body["reason"], body["message"]) == ("Normal", "Pulled", "image is there")
    assert (body["firstTimestamp"], body["lastTimestamp"], body["count"]) == ("t0", "t0", 1)


async def test_repeats_are_counted_on_one_object(server: ScriptedServer, client: Client) -> None:
    server.answers({})
    server.answers({})
    async with running(client) as recorder:
        recorder.event(POD, "Warning", "BackOff", "again")
        await recorder.flush(5)
        recorder.event(POD, "Warning", "BackOff", "again")
        recorder.event(POD, "Warning", "BackOff", "again")
        await recorder.flush(5)
    name = server.seen[0][3]["metadata"]["name"]
    assert len(server.seen) == 2
    assert server.seen[1][:2] == ("PATCH", f"/api/v1/namespaces/default/events/{name}")
    assert server.seen[1][3] == {"count": 3, "lastTimestamp": "t2"}


async def test_an_expired_event_is_written_anew(server: ScriptedServer, client: Client) -> None:
    server.answers({})
    server.answers(status(404, "NotFound"), status=404)
    server.answers({})
    async with running(client) as recorder:
        recorder.event(POD, "Warning", "BackOff", "again")
        await recorder.flush(5)
        recorder.event(POD, "Warning", "BackOff", "again")
        await recorder.flush(5)
    assert [s[0] for s in server.seen] == ["POST", "PATCH", "POST"]
    assert server.seen[2][3]["count"] == 1


async def test_events_of_cluster_objects_live_in_default(server: ScriptedServer, client: Client) -> None:
    server.answers({})
    async with running(client) as recorder:
        recorder.event(ObjectReference(kind="Node", name="node-1", uid="node-1"), "Normal", "Starting", "")
        await recorder.flush(5)
    assert server.seen[0][1] == "/api/v1/namespaces/default/events"


async def test_waits_for_a_server_that_is_away_and_drops_what_is_refused(
    server: ScriptedServer, client: Client
) -> None:
    server.answers(status(503, "ServiceUnavailable"), status=503)
    server.answers({})
    server.answers(status(403, "Forbidden"), status=403)
    async with running(client) as recorder:
        recorder.event(POD, "Normal", "First", "")
        recorder.event(POD, "Normal", "Second", "")
        await recorder.flush(5)
    assert [s[3]["reason"] for s in server.seen] == ["First", "First", "Second"]


async def test_the_queue_is_bounded(monkeypatch: pytest.MonkeyPatch, client: Client) -> None:
    monkeypatch.setattr("podling.client.events.QUEUE_LIMIT", 3)
    recorder = EventRecorder(client, "kubelet")
    for number in range(10):
        recorder.event(POD, "Normal", "Reason", f"message {number}")
    assert [key.message for key in recorder._pending] == ["message 7", "message 8", "message 9"]
    assert recorder._dropped == 7
