"""A kubelet without an API server: it runs static pods, and every request is refused at once."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from podling.client.errors import TransportError
from podling.client.transport import Response, StreamResponse


class NoServer:
    """`Transport` to nowhere, so that whatever asks the API learns in its own terms that there is none."""

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
        raise _refusal(method, path)

    @asynccontextmanager
    async def stream(
        self, path: str, *, query: Mapping[str, str] | None = None
    ) -> AsyncIterator[StreamResponse]:
        raise _refusal("GET", path)
        yield  # what makes this a generator

    async def reconnect(self) -> None:
        """There is no connection to lose."""

    async def close(self) -> None:
        """Nothing to close."""


def _refusal(method: str, path: str) -> TransportError:
    return TransportError(f"{method} {path}: this kubelet runs without an API server")
