"""`Transport` for components in the same process: the handlers, without TLS, HTTP or sockets.

Authorization, validation and bytes are the same as over HTTPS.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing, asynccontextmanager

from podling.apiserver.request import Answer, Query, Request, Stream, Upgrade, User
from podling.client.errors import TransportError
from podling.client.transport import Response, StreamResponse

Handle = Callable[[Request], Awaitable[Answer]]


class LocalTransport:
    """One identity's way to the API server of this process."""

    def __init__(self, handle: Handle, user: User) -> None:
        self._handle = handle
        self._user = user

    async def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: bytes | None = None,
        content_type: str = "application/json",
        accept: str = "application/json",
    ) -> Response:
        request = self._make(method, path, query, accept)
        if body is not None:
            request.body, request.content_type = body, content_type
        answer = await self._handle(request)
        if isinstance(answer, Stream):
            async with aclosing(answer.chunks) as chunks:  # type: ignore[type-var]  # an async generator
                return Response(answer.status, b"".join([chunk async for chunk in chunks]))
        if isinstance(answer, Upgrade):
            raise TransportError(f"{method} {path}: needs a connection of its own, use HTTPS")
        return Response(answer.status, answer.body)

    @asynccontextmanager
    async def stream(
        self, path: str, *, query: Mapping[str, str] | None = None
    ) -> AsyncIterator[StreamResponse]:
        answer = await self._handle(self._make("GET", path, query, "application/json"))
        if isinstance(answer, Upgrade):
            raise TransportError(f"GET {path}: needs a connection of its own, use HTTPS")
        if isinstance(answer, Stream):
            async with aclosing(answer.chunks) as chunks:  # type: ignore[type-var]  # an async generator
                yield _LocalStream(answer.status, chunks)
        else:
            yield _LocalStream(answer.status, _single(answer.body))

    async def reconnect(self) -> None:
        """There is no connection to lose."""

    async def close(self) -> None:
        """Nothing to close; the server outlives its transports."""

    def _make(self, method: str, path: str, query: Mapping[str, str] | None, accept: str) -> Request:
        values = {name: (value,) for name, value in (query or {}).items()}
        return Request(method=method, path=path, query=Query(values), user=self._user, accept=accept)


class _LocalStream:
    def __init__(self, status: int, chunks: AsyncIterator[bytes]) -> None:
        self._status = status
        self._chunks = chunks

    @property
    def status(self) -> int:
        return self._status

    async def __aiter__(self) -> AsyncIterator[bytes]:
        # A watch yields whole lines, one or several at a time.
        async for chunk in self._chunks:
            for line in chunk.splitlines():
                yield line


async def _single(body: bytes) -> AsyncIterator[bytes]:
    yield body
