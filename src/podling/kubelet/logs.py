"""Read a container's log for `kubectl logs`: tail, since, limit, time stamps, and follow.

The file is in the CRI log format and is written by the container's monitor; a rotated one is replaced
under its name. Upstream: `pkg/kubelet/kuberuntime/logs`. As there, a log begins with the file that is being
written; what follows it is read through every rotation.

Memory stays bounded however much faster the writer is: no more is read than the consumer has taken.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from podling.kubelet.inotify import DirectoryWatch
from podling.kubelet.log_files import LogChain
from podling.kubelet.log_format import LogLine, parse_line, timestamp_seconds

CHUNK_BYTES = 64 * 1024
TAIL_BLOCK_BYTES = 32 * 1024
LONGEST_RECORD = 1 << 20
"""Monitors write at most some 8 to 16 KiB in one record; what is longer than this is none."""

Piece = tuple[str, bytes]
"""`stdout` or `stderr`, and text of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogOptions:
    """As `PodLogOptions` of the API."""

    follow: bool = False
    tail_lines: int | None = None
    since_s: float | None = None
    """Seconds since the epoch: older lines are left out."""
    until_s: float | None = None
    """Later lines are left out: docker's, not the API's."""
    timestamps: bool = False
    limit_bytes: int | None = None
    stream: str | None = None
    """`stdout` or `stderr`; None for both."""


async def read_log(
    path: Path, options: LogOptions, *, running: Callable[[], bool], stopped: asyncio.Event
) -> AsyncIterator[bytes]:
    """Yield the log in chunks. See `read_pieces`."""
    async for pieces in read_pieces(path, options, running=running, stopped=stopped):
        yield b"".join(text for _, text in pieces)


async def read_pieces(
    path: Path, options: LogOptions, *, running: Callable[[], bool], stopped: asyncio.Event
) -> AsyncIterator[list[Piece]]:
    """Yield the log in chunks of pieces, each of one stream.

    With `follow` it goes on until the container is not `running` and everything it wrote was read; `stopped`
    is set when it may have ended. A missing file is an empty log.
    """
    state = _Formatter(options)
    try:
        chain = LogChain(path)
    except FileNotFoundError:
        return
    try:
        await asyncio.to_thread(_seek_tail, chain.file, options.tail_lines)
        if not options.follow:
            async for pieces in _drain(chain, state):
                yield pieces
            return
        with DirectoryWatch(path.parent) as watch:
            while not state.full:
                # Before reading: what is written by a container that ended is complete.
                alive = running()
                watch.changed.clear()
                stopped.clear()
                async for pieces in _drain(chain, state):
                    yield pieces
                if chain.advance():
                    continue
                if not alive:
                    return
                await _first(watch.changed, stopped)
    finally:
        chain.close()


async def _first(*events: asyncio.Event) -> None:
    waits = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()


async def _drain(chain: LogChain, state: _Formatter) -> AsyncIterator[list[Piece]]:
    """Everything up to the present end of the file."""
    while not state.full:
        block = chain.read(CHUNK_BYTES)
        if not block:
            return
        pieces = state.feed(block)
        if pieces:
            yield pieces
        await asyncio.sleep(0)


class _Formatter:
    """Turns raw blocks of the file into what the client gets; keeps torn lines and the byte limit."""

    def __init__(self, options: LogOptions) -> None:
        self._options = options
        self._rest = b""
        self._left = options.limit_bytes
        self._line_starts = {"stdout": True, "stderr": True}

    @property
    def full(self) -> bool:
        return self._left is not None and self._left <= 0

    def feed(self, block: bytes) -> list[Piece]:
        lines = (self._rest + block).split(b"\n")
        self._rest = lines.pop()
        if len(self._rest) > LONGEST_RECORD:
            self._rest = b""
        pieces = [piece for raw in lines if (piece := self._format(raw)) is not None]
        return pieces if self._left is None else self._cut(pieces)

    def _cut(self, pieces: list[Piece]) -> list[Piece]:
        kept = []
        for stream, text in pieces:
            assert self._left is not None  # the caller has looked
            text = text[: max(0, self._left)]
            self._left -= len(text)
            if text:
                kept.append((stream, text))
        return kept

    def _format(self, raw: bytes) -> Piece | None:
        line = parse_line(raw + b"\n")
        if line is None or not self._wanted(line):
            return None
        # Each stream's lines begin for themselves: parts of both may lie between each other.
        start = self._options.timestamps and self._line_starts[line.stream]
        self._line_starts[line.stream] = not line.partial
        return line.stream, (f"{line.timestamp} ".encode() if start else b"") + line.content

    def _wanted(self, line: LogLine) -> bool:
        options = self._options
        if options.stream is not None and line.stream != options.stream:
            return False
        if options.since_s is None and options.until_s is None:
            return True
        written = timestamp_seconds(line.timestamp)
        if written is None:
            return True
        return (options.since_s is None or written >= options.since_s) and (
            options.until_s is None or written <= options.until_s
        )


def _seek_tail(file: BinaryIO, lines: int | None) -> None:
    """Position `file` at the start of its last `lines` lines, reading backwards in blocks, each byte once.

    Parts of one long line are separate records; counting records that end a line counts lines.
    """
    if lines is None or lines < 0:
        return
    position = file.seek(0, os.SEEK_END)
    if lines == 0:
        return
    ends, carried = 0, b""
    while position > 0:
        step = min(TAIL_BLOCK_BYTES, position)
        position -= step
        file.seek(position)
        block = file.read(step) + carried
        # The first record may begin in the block before.
        cut = block.find(b"\n")
        first = 0 if position == 0 else len(block) if cut < 0 else cut + 1
        for start, end in _records_backwards(block, first):
            line = parse_line(block[start:end])
            if line is not None and not line.partial:
                ends += 1
                if ends > lines:
                    file.seek(position + end)
                    return
        carried = block[:first] if position else b""
    file.seek(0)


def _records_backwards(block: bytes, first: int) -> Iterator[tuple[int, int]]:
    """(start, end) of the records from `first` on, the last one first."""
    end = len(block)
    while end > first:
        start = max(first, block.rfind(b"\n", first, end - 1) + 1)
        yield start, end
        end = start
