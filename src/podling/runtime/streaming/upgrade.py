"""From an HTTP request for a stream to the stream: protocol negotiation, upgrade, and the matching server.

WebSocket requests name their protocols in `Sec-WebSocket-Protocol`, SPDY requests in
`X-Stream-Protocol-Version`; the first of the client's that we know wins (k8s.io/apimachinery,
util/httpstream). Refusals are plain HTTP answers, from which kubectl falls back to its other protocol.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass

from aiohttp import hdrs, web

from podling.client.takeover import RawLink, Upgraded, give_back, is_upgrade, switching_protocols, take_over
from podling.runtime.streaming import portforward, spdy_streams
from podling.runtime.streaming.portforward import OpenPort, PortForwarder
from podling.runtime.streaming.remotecommand import ProcessStreams
from podling.runtime.streaming.spdy import SpdyConnection
from podling.runtime.streaming.spdy_session import SpdySession
from podling.runtime.streaming.spdy_streams import StreamOptions, accept_process_streams
from podling.runtime.streaming.websocket import (
    CHANNEL_PROTOCOLS,
    CLOSE_TIMEOUT_S,
    MAX_MESSAGE_BYTES,
    PORT_PROTOCOLS,
    TUNNEL_PREFIX,
    ChannelSocket,
    TunnelLink,
    WebSocketProcessStreams,
    serve_channels,
)

STREAM_CREATION_TIMEOUT_S = 30
"""For a SPDY client to open its streams."""
EXEC_WINDOW = 256 * 1024
"""Bytes of standard input that may wait for a process."""
FORWARD_WINDOW = 4 * 1024 * 1024
"""Bytes that may wait for pods on one port-forward connection, over all its forwarded connections."""
VERSION_HEADER = "X-Stream-Protocol-Version"
ACCEPT_HEADER = "X-Accept-Stream-Protocol-Version"

ServeProcess = Callable[[ProcessStreams], Awaitable[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class PortForwardTarget:
    sandbox_id: str
    ports: tuple[int, ...]
    """Those of a channel client; SPDY clients name the port with each connection."""
    open_port: OpenPort


async def serve_process(
    request: web.Request, options: StreamOptions, serve: ServeProcess
) -> web.StreamResponse:
    """Upgrade `request` and run `serve` on its streams. Raises HTTP errors when it cannot be upgraded."""
    _require_upgrade(request)
    if _is_websocket(request):
        return await _process_websocket(request, options, serve)
    protocol = _negotiate_spdy(request, spdy_streams.PROTOCOLS)
    async with _spdy(request, protocol, window=EXEC_WINDOW) as session:
        streams = await accept_process_streams(
            session, options, version=spdy_streams.PROTOCOLS[protocol], timeout_s=STREAM_CREATION_TIMEOUT_S
        )
        if streams is not None:
            await serve(streams)
    return Upgraded()


async def serve_ports(request: web.Request, target: PortForwardTarget) -> web.StreamResponse:
    """Upgrade `request` and forward its connections. Raises HTTP errors when it cannot be upgraded."""
    _require_upgrade(request)
    if _is_websocket(request):
        return await _ports_websocket(request, target)
    protocol = _negotiate_spdy(request, [portforward.PROTOCOL])
    async with _spdy(request, protocol, window=FORWARD_WINDOW) as session:
        await PortForwarder(session, target.open_port, target.sandbox_id).run()
    return Upgraded()


# ---- SPDY


def _negotiate_spdy(request: web.Request, known: Iterable[str]) -> str:
    asked = _tokens(request, VERSION_HEADER)
    supported = list(known)
    if not asked:
        return supported[-1]  # the oldest: clients of Kubernetes 1.0 do not ask
    for protocol in asked:
        if protocol in supported:
            return protocol
    raise web.HTTPForbidden(
        text=f"unable to upgrade: unable to negotiate protocol: client supports [{' '.join(asked)}], "
        f"server accepts [{' '.join(supported)}]\n",
        headers=[(ACCEPT_HEADER, protocol) for protocol in supported],
    )


@contextlib.asynccontextmanager
async def _spdy(request: web.Request, protocol: str, *, window: int) -> AsyncIterator[SpdySession]:
    """The client as a SPDY session; closed at the end, whatever happens."""
    link = RawLink()
    session = SpdySession(link, SpdyConnection(window=window), max_buffered=window)
    try:
        _, early = take_over(request, link)
    except ConnectionResetError:
        session.feed_eof()
        yield session
        return
    try:
        head = {"Connection": "Upgrade", "Upgrade": "SPDY/3.1", VERSION_HEADER: protocol}
        link.write(switching_protocols(head))
        link.start(session, early)
        yield session
    finally:
        await session.close()
        give_back(request)


# ---- WebSocket


async def _process_websocket(
    request: web.Request, options: StreamOptions, serve: ServeProcess
) -> web.StreamResponse:
    ws, protocol = await _open_websocket(request, CHANNEL_PROTOCOLS)
    streams = WebSocketProcessStreams(ChannelSocket(ws, CHANNEL_PROTOCOLS[protocol]), options)
    receiver = asyncio.create_task(streams.run(), name="websocket-receive")
    try:
        with contextlib.suppress(ConnectionError):
            await streams.greet()
        await serve(streams)
    finally:
        receiver.cancel()
        await asyncio.gather(receiver, return_exceptions=True)
    return ws


async def _ports_websocket(request: web.Request, target: PortForwardTarget) -> web.StreamResponse:
    tunnelled = TUNNEL_PREFIX + portforward.PROTOCOL
    ws, protocol = await _open_websocket(request, [tunnelled, *PORT_PROTOCOLS])
    if protocol == tunnelled:
        link = TunnelLink(ws)
        session = SpdySession(link, SpdyConnection(window=FORWARD_WINDOW), max_buffered=FORWARD_WINDOW)
        forwarder = asyncio.create_task(
            PortForwarder(session, target.open_port, target.sandbox_id).run(), name="port-forward"
        )
        try:
            await link.run(session)
            await forwarder
        finally:
            forwarder.cancel()
            await asyncio.gather(forwarder, return_exceptions=True)
        return ws
    with contextlib.suppress(ConnectionError):
        await serve_channels(
            ChannelSocket(ws, PORT_PROTOCOLS[protocol]), target.open_port, target.ports, target.sandbox_id
        )
    return ws


async def _open_websocket(request: web.Request, known: Iterable[str]) -> tuple[web.WebSocketResponse, str]:
    """The socket and the protocol agreed on, "" when the client named none."""
    asked = _tokens(request, hdrs.SEC_WEBSOCKET_PROTOCOL)
    supported = [protocol for protocol in known if protocol]
    if asked and not set(asked) & set(supported):
        raise web.HTTPBadRequest(
            text=f"unable to upgrade: requested protocol(s) are not supported: [{' '.join(asked)}]; "
            f"supports [{' '.join(supported)}]\n"
        )
    if not asked and "" not in known:
        raise web.HTTPBadRequest(text=f"unable to upgrade: name one of [{' '.join(supported)}]\n")
    ws = web.WebSocketResponse(
        protocols=supported, timeout=CLOSE_TIMEOUT_S, compress=False, max_msg_size=MAX_MESSAGE_BYTES
    )
    await ws.prepare(request)
    return ws, ws.ws_protocol or ""


# ---- HTTP


def _require_upgrade(request: web.Request) -> None:
    if not is_upgrade(request):
        raise web.HTTPBadRequest(text="unable to upgrade: missing upgrade headers in request\n")


def _is_websocket(request: web.Request) -> bool:
    return request.headers[hdrs.UPGRADE].strip().lower() == "websocket"


def _tokens(request: web.Request, name: str) -> list[str]:
    """The values of a header that may be repeated, or hold several with commas."""
    values = ",".join(request.headers.getall(name, [])).split(",")
    return [value.strip() for value in values if value.strip()]
