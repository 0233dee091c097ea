"""The console socket: where an OCI runtime sends the master side of the terminal it has made.

OCI runtime spec, `process.terminal`; runc's docs/terminals.md describes the exchange: one SCM_RIGHTS message.
"""

from __future__ import annotations

import array
import asyncio
import fcntl
import os
import socket
import struct
import termios
from pathlib import Path

ADDRESS_MAX = 107
"""Bytes of a unix socket's path (`man 7 unix`)."""


class ConsoleSocket:
    """Listens at `path` for one terminal, until `close`."""

    def __init__(self, folder: Path, name: str) -> None:
        self.path = folder / name
        if len(os.fsencode(self.path)) > ADDRESS_MAX:
            raise OSError(f"console socket: the path is too long for a socket: {self.path}")
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        self._socket.setblocking(False)
        self._socket.bind(os.fspath(self.path))
        self._socket.listen(1)

    async def receive(self) -> int:
        """The terminal's master side."""
        loop = asyncio.get_running_loop()
        connection, _ = await loop.sock_accept(self._socket)
        with connection:
            connection.setblocking(False)
            return await _receive_fd(connection)

    def close(self) -> None:
        self._socket.close()
        self.path.unlink(missing_ok=True)


async def _receive_fd(connection: socket.socket) -> int:
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()

    def wake() -> None:
        if not ready.done():
            ready.set_result(None)

    loop.add_reader(connection.fileno(), wake)
    try:
        await ready
    finally:
        loop.remove_reader(connection.fileno())
    fds = array.array("i")
    _, ancillary, _, _ = connection.recvmsg(4096, socket.CMSG_SPACE(fds.itemsize), socket.MSG_CMSG_CLOEXEC)
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(data[: fds.itemsize])
    if not fds:
        raise OSError("the OCI runtime sent no terminal")
    return fds[0]


def set_size(fd: int, *, width: int, height: int) -> None:
    """In characters (`man 2 TIOCSWINSZ`)."""
    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))
