"""Our standard streams and terminal on one side, a container's process on the other."""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import struct
import sys
import termios
import threading
import tty
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from podling.runtime.streaming.backend import StreamProcess

DETACH = b"\x10\x11"
"""^P ^Q, docker's: leave the container running."""
CHUNK = 32 * 1024


class Detached(Exception):
    """The person typed ^P ^Q."""


@contextmanager
def raw_terminal(wanted: bool) -> Iterator[None]:
    """Every key goes to the process as it is; afterwards the terminal is as it was."""
    if not wanted or not sys.stdin.isatty():
        yield
        return
    before = termios.tcgetattr(0)
    tty.setraw(0)
    try:
        yield
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, before)


async def pump(stream: StreamProcess, *, stdin: bool, terminal: bool) -> None:
    """Copy until the process's output ends. Raises `Detached`."""
    loop = asyncio.get_running_loop()
    detached: asyncio.Future[None] = loop.create_future()
    if terminal and sys.stdout.isatty():
        _resize(stream)
        loop.add_signal_handler(signal.SIGWINCH, _resize, stream)
    if stdin:
        # A thread that never comes back from read() must not keep us: a daemon. Not a loop reader: those
        # cannot wait for files, and would make our caller's terminal non-blocking.
        threading.Thread(target=_type, args=(stream, loop, detached, terminal), daemon=True).start()
    copies = [
        asyncio.ensure_future(_copy(reader, fd))
        for reader, fd in ((stream.stdout, 1), (stream.stderr, 2))
        if reader is not None
    ]
    output = asyncio.gather(*copies)
    waited: list[asyncio.Future[Any]] = [output, detached]
    await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
    if detached.done():
        output.cancel()
        raise Detached
    output.result()


async def _copy(reader: asyncio.StreamReader, fd: int) -> None:
    while data := await reader.read(CHUNK):
        view = memoryview(data)
        while view:
            view = view[await asyncio.to_thread(os.write, fd, view) :]


def _type(
    stream: StreamProcess, loop: asyncio.AbstractEventLoop, detached: asyncio.Future[None], terminal: bool
) -> None:
    held = b""
    with suppress(RuntimeError, OSError):  # the loop is closed: the process has ended
        while data := os.read(0, CHUNK):
            data = held + data
            if terminal and DETACH in data:
                loop.call_soon_threadsafe(detached.set_result, None)
                return
            held = DETACH[:1] if terminal and data.endswith(DETACH[:1]) else b""
            typed = data[: len(data) - len(held)]
            asyncio.run_coroutine_threadsafe(stream.write_stdin(typed), loop).result()
        asyncio.run_coroutine_threadsafe(stream.close_stdin(), loop).result()


def _resize(stream: StreamProcess) -> None:
    rows, columns, *_ = struct.unpack("HHHH", fcntl.ioctl(1, termios.TIOCGWINSZ, bytes(8)))
    if rows and columns:
        stream.resize(width=columns, height=rows)
