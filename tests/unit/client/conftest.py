"""A real HTTP server on loopback that answers what a test scripts: the client's bytes, not a mock of them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from podling.client.client import Client
from podling.client.http import ClientConfig, HttpTransport

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class ScriptedServer:
    """Answers each request with the next handler of `script`; notes what was asked."""

    def __init__(self) -> None:
        self.url = ""
        self.script: list[Handler] = []
        self.seen: list[tuple[str, str, dict[str, str], Any]] = []
        self.headers: list[dict[str, str]] = []

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        self.seen.append(
            (request.method, request.path, dict(request.query), json.loads(body) if body else None)
        )
        self.headers.append(dict(request.headers))
        if not self.script:
            return web.json_response({"message": "the script is over"}, status=500)
        return await self.script.pop(0)(request)

    def answers(self, body: Any, status: int = 200) -> None:
        async def handler(_: web.Request) -> web.StreamResponse:
            return web.json_response(body, status=status)

        self.script.append(handler)

    def streams(self, *chunks: bytes, abort: bool = False) -> None:
        """A watch that sends `chunks`, then ends, or breaks."""

        async def handler(request: web.Request) -> web.StreamResponse:
            response = web.StreamResponse()
            response.enable_chunked_encoding()
            await response.prepare(request)
            for chunk in chunks:
                await response.write(chunk)
            if abort:
                assert request.transport is not None
                request.transport.abort()
            return response

        self.script.append(handler)


@pytest.fixture
async def server() -> AsyncIterator[ScriptedServer]:
    scripted = ScriptedServer()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", scripted.handle)
    async with TestServer(app) as running:
        scripted.url = str(running.make_url("")).rstrip("/")
        yield scripted


@pytest.fixture
async def client(server: ScriptedServer) -> AsyncIterator[Client]:
    transport = HttpTransport(ClientConfig(server=server.url))
    yield Client(transport, "test")
    await transport.close()


def pod(name: str, version: str, uid: str = "u1", **metadata: Any) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": "default",
            "uid": uid,
            "resourceVersion": version,
            **metadata,
        },
        "spec": {"containers": [{"name": "c", "image": "busybox"}]},
    }


def event(type_: str, obj: dict[str, Any]) -> bytes:
    return json.dumps({"type": type_, "object": obj}).encode() + b"\n"


def status(code: int, reason: str, message: str = "no") -> dict[str, Any]:
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": message,
        "reason": reason,
        "code": code,
    }
