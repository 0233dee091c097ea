"""DNS over TCP (RFC 7766): many questions on one connection, each answered as soon as its answer is there."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Awaitable, Callable
from contextlib import suppress

IDLE_S = 10.0
MAX_BYTES = 65535
MAX_CONNECTIONS = 1024
"""More are closed at once: the agent has other uses for its descriptors."""
MAX_UNDER_WAY = 64
"""Questions of one connection that wait for another server; its next ones wait in its buffer."""


class TCPServer:
    def __init__(self, answer: Callable[[bytes], bytes | Awaitable[bytes]]) -> None:
        """`answer`: empty for what deserves no answer; that ends the connection."""
        self._answer = answer
        self._connections = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Until the client has gone, or asked nothing for `IDLE_S` seconds."""
        self._connections += 1
        try:
            if self._connections <= MAX_CONNECTIONS:
                with suppress(OSError, EOFError):  # TimeoutError is an OSError
                    await self._questions(reader, writer)
        finally:
            self._connections -= 1
            writer.close()

    async def _questions(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        room = asyncio.Semaphore(MAX_UNDER_WAY)
        waiting: set[asyncio.Task[None]] = set()

        async def late(answer: Awaitable[bytes]) -> None:
            try:
                with suppress(OSError):
                    await _write(writer, await answer)
            finally:
                room.release()

        try:
            while True:
                try:
                    async with asyncio.timeout(IDLE_S):
                        (size,) = struct.unpack(">H", await reader.readexactly(2))
                        data = await reader.readexactly(size)
                except asyncio.IncompleteReadError:
                    break
                answer = self._answer(data)
                if not isinstance(answer, bytes):
                    task = asyncio.ensure_future(late(answer))
                    waiting.add(task)
                    task.add_done_callback(waiting.discard)
                    await room.acquire()
                elif answer:
                    await _write(writer, answer)
                else:
                    return
            if waiting:  # a client that has said all it has to say still listens
                await asyncio.wait(waiting)
        finally:
            for task in waiting:
                task.cancel()


async def _write(writer: asyncio.StreamWriter, answer: bytes) -> None:
    writer.write(len(answer).to_bytes(2, "big") + answer)
    await writer.drain()
