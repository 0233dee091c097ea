"""The HTTPS edge: connections, certificates, bodies and streams, over aiohttp's low-level server.

Below aiohttp's router, which the uniform paths of this API do not need. A request whose client goes away
is cancelled: a watch or a log stream ends with its reader. Writes are not: what was begun is finished,
whether or not somebody waits for the answer.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from urllib.parse import parse_qs, unquote

from aiohttp import web

from podling.apiserver import authn, errors
from podling.apiserver.bodies import MAX_BODY_BYTES
from podling.apiserver.dispatch import error_response
from podling.apiserver.request import ANONYMOUS, Answer, Query, Request, Response, Stream, Upgrade, User
from podling.client.streamproxy import proxy_upgrade

KEEPALIVE_S = 180.0
"""Longer than clients keep idle connections (Go: 90 s), so that it is they who close first."""
SHUTDOWN_S = 2.0
BACKLOG = 1024
"""Connections the kernel holds for us while we are busy."""

Handle = Callable[[Request], Awaitable[Answer]]
Authenticate = Callable[[str], Awaitable[User]]
"""The user of a bearer token; raises APIError 401."""
_NO_QUERY = Query({})
_BODY_METHODS = frozenset({"POST", "PUT", "PATCH", "DELETE"})


class HttpsServer:
    """Listens for `handle`. `kubelet_ssl` makes the context for upgraded connections to kubelets."""

    def __init__(
        self, handle: Handle, authenticate: Authenticate, kubelet_ssl: Callable[[], ssl.SSLContext]
    ) -> None:
        self._handle = handle
        self._authenticate = authenticate
        self._kubelet_ssl = kubelet_ssl
        self._web: web.Server | None = None
        self._server: asyncio.Server | None = None
        self._socket: socket.socket | None = None
        self._writes: set[asyncio.Future[Answer]] = set()
        self._streams: set[asyncio.Task[object]] = set()
        self.port = 0

    def bind(self, address: str, port: int, listener: socket.socket | None = None) -> None:
        """Take `listener`, a listening socket, or make one; connections wait until `start`.

        Raises OSError when the address or port cannot be had.
        """
        self._socket = listener or socket.create_server((address, port), backlog=BACKLOG)
        self.port = self._socket.getsockname()[1]

    async def start(self, context: ssl.SSLContext) -> None:
        """Answer connections to the port that `bind` took."""
        assert self._socket is not None
        self._web = web.Server(
            self._serve,
            handler_cancellation=True,
            access_log=None,
            keepalive_timeout=KEEPALIVE_S,
            lingering_time=1.0,
            max_line_size=65536,
            max_field_size=65536,
        )
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._web, sock=self._socket, ssl=context, backlog=BACKLOG)

    async def stop(self) -> None:
        """End every connection; twice is fine."""
        if self._server is not None:
            self._server.close()
            self._server = None
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        # They would not end by themselves.
        for stream in self._streams:
            stream.cancel()
        if self._web is not None:
            transports = [connection.transport for connection in self._web.connections]
            # Idle connections close now, others when their answer is out.
            self._web.pre_shutdown()
            await self._web.shutdown(timeout=SHUTDOWN_S)
            # A TLS connection closes in conversation with the client, who may never answer.
            for transport in filter(None, transports):
                transport.abort()
            self._web = None
        if self._writes:
            await asyncio.wait(self._writes, timeout=SHUTDOWN_S)

    async def _serve(self, incoming: web.BaseRequest) -> web.StreamResponse:
        try:
            user = authn.impersonated(await self._user_of(incoming), incoming.headers)
            request = await _read(incoming, user)
        except errors.APIError as err:
            return _plain(error_response(err))
        if request.method in _BODY_METHODS:
            answer = await self._finish(request)
        else:
            answer = await self._handle(request)
        if isinstance(answer, Response):
            return _plain(answer)
        task = asyncio.current_task()
        assert task is not None
        self._streams.add(task)
        try:
            if isinstance(answer, Upgrade):
                return await proxy_upgrade(incoming, answer.url, self._kubelet_ssl(), {})
            return await _stream(incoming, answer)
        finally:
            self._streams.discard(task)

    async def _user_of(self, incoming: web.BaseRequest) -> User:
        """Who the certificate names, else who the token stands for. Raises APIError 401."""
        transport = incoming.transport
        certificate = transport.get_extra_info("peercert") if transport is not None else None
        user = authn.user_of(certificate)
        token = authn.bearer_token(incoming.headers)
        return await self._authenticate(token) if user is ANONYMOUS and token else user

    async def _finish(self, request: Request) -> Answer:
        """Handle a request to its end, even if this task is cancelled meanwhile."""
        task = asyncio.ensure_future(self._handle(request))
        self._writes.add(task)
        task.add_done_callback(self._writes.discard)
        return await asyncio.shield(task)


async def _read(incoming: web.BaseRequest, user: User) -> Request:
    """Raises APIError 413."""
    path, _, raw_query = incoming.raw_path.partition("?")
    headers = incoming.headers
    request = Request(
        method=incoming.method,
        path=unquote(path) if "%" in path else path,
        query=Query(parse_qs(raw_query, keep_blank_values=True), raw_query) if raw_query else _NO_QUERY,
        user=user,
        content_type=headers.get("Content-Type", ""),
        accept=headers.get("Accept", ""),
        upgrade="upgrade" in headers.get("Connection", "").lower(),
    )
    if user is not ANONYMOUS and incoming.method in _BODY_METHODS and incoming.body_exists:
        request.body = await _read_body(incoming)
    return request


async def _read_body(incoming: web.BaseRequest) -> bytes:
    """Raises APIError 413, before anything was read when the length was announced."""
    if (incoming.content_length or 0) > MAX_BODY_BYTES:
        raise errors.too_large(MAX_BODY_BYTES)
    parts: list[bytes] = []
    size = 0
    async for chunk in incoming.content.iter_any():
        size += len(chunk)
        if size > MAX_BODY_BYTES:
            raise errors.too_large(MAX_BODY_BYTES)
        parts.append(chunk)
    return b"".join(parts)


def _plain(answer: Response) -> web.Response:
    response = web.Response(status=answer.status, body=answer.body, headers=answer.headers)
    response.headers["Content-Type"] = answer.content_type
    return response


async def _stream(incoming: web.BaseRequest, answer: Stream) -> web.StreamResponse:
    response = web.StreamResponse(status=answer.status, headers={"Content-Type": answer.content_type})
    async with aclosing(answer.chunks) as chunks:  # type: ignore[type-var]  # an async generator
        await response.prepare(incoming)
        try:
            async for chunk in chunks:
                if chunk:
                    await response.write(chunk)
            await response.write_eof()
        except ConnectionError:
            # The client has gone; there is nobody to tell.
            pass
    return response


def server_context(cert: str, key: str, client_ca: str) -> ssl.SSLContext:
    """TLS that asks for a client certificate and takes none as well. Raises OSError, ssl.SSLError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(cert, key)
    context.load_verify_locations(client_ca)
    context.verify_mode = ssl.CERT_OPTIONAL
    context.set_alpn_protocols(["http/1.1"])
    return context
