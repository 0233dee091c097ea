from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from podling.api.core_v1 import Pod
from podling.client.client import Client
from podling.client.informer import Informer

from .conftest import ScriptedServer, event, pod, status

Change = tuple[str | None, str | None]


@asynccontextmanager
async def running(informer: Informer[Pod]) -> AsyncIterator[None]:
    task = asyncio.create_task(informer.run())
    try:
        yield
    finally:
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


def record(informer: Informer[Pod], until: int) -> tuple[list[Change], asyncio.Event]:
    """Note changes as name@version pairs; the event is set when there are `until` of them."""
    changes: list[Change] = []
    enough = asyncio.Event()

    def short(obj: Pod | None) -> str | None:
        return obj and f"{obj.metadata.name}@{obj.metadata.resource_version}"

    def handler(old: Pod | None, new: Pod | None) -> None:
        changes.append((short(old), short(new)))
        if len(changes) >= until:
            enough.set()

    informer.add_handler(handler)
    return changes, enough


def hang(server: ScriptedServer) -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await asyncio.Event().wait()
        return response

    server.script.append(handler)


def listing(version: str, *pods: object) -> dict[str, object]:
    return {"metadata": {"resourceVersion": version}, "items": list(pods)}


async def test_lists_then_follows_the_watch(server: ScriptedServer, client: Client) -> None:
    server.answers(listing("5", pod("a", "3"), pod("b", "4")))
    server.streams(
        event("ADDED", pod("c", "6")), event("MODIFIED", pod("a", "7")), event("DELETED", pod("b", "8"))
    )
    hang(server)
    informer = Informer(client, Pod)
    changes, enough = record(informer, 5)
    async with running(informer):
        await informer.wait_synced()
        await enough.wait()
    assert changes == [(None, "a@3"), (None, "b@4"), (None, "c@6"), ("a@3", "a@7"), ("b@4", None)]
    assert sorted(informer.store) == [("default", "a"), ("default", "c")]
    assert server.seen[1][2]["resourceVersion"] == "5"


async def test_resumes_a_broken_watch_where_it_stopped(server: ScriptedServer, client: Client) -> None:
    server.answers(listing("5"))
    server.streams(event("ADDED", pod("a", "6")), abort=True)
    server.streams(event("MODIFIED", pod("a", "7")))
    hang(server)
    informer = Informer(client, Pod)
    changes, enough = record(informer, 2)
    async with running(informer):
        await enough.wait()
    assert changes == [(None, "a@6"), ("a@6", "a@7")]
    assert [s[2].get("resourceVersion") for s in server.seen[:3]] == [None, "5", "6"]


async def test_a_bookmark_moves_the_point_to_resume_from(server: ScriptedServer, client: Client) -> None:
    server.answers(listing("5"))
    server.streams(event("BOOKMARK", {"metadata": {"resourceVersion": "40"}}), abort=True)
    server.streams(event("ADDED", pod("a", "41")))
    hang(server)
    informer = Informer(client, Pod)
    _, enough = record(informer, 1)
    async with running(informer):
        await enough.wait()
    assert server.seen[2][2]["resourceVersion"] == "40"


async def test_gone_lists_again_and_reports_the_difference(server: ScriptedServer, client: Client) -> None:
    server.answers(listing("5", pod("same", "1"), pod("changed", "2"), pod("gone", "3"), pod("twin", "4")))
    server.streams(event("ERROR", status(410, "Expired")))
    server.answers(
        listing("50", pod("same", "1"), pod("changed", "20"), pod("new", "30"), pod("twin", "40", uid="u2"))
    )
    hang(server)
    informer = Informer(client, Pod)
    changes, enough = record(informer, 9)
    async with running(informer):
        await enough.wait()
    assert changes[4:] == [
        ("gone@3", None),
        ("changed@2", "changed@20"),
        (None, "new@30"),
        ("twin@4", None),
        (None, "twin@40"),
    ]


async def test_a_failing_handler_does_not_stop_the_others(
    server: ScriptedServer, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    server.answers(listing("5", pod("a", "3")))
    hang(server)
    informer = Informer(client, Pod)
    informer.add_handler(lambda old, new: 1 / 0)
    changes, enough = record(informer, 1)
    async with running(informer):
        await enough.wait()
    assert changes == [(None, "a@3")]
    assert "ZeroDivisionError" in caplog.text


async def test_a_late_handler_sees_what_is_there(server: ScriptedServer, client: Client) -> None:
    server.answers(listing("5", pod("a", "3")))
    hang(server)
    informer = Informer(client, Pod)
    async with running(informer):
        await informer.wait_synced()
        changes, _ = record(informer, 1)
    assert changes == [(None, "a@3")]


async def test_starts_when_the_server_does(server: ScriptedServer, client: Client) -> None:
    server.answers(status(503, "ServiceUnavailable"), status=503)
    server.answers(listing("5", pod("a", "3")))
    hang(server)
    informer = Informer(client, Pod)
    async with running(informer):
        await informer.wait_synced()
    assert informer.get("a", "default") is not None
