"""The API server without its HTTPS edge: the real store, dispatcher and handlers, called in process."""

from __future__ import annotations

from contextlib import aclosing
from typing import Any

import msgspec

from podling.apiserver import authn
from podling.apiserver.cluster import Cluster
from podling.apiserver.discovery import Discovery
from podling.apiserver.dispatch import Dispatcher
from podling.apiserver.documents import Documents
from podling.apiserver.metrics import Metrics
from podling.apiserver.request import Answer, Query, Request, Response, Stream, User
from podling.apiserver.resources import RESOURCES, VERBS

ADMIN = authn.user("admin", ("system:masters",))
PODS = "/api/v1/namespaces/default/pods"
CONFIG_MAPS = "/api/v1/namespaces/default/configmaps"


class API:
    """Requests by method, answers as (code, document)."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        metrics = Metrics(lambda: cluster.store.revision)
        documents = Documents(cluster, Discovery(RESOURCES, "127.0.0.1:6443"), metrics, lambda: True)
        self._dispatcher = Dispatcher(cluster, VERBS, documents, metrics)
        self.warnings = ""

    async def answer(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        content_type: str = "application/json",
        accept: str = "application/json",
        user: User = ADMIN,
        **query: str,
    ) -> Answer:
        values = {name.rstrip("_"): (value,) for name, value in query.items()}
        request = Request(method=method, path=path, query=Query(values), user=user, accept=accept)
        if body is not None:
            request.body = body if isinstance(body, bytes) else msgspec.json.encode(body)
            request.content_type = content_type
        return await self._dispatcher.handle(request)

    async def call(self, method: str, path: str, body: Any = None, **options: Any) -> tuple[int, Any]:
        answer = await self.answer(method, path, body, **options)
        assert isinstance(answer, Response)
        self.warnings = answer.headers.get("Warning", "")
        is_json = answer.content_type.startswith("application/json")
        return answer.status, msgspec.json.decode(answer.body) if is_json else answer.body

    async def get(self, path: str, **options: Any) -> tuple[int, Any]:
        return await self.call("GET", path, **options)

    async def post(self, path: str, body: Any, **options: Any) -> tuple[int, Any]:
        return await self.call("POST", path, body, **options)

    async def put(self, path: str, body: Any, **options: Any) -> tuple[int, Any]:
        return await self.call("PUT", path, body, **options)

    async def delete(self, path: str, body: Any = None, **options: Any) -> tuple[int, Any]:
        return await self.call("DELETE", path, body, **options)

    async def patch(self, path: str, body: Any, kind: str = "merge", **options: Any) -> tuple[int, Any]:
        suffix = {"json": "json-patch", "merge": "merge-patch", "strategic": "strategic-merge-patch"}[kind]
        return await self.call("PATCH", path, body, content_type=f"application/{suffix}+json", **options)

    async def created(self, path: str, body: Any, **options: Any) -> Any:
        status, obj = await self.post(path, body, **options)
        assert status == 201, obj
        return obj

    async def watch(self, path: str, **options: Any) -> Watcher:
        answer = await self.answer("GET", path, watch="true", **options)
        assert isinstance(answer, Stream)
        return Watcher(answer)


class Watcher:
    """The events of a watch, one at a time."""

    def __init__(self, stream: Stream) -> None:
        self._chunks = stream.chunks
        self._ready: list[Any] = []

    async def next(self) -> tuple[str, Any]:
        while not self._ready:
            chunk = await anext(self._chunks)
            self._ready = [msgspec.json.decode(line) for line in chunk.splitlines()]
        event = self._ready.pop(0)
        return event["type"], event["object"]

    async def next_names(self, count: int) -> list[tuple[str, str]]:
        events = [await self.next() for _ in range(count)]
        return [(kind, obj["metadata"]["name"]) for kind, obj in events]

    async def close(self) -> None:
        async with aclosing(self._chunks):
            pass


def pod(name: str = "web", **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {"containers": [{"name": "c", "image": "nginx"}], **spec},
    }


def config_map(name: str = "settings", labels: dict[str, str] | None = None, **data: str) -> dict[str, Any]:
    metadata: dict[str, Any] = {"name": name}
    if labels:
        metadata["labels"] = labels
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}
