"""Read a container's log file for `kubectl logs`: tail, since, limit, time stamps, and follow.

The file is in the CRI log format and is written by the container's monitor; a rotated one is replaced
under its name. Upstream: `pkg/kubelet/kuberuntime/logs`.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from podling.kubelet.inotify import DirectoryWatch
from podling.kubelet.log_format import LogLine, parse_line, timestamp_seconds

CHUNK_BYTES = 64 * 1024
TAIL_BLOCK_BYTES = 32 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class LogOptions:
    """As `PodLogOptions` of the API."""

    follow: bool = False
    tail_lines: int | None = None
    since_s: float | None = None
    """Seconds since the epoch: older lines are left out."""
    timestamps: bool = False
    limit_bytes: int | None = None
    stream: str | None = None
    """`stdout` or `stderr`; None for both."""


async def read_log(
    path: Path, options: LogOptions, *, running: Callable[[], bool], stopped: asyncio.Event
) -> AsyncIterator[bytes]:
    """Yield the log in chunks.

    With `follow` it goes on until the container is not `running` and everything it wrote was read; `stopped`
    is set when it may have ended. A missing file is an empty log.
    """
    state = _Formatter(options)
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return
    with file:
        await asyncio.to_thread(_seek_tail, file, options.tail_lines)
        if not options.follow:
            async for chunk in _drain(file, state):
                yield chunk
            return
        with DirectoryWatch(path.parent) as watch:
            async for chunk in _follow(file, path, state, watch, running=running, stopped=stopped):
                yield chunk


async def _follow(
    file: BinaryIO,
    path: Path,
    state: _Formatter,
    watch: DirectoryWatch,
    *,
    running: Callable[[], bool],
    stopped: asyncio.Event,
) -> AsyncIterator[bytes]:
    current = file
    try:
        while not state.full:
            # Before reading: what is written by a container that ended is complete.
            alive = running()
            watch.changed.clear()
            stopped.clear()
            async for chunk in _drain(current, state):
                yield chunk
            replaced = _reopen_if_replaced(current, path)
            if replaced is not None:
                if current is not file:
                    current.close()
                current = replaced
                continue
            if not alive:
                return
            await _first(watch.changed, stopped)
    finally:
        if current is not file:
            current.close()


async def _first(*events: asyncio.Event) -> None:
    waits = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()


async def _drain(file: BinaryIO, state: _Formatter) -> AsyncIterator[bytes]:
    """Everything up to the present end of the file. Reads of a cached local file: no thread needed."""
    while not state.full:
        block = file.read(CHUNK_BYTES)
        if not block:
            return
        text = state.feed(block)
        if text:
            yield text
        await asyncio.sleep(0)


def _reopen_if_replaced(file: BinaryIO, path: Path) -> BinaryIO | None:
    """The new file when the log was rotated, else None."""
    try:
        if os.stat(path).st_ino != os.fstat(file.fileno()).st_ino:
            return path.open("rb")
    except FileNotFoundError:
        return None
    return None


class _Formatter:
    """Turns raw blocks of the file into what the client gets; keeps torn lines and the byte limit."""

    def __init__(self, options: LogOptions) -> None:
        self._options = options
        self._rest = b""
        self._left = options.limit_bytes
        self._line_start = True

    @property
    def full(self) -> bool:
        return self._left is not None and self._left <= 0

    def feed(self, block: bytes) -> bytes:
        lines = (self._rest + block).split(b"\n")
        self._rest = lines.pop()
        text = b"".join(self._format(raw) for raw in lines)
        if self._left is not None:
            text = text[: max(0, self._left)]
            self._left -= len(text)
        return text

    def _format(self, raw: bytes) -> bytes:
        line = parse_line(raw + b"\n")
        if line is None or not self._wanted(line):
            return b""
        prefix = f"{line.timestamp} ".encode() if self._options.timestamps and self._line_start else b""
        self._line_start = not line.partial
        return prefix + line.content

    def _wanted(self, line: LogLine) -> bool:
        if self._options.stream is not None and line.stream != self._options.stream:
            return False
        if self._options.since_s is None:
            return True
        written = timestamp_seconds(line.timestamp)
        return written is None or written >= self._options.since_s


def _seek_tail(file: BinaryIO, lines: int | None) -> None:
    """Position `file` at the start of its last `lines` lines, reading backwards in blocks.

    Parts of one long line are separate records; counting records that end a line counts lines.
    """
    if lines is None or lines < 0:
        return
    end = file.seek(0, os.SEEK_END)
    if lines == 0:
        return
    position, buffer = end, b""
    while position > 0:
        step = min(TAIL_BLOCK_BYTES, position)
        position -= step
        file.seek(position)
        buffer = file.read(step) + buffer
        start = _tail_start(buffer, lines, complete=position == 0)
        if start is not None:
            file.seek(position + start)
            return
    file.seek(0)


def _tail_start(buffer: bytes, lines: int, *, complete: bool) -> int | None:
    """Offset in `buffer` of the wanted tail; None when more of the file is needed."""
    at = len(buffer)
    ends = 0
    while True:
        start = buffer.rfind(b"\n", 0, max(0, at - 1)) + 1
        if start == 0 and not complete:
            return None
        record = buffer[start:at]
        line = parse_line(record)
        if line is not None and not line.partial:
            ends += 1
            if ends > lines:
                return at
        if start == 0:
            return 0
        at = start
