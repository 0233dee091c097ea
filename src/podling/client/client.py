"""The typed REST client: kinds are classes, answers are instances of them, refusals are exceptions.

Every component has one, over a transport of its own identity. It is stateless and safe to share among
the tasks of one event loop. Objects read are a view: fields this version does not know are dropped, so
components write with `patch`, or `create` what is new; `update` is for objects the caller owns whole
(Kubernetes API conventions, "Concurrency Control and Consistency").
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Generic, TypeVar

from podling.api import authentication_v1, meta_v1
from podling.api.resources import Object, info
from podling.client import codec
from podling.client.errors import error_from_response, error_from_status
from podling.client.transport import StreamResponse, Transport

T = TypeVar("T", bound=Object)


class PatchType(StrEnum):
    """Content types of PATCH bodies."""

    JSON = "application/json-patch+json"
    MERGE = "application/merge-patch+json"
    STRATEGIC = "application/strategic-merge-patch+json"
    APPLY = "application/apply-patch+yaml"


class EventType(StrEnum):
    """What a watch says happened."""

    ADDED = "ADDED"
    MODIFIED = "MODIFIED"
    DELETED = "DELETED"
    BOOKMARK = "BOOKMARK"
    """Nothing happened; `object.metadata.resource_version` is where a later watch may resume."""


@dataclass(frozen=True, slots=True)
class ListResult(Generic[T]):
    items: list[T]
    resource_version: str
    continue_token: str = ""
    """Not empty when `limit` cut the answer short: pass it as `continue_token` for the rest."""


@dataclass(frozen=True, slots=True)
class WatchEvent(Generic[T]):
    type: EventType
    object: T


class Client:
    """Requests of one identity to one API server. Every method raises ClientError's subclasses."""

    def __init__(self, transport: Transport, user_agent: str = "podling") -> None:
        self._transport = transport
        self._writer = {"fieldManager": user_agent}

    async def reconnect(self) -> None:
        """Give up all connections, when this machine has lost the address they come from."""
        await self._transport.reconnect()

    async def close(self) -> None:
        await self._transport.close()

    async def get(self, kind: type[T], name: str, namespace: str | None = None) -> T:
        return codec.decode(kind, await self._request("GET", info(kind).path(namespace, name)))

    async def list(
        self,
        kind: type[T],
        namespace: str | None = None,
        *,
        label_selector: str | None = None,
        field_selector: str | None = None,
        limit: int | None = None,
        continue_token: str | None = None,
    ) -> ListResult[T]:
        """Objects of `kind`, in all namespaces when `namespace` is None."""
        query = _query(
            labelSelector=label_selector,
            fieldSelector=field_selector,
            limit=None if limit is None else str(limit),
            **{"continue": continue_token},
        )
        body = codec.decode_list(kind, await self._request("GET", info(kind).path(namespace), query=query))
        return ListResult(body.items, body.metadata.resource_version, body.metadata.continue_)

    async def create(self, obj: T, namespace: str | None = None) -> T:
        path = info(type(obj)).path(namespace or obj.metadata.namespace)
        return codec.decode(
            type(obj), await self._request("POST", path, query=self._writer, body=codec.encode(obj))
        )

    async def update(self, obj: T, *, subresource: str | None = None) -> T:
        """PUT: replaces the object, every field of it. ConflictError when its resourceVersion is old."""
        path = info(type(obj)).path(obj.metadata.namespace, obj.metadata.name, subresource)
        return codec.decode(
            type(obj), await self._request("PUT", path, query=self._writer, body=codec.encode(obj))
        )

    async def patch(
        self,
        kind: type[T],
        name: str,
        patch: Any,
        namespace: str | None = None,
        *,
        subresource: str | None = None,
        patch_type: PatchType = PatchType.MERGE,
    ) -> T:
        """Apply `patch`, plain JSON values or Structs (beware: their empty fields are left out, so they
        cannot set a field to null, zero or empty)."""
        body = await self._request(
            "PATCH",
            info(kind).path(namespace, name, subresource),
            query=self._writer,
            body=codec.encode(patch),
            content_type=patch_type.value,
        )
        return codec.decode(kind, body)

    async def delete(
        self,
        kind: type[T],
        name: str,
        namespace: str | None = None,
        *,
        grace_period_s: int | None = None,
        uid: str | None = None,
        resource_version: str | None = None,
        propagation: str | None = None,
    ) -> None:
        """Ask for deletion; an object with finalizers or a grace period stays for a while.

        `uid` guards against deleting a namesake, `resource_version` against deleting what has changed
        (ConflictError). `propagation` is what becomes of dependents: Background, Foreground, Orphan.
        NotFoundError when it is gone already.
        """
        guarded = uid is not None or resource_version is not None
        options = meta_v1.DeleteOptions(
            api_version="v1",
            kind="DeleteOptions",
            grace_period_seconds=grace_period_s,
            propagation_policy=propagation,
            preconditions=meta_v1.Preconditions(uid=uid, resource_version=resource_version)
            if guarded
            else None,
        )
        await self._request("DELETE", info(kind).path(namespace, name), body=codec.encode(options))

    async def bind(self, namespace: str, pod_name: str, pod_uid: str | None, node_name: str) -> None:
        """Assign a pod to a node. ConflictError when it is assigned, or is another pod of that name."""
        binding = {
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": {"name": pod_name, "namespace": namespace, "uid": pod_uid},
            "target": {"apiVersion": "v1", "kind": "Node", "name": node_name},
        }
        path = f"/api/v1/namespaces/{namespace}/pods/{pod_name}/binding"
        await self._request("POST", path, body=codec.encode(binding))

    async def create_token(
        self, namespace: str, account: str, spec: authentication_v1.TokenRequestSpec
    ) -> authentication_v1.TokenRequestStatus:
        """A token of a service account, with when it ends."""
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token"
        wanted = authentication_v1.TokenRequest(spec=spec)
        answer = await self._request("POST", path, body=codec.encode(wanted))
        status = codec.decode(authentication_v1.TokenRequest, answer).status
        return status or authentication_v1.TokenRequestStatus()

    async def watch(
        self,
        kind: type[T],
        namespace: str | None = None,
        *,
        resource_version: str,
        label_selector: str | None = None,
        field_selector: str | None = None,
        bookmarks: bool = False,
        timeout_s: int | None = None,
    ) -> AsyncGenerator[WatchEvent[T], None]:
        """Changes after `resource_version`, in order, until the server ends the watch (normal: ask again).

        GoneError when that version is too old. Bookmarks are yielded only if asked for. Leave the iteration
        through `contextlib.aclosing`, so that its connection ends with it.
        """
        query = _query(
            watch="true",
            resourceVersion=resource_version,
            labelSelector=label_selector,
            fieldSelector=field_selector,
            allowWatchBookmarks="true" if bookmarks else None,
            timeoutSeconds=None if timeout_s is None else str(timeout_s),
        )
        async with self._transport.stream(info(kind).path(namespace), query=query) as stream:
            if stream.status >= 400:
                raise error_from_response(stream.status, await _read_all(stream))
            async for line in stream:
                event = codec.decode_watch_line(line)
                if event.type == "ERROR":
                    raise error_from_status(codec.decode(meta_v1.Status, event.object))
                if event.type == EventType.BOOKMARK and not bookmarks:
                    continue
                yield WatchEvent(EventType(event.type), codec.decode(kind, event.object))

    async def raw(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Any = None,
        content_type: str = "application/json",
    ) -> Any:
        """Any request, plain JSON values in and out: discovery, and objects that must keep every field."""
        payload = None if body is None else codec.encode(body)
        answer = await self._request(method, path, query=query, body=payload, content_type=content_type)
        return codec.decode_any(answer) if answer else None

    async def _request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: bytes | None = None,
        content_type: str = "application/json",
    ) -> bytes:
        response = await self._transport.request(
            method, path, query=query, body=body, content_type=content_type
        )
        if response.status >= 400:
            raise error_from_response(response.status, response.body)
        return response.body


def _query(**parameters: str | None) -> dict[str, str]:
    return {name: value for name, value in parameters.items() if value is not None}


async def _read_all(stream: StreamResponse) -> bytes:
    return b"\n".join([line async for line in stream])
