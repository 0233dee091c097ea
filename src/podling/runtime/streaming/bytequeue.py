"""Bytes handed from whoever receives them to the one task that reads them."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable


class ByteQueue:
    """Fed by callbacks or a reader task, read by one task. It never refuses: who feeds watches `size`, or
    waits for `room()`, and stops its source."""

    def __init__(self, consumed: Callable[[int], None] | None = None) -> None:
        """`consumed` is told how many bytes each read took."""
        self._chunks: deque[bytes] = deque()
        self._consumed = consumed
        self._ended = False
        self._readable = asyncio.Event()
        self._drained = asyncio.Event()
        self.size = 0

    def feed(self, data: bytes) -> None:
        if data and not self._ended:
            self._chunks.append(data)
            self.size += len(data)
            self._readable.set()

    def feed_eof(self) -> None:
        """What was fed before can still be read. Twice is fine."""
        self._ended = True
        self._readable.set()

    @property
    def ended(self) -> bool:
        return self._ended

    def discard(self) -> None:
        """Nobody will read any more: drop what waits and what may still come."""
        dropped, self.size = self.size, 0
        self._chunks.clear()
        self.feed_eof()
        self._drained.set()
        if dropped and self._consumed is not None:
            self._consumed(dropped)

    async def read(self) -> bytes:
        """The next chunk, as it was fed; empty at the end."""
        while not self._chunks:
            if self._ended:
                return b""
            self._readable.clear()
            await self._readable.wait()
        data = self._chunks.popleft()
        self.size -= len(data)
        self._drained.set()
        if self._consumed is not None:
            self._consumed(len(data))
        return data

    async def room(self, limit: int) -> None:
        """Return when at most `limit` bytes wait to be read."""
        while self.size > limit:
            self._drained.clear()
            await self._drained.wait()
