"""Descriptors as asyncio streams, for pipes, sockets and terminals alike, on any event loop.

The loops' own pipe transports take a terminal's end (EIO) for a failure, and uvloop's take no terminals at
all. Descriptors become ours, non-blocking, and are closed with the stream.
"""

from __future__ import annotations

import asyncio
import errno
import os
from contextlib import suppress

READ_SIZE = 64 * 1024


class FdReader(asyncio.ReadTransport):
    """Feeds what comes from a descriptor to `stream`; stops reading while nobody takes it."""

    def __init__(self, fd: int) -> None:
        super().__init__()
        os.set_blocking(fd, False)
        self._fd = fd
        self._loop = asyncio.get_running_loop()
        self._paused = False
        self.stream = asyncio.StreamReader(loop=self._loop)
        self.stream.set_transport(self)
        self._loop.add_reader(fd, self._ready)

    def _ready(self) -> None:
        try:
            data = os.read(self._fd, READ_SIZE)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as err:
            # A terminal whose other side is closed says EIO, a reset socket ECONNRESET: the end, to a reader.
            if err.errno not in (errno.EIO, errno.ECONNRESET):
                self.stream.set_exception(err)
                self.close()
                return
            data = b""
        if data:
            self.stream.feed_data(data)
        else:
            self.stream.feed_eof()
            self.close()

    def pause_reading(self) -> None:
        if not self._paused and self._fd >= 0:
            self._paused = True
            self._loop.remove_reader(self._fd)

    def resume_reading(self) -> None:
        if self._paused and self._fd >= 0:
            self._paused = False
            self._loop.add_reader(self._fd, self._ready)

    def is_closing(self) -> bool:
        return self._fd < 0

    def close(self) -> None:
        """Twice is fine. What was read stays to be taken; then comes the end."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            self._loop.remove_reader(fd)
            os.close(fd)
            if not self.stream.at_eof():
                self.stream.feed_eof()


class FdWriter:
    """Writes to a descriptor without ever blocking the loop."""

    def __init__(self, fd: int) -> None:
        os.set_blocking(fd, False)
        self._fd = fd
        self._lock = asyncio.Lock()

    async def write(self, data: bytes) -> None:
        """Returns when all is taken. After the other side has gone, or after `close`, it is dropped."""
        async with self._lock:
            view = memoryview(data)
            while view and self._fd >= 0:
                try:
                    view = view[os.write(self._fd, view) :]
                except (BlockingIOError, InterruptedError):
                    await _writable(self._fd)
                except OSError:
                    self.close()

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            with suppress(OSError):
                os.close(fd)


async def _writable(fd: int) -> None:
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()

    def wake() -> None:
        if not ready.done():
            ready.set_result(None)

    loop.add_writer(fd, wake)
    try:
        await ready
    finally:
        loop.remove_writer(fd)
