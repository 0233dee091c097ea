"""For the streaming tests: a backend over local processes, and the two HTTP hops of a cluster in front of it.

    kubectl --https--> API front --https, client certificate--> kubelet front --http--> StreamingServer

Everything is real but the pod: an exec is a process of this machine, a port one of 127.0.0.1.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import errno
import fcntl
import ipaddress
import json
import os
import signal
import ssl
import struct
import termios
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from yarl import URL

from podling.client.streamproxy import proxy_upgrade
from podling.runtime.cri import messages as cri
from podling.runtime.cri.errors import Code, CRIError
from podling.runtime.streaming.server import StreamingServer


class LocalProcess:
    """A `StreamProcess` over pipes or a pseudo-terminal."""

    def __init__(self, process: asyncio.subprocess.Process, terminal: int | None) -> None:
        self.process = process
        self.terminal = terminal
        self.stdout = asyncio.StreamReader() if terminal is not None else process.stdout
        self.stderr = None if terminal is not None else process.stderr
        self.detached = False
        if terminal is not None:
            os.set_blocking(terminal, False)
            asyncio.get_running_loop().add_reader(terminal, self._read_terminal)

    def _read_terminal(self) -> None:
        assert self.stdout is not None
        assert self.terminal is not None
        try:
            data = os.read(self.terminal, 65536)
        except OSError as err:
            if err.errno != errno.EIO:  # EIO: the last process closed the terminal
                raise
            data = b""
        if data:
            self.stdout.feed_data(data)
        else:
            asyncio.get_running_loop().remove_reader(self.terminal)
            self.stdout.feed_eof()

    async def write_stdin(self, data: bytes) -> None:
        if self.terminal is not None:
            os.write(self.terminal, data)
            return
        with contextlib.suppress(OSError):
            if self.process.stdin is not None:
                self.process.stdin.write(data)
                await self.process.stdin.drain()

    async def close_stdin(self) -> None:
        if self.terminal is not None:
            os.write(self.terminal, b"\x04")
        elif self.process.stdin is not None:
            self.process.stdin.close()

    def resize(self, *, width: int, height: int) -> None:
        if self.terminal is not None:
            fcntl.ioctl(self.terminal, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))

    async def wait(self) -> int:
        code = await self.process.wait()
        return 128 - code if code < 0 else code

    async def detach(self) -> None:
        if self.detached:
            return
        self.detached = True
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        await self.process.wait()
        if self.terminal is not None:
            asyncio.get_running_loop().remove_reader(self.terminal)
            os.close(self.terminal)


@dataclass
class LocalBackend:
    """A `StreamBackend`; the container "gone" does not exist, every other is this machine."""

    processes: list[LocalProcess] = field(default_factory=list)
    started: asyncio.Event = field(default_factory=asyncio.Event)

    async def open_exec(
        self, container_id: str, cmd: Sequence[str], *, tty: bool, stdin: bool, stdout: bool, stderr: bool
    ) -> LocalProcess:
        if container_id == "gone":
            raise CRIError(Code.NOT_FOUND, 'container "gone" not found')
        process = await (self._on_terminal(cmd) if tty else self._on_pipes(cmd, stdin))
        self.processes.append(process)
        self.started.set()
        return process

    async def _on_pipes(self, cmd: Sequence[str], stdin: bool) -> LocalProcess:
        pipe, null = asyncio.subprocess.PIPE, asyncio.subprocess.DEVNULL
        process = await asyncio.create_subprocess_exec(
            *cmd, stdin=pipe if stdin else null, stdout=pipe, stderr=pipe, start_new_session=True
        )
        return LocalProcess(process, None)

    async def _on_terminal(self, cmd: Sequence[str]) -> LocalProcess:
        master, slave = os.openpty()
        # setsid makes the session itself: the leader of one would fork, and be gone when we want to end it.
        process = await asyncio.create_subprocess_exec(
            *("setsid", "--ctty", *cmd), stdin=slave, stdout=slave, stderr=slave
        )
        os.close(slave)
        return LocalProcess(process, master)

    async def open_attach(
        self, container_id: str, *, tty: bool, stdin: bool, stdout: bool, stderr: bool
    ) -> LocalProcess:
        greeting = ("sh", "-c", "echo attached; cat")
        return await self.open_exec(
            container_id, greeting, tty=tty, stdin=stdin, stdout=stdout, stderr=stderr
        )

    async def open_port(
        self, sandbox_id: str, port: int
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", port)


@dataclass(frozen=True)
class Certificates:
    """One self-signed certificate that serves as CA, server's and client's."""

    path: Path

    def server_context(self, *, require_client: bool) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.path)
        if require_client:
            context.load_verify_locations(self.path)
            context.verify_mode = ssl.CERT_REQUIRED
        return context

    def client_context(self) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(self.path))
        context.load_cert_chain(self.path)
        return context


def make_certificates(directory: Path) -> Certificates:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "streaming-test")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    path = directory / "tls.pem"
    path.write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + certificate.public_bytes(pem)
    )
    return Certificates(path)


Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@contextlib.asynccontextmanager
async def serving(routes: dict[str, Handler], tls: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    """An aiohttp server on an ephemeral port of loopback; its URL."""
    app = web.Application()
    for path, handler in routes.items():
        app.router.add_route("*", path, handler)
    runner = web.AppRunner(app, handle_signals=False, shutdown_timeout=1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls).start()
    host, port = runner.addresses[0][:2]
    try:
        yield f"{'https' if tls else 'http'}://{host}:{port}"
    finally:
        await runner.cleanup()


@dataclass
class Chain:
    """What kubectl talks to, and what is behind it."""

    backend: LocalBackend
    streaming: StreamingServer
    api_url: str


@contextlib.asynccontextmanager
async def chain(certificates: Certificates) -> AsyncIterator[Chain]:
    backend = LocalBackend()
    streaming = StreamingServer(backend)
    await streaming.start()
    kubelet = {"/{verb}/{container}": _kubelet(streaming)}
    try:
        async with serving(kubelet, certificates.server_context(require_client=True)) as kubelet_url:
            api = _api_routes(URL(kubelet_url), certificates.client_context())
            async with serving(api, certificates.server_context(require_client=False)) as api_url:
                yield Chain(backend, streaming, api_url)
                await streaming.stop()
    finally:
        await streaming.stop()


def _kubelet(streaming: StreamingServer) -> Handler:
    def wants(request: web.Request, name: str) -> bool:
        return request.query.get(name) in ("1", "true")

    async def handler(request: web.Request) -> web.StreamResponse:
        container = request.match_info["container"]
        flags = {name: wants(request, name) for name in ("stdin", "stdout", "stderr", "tty")}
        match request.match_info["verb"]:
            case "exec":
                command = request.query.getall("command")
                url = streaming.exec_url(cri.ExecRequest(container_id=container, cmd=command, **flags))
            case "attach":
                url = streaming.attach_url(cri.AttachRequest(container_id=container, **flags))
            case _:
                ports = [int(port) for port in request.query.getall("ports", [])]
                url = streaming.port_forward_url(cri.PortForwardRequest(pod_sandbox_id=container, port=ports))
        return await proxy_upgrade(request, url)

    return handler


def _api_routes(kubelet_url: URL, tls: ssl.SSLContext) -> dict[str, Handler]:
    async def pod(request: web.Request) -> web.Response:
        return _json(_pod(request.match_info["name"]))

    async def stream(request: web.Request) -> web.StreamResponse:
        verb, name = request.match_info["verb"], request.match_info["name"]
        url = (kubelet_url / verb / name).with_query(request.query)
        return await proxy_upgrade(request, url, tls, {"X-Hop": "api"})

    def document(body: dict[str, object]) -> Handler:
        async def handler(request: web.Request) -> web.Response:
            return _json(body)

        return handler

    pods = "/api/v1/namespaces/default/pods/{name}"
    return {
        "/api": document({"kind": "APIVersions", "versions": ["v1"]}),
        "/apis": document({"kind": "APIGroupList", "apiVersion": "v1", "groups": []}),
        "/api/v1": document(_RESOURCES),
        pods: pod,
        f"{pods}/{{verb:exec|attach|portforward}}": stream,
    }


def _json(body: dict[str, object]) -> web.Response:
    # Not web.json_response: kubectl 1.27 takes no discovery document with a charset in its content type.
    return web.Response(body=json.dumps(body).encode(), content_type="application/json")


_RESOURCES: dict[str, object] = {
    "kind": "APIResourceList",
    "groupVersion": "v1",
    "resources": [
        {"name": "pods", "singularName": "pod", "namespaced": True, "kind": "Pod", "verbs": ["get"]}
    ],
}


def _pod(name: str) -> dict[str, object]:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "default", "uid": "1"},
        "spec": {"containers": [{"name": "main", "image": "local", "stdin": True, "ports": []}]},
        "status": {"phase": "Running"},
    }
