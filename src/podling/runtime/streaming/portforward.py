"""Port-forward: connections of a client to ports inside a sandbox.

`serve_spdy` serves portforward.k8s.io over any SPDY session (on TCP, or tunnelled through a WebSocket as
kubectl does from 1.31 on): each forwarded connection is a pair of streams, error and data, that carry the
same `requestID` and `port`. `serve_channels` serves the older WebSocket form, where port number i of the
request has the channels 2i (data) and 2i+1 (error): one connection a port (k8s.io/kubelet,
pkg/cri/streaming/portforward).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from podling.runtime.cri.errors import CRIError
from podling.runtime.streaming.spdy_frames import ResetStatus
from podling.runtime.streaming.spdy_session import SpdySession, SpdyStream

log = logging.getLogger(__name__)

PROTOCOL = "portforward.k8s.io"
READ_BYTES = 32 * 1024
PAIR_TIMEOUT_S = 30
"""Between the first and the second stream of a pair."""

OpenPort = Callable[[int], Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]


def forward_error(port: int, sandbox_id: str, err: object) -> str:
    return f"error forwarding port {port} to pod {sandbox_id}, uid : {err}"


@dataclass(slots=True, kw_only=True)
class _Pair:
    port: int
    streams: dict[str, SpdyStream] = field(default_factory=dict)
    expiry: asyncio.TimerHandle | None = None


class PortForwarder:
    """All connections of one client. `run` ends when the client is gone, and its connections with it."""

    def __init__(self, session: SpdySession, open_port: OpenPort, sandbox_id: str) -> None:
        self._session = session
        self._open_port = open_port
        self._sandbox_id = sandbox_id
        self._pairs: dict[str, _Pair] = {}
        self._forwards: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        try:
            while (stream := await self._session.accept()) is not None:
                self._accept(stream)
        finally:
            for pair in self._pairs.values():
                _stop_timer(pair)
            for task in self._forwards:
                task.cancel()
            await asyncio.gather(*self._forwards, return_exceptions=True)

    def _accept(self, stream: SpdyStream) -> None:
        stream_type = stream.headers.get("streamtype", "")
        port = _port_number(stream.headers.get("port", ""))
        if stream_type not in ("error", "data") or port is None:
            stream.reset(ResetStatus.REFUSED_STREAM)
            return
        request_id = stream.headers.get("requestid") or _implied_request_id(stream.id, stream_type)
        pair = self._pairs.setdefault(request_id, _Pair(port=port))
        if stream_type in pair.streams or pair.port != port:
            stream.reset(ResetStatus.REFUSED_STREAM)
            return
        pair.streams[stream_type] = stream
        self._session.reply(stream)
        if len(pair.streams) == 1:
            loop = asyncio.get_running_loop()
            pair.expiry = loop.call_later(PAIR_TIMEOUT_S, self._expire, request_id)
            return
        _stop_timer(self._pairs.pop(request_id))
        task = asyncio.create_task(self._forward(pair), name=f"port-forward-{port}")
        self._forwards.add(task)
        task.add_done_callback(self._forwards.discard)

    def _expire(self, request_id: str) -> None:
        """Only half a pair came: refuse it."""
        for stream in self._pairs.pop(request_id).streams.values():
            stream.reset()

    async def _forward(self, pair: _Pair) -> None:
        data, error = pair.streams["data"], pair.streams["error"]
        try:
            failure = await self._connect_and_copy(pair.port, data)
            if failure is not None:
                await error.write(forward_error(pair.port, self._sandbox_id, failure).encode())
        except ConnectionError as err:
            log.debug("port-forward to %s:%d: client gone: %r", self._sandbox_id, pair.port, err)
        finally:
            data.close()
            error.close()
            data.stop_reading()
            error.stop_reading()

    async def _connect_and_copy(self, port: int, data: SpdyStream) -> object | None:
        """None when the connection ended by itself, else why it could not be made."""
        try:
            reader, writer = await self._open_port(port)
        except CRIError as err:
            return err.message
        except OSError as err:
            return err
        try:
            await copy_both_ways(reader, writer, data.read, data.write)
        finally:
            writer.close()
        return None


async def copy_both_ways(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    receive: Callable[[], Awaitable[bytes]],
    send: Callable[[bytes], Awaitable[None]],
) -> None:
    """Until the pod's side ends: a client that ends its half may still read the answer.

    The other way round it is over, as with the real kubelet: kubectl drops the rest of its half then.
    """
    upload = asyncio.create_task(_upload(receive, writer), name="port-forward-upload")
    try:
        while chunk := await _read(reader):
            await send(chunk)
    finally:
        upload.cancel()
        await asyncio.gather(upload, return_exceptions=True)


async def _read(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.read(READ_BYTES)
    except OSError:  # reset by the pod: the client sees the end, as it would of a reset through kubectl
        return b""


async def _upload(receive: Callable[[], Awaitable[bytes]], writer: asyncio.StreamWriter) -> None:
    # A pod that closed for reading shows on the other half; nothing to report here.
    with contextlib.suppress(OSError):
        while chunk := await receive():
            writer.write(chunk)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()


def _port_number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and 0 < int(text) < 65536 else None


def _implied_request_id(stream_id: int, stream_type: str) -> str:
    # Clients before Kubernetes 1.2 send no requestID but open the error stream first, then the data stream.
    return str(stream_id if stream_type == "error" else stream_id - 2)


def _stop_timer(pair: _Pair) -> None:
    if pair.expiry is not None:
        pair.expiry.cancel()
