"""Pass an Upgrade request on to another HTTP server, and then bytes both ways until one side is done.

`kubectl exec` goes kubectl -> API server -> kubelet -> streaming server: the first two hops are
`proxy_upgrade`, which neither knows nor cares whether SPDY or WebSocket frames pass through. What upstream
calls the upgrade-aware handler (k8s.io/apimachinery, util/proxy).

- The 101 head goes to the client as it came (`Sec-WebSocket-Accept`, `X-Stream-Protocol-Version`); any
  other answer is returned as a normal response.
- Back-pressure: a side that does not take bytes stops the reading of the other; no task and no queue of our
  own.
- An end of file on one side is passed on as such where the transport can (TLS cannot: it closes). A broken
  side aborts the other at once, since nobody is left for what is still queued.
"""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

from aiohttp import hdrs, web
from multidict import CIMultiDict
from yarl import URL

from podling.client.takeover import Upgraded, give_back, is_upgrade, take_over

CONNECT_TIMEOUT_S = 10
ANSWER_TIMEOUT_S = 40
"""For the next hop's answer. Above the 30 s that a streaming server waits for its client's streams."""
FLUSH_TIMEOUT_S = 5
"""For the bytes still queued to one side after the other has closed."""
CHECK_INTERVAL_S = 0.5
"""Between looks at a connection that back-pressure keeps us from reading."""
MAX_HEAD_BYTES = 64 * 1024
MAX_BODY_BYTES = 1024 * 1024
"""Of an answer that refuses the upgrade: an error text or a Status."""

# Not passed on: what belongs to one hop (RFC 9110, section 7.6.1, bar Connection and Upgrade, which are the
# point), and who the client is, which the hop's own credentials say.
_DROPPED_REQUEST_HEADERS = frozenset(
    {
        "authorization",
        "content-length",
        "host",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "te",
        "trailer",
        "transfer-encoding",
    }
)
_DROPPED_IDENTITY_PREFIXES = ("impersonate-", "x-remote-")
_DROPPED_RESPONSE_HEADERS = frozenset(
    {"connection", "content-length", "keep-alive", "transfer-encoding", "upgrade"}
)


class _BadAnswer(Exception):
    """What the next hop sent is not HTTP, or too large."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Head:
    status: int
    reason: str
    headers: CIMultiDict[str]
    raw: bytes


async def proxy_upgrade(
    request: web.BaseRequest,
    url: str | URL,
    ssl_context: ssl.SSLContext | None = None,
    headers: Mapping[str, str] | None = None,
) -> web.StreamResponse:
    """Serve `request` by what answers at `url`; returns when the streams are over.

    `headers` are set on the forwarded request, replacing the client's of the same name. The client's
    `Authorization`, `Impersonate-*` and `X-Remote-*` never go on. A hop that cannot be reached is answered
    with a Status of code 500 in upstream's words.
    """
    url = URL(url)
    if url.host is None:
        raise ValueError(f"cannot proxy to {url}: no host")
    if not is_upgrade(request):
        return _status(400, "BadRequest", "Upgrade request required")
    context = ssl_context if url.scheme in ("https", "wss") else None
    try:
        upstream = await _connect(url.host, url.port or 0, context)
    except (OSError, TimeoutError) as err:
        reason = str(err) or f"no connection within {CONNECT_TIMEOUT_S} seconds"
        return _status(500, None, f"error dialing backend: dial tcp {url.host}:{url.port}: {reason}")
    try:
        return await _forward(request, url, upstream, headers or {})
    except (TimeoutError, _BadAnswer, ConnectionError) as err:
        reason = str(err) or f"no answer within {ANSWER_TIMEOUT_S} seconds"
        return _status(502, None, f"error forwarding upgrade to {url.host}:{url.port}: {reason}")
    finally:
        upstream.abort()


async def _connect(host: str, port: int, context: ssl.SSLContext | None) -> _Upstream:
    upstream = _Upstream()
    async with asyncio.timeout(CONNECT_TIMEOUT_S):
        transport, _ = await asyncio.get_running_loop().create_connection(
            lambda: upstream, host, port, ssl=context, server_hostname=host if context else None
        )
    if (sock := transport.get_extra_info("socket")) is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    return upstream


async def _forward(
    request: web.BaseRequest, url: URL, upstream: _Upstream, headers: Mapping[str, str]
) -> web.StreamResponse:
    upstream.transport.write(_request_head(request, url, headers))
    async with asyncio.timeout(ANSWER_TIMEOUT_S):
        head = await _read_head(upstream)
        if head.status != 101:
            return await _refusal(request, head, upstream)
    downstream = _Side()
    transport, early = take_over(request, downstream)
    try:
        transport.write(head.raw)
        await _relay(downstream, upstream, early)
    finally:
        downstream.abort()
        give_back(request)
    return Upgraded()


def _request_head(request: web.BaseRequest, url: URL, headers: Mapping[str, str]) -> bytes:
    forwarded: CIMultiDict[str] = CIMultiDict()
    for name, value in request.headers.items():
        lower = name.lower()
        if lower not in _DROPPED_REQUEST_HEADERS and not lower.startswith(_DROPPED_IDENTITY_PREFIXES):
            forwarded.add(name, value)
    forwarded[hdrs.HOST] = url.authority
    forwarded.update(headers)
    if request.method not in ("GET", "HEAD"):
        forwarded[hdrs.CONTENT_LENGTH] = "0"
    lines = [f"{request.method} {url.raw_path_qs} HTTP/1.1", *(f"{k}: {v}" for k, v in forwarded.items())]
    return "\r\n".join([*lines, "", ""]).encode()


async def _read_head(upstream: _Upstream) -> _Head:
    raw = await upstream.read_until(b"\r\n\r\n", MAX_HEAD_BYTES)
    lines = raw.decode("latin-1").split("\r\n")
    try:
        version, status, reason = [*lines[0].split(" ", 2), ""][:3]
        if not version.startswith("HTTP/1."):
            raise ValueError(f"version {version!r}")
        headers: CIMultiDict[str] = CIMultiDict()
        for line in lines[1:-2]:
            name, _, value = line.partition(":")
            headers.add(name.strip(), value.strip())
        return _Head(status=int(status), reason=reason, headers=headers, raw=raw)
    except ValueError as err:
        raise _BadAnswer(f"malformed answer {raw[:80]!r}: {err}") from err


async def _refusal(request: web.BaseRequest, head: _Head, upstream: _Upstream) -> web.Response:
    body = b"" if head.status in (204, 304) or request.method == "HEAD" else await _read_body(head, upstream)
    headers = CIMultiDict(
        (name, value) for name, value in head.headers.items() if name.lower() not in _DROPPED_RESPONSE_HEADERS
    )
    return web.Response(status=head.status, reason=head.reason or None, headers=headers, body=body)


async def _read_body(head: _Head, upstream: _Upstream) -> bytes:
    try:
        if "chunked" in head.headers.get(hdrs.TRANSFER_ENCODING, "").lower():
            return await _read_chunks(upstream)
        if (length := head.headers.get(hdrs.CONTENT_LENGTH)) is not None:
            return await upstream.read_exactly(_bounded(int(length)))
    except ValueError as err:
        raise _BadAnswer(f"malformed answer: {err}") from err
    return await upstream.read_to_end(MAX_BODY_BYTES)


async def _read_chunks(upstream: _Upstream) -> bytes:
    """RFC 9112, section 7.1 "Chunked Transfer Coding"."""
    body = b""
    while size := int((await upstream.read_until(b"\r\n", MAX_HEAD_BYTES)).split(b";")[0], 16):
        _bounded(len(body) + size)
        body += (await upstream.read_exactly(size + 2))[:-2]
    return body


def _bounded(length: int) -> int:
    if not 0 <= length <= MAX_BODY_BYTES:
        raise _BadAnswer(
            f"an answer of {length} bytes that refuses an upgrade, want at most {MAX_BODY_BYTES}"
        )
    return length


def _status(code: int, reason: str | None, message: str) -> web.Response:
    status = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": message}
    if reason is not None:
        status["reason"] = reason
    return web.Response(
        status=code, body=json.dumps({**status, "code": code}).encode(), content_type="application/json"
    )


async def _relay(downstream: _Side, upstream: _Upstream, early: bytes) -> None:
    downstream.peer, upstream.peer = upstream, downstream
    if early:
        upstream.transport.write(early)
    upstream.start_relay()
    downstream.transport.resume_reading()
    await asyncio.wait({downstream.closed, upstream.closed})


class _Side(asyncio.Protocol):
    """One of two connections that write to each other."""

    def __init__(self) -> None:
        self.peer: _Side | None = None
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.ended = False
        """It sent its end of file."""
        self._transport: asyncio.Transport | None = None
        self._paused = False
        self._check: asyncio.TimerHandle | None = None

    @property
    def transport(self) -> asyncio.Transport:
        assert self._transport is not None
        return self._transport

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def hold(self, paused: bool) -> None:
        """Stop or resume reading: the other side's buffer is full, or has room again."""
        if self._paused == paused or self.transport.is_closing():
            return
        self._paused = paused
        if paused:
            self.transport.pause_reading()
            self._check_while_paused()
        else:
            if self._check is not None:
                self._check.cancel()
            self.transport.resume_reading()

    def _check_while_paused(self) -> None:
        """An event loop does not look at a socket it does not read: a reset would wait until the next
        write."""
        if not self._paused or self.transport.is_closing():
            return
        sock = self.transport.get_extra_info("socket")
        if sock is not None and sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self.abort()
            if self.peer is not None:
                self.peer.abort()
            return
        self._check = asyncio.get_running_loop().call_later(CHECK_INTERVAL_S, self._check_while_paused)

    # ---- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's do not inherit from it

    def data_received(self, data: bytes) -> None:
        if self.peer is not None and not self.peer.transport.is_closing():
            self.peer.transport.write(data)

    def eof_received(self) -> bool:
        """True keeps our own half open; with TLS there are no halves and the transport closes."""
        self.ended = True
        # Asked before the peer is told: what it closes may be this one, and then there is nobody to ask.
        halves = not self.transport.is_closing() and self.transport.get_extra_info("sslcontext") is None
        if self.peer is not None:
            self.peer.finish_writing()
        return halves

    def finish_writing(self) -> None:
        """The peer ended: pass it on, or close both when we ended before."""
        if self.transport.is_closing():
            return
        if self.ended or not self.transport.can_write_eof():
            self._close_soon()
            if self.ended and self.peer is not None:
                self.peer._close_soon()
        else:
            self.transport.write_eof()

    def pause_writing(self) -> None:
        if self.peer is not None:
            self.peer.hold(True)

    def resume_writing(self) -> None:
        if self.peer is not None:
            self.peer.hold(False)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.closed.done():
            self.closed.set_result(None)
        if self.peer is None:
            return
        if exc is None:
            self.peer._close_soon()
        else:
            self.peer.abort()

    def _close_soon(self) -> None:
        """Close when all is sent; not for ever, since a side that takes no bytes would keep both alive."""
        if not self.closed.done():
            self.transport.close()
            flush = asyncio.get_running_loop().call_later(FLUSH_TIMEOUT_S, self.transport.abort)
            self.closed.add_done_callback(lambda _: flush.cancel())


class _Upstream(_Side):
    """The next hop: its answer is read here first, then it is one side of the relay."""

    def __init__(self) -> None:
        super().__init__()
        self._received = bytearray()
        self._more = asyncio.Event()

    async def read_until(self, mark: bytes, limit: int) -> bytes:
        """Everything up to `mark`, that included. Raises `_BadAnswer` beyond `limit` bytes or at the end."""
        while (end := self._received.find(mark)) < 0:
            if len(self._received) > limit:
                raise _BadAnswer(f"no {mark!r} within {limit} bytes")
            await self._receive()
        return self._take(end + len(mark))

    async def read_exactly(self, count: int) -> bytes:
        while len(self._received) < count:
            await self._receive()
        return self._take(count)

    async def read_to_end(self, limit: int) -> bytes:
        while not self.ended:
            _bounded(len(self._received))
            self._more.clear()
            await self._more.wait()
        return self._take(limit)

    def start_relay(self) -> None:
        """From now on bytes go to the peer; those that came with the answer first."""
        if self._received:
            super().data_received(self._take(len(self._received)))
        if self.ended:
            super().eof_received()
        self.hold(False)

    async def _receive(self) -> None:
        if self.ended:
            raise _BadAnswer(f"the connection ended after {bytes(self._received[:80])!r}")
        self._more.clear()
        self.hold(False)
        await self._more.wait()

    def _take(self, count: int) -> bytes:
        taken = bytes(self._received[:count])
        del self._received[:count]
        return taken

    # ---- asyncio.Protocol

    def data_received(self, data: bytes) -> None:
        if self.peer is not None:
            super().data_received(data)
            return
        self._received += data
        if len(self._received) > MAX_BODY_BYTES:
            self.hold(True)
        self._more.set()

    def eof_received(self) -> bool:
        self._more.set()
        return super().eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self.ended = True
        self._more.set()
        super().connection_lost(exc)
