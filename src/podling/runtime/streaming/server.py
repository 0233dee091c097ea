"""The streaming server: where the CRI's Exec, Attach and PortForward send their callers.

The CRI answers those calls with a URL; whoever opens it (the kubelet, passing on what kubectl sent) speaks
SPDY or WebSocket there. A URL holds a random token that works once and for a minute, because nothing else
guards the port: it listens on loopback, in the node's own network namespace (k8s.io/kubelet,
pkg/cri/streaming).

One handler runs per connection, for as long as it lasts; `stop` cancels them, which tells each process.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TypeVar

from aiohttp import web

from podling.runtime.cri import messages as cri
from podling.runtime.cri.errors import Code, CRIError
from podling.runtime.streaming.backend import StreamBackend, StreamProcess
from podling.runtime.streaming.remotecommand import ProcessStreams, serve_attach, serve_exec
from podling.runtime.streaming.spdy_streams import StreamOptions
from podling.runtime.streaming.upgrade import PortForwardTarget, serve_ports, serve_process

_Request = cri.ExecRequest | cri.AttachRequest | cri.PortForwardRequest
_T = TypeVar("_T", cri.ExecRequest, cri.AttachRequest, cri.PortForwardRequest)

TOKEN_TTL_S = 60
MAX_TOKENS = 1000
"""URLs handed out and not yet used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ticket:
    request: _Request
    expires: float
    """On the event loop's clock, seconds."""


@dataclass(slots=True, kw_only=True)
class _Tickets:
    """Requests waiting for their caller, by token, oldest first."""

    waiting: dict[str, _Ticket] = field(default_factory=dict)

    def issue(self, request: _Request) -> str:
        """Raises `CRIError` RESOURCE_EXHAUSTED when too many wait."""
        now = asyncio.get_running_loop().time()
        expired = [token for token, ticket in self.waiting.items() if ticket.expires <= now]
        for token in expired:
            del self.waiting[token]
        if len(self.waiting) >= MAX_TOKENS:
            raise CRIError(Code.RESOURCE_EXHAUSTED, "maximum number of in-flight requests exceeded")
        token = secrets.token_urlsafe(16)
        self.waiting[token] = _Ticket(request=request, expires=now + TOKEN_TTL_S)
        return token

    def redeem(self, token: str, kind: type[_T]) -> _T:
        """Works once. Raises HTTP 404."""
        ticket = self.waiting.pop(token, None)
        now = asyncio.get_running_loop().time()
        if ticket is None or ticket.expires <= now or not isinstance(ticket.request, kind):
            raise web.HTTPNotFound(text="404 page not found\n")
        return ticket.request


class StreamingServer:
    def __init__(self, backend: StreamBackend, *, host: str = "127.0.0.1") -> None:
        self._backend = backend
        self._host = host
        self._base_url = ""
        self._tickets = _Tickets()
        self._runner: web.AppRunner | None = None
        self._handlers: set[asyncio.Task[object]] = set()

    async def start(self) -> None:
        """Listen on an ephemeral port. `OSError` when that is not possible."""
        app = web.Application()
        for path, handler in (
            ("/exec/{token}", self._exec),
            ("/attach/{token}", self._attach),
            ("/portforward/{token}", self._port_forward),
        ):
            # SPDY clients POST, WebSocket clients GET.
            app.router.add_get(path, handler, allow_head=False)
            app.router.add_post(path, handler)
        self._runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=1)
        await self._runner.setup()
        await web.TCPSite(self._runner, self._host, 0).start()
        host, port = self._runner.addresses[0][:2]
        self._base_url = f"http://{host}:{port}"

    async def stop(self) -> None:
        """End every stream and close the port. Before `start`, and twice, is fine."""
        for task in self._handlers:
            task.cancel()
        await asyncio.gather(*self._handlers, return_exceptions=True)
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    def exec_url(self, request: cri.ExecRequest) -> str:
        """Raises `CRIError` INVALID_ARGUMENT or RESOURCE_EXHAUSTED."""
        _check_streams(request)
        return f"{self._base_url}/exec/{self._tickets.issue(request)}"

    def attach_url(self, request: cri.AttachRequest) -> str:
        """Raises `CRIError` INVALID_ARGUMENT or RESOURCE_EXHAUSTED."""
        _check_streams(request)
        return f"{self._base_url}/attach/{self._tickets.issue(request)}"

    def port_forward_url(self, request: cri.PortForwardRequest) -> str:
        """Raises `CRIError` INVALID_ARGUMENT or RESOURCE_EXHAUSTED."""
        if not request.pod_sandbox_id:
            raise CRIError(Code.INVALID_ARGUMENT, "missing required pod_sandbox_id")
        return f"{self._base_url}/portforward/{self._tickets.issue(request)}"

    # ---- handlers

    async def _exec(self, request: web.Request) -> web.StreamResponse:
        ask = self._tickets.redeem(request.match_info["token"], cri.ExecRequest)

        async def open_process() -> StreamProcess:
            return await self._backend.open_exec(
                ask.container_id, ask.cmd, tty=ask.tty, stdin=ask.stdin, stdout=ask.stdout, stderr=ask.stderr
            )

        async def serve(streams: ProcessStreams) -> None:
            await serve_exec(streams, open_process, ask.cmd)

        with self._handler():
            return await serve_process(request, _options(ask), serve)

    async def _attach(self, request: web.Request) -> web.StreamResponse:
        ask = self._tickets.redeem(request.match_info["token"], cri.AttachRequest)

        async def open_process() -> StreamProcess:
            return await self._backend.open_attach(
                ask.container_id, tty=ask.tty, stdin=ask.stdin, stdout=ask.stdout, stderr=ask.stderr
            )

        async def serve(streams: ProcessStreams) -> None:
            await serve_attach(streams, open_process)

        with self._handler():
            return await serve_process(request, _options(ask), serve)

    async def _port_forward(self, request: web.Request) -> web.StreamResponse:
        ask = self._tickets.redeem(request.match_info["token"], cri.PortForwardRequest)

        async def open_port(port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
            return await self._backend.open_port(ask.pod_sandbox_id, port)

        target = PortForwardTarget(sandbox_id=ask.pod_sandbox_id, ports=tuple(ask.port), open_port=open_port)
        with self._handler():
            return await serve_ports(request, target)

    @contextlib.contextmanager
    def _handler(self) -> Iterator[None]:
        task = asyncio.current_task()
        assert task is not None
        self._handlers.add(task)
        try:
            yield
        finally:
            self._handlers.discard(task)


def _check_streams(request: cri.ExecRequest | cri.AttachRequest) -> None:
    if not request.container_id:
        raise CRIError(Code.INVALID_ARGUMENT, "missing required container_id")
    if request.tty and request.stderr:
        raise CRIError(Code.INVALID_ARGUMENT, "tty and stderr cannot both be true")
    if not (request.stdin or request.stdout or request.stderr):
        raise CRIError(Code.INVALID_ARGUMENT, "one of stdin, stdout, or stderr must be set")


def _options(request: cri.ExecRequest | cri.AttachRequest) -> StreamOptions:
    return StreamOptions(stdin=request.stdin, stdout=request.stdout, stderr=request.stderr, tty=request.tty)
