"""HTTP and HTTPS to an API server, over aiohttp.

One `HttpTransport` per component and event loop: it keeps connections alive, so that a request costs no
TLS handshake, and reads watches line by line without a limit on the line. Proxy settings of the
environment are ignored: cluster addresses are local by design. The session is made at the first
request, inside the running loop, so that a transport may be constructed before a fork.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
from yarl import URL

from podling.client.errors import TransportError
from podling.client.transport import Response

REQUEST_TIMEOUT_S = 60.0
"""Of a whole request and its answer; the API server's own deadline for a request is 60 s as well."""
CONNECT_TIMEOUT_S = 10.0
KEEPALIVE_S = 60.0
"""How long an idle connection is kept: shorter than aiohttp's server side (75 s), so that the server
never closes one in the moment we send a request that must not be sent twice."""
TCP_KEEPALIVE_IDLE_S = 15
TCP_KEEPALIVE_INTERVAL_S = 5
TCP_KEEPALIVE_PROBES = 3
"""A watch whose server lost its power notices after 15 + 3 * 5 = 30 s."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientConfig:
    """Where a server is and who we are to it. Of each `_file`/`_data` pair (PEM) `_data` wins."""

    server: str
    """`https://10.192.0.2:6443`; a path in it prefixes every request's."""
    ca_file: Path | None = None
    ca_data: bytes | None = None
    cert_file: Path | None = None
    cert_data: bytes | None = None
    key_file: Path | None = None
    key_data: bytes | None = None
    token: str | None = None
    token_file: Path | None = None
    """Read at every request: tokens in files are rotated."""
    insecure_skip_tls_verify: bool = False
    tls_server_name: str | None = None
    namespace: str = "default"
    """Of the kubeconfig context; nothing here uses it but the command line."""


def ssl_context(config: ClientConfig) -> ssl.SSLContext | None:
    """The TLS client context `config` asks for; None for plain http. Raises OSError or ssl.SSLError."""
    if not config.server.startswith("https:"):
        return None
    context = ssl.create_default_context(
        cafile=str(config.ca_file) if config.ca_file and not config.ca_data else None,
        cadata=config.ca_data.decode("ascii") if config.ca_data else None,
    )
    if config.insecure_skip_tls_verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    with (
        _as_file(config.cert_file, config.cert_data) as cert,
        _as_file(config.key_file, config.key_data) as key,
    ):
        if cert is not None:
            context.load_cert_chain(cert, key)
    return context


@contextmanager
def _as_file(path: Path | None, data: bytes | None) -> Iterator[str | None]:
    """OpenSSL's loader takes only file names; a private key given as bytes must not touch a disk."""
    if data is None:
        yield str(path) if path is not None else None
        return
    fd = os.memfd_create("podling-pem")
    try:
        os.write(fd, data)
        yield f"/proc/self/fd/{fd}"
    finally:
        os.close(fd)


class HttpTransport:
    """`Transport` over HTTP/1.1."""

    def __init__(self, config: ClientConfig, user_agent: str = "podling") -> None:
        self._config = config
        self._user_agent = user_agent
        self._base = config.server.rstrip("/")
        self._session: aiohttp.ClientSession | None = None
        self._streams: set[aiohttp.ClientResponse] = set()
        self._farewells: set[asyncio.Future[None]] = set()

    async def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: bytes | None = None,
        content_type: str = "application/json",
        accept: str = "application/json",
    ) -> Response:
        headers = self._headers(accept)
        if body is not None:
            headers["Content-Type"] = content_type
        try:
            async with self._open().request(
                method,
                self._url(path, query),
                data=body,
                headers=headers,
                allow_redirects=False,
                server_hostname=self._config.tls_server_name,
            ) as response:
                return Response(response.status, await response.read())
        except (aiohttp.ClientError, OSError, TimeoutError) as err:
            raise self._transport_error(method, path, err) from err

    @asynccontextmanager
    async def stream(
        self, path: str, *, query: Mapping[str, str] | None = None
    ) -> AsyncIterator[_HttpStream]:
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S)
        try:
            async with self._open().get(
                self._url(path, query),
                headers=self._headers("application/json"),
                timeout=timeout,
                allow_redirects=False,
                server_hostname=self._config.tls_server_name,
            ) as response:
                _keep_alive(response)
                self._streams.add(response)
                try:
                    yield _HttpStream(response)
                finally:
                    self._streams.discard(response)
                    # The rest of a watch never ends: closing, not draining, gives the connection back.
                    response.close()
        except (aiohttp.ClientError, OSError, TimeoutError) as err:
            raise self._transport_error("GET", path, err) from err

    async def reconnect(self) -> None:
        """Give up all connections, for when this machine has lost the address they come from.

        What is under way fails with `TransportError`; the next request makes a new connection.
        """
        session, self._session = self._session, None
        for response in self._streams:
            # Who reads is not told by closing, whose end waits for an answer that cannot arrive.
            response.content.set_exception(aiohttp.ClientConnectionError("the machine's address is gone"))
        if session is not None:
            # Nobody waits for it: TLS says goodbye, and over these connections nothing answers.
            farewell = asyncio.ensure_future(session.close())
            self._farewells.add(farewell)
            farewell.add_done_callback(self._farewells.discard)

    async def close(self) -> None:
        for farewell in self._farewells:
            farewell.cancel()
        if self._session is not None:
            await self._session.close()
            self._session = None

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            context = ssl_context(self._config)
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    ssl=context if context is not None else False,
                    limit=0,
                    keepalive_timeout=KEEPALIVE_S,
                ),
                timeout=aiohttp.ClientTimeout(total=REQUEST_TIMEOUT_S, sock_connect=CONNECT_TIMEOUT_S),
                trust_env=False,
                auto_decompress=False,
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        return self._session

    def _url(self, path: str, query: Mapping[str, str] | None) -> URL:
        url = URL(self._base + path)
        return url.with_query(query) if query else url

    def _headers(self, accept: str) -> dict[str, str]:
        # Compression would spend both sides' processor to save loopback bytes.
        headers = {"Accept": accept, "Accept-Encoding": "identity", "User-Agent": self._user_agent}
        token = self._config.token
        if self._config.token_file is not None:
            token = self._config.token_file.read_text().strip()
        if token:
            headers["Authorization"] = f"Bearer {token}"
        return headers

    def _transport_error(self, method: str, path: str, err: Exception) -> TransportError:
        return TransportError(f"{method} {self._base}{path}: {str(err) or type(err).__name__}")


class _HttpStream:
    """`StreamResponse` over an aiohttp response."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response

    @property
    def status(self) -> int:
        return self._response.status

    async def __aiter__(self) -> AsyncIterator[bytes]:
        # Not StreamReader.readline(): it refuses lines above 64 KiB, and an object may have 1.5 MB.
        parts: list[bytes] = []
        async for chunk in self._response.content.iter_any():
            head, newline, rest = chunk.partition(b"\n")
            if not newline:
                parts.append(chunk)
                continue
            parts.append(head)
            line = b"".join(parts)
            *lines, tail = rest.split(b"\n")
            parts = [tail] if tail else []
            for complete in (line, *lines):
                if complete:
                    yield complete
        if parts:
            yield b"".join(parts)


def _keep_alive(response: aiohttp.ClientResponse) -> None:
    """Let the kernel find out that the other end of an idle watch is gone (`man 7 tcp`)."""
    connection = response.connection
    transport = connection.transport if connection is not None else None
    sock: socket.socket | None = transport.get_extra_info("socket") if transport is not None else None
    if sock is None or sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, TCP_KEEPALIVE_IDLE_S)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, TCP_KEEPALIVE_INTERVAL_S)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, TCP_KEEPALIVE_PROBES)
