"""Exec, attach and port-forward over WebSocket: channels by number, or SPDY tunnelled in binary messages.

`channel.k8s.io` and its successors (k8s.io/apimachinery, util/httpstream/wsstream): the first byte of a
message is the channel; the base64 forms send text, a digit and then base64. `v5.channel.k8s.io` adds the
message 255, N: channel N is closed, which is how a client ends standard input. kubectl speaks v5 from 1.30
on; the Python client speaks v4.

While a slow process keeps us from reading, pings go unanswered; unasked pongs (RFC 6455, section 5.5.3)
keep the client from giving up after a minute, and make a client that has vanished show itself by a TCP
reset.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import struct
from collections.abc import Sequence
from dataclasses import dataclass

from aiohttp import WSMsgType, web

from podling.runtime.cri.errors import CRIError
from podling.runtime.streaming.bytequeue import ByteQueue
from podling.runtime.streaming.portforward import OpenPort, copy_both_ways, forward_error
from podling.runtime.streaming.remotecommand import Status, encode_status
from podling.runtime.streaming.spdy_session import SpdySession
from podling.runtime.streaming.spdy_streams import StreamOptions

STDIN, STDOUT, STDERR, ERROR, RESIZE, CLOSE = 0, 1, 2, 3, 4, 255

MAX_MESSAGE_BYTES = 32 * 1024 * 1024
"""The Python client sends whatever it is given as one message; upstream's server takes 32 MiB."""
MAX_BUFFERED = 256 * 1024
"""Standard input waiting for the process before we stop reading from the client."""
KEEPALIVE_S = 2
"""Between pongs to a client we do not read from. Each hop on the way needs one or two to see a reset."""
CLOSE_TIMEOUT_S = 10
TUNNEL_PREFIX = "SPDY/3.1+"


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelProtocol:
    version: int
    base64: bool = False


CHANNEL_PROTOCOLS = {
    "v5.channel.k8s.io": ChannelProtocol(version=5),
    "v4.channel.k8s.io": ChannelProtocol(version=4),
    "v4.base64.channel.k8s.io": ChannelProtocol(version=4, base64=True),
    "channel.k8s.io": ChannelProtocol(version=1),
    "base64.channel.k8s.io": ChannelProtocol(version=1, base64=True),
    "": ChannelProtocol(version=1),
}
"""For exec and attach; "" is what a client gets that asks for none."""
PORT_PROTOCOLS = {
    name: protocol for name, protocol in CHANNEL_PROTOCOLS.items() if protocol.version == 4 or not name
}
"""For port-forward by channels."""


class ChannelSocket:
    """Messages as (channel, bytes), in either encoding."""

    def __init__(self, ws: web.WebSocketResponse, protocol: ChannelProtocol) -> None:
        self.version = protocol.version
        self._ws = ws
        self._base64 = protocol.base64

    async def receive(self) -> tuple[int, bytes] | None:
        """The next message; None when the client is gone or sends nonsense."""
        while True:
            message = await self._ws.receive()
            if message.type == WSMsgType.BINARY:
                data = message.data
            elif message.type == WSMsgType.TEXT:
                data = message.data.encode()
            else:
                return None
            if not data:
                continue
            if not self._base64:
                return data[0], data[1:]
            try:
                return data[0] - ord("0"), base64.b64decode(data[1:], validate=True)
            except binascii.Error:
                return None

    async def send(self, channel: int, data: bytes) -> None:
        """Raises `ConnectionError` when the client is gone; waits while it does not take more."""
        if self._base64:
            await self._ws.send_str(f"{channel:d}{base64.b64encode(data).decode()}")
        else:
            await self._ws.send_bytes(bytes((channel,)) + data)

    async def wait_for_room(self, queue: ByteQueue) -> None:
        """Back-pressure, with pongs meanwhile. Raises `ConnectionError` when the client is gone."""
        while queue.size > MAX_BUFFERED:
            try:
                async with asyncio.timeout(KEEPALIVE_S):
                    await queue.room(MAX_BUFFERED)
            except TimeoutError:
                await self._ws.pong()

    async def close(self) -> None:
        """Close with code 1000 and wait for the client's answer. Twice is fine."""
        await self._ws.close()


class WebSocketProcessStreams:
    """`ProcessStreams` over channels. `run` must be running for input to arrive."""

    def __init__(self, socket: ChannelSocket, options: StreamOptions) -> None:
        self.stdin = ByteQueue()
        self.resize = ByteQueue()
        self.gone = asyncio.Event()
        self._socket = socket
        self._options = options
        if not options.stdin:
            self.stdin.feed_eof()

    async def greet(self) -> None:
        """An empty message on the first channel we write to: the client learns that streams are up."""
        first = STDOUT if self._options.stdout else STDERR if self._options.stderr else ERROR
        await self._socket.send(first, b"")

    async def run(self) -> None:
        """Receive until the client is gone."""
        try:
            while (message := await self._socket.receive()) is not None:
                await self._receive(*message)
        except ConnectionError:
            pass
        finally:
            self.gone.set()
            self.stdin.feed_eof()
            self.resize.feed_eof()

    async def _receive(self, channel: int, data: bytes) -> None:
        if channel == STDIN:
            self.stdin.feed(data)
            await self._socket.wait_for_room(self.stdin)
        elif channel == RESIZE:
            self.resize.feed(data)
        elif channel == CLOSE and self._socket.version >= 5 and data == bytes((STDIN,)):
            self.stdin.feed_eof()

    async def write_stdout(self, data: bytes) -> None:
        if self._options.stdout:
            await self._socket.send(STDOUT, data)

    async def write_stderr(self, data: bytes) -> None:
        if self._options.stderr and not self._options.tty:
            await self._socket.send(STDERR, data)

    async def finish(self, status: Status) -> None:
        self.stdin.discard()
        payload = encode_status(status, version=self._socket.version)
        try:
            if payload:
                await self._socket.send(ERROR, payload)
            await self._socket.close()
        except ConnectionError:
            pass


async def serve_channels(
    socket: ChannelSocket, open_port: OpenPort, ports: Sequence[int], sandbox_id: str
) -> None:
    """Port-forward by channels; ends when every port's connection has ended or the client is gone."""
    inputs = [ByteQueue() for _ in ports]
    for index, port in enumerate(ports):
        for channel in (2 * index, 2 * index + 1):
            await socket.send(channel, struct.pack("<H", port))
    receiver = asyncio.create_task(_receive_ports(socket, inputs), name="port-forward-receive")
    forwards = [
        asyncio.create_task(
            _forward_channel(socket, open_port, index, port, sandbox_id, inputs[index]),
            name=f"port-forward-{port}",
        )
        for index, port in enumerate(ports)
    ]
    # The receiver ends when the client is gone; else it is over when all ports are.
    receiver.add_done_callback(lambda _: [forward.cancel() for forward in forwards])
    try:
        await asyncio.wait(forwards)
    finally:
        receiver.cancel()
        await asyncio.gather(receiver, *forwards, return_exceptions=True)
    await socket.close()


async def _receive_ports(socket: ChannelSocket, inputs: list[ByteQueue]) -> None:
    try:
        while (message := await socket.receive()) is not None:
            channel, data = message
            index, is_error_channel = divmod(channel, 2)
            if index < len(inputs) and not is_error_channel:
                inputs[index].feed(data)
                await socket.wait_for_room(inputs[index])
    except ConnectionError:
        return


async def _forward_channel(
    socket: ChannelSocket, open_port: OpenPort, index: int, port: int, sandbox_id: str, data: ByteQueue
) -> None:
    async def send(chunk: bytes) -> None:
        await socket.send(2 * index, chunk)

    try:
        try:
            reader, writer = await open_port(port)
        except (CRIError, OSError) as err:
            await socket.send(2 * index + 1, forward_error(port, sandbox_id, err).encode())
            return
        try:
            await copy_both_ways(reader, writer, data.read, send)
        finally:
            writer.close()
    except ConnectionError:
        return
    finally:
        data.discard()


class TunnelLink:
    """A SPDY session's bytes in the binary messages of a WebSocket, cut anywhere."""

    def __init__(self, ws: web.WebSocketResponse) -> None:
        self._ws = ws
        self._queued = ByteQueue()
        self._may_read = asyncio.Event()
        self._may_read.set()
        self._closed = False

    async def run(self, session: SpdySession) -> None:
        """Carry bytes both ways until the client is gone."""
        sender = asyncio.create_task(self._send(), name="tunnel-send")
        try:
            while True:
                await self._may_read.wait()
                message = await self._ws.receive()
                if message.type != WSMsgType.BINARY:
                    break
                session.feed(message.data)
        finally:
            self._closed = True
            session.feed_eof()
            sender.cancel()
            await asyncio.gather(sender, return_exceptions=True)

    async def _send(self) -> None:
        try:
            while data := await self._queued.read():
                await self._ws.send_bytes(data)
        except ConnectionError:
            self._closed = True
            # A session that does not read must hear of it too: let `run` see the end.
            self._queued.discard()
            self._may_read.set()

    # ---- Link

    def write(self, data: bytes) -> None:
        self._queued.feed(data)

    async def drain(self) -> None:
        await self._queued.room(MAX_BUFFERED)
        if self._closed:
            raise ConnectionResetError("the client closed the connection")

    def pause_reading(self) -> None:
        self._may_read.clear()

    def resume_reading(self) -> None:
        self._may_read.set()

    async def close(self) -> None:
        self._queued.feed_eof()
        self._may_read.set()
        await self._queued.room(0)
        await self._ws.close()
