"""Debian's docker-registry on loopback, images pushed by hand, and a proxy with the faults of networks."""

from __future__ import annotations

import asyncio
import http.client
import json
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest
from aiohttp import web

from podling.runtime.images import oci
from podling.runtime.images.platforms import host_architecture

needs_registry = pytest.mark.skipif(not shutil.which("docker-registry"), reason="needs docker-registry")

USER, PASSWORD = "someone", "secret"
# bcrypt, the only form docker-registry takes, of PASSWORD
HTPASSWD = f"{USER}:$2y$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a\n"


def free_port(host: str = "127.0.0.1") -> int:
    with socket.socket() as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def run_registry(directory: Path, *, host: str = "127.0.0.1", **sections: Any) -> Iterator[str]:
    """An empty registry's address. `sections` are added to its configuration; `http` to that section."""
    address = f"{host}:{free_port(host)}"
    config = {
        "version": 0.1,
        "storage": {"filesystem": {"rootdirectory": str(directory / "data")}},
        "http": {"addr": address, **sections.pop("http", {})},
        **sections,
    }
    (directory / "registry.yml").write_text(json.dumps(config))  # JSON is YAML
    with open(directory / "registry.log", "wb") as log:
        process = subprocess.Popen(
            ["docker-registry", "serve", directory / "registry.yml"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    try:
        _wait_listening(host, int(address.rpartition(":")[2]), process)
        yield address
    finally:
        process.terminate()
        process.wait(10)


def _wait_listening(host: str, port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            socket.create_connection((host, port), timeout=1).close()
            return
        except ConnectionRefusedError:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """What `push` put into a registry."""

    manifest: bytes
    media_type: str
    layers: tuple[str, ...]
    """Digests of the blobs as the manifest has them."""

    @property
    def digest(self) -> str:
        return oci.sha256_digest(self.manifest)

    def descriptor(self, **platform: str) -> dict[str, Any]:
        return {
            "mediaType": self.media_type,
            "digest": self.digest,
            "size": len(self.manifest),
            "platform": {"os": "linux", **platform},
        }


class Pusher:
    """Puts whatever a test wants into the registry, also what no honest tool would."""

    def __init__(
        self, address: str, *, headers: dict[str, str] | None = None, tls: ssl.SSLContext | None = None
    ) -> None:
        self._address = address
        self._headers = headers or {}
        self._tls = tls

    def image(
        self,
        name: str,
        tag: str,
        layers: list[bytes],
        *,
        plain_layers: list[bytes] | None = None,
        layer_type: str = oci.MEDIA_LAYER,
        architecture: str = "",
        **changes: Any,
    ) -> Image:
        """`plain_layers` are what the compressed `layers` unpack to; `changes` override the manifest's."""
        config = {
            "architecture": architecture or host_architecture(),
            "os": "linux",
            "config": {"Cmd": ["/hello"]},
            "rootfs": {
                "type": "layers",
                "diff_ids": [oci.sha256_digest(one) for one in plain_layers or layers],
            },
        }
        raw = json.dumps(config).encode()
        document = {
            "schemaVersion": 2,
            "mediaType": oci.MEDIA_MANIFEST,
            "config": {"mediaType": oci.MEDIA_CONFIG, "digest": self.blob(name, raw), "size": len(raw)},
            "layers": [
                {"mediaType": layer_type, "digest": self.blob(name, one), "size": len(one)} for one in layers
            ],
        } | changes
        manifest = json.dumps(document).encode()
        self.manifest(name, tag, manifest, str(document["mediaType"]))
        return Image(
            manifest=manifest,
            media_type=str(document["mediaType"]),
            layers=tuple(oci.sha256_digest(one) for one in layers),
        )

    def index(self, name: str, tag: str, entries: list[dict[str, Any]]) -> str:
        """An index's digest."""
        document = {"schemaVersion": 2, "mediaType": oci.MEDIA_INDEX, "manifests": entries}
        raw = json.dumps(document).encode()
        self.manifest(name, tag, raw, oci.MEDIA_INDEX)
        return oci.sha256_digest(raw)

    def blob(self, name: str, data: bytes) -> str:
        digest = oci.sha256_digest(data)
        location = self._ask("POST", f"/v2/{name}/blobs/uploads/")
        parts = urlsplit(location)
        self._ask("PUT", f"{parts.path}?{parts.query}&digest={digest}", data)
        return digest

    def manifest(self, name: str, tag: str, data: bytes, media_type: str) -> None:
        self._ask("PUT", f"/v2/{name}/manifests/{tag}", data, {"Content-Type": media_type})

    def _ask(self, method: str, path: str, data: bytes = b"", headers: dict[str, str] | None = None) -> str:
        connection: http.client.HTTPConnection
        if self._tls is None:
            connection = http.client.HTTPConnection(self._address, timeout=60)
        else:
            connection = http.client.HTTPSConnection(self._address, timeout=60, context=self._tls)
        connection.request(method, path, data, {**self._headers, **(headers or {})})
        response = connection.getresponse()
        body = response.read()
        connection.close()
        assert response.status < 300, (response.status, body)
        return response.headers.get("Location", "")


@dataclass(slots=True)
class Fault:
    """What goes wrong with one response."""

    status: int = 0
    """Answered instead of the registry."""
    headers: dict[str, str] = field(default_factory=dict)
    cut_after: int = -1
    """Bytes of the body before the connection is closed."""
    stall_after: int = -1
    """Bytes of the body before nothing more comes."""
    change: Callable[[bytes], bytes] = lambda data: data


@dataclass(slots=True)
class FaultyProxy:
    """Before a real registry; `choose` says what goes wrong with a request. Remembers what was asked."""

    upstream: str
    choose: Callable[[web.Request], Fault | None] = lambda _: None
    address: str = ""
    asked: list[tuple[str, str, str]] = field(default_factory=list)
    """Method, path and Range header."""
    waiting: int = 0
    """Stalled responses."""

    def blobs_asked(self, digest: str) -> list[str]:
        """The Range headers of the requests for a blob."""
        return [wanted for method, path, wanted in self.asked if path.endswith(f"/blobs/{digest}")]

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.asked.append((request.method, request.path, request.headers.get("Range", "")))
        fault = self.choose(request) or Fault()
        if fault.status:
            return web.Response(status=fault.status, headers=fault.headers)
        headers = {
            name: request.headers[name]
            for name in ("Accept", "Range", "Authorization")
            if name in request.headers
        }
        async with (
            aiohttp.ClientSession(auto_decompress=False) as http_,
            http_.request(request.method, f"http://{self.upstream}{request.path_qs}", headers=headers) as got,
        ):
            original = await got.read()
            data = fault.change(original)
            response = web.StreamResponse(status=got.status)
            for name in ("Content-Type", "Docker-Content-Digest", "Content-Range", "WWW-Authenticate"):
                if name in got.headers and (data == original or name == "Content-Type"):
                    response.headers[name] = got.headers[name]
            length = len(data) if request.method != "HEAD" else got.headers.get("Content-Length", "0")
            response.headers["Content-Length"] = str(length)
        await response.prepare(request)
        end = max(fault.cut_after, fault.stall_after)
        await response.write(data[:end] if end >= 0 else data)
        if fault.stall_after >= 0:
            self.waiting += 1
            try:
                await asyncio.Event().wait()
            finally:
                self.waiting -= 1
        if fault.cut_after >= 0 and request.transport is not None:
            request.transport.close()
        return response


@asynccontextmanager
async def faulty_proxy(upstream: str) -> AsyncIterator[FaultyProxy]:
    proxy = FaultyProxy(upstream)
    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", proxy.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    (proxy.address,) = [f"127.0.0.1:{address[1]}" for address in runner.addresses]
    try:
        yield proxy
    finally:
        await runner.cleanup()


@asynccontextmanager
async def answering(upstream: str, document: bytes) -> AsyncIterator[FaultyProxy]:
    """A registry that has `document` under every tag and digest."""
    async with faulty_proxy(upstream) as proxy:
        fault = Fault(change=lambda _: document)
        proxy.choose = lambda request: fault if "/manifests/" in request.path else None
        yield proxy


def is_blob(request: web.Request, digest: str = "") -> bool:
    return request.method == "GET" and "/blobs/" in request.path and request.path.endswith(digest)
