"""One repository on one registry, over HTTP: manifests whole, blobs as streams that may begin in the middle.

OCI distribution specification, "Pull"; Docker's registry API v2 is the same for these requests. Faults come
as `RegistryFault`, in the words of Go's HTTP client and containerd, which people know from `kubectl`.
Time limits are on progress, not on the whole: a large layer on a slow line may take hours, a registry that
says nothing for `stall_s` seconds is given up.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import re
import ssl
import urllib.request
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import aiohttp

from podling.runtime.images import oci
from podling.runtime.images.reference import is_digest
from podling.runtime.images.registry.config import Endpoint
from podling.runtime.images.registry.credentials import RegistryAuth
from podling.runtime.images.registry.errors import DeniedFault, MissingFault, RegistryFault, UnreachableFault
from podling.runtime.images.registry.tls import CERTS_DIRS, make_tls
from podling.runtime.images.registry.tokens import Authorizer

ACCEPT = ", ".join(
    (oci.MEDIA_INDEX, oci.MEDIA_MANIFEST, oci.MEDIA_DOCKER_LIST, oci.MEDIA_DOCKER_MANIFEST, "*/*")
)
_CHUNK = 1 << 18
_MAX_WAIT_S = 60.0  # of Retry-After; a registry that wants more is given up to the kubelet's back-off
_CONTENT_RANGE = re.compile(r"bytes (\d+)-")


@dataclass(frozen=True, slots=True, kw_only=True)
class PullSettings:
    answer_s: float = 15.0
    """How long connecting and the first answer may take; a network that is not there answers at once."""
    stall_s: float = 30.0
    """How long a blob may make no progress."""
    attempts: int = 4
    """Tries of one request; progress in between starts the count anew."""
    backoff_s: float = 0.5
    """Before the second try; doubles."""
    parallel: int = 3
    """Blobs of one image fetched at once; Docker's and containerd's default."""
    certs_dirs: Sequence[Path] = CERTS_DIRS
    registries_conf: Path | None = None
    """Default: /etc/containers/registries.conf, or $CONTAINERS_REGISTRIES_CONF."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """A manifest or index as it came."""

    data: bytes
    media_type: str
    digest: str


class Body:
    """A blob's bytes from `offset` on, which is 0 when the registry cannot begin in the middle."""

    def __init__(self, response: aiohttp.ClientResponse, offset: int, stall_s: float) -> None:
        self._response = response
        self._stall_s = stall_s
        self.offset = offset

    async def chunks(self) -> AsyncIterator[bytes]:
        """Raises `RegistryFault` when the stream stalls or breaks."""
        try:
            async for chunk in self._response.content.iter_chunked(_CHUNK):
                yield chunk
        except (aiohttp.ClientError, OSError) as err:
            raise _broken("GET", str(self._response.url), err, self._stall_s) from err


class RegistryClient:
    """Use as an async context manager. Not for several event loops."""

    def __init__(self, endpoint: Endpoint, auth: RegistryAuth | None, settings: PullSettings) -> None:
        self._endpoint = endpoint
        self._auth = auth
        self._settings = settings
        self._schemes = ["https", "http"] if endpoint.insecure else ["https"]
        self._proxies: dict[str, str | None] = {}

    async def __aenter__(self) -> RegistryClient:
        settings, host = self._settings, self._endpoint.host
        tls = await asyncio.to_thread(
            make_tls, host, insecure=self._endpoint.insecure, certs_dirs=settings.certs_dirs
        )
        self._proxies = {scheme: _proxy(scheme, host) for scheme in self._schemes}
        self._http = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=tls, limit=0),
            timeout=aiohttp.ClientTimeout(
                total=None, sock_connect=settings.answer_s, sock_read=settings.answer_s
            ),
            auto_decompress=False,
            headers={"User-Agent": "podling", "Accept-Encoding": "identity"},
        )
        self._authorizer = Authorizer(
            self._http,
            repository=self._endpoint.repository,
            auth=self._auth,
            proxy=self._proxies[self._schemes[0]],
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.close()

    async def head(self, name: str) -> str | None:
        """The digest that a tag has now, or None when the registry does not say."""
        async with self._request("HEAD", f"manifests/{name}", headers={"Accept": ACCEPT}) as response:
            digest = response.headers.get("Docker-Content-Digest", "")
            return digest if is_digest(digest) else None

    async def manifest(self, name: str) -> Fetched:
        """The manifest or index behind a tag or digest. Raises `RegistryFault`."""
        async with self._request("GET", f"manifests/{name}", headers={"Accept": ACCEPT}) as response:
            data = bytearray()
            body = Body(response, 0, self._settings.answer_s)
            async for chunk in body.chunks():
                data += chunk
                if len(data) > oci.MAX_DOCUMENT_BYTES:
                    raise RegistryFault(f"manifest {name} is larger than {oci.MAX_DOCUMENT_BYTES} bytes")
            digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
            said = name if is_digest(name) else response.headers.get("Docker-Content-Digest", digest)
            if said != digest and is_digest(said):
                raise RegistryFault(f"manifest {name} has the digest {digest}, expected {said}")
            return Fetched(data=bytes(data), media_type=response.content_type, digest=digest)

    @asynccontextmanager
    async def blob(self, digest: str, offset: int = 0) -> AsyncIterator[Body]:
        """Raises `RegistryFault`."""
        headers = {"Range": f"bytes={offset}-"} if offset else {}
        timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=self._settings.answer_s, sock_read=self._settings.stall_s
        )
        async with self._request("GET", f"blobs/{digest}", headers=headers, timeout=timeout) as response:
            begins = _CONTENT_RANGE.match(response.headers.get("Content-Range", ""))
            start = int(begins[1]) if response.status == 206 and begins else 0
            yield Body(response, start, self._settings.stall_s)

    @asynccontextmanager
    async def _request(
        self,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str],
        timeout: aiohttp.ClientTimeout | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """An answer below 400, after authorization when the registry asks for it."""
        authorized = False
        while True:
            response = await self._send(method, path, headers, timeout)
            try:
                if response.status == 401 and not authorized:
                    authorized = True
                    challenges = response.headers.getall("WWW-Authenticate", [])
                    await self._authorizer.answer(challenges, encrypted=self._schemes == ["https"])
                    continue
                if response.status >= 400:
                    raise await _refusal(method, response)
                yield response
                return
            finally:
                response.close()

    async def _send(
        self, method: str, path: str, headers: Mapping[str, str], timeout: aiohttp.ClientTimeout | None
    ) -> aiohttp.ClientResponse:
        """Ask by TLS; where that may be, without. What worked is kept."""
        authorization = {"Authorization": self._authorizer.header} if self._authorizer.header else {}
        limit_s = self._settings.answer_s if timeout is None else self._settings.stall_s
        while True:
            scheme = self._schemes[0]
            url = f"{scheme}://{self._endpoint.host}/v2/{self._endpoint.repository}/{path}"
            try:
                response = await self._http.request(
                    method,
                    url,
                    headers={**headers, **authorization},
                    proxy=self._proxies[scheme],
                    allow_redirects=True,
                    timeout=timeout or self._http.timeout,
                )
            except (aiohttp.ClientError, OSError) as err:
                if len(self._schemes) > 1 and _is_no_tls(err):
                    self._schemes.pop(0)
                    continue
                raise _broken(method, url, err, limit_s) from err
            self._schemes = [scheme]
            return response


def _proxy(scheme: str, host: str) -> str | None:
    """As every program takes it from the environment: HTTPS_PROXY, HTTP_PROXY, NO_PROXY."""
    if urllib.request.proxy_bypass_environment(host):  # type: ignore[attr-defined]  # not in typeshed
        return None
    return urllib.request.getproxies_environment().get(scheme)


def _is_no_tls(err: Exception) -> bool:
    """Whether the other side does not speak TLS, or nobody listens where TLS would be."""
    if isinstance(err, aiohttp.ClientSSLError):
        return True
    return isinstance(err, aiohttp.ServerDisconnectedError | ConnectionResetError) or (
        isinstance(err, aiohttp.ClientOSError) and not isinstance(err, aiohttp.ClientConnectorError)
    )


async def _refusal(method: str, response: aiohttp.ClientResponse) -> RegistryFault:
    status = f"{response.status} {response.reason}"
    text = f"unexpected status from {method} request to {response.url}: {status}"
    if response.status in (401, 403):
        return DeniedFault(f"authorization failed: {status}" if response.status == 401 else text)
    if response.status == 404:
        return MissingFault(text)
    wait_s = response.headers.get("Retry-After", "")
    return RegistryFault(
        text,
        passing=response.status in (408, 425, 429) or response.status >= 500,
        wait_s=min(float(wait_s), _MAX_WAIT_S) if wait_s.isdecimal() else 0.0,
    )


def _broken(method: str, url: str, err: Exception, limit_s: float) -> RegistryFault:
    """Transport errors in the words of Go's HTTP client."""
    verb = method.capitalize()
    if isinstance(err, aiohttp.ConnectionTimeoutError):
        why = "dial tcp: i/o timeout"
    elif isinstance(err, TimeoutError):
        why = f"no answer within {limit_s:g} s"
    elif isinstance(err, aiohttp.ClientConnectorCertificateError):
        reason = getattr(err.certificate_error, "verify_message", "") or str(err.certificate_error)
        why = f"tls: failed to verify certificate: {reason}"
    elif isinstance(err, aiohttp.ClientConnectorDNSError):
        why = f"dial tcp: lookup {err.host}: no such host"
    elif isinstance(err, aiohttp.ClientSSLError):
        why = _tls_reason(err)
    elif isinstance(err, aiohttp.ClientConnectorError):
        code = err.os_error.errno or 0
        reason = (os.strerror(code) if code in errno.errorcode else str(err.os_error)).lower()
        why = f"dial tcp {err.host}:{err.port}: connect: {reason}"
    elif isinstance(err, aiohttp.ServerDisconnectedError):
        why = "EOF"
    elif isinstance(err, aiohttp.ClientPayloadError):
        why = "unexpected EOF"
    else:
        why = str(err) or type(err).__name__
    fatal = isinstance(err, aiohttp.ClientConnectorCertificateError | aiohttp.ClientSSLError)
    unreachable = isinstance(err, aiohttp.ClientConnectorError) and not fatal
    text = f'{verb} "{url}": {why}'
    return UnreachableFault(text) if unreachable else RegistryFault(text, passing=not fatal)


def _tls_reason(err: aiohttp.ClientSSLError) -> str:
    cause = err.__cause__ if isinstance(err.__cause__, ssl.SSLError) else getattr(err, "os_error", None)
    reason = getattr(cause, "reason", None) or ""
    if reason in ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "HTTP_REQUEST"):
        return "http: server gave HTTP response to HTTPS client"
    return f"tls: {str(reason).lower().replace('_', ' ') or err}"
