"""Exec and attach: a process on one side, a client's streams on the other, whatever the wire.

`serve_exec` and `serve_attach` run from the upgrade to the last byte. They leave nothing behind: when the
client is gone, or the server stops, the process is told by `StreamProcess.detach()`.

What the client learns at the end goes over the error stream (k8s.io/kubelet,
pkg/cri/streaming/remotecommand): from v4.channel.k8s.io on a `metav1.Status` as JSON, before that the bare
text of an error and nothing on success.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, Protocol

from podling.runtime.cri.errors import CRIError
from podling.runtime.streaming.backend import StreamProcess
from podling.runtime.streaming.bytequeue import ByteQueue

log = logging.getLogger(__name__)

READ_BYTES = 32 * 1024
"""Read from a process at once; also the longest frame or message we send."""
DETACH_TIMEOUT_S = 5
MAX_RESIZE_BYTES = 4096
"""Of one resize message; `{"Width":80,"Height":24}` takes 25."""

Status = dict[str, Any]


class ProcessStreams(Protocol):
    """The client's side, as SPDY and WebSocket both offer it."""

    stdin: ByteQueue
    """Ends at once when the client sends none."""
    resize: ByteQueue
    gone: asyncio.Event
    """Set when the client has hung up."""

    async def write_stdout(self, data: bytes) -> None:
        """Raises `ConnectionError` when the client is gone; so do the next two."""

    async def write_stderr(self, data: bytes) -> None: ...

    async def finish(self, status: Status) -> None:
        """Say how it ended, end every stream, let the client hang up, close."""


def success_status() -> Status:
    return {"metadata": {}, "status": "Success"}


def exit_status(cmd: Sequence[str], exit_code: int) -> Status:
    """As kubelet and containerd word it; kubectl reads the `ExitCode` cause and exits with that."""
    if exit_code == 0:
        return success_status()
    command = f"error executing command [{' '.join(cmd)}], exit code {exit_code}"
    return {
        "metadata": {},
        "status": "Failure",
        "message": f"command terminated with non-zero exit code: {command}",
        "reason": "NonZeroExitCode",
        "details": {"causes": [{"reason": "ExitCode", "message": str(exit_code)}]},
    }


def internal_error_status(message: str) -> Status:
    return {
        "metadata": {},
        "status": "Failure",
        "message": f"Internal error occurred: {message}",
        "reason": "InternalError",
        "details": {"causes": [{"message": message}]},
        "code": 500,
    }


def encode_status(status: Status, *, version: int) -> bytes:
    if version >= 4:
        return json.dumps(status, separators=(",", ":")).encode()
    return b"" if status["status"] == "Success" else str(status["message"]).encode()


async def serve_exec(
    streams: ProcessStreams, open_process: Callable[[], Awaitable[StreamProcess]], cmd: Sequence[str]
) -> None:
    try:
        exit_code = await _run(streams, open_process)
    except _Failed as err:
        await streams.finish(internal_error_status(f"error executing command in container: {err}"))
        return
    if exit_code is not None:
        await streams.finish(exit_status(cmd, exit_code))


async def serve_attach(streams: ProcessStreams, open_process: Callable[[], Awaitable[StreamProcess]]) -> None:
    """The exit code of the container is not the attachment's: kubectl reads it from the pod."""
    try:
        exit_code = await _run(streams, open_process)
    except _Failed as err:
        await streams.finish(internal_error_status(f"error attaching to container: {err}"))
        return
    if exit_code is not None:
        await streams.finish(success_status())


class _Failed(Exception):
    """The runtime could not start, join or watch the process."""


async def _run(streams: ProcessStreams, open_process: Callable[[], Awaitable[StreamProcess]]) -> int | None:
    """The exit code once all output has gone out; None when the client went first."""
    try:
        process = await open_process()
    except CRIError as err:
        raise _Failed(err.message) from err
    except OSError as err:
        raise _Failed(str(err)) from err
    try:
        return await _relay(streams, process)
    finally:
        # Shielded: when the server stops this task is cancelled, and the process must be told all the same.
        await asyncio.shield(_detach(process))


async def _detach(process: StreamProcess) -> None:
    try:
        async with asyncio.timeout(DETACH_TIMEOUT_S):
            await process.detach()
    except (TimeoutError, CRIError, OSError) as err:
        log.warning("detaching from a process failed: %r", err)


async def _relay(streams: ProcessStreams, process: StreamProcess) -> int | None:
    inputs = [
        asyncio.create_task(_pump_stdin(streams.stdin, process), name="exec-stdin"),
        asyncio.create_task(_pump_resize(streams.resize, process), name="exec-resize"),
    ]
    output = asyncio.create_task(_pump_output(streams, process), name="exec-output")
    gone = asyncio.create_task(streams.gone.wait(), name="exec-gone")
    try:
        await asyncio.wait({output, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not output.done():
            return None
        try:
            return output.result()
        except ConnectionError:
            return None
        except (CRIError, OSError) as err:
            raise _Failed(str(err)) from err
    finally:
        tasks = [*inputs, output, gone]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _pump_output(streams: ProcessStreams, process: StreamProcess) -> int:
    exit_code = asyncio.create_task(process.wait(), name="exec-wait")
    tasks: list[asyncio.Task[Any]] = [exit_code]
    if process.stdout is not None:
        tasks.append(asyncio.create_task(_copy(process.stdout, streams.write_stdout), name="exec-stdout"))
    if process.stderr is not None:
        tasks.append(asyncio.create_task(_copy(process.stderr, streams.write_stderr), name="exec-stderr"))
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
    return exit_code.result()


async def _copy(reader: asyncio.StreamReader, write: Callable[[bytes], Awaitable[None]]) -> None:
    while data := await reader.read(READ_BYTES):
        await write(data)


async def _pump_stdin(stdin: ByteQueue, process: StreamProcess) -> None:
    try:
        while data := await stdin.read():
            await process.write_stdin(data)
        await process.close_stdin()
    except OSError as err:
        # The process closed its end; what it says about that comes over its outputs and exit code.
        log.debug("standard input not taken: %r", err)
        stdin.discard()


async def _pump_resize(resize: ByteQueue, process: StreamProcess) -> None:
    async for width, height in terminal_sizes(resize):
        process.resize(width=width, height=height)


async def terminal_sizes(resize: ByteQueue) -> AsyncIterator[tuple[int, int]]:
    """Width and height from a stream of JSON objects, split anywhere; ends at the first thing that is
    neither."""
    decoder = json.JSONDecoder()
    text = ""
    while data := await resize.read():
        text = (text + data.decode(errors="replace")).lstrip()
        while text:
            try:
                size, end = decoder.raw_decode(text)
            except (json.JSONDecodeError, RecursionError):
                if len(text) > MAX_RESIZE_BYTES:
                    resize.discard()
                    return
                break
            text = text[end:].lstrip()
            if isinstance(size, dict) and (terminal := _terminal_size(size)) is not None:
                yield terminal


def _terminal_size(size: dict[str, Any]) -> tuple[int, int] | None:
    # Go's decoder, which clients were written against, takes the names in any case.
    fields = {str(name).lower(): value for name, value in size.items()}
    width, height = fields.get("width"), fields.get("height")
    if isinstance(width, int) and isinstance(height, int) and 0 <= width < 65536 and 0 <= height < 65536:
        return width, height
    return None
