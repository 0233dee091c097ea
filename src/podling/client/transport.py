"""The seam between a client and whatever carries its requests.

`HttpTransport` (http.py) speaks HTTPS; the API server offers one that calls its handlers in the same
process. Both promise the same: `request` returns any answer the server gave, whatever its code, and
raises `TransportError` only when there was none. Paths are URL paths (`/api/v1/pods`), never URLs.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Response:
    status: int
    body: bytes


class StreamResponse(Protocol):
    """The answer to a watch: iterate for its lines, without their newline, as they arrive.

    With a `status` other than 200 the lines are the error's body. The iteration ends when the server
    ends the answer; it raises `TransportError` when the connection breaks.
    """

    @property
    def status(self) -> int: ...

    def __aiter__(self) -> AsyncIterator[bytes]: ...


class Transport(Protocol):
    async def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: bytes | None = None,
        content_type: str = "application/json",
        accept: str = "application/json",
    ) -> Response: ...

    def stream(
        self, path: str, *, query: Mapping[str, str] | None = None
    ) -> AbstractAsyncContextManager[StreamResponse]: ...

    async def reconnect(self) -> None:
        """Give up all connections; the next request makes a new one."""

    async def close(self) -> None: ...
