"""Attaching to a container's first process through conmon's socket.

A SEQPACKET socket: each message from conmon is one byte that names the stream and then data; what we send is
standard input, and closing our side for writing is its end (which conmon passes on for `stdinOnce`).
"""

from __future__ import annotations

import asyncio
import os
import socket
from contextlib import suppress
from pathlib import Path

from podling.runtime import conmon
from podling.runtime.core import Container
from podling.runtime.cri.errors import Code, CRIError

STDOUT, STDERR = 2, 3  # conmon's names of the streams
MESSAGE_MAX = 8193
CHUNK_MAX = 8192
"""Bytes of standard input that conmon reads at once."""


async def connect(bundle: Path) -> socket.socket:
    """Raises `CRIError` UNKNOWN when conmon does not answer."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
    connection.setblocking(False)
    # Through a descriptor of the directory: the full path may be longer than an address can be.
    folder = os.open(bundle, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        await asyncio.get_running_loop().sock_connect(connection, f"/proc/self/fd/{folder}/attach")
    except OSError as err:
        connection.close()
        raise CRIError(Code.UNKNOWN, f"cannot attach to container {bundle.name!r}: {err}") from err
    finally:
        os.close(folder)
    return connection


class Attachment(asyncio.ReadTransport):
    """Implements `StreamProcess`; as a transport it lets the streams stop us while nobody reads them."""

    def __init__(
        self,
        container: Container,
        bundle: Path,
        connection: socket.socket,
        *,
        stdin: bool,
        stdout: bool,
        stderr: bool,
    ) -> None:
        super().__init__()
        self._loop = asyncio.get_running_loop()
        self._container = container
        self._bundle = bundle
        self._socket: socket.socket | None = connection
        self._stdin = stdin
        self._reading = True
        self.stdout: asyncio.StreamReader | None = self._stream() if stdout else None
        self.stderr: asyncio.StreamReader | None = self._stream() if stderr else None
        self._loop.add_reader(connection.fileno(), self._ready)

    def _stream(self) -> asyncio.StreamReader:
        stream = asyncio.StreamReader(loop=self._loop)
        stream.set_transport(self)
        return stream

    def _ready(self) -> None:
        assert self._socket is not None
        try:
            message = self._socket.recv(MESSAGE_MAX)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            message = b""
        if not message:
            self.close()
            return
        stream = {STDOUT: self.stdout, STDERR: self.stderr}.get(message[0])
        if stream is not None:
            stream.feed_data(message[1:])

    def pause_reading(self) -> None:
        if self._reading and self._socket is not None:
            self._reading = False
            self._loop.remove_reader(self._socket.fileno())

    def resume_reading(self) -> None:
        if not self._reading and self._socket is not None:
            self._reading = True
            self._loop.add_reader(self._socket.fileno(), self._ready)

    def is_closing(self) -> bool:
        return self._socket is None

    def close(self) -> None:
        connection, self._socket = self._socket, None
        if connection is not None:
            self._loop.remove_reader(connection.fileno())
            connection.close()
            for stream in (self.stdout, self.stderr):
                if stream is not None:
                    stream.feed_eof()

    async def write_stdin(self, data: bytes) -> None:
        if not self._stdin:
            return
        for start in range(0, len(data), CHUNK_MAX):
            if self._socket is None:
                return
            with suppress(OSError):
                await self._loop.sock_sendall(self._socket, data[start : start + CHUNK_MAX])

    async def close_stdin(self) -> None:
        if self._stdin and self._socket is not None:
            with suppress(OSError):
                self._socket.shutdown(socket.SHUT_WR)

    def resize(self, *, width: int, height: int) -> None:
        conmon.control(self._bundle, conmon.CTL_RESIZE, height, width)

    async def wait(self) -> int:
        await self._container.ended.wait()
        return self._container.record.exit_code

    async def detach(self) -> None:
        """The container goes on."""
        self.close()
