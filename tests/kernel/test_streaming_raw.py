"""The streaming server and the upgrade proxy by clients of our own, on asyncio's loop and on uvloop's."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import json
import os
import struct
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import uvloop
from aiohttp import WSMsgType, web

from kernel.streaming_local import Certificates, LocalBackend, chain, make_certificates, serving
from podling.client.streamproxy import proxy_upgrade
from podling.client.takeover import RawLink
from podling.runtime.cri import messages as cri
from podling.runtime.cri.errors import Code, CRIError
from podling.runtime.streaming.server import StreamingServer
from podling.runtime.streaming.spdy import SpdyConnection
from podling.runtime.streaming.spdy_session import SpdySession, SpdyStream

Run = Callable[[Callable[[], Coroutine[Any, Any, None]]], None]


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    """Runs a scenario on either loop and sees that it leaves no task behind."""

    async def checked(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
        async with asyncio.timeout(60):
            await scenario()
        await asyncio.sleep(0.05)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    def runner(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
        factory = uvloop.new_event_loop if request.param == "uvloop" else asyncio.new_event_loop
        with asyncio.Runner(loop_factory=factory) as loop:
            loop.run(checked(scenario))

    return runner


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("tls"))


@contextlib.asynccontextmanager
async def streaming(backend: LocalBackend | None = None) -> AsyncIterator[StreamingServer]:
    server = StreamingServer(backend or LocalBackend())
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


class Refused(Exception):
    def __init__(self, head: str) -> None:
        super().__init__(head)
        self.head = head


@contextlib.asynccontextmanager
async def spdy(url: str, *protocols: str) -> AsyncIterator[tuple[SpdySession, str]]:
    """A SPDY client: a POST with Upgrade, then frames."""
    host, _, path = url.removeprefix("http://").partition("/")
    reader, writer = await asyncio.open_connection(*host.split(":"))
    lines = [f"POST /{path} HTTP/1.1", f"Host: {host}", "Connection: Upgrade", "Upgrade: SPDY/3.1"]
    lines += [f"X-Stream-Protocol-Version: {protocol}" for protocol in protocols]
    writer.write("\r\n".join([*lines, "Content-Length: 0", "", ""]).encode())
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    if " 101 " not in head.splitlines()[0]:
        writer.close()
        raise Refused(head)
    link = RawLink()
    session = SpdySession(link, SpdyConnection(client=True), max_buffered=1 << 20)
    writer.transport.set_protocol(link)
    writer.transport.pause_reading()
    link.connection_made(writer.transport)
    session.flush()
    link.start(session, bytes(reader._buffer))
    chosen = head.lower().split("x-stream-protocol-version: ")[1].splitlines()[0]
    try:
        yield session, chosen
    finally:
        await session.close()


async def open_streams(session: SpdySession, *types: str) -> dict[str, SpdyStream]:
    streams = {name: session.open({"streamType": name}) for name in types}
    for stream in streams.values():
        await stream.replied.wait()
    return streams


async def everything(stream: SpdyStream) -> bytes:
    data = b""
    while chunk := await stream.read():
        data += chunk
    return data


def exec_request(*cmd: str, container_id: str = "web", **options: bool) -> cri.ExecRequest:
    return cri.ExecRequest(container_id=container_id, cmd=list(cmd), **{"stdout": True, **options})


# ---- SPDY


@pytest.mark.parametrize(
    ("protocol", "wanted"),
    [
        ("v4.channel.k8s.io", b'"reason":"NonZeroExitCode"'),
        ("v3.channel.k8s.io", b"exit code 3"),
        ("v2.channel.k8s.io", b"exit code 3"),
        ("channel.k8s.io", b"exit code 3"),
    ],
)
def test_every_spdy_protocol_tells_the_exit_code_its_way(run: Run, protocol: str, wanted: bytes) -> None:
    async def scenario() -> None:
        async with streaming() as server:
            url = server.exec_url(exec_request("sh", "-c", "echo hi; exit 3", stderr=True))
            async with spdy(url, protocol) as (session, chosen):
                assert chosen == protocol
                streams = await open_streams(session, "error", "stdout", "stderr")
                assert await everything(streams["stdout"]) == b"hi\n"
                assert wanted in await everything(streams["error"])

    run(scenario)


def test_spdy_protocol_is_the_first_of_the_clients_that_is_known(run: Run) -> None:
    async def scenario() -> None:
        async with streaming() as server:
            url = server.exec_url(exec_request("true"))
            async with spdy(url, "v9.channel.k8s.io, v3.channel.k8s.io", "v4.channel.k8s.io") as (_, chosen):
                assert chosen == "v3.channel.k8s.io"

    run(scenario)


def test_an_unknown_spdy_protocol_is_refused_with_those_served(run: Run) -> None:
    async def scenario() -> None:
        async with streaming() as server:
            with pytest.raises(Refused) as refused:
                async with spdy(server.exec_url(exec_request("true")), "v9.channel.k8s.io"):
                    pass
            assert "403 Forbidden" in refused.value.head
            assert "X-Accept-Stream-Protocol-Version: v4.channel.k8s.io" in refused.value.head

    run(scenario)


def test_a_client_that_vanishes_ends_the_process(run: Run) -> None:
    async def scenario() -> None:
        backend = LocalBackend()
        async with streaming(backend) as server:
            url = server.exec_url(exec_request("sleep", "1000", stdin=True))
            async with spdy(url, "v4.channel.k8s.io") as (session, _):
                await open_streams(session, "error", "stdin", "stdout")
                await backend.started.wait()
            assert await backend.processes[0].wait() == 137

    run(scenario)


def test_stopping_the_server_ends_processes_and_connections(run: Run) -> None:
    async def scenario() -> None:
        backend = LocalBackend()
        async with streaming(backend) as server:
            url = server.exec_url(exec_request("sleep", "1000"))
            async with spdy(url, "v4.channel.k8s.io") as (session, _):
                await open_streams(session, "error", "stdout")
                await backend.started.wait()
                await server.stop()
                await session.ended.wait()
        assert await backend.processes[0].wait() == 137

    run(scenario)


def test_a_peer_that_manages_windows_is_kept_within_them_and_still_gets_everything(run: Run) -> None:
    async def scenario() -> None:
        async with streaming() as server:
            url = server.exec_url(exec_request("head", "-c", "8000000", "/dev/zero"))
            async with spdy(url, "v4.channel.k8s.io") as (session, _):
                streams = await open_streams(session, "error", "stdout")
                await asyncio.sleep(0.3)
                # Our own client end announces a window of 1 MiB and has consumed nothing yet.
                assert streams["stdout"].input.size <= 1 << 20
                assert await everything(streams["stdout"]) == bytes(8_000_000)

    run(scenario)


def test_fifty_execs_at_once_each_get_their_own_bytes_back(run: Run) -> None:
    async def one(server: StreamingServer, number: int) -> None:
        data = bytes([number]) * 300_000
        async with spdy(server.exec_url(exec_request("cat", stdin=True)), "v4.channel.k8s.io") as (
            session,
            _,
        ):
            streams = await open_streams(session, "error", "stdin", "stdout")
            echo = asyncio.create_task(everything(streams["stdout"]))
            await streams["stdin"].write(data)
            streams["stdin"].close()
            assert await echo == data
            assert json.loads(await everything(streams["error"]))["status"] == "Success"

    async def scenario() -> None:
        backend = LocalBackend()
        async with streaming(backend) as server:
            await asyncio.gather(*(one(server, number) for number in range(50)))
        assert [process.process.returncode for process in backend.processes] == [0] * 50

    run(scenario)


# ---- tokens


def test_a_url_works_once_and_only_for_its_verb(run: Run) -> None:
    async def scenario() -> None:
        async with streaming() as server, aiohttp.ClientSession() as http:
            url = server.exec_url(exec_request("true"))
            async with http.get(url) as answer:
                assert answer.status == 400  # not an upgrade: the token is spent all the same
            async with http.get(url) as answer:
                assert answer.status == 404
            other = server.exec_url(exec_request("true")).replace("/exec/", "/attach/")
            async with http.get(other) as answer:
                assert answer.status == 404

    run(scenario)


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (cri.ExecRequest(cmd=["true"], stdout=True), "missing required container_id"),
        (
            cri.ExecRequest(container_id="web", tty=True, stdout=True, stderr=True),
            "tty and stderr cannot both be true",
        ),
        (cri.ExecRequest(container_id="web"), "one of stdin, stdout, or stderr must be set"),
    ],
)
def test_requests_without_sense_are_refused(run: Run, request_: cri.ExecRequest, message: str) -> None:
    async def scenario() -> None:
        async with streaming() as server:
            with pytest.raises(CRIError, match=message) as refused:
                server.exec_url(request_)
            assert refused.value.code == Code.INVALID_ARGUMENT

    run(scenario)


# ---- WebSocket


async def channels(ws: aiohttp.ClientWebSocketResponse) -> dict[int, bytes]:
    """All bytes by channel until the server closes, in the encoding of the first message."""
    received: dict[int, bytes] = {}
    async for message in ws:
        if message.type == WSMsgType.TEXT:
            channel, data = int(message.data[0]), base64.b64decode(message.data[1:])
        else:
            channel, data = message.data[0], message.data[1:]
        received[channel] = received.get(channel, b"") + data
    return received


@pytest.mark.parametrize(
    ("protocol", "error"),
    [
        ("v5.channel.k8s.io", b'"message":"4"'),
        ("v4.channel.k8s.io", b'"message":"4"'),
        ("v4.base64.channel.k8s.io", b'"message":"4"'),
        ("channel.k8s.io", b"exit code 4"),
        ("base64.channel.k8s.io", b"exit code 4"),
        (None, b"exit code 4"),
    ],
)
def test_every_websocket_protocol_carries_all_channels(run: Run, protocol: str | None, error: bytes) -> None:
    async def scenario() -> None:
        async with streaming() as server, aiohttp.ClientSession() as http:
            script = "read line; echo got $line; echo oops >&2; exit 4"
            url = server.exec_url(exec_request("sh", "-c", script, stdin=True, stderr=True))
            async with http.ws_connect(url, protocols=[protocol] if protocol else []) as ws:
                assert ws.protocol == protocol
                if protocol and "base64" in protocol:
                    await ws.send_str("0" + base64.b64encode(b"line\n").decode())
                else:
                    await ws.send_bytes(b"\x00line\n")
                received = await channels(ws)
            assert received[1] == b"got line\n"
            assert received[2] == b"oops\n"
            assert error in received[3]
            assert ws.close_code == 1000

    run(scenario)


def test_v5_closes_stdin_by_message(run: Run) -> None:
    async def scenario() -> None:
        async with streaming() as server, aiohttp.ClientSession() as http:
            url = server.exec_url(exec_request("sh", "-c", "cat; echo end", stdin=True))
            async with http.ws_connect(url, protocols=["v5.channel.k8s.io"]) as ws:
                await ws.send_bytes(b"\x00text ")
                await ws.send_bytes(b"\xff\x00")
                assert (await channels(ws))[1] == b"text end\n"

    run(scenario)


def test_an_unknown_websocket_protocol_is_refused(run: Run) -> None:
    async def scenario() -> None:
        async with streaming() as server, aiohttp.ClientSession() as http:
            url = server.exec_url(exec_request("true"))
            with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                await http.ws_connect(url, protocols=["v9.channel.k8s.io"])
            assert refused.value.status == 400

    run(scenario)


def test_port_forward_by_channels_names_the_port_first(run: Run) -> None:
    async def shout(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write((await reader.readline()).upper())
        writer.close()

    async def scenario() -> None:
        pod = await asyncio.start_server(shout, "127.0.0.1", 0)
        port = pod.sockets[0].getsockname()[1]
        async with pod, streaming() as server, aiohttp.ClientSession() as http:
            url = server.port_forward_url(cri.PortForwardRequest(pod_sandbox_id="web", port=[port, 1]))
            async with http.ws_connect(url, protocols=["v4.channel.k8s.io"]) as ws:
                await ws.send_bytes(b"\x00hello\n")
                received = await channels(ws)
        prefix = struct.pack("<H", port)
        assert received[0] == prefix + b"HELLO\n"
        assert received[1] == prefix
        assert received[2] == b"\x01\x00"
        assert received[3].startswith(b"\x01\x00error forwarding port 1 to pod web")

    run(scenario)


# ---- the proxy


def test_streams_pass_two_proxies_with_tls_unharmed(run: Run, certificates: Certificates) -> None:
    async def scenario() -> None:
        async with chain(certificates) as cluster, aiohttp.ClientSession() as http:
            data = os.urandom(1_000_000)
            url = f"{cluster.api_url}/api/v1/namespaces/default/pods/web/exec"
            query = {"command": "cat", "stdin": "true", "stdout": "true"}
            async with http.ws_connect(
                url, params=query, protocols=["v5.channel.k8s.io"], ssl=certificates.client_context()
            ) as ws:
                receiver = asyncio.create_task(channels(ws))
                for start in range(0, len(data), 65536):
                    await ws.send_bytes(b"\x00" + data[start : start + 65536])
                await ws.send_bytes(b"\xff\x00")
                received = await receiver
            assert hashlib.sha256(received[1]).digest() == hashlib.sha256(data).digest()
            assert json.loads(received[3])["status"] == "Success"

    run(scenario)


def proxy_to(url: str) -> dict[str, Callable[[web.Request], Awaitable[web.StreamResponse]]]:
    async def handler(request: web.Request) -> web.StreamResponse:
        return await proxy_upgrade(request, url)

    return {"/": handler}


UPGRADE = {"Connection": "Upgrade", "Upgrade": "SPDY/3.1"}


def test_an_answer_that_refuses_the_upgrade_comes_back_as_it_is(run: Run) -> None:
    async def refuse(request: web.Request) -> web.StreamResponse:
        if request.query.get("chunked"):
            response = web.StreamResponse(status=409, headers={"X-Why": "chunks"})
            await response.prepare(request)
            for part in (b"first,", b"second"):
                await response.write(part)
            return response
        return web.Response(status=403, text="not you", headers={"X-Why": "because"})

    async def scenario() -> None:
        async with serving({"/": refuse}) as target, aiohttp.ClientSession() as http:
            async with serving(proxy_to(target)) as proxy, http.post(proxy, headers=UPGRADE) as answer:
                assert (answer.status, await answer.text()) == (403, "not you")
                assert answer.headers["X-Why"] == "because"
            async with (
                serving(proxy_to(target + "/?chunked=1")) as proxy,
                http.post(proxy, headers=UPGRADE) as answer,
            ):
                assert (answer.status, await answer.text()) == (409, "first,second")

    run(scenario)


def test_a_hop_that_is_not_there_is_a_status_in_upstreams_words(run: Run) -> None:
    async def scenario() -> None:
        async with serving(proxy_to("http://127.0.0.1:1/")) as proxy, aiohttp.ClientSession() as http:
            async with http.post(proxy, headers=UPGRADE) as answer:
                status = await answer.json()
            assert (answer.status, status["kind"], status["code"]) == (500, "Status", 500)
            assert status["message"].startswith("error dialing backend: dial tcp 127.0.0.1:1: ")
            async with http.get(proxy) as answer:
                assert (answer.status, (await answer.json())["message"]) == (400, "Upgrade request required")

    run(scenario)


def test_a_hop_that_speaks_no_http_is_a_bad_gateway(run: Run) -> None:
    async def babble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-nonsense\r\n\r\n")
        await reader.read()
        writer.close()

    async def scenario() -> None:
        target = await asyncio.start_server(babble, "127.0.0.1", 0)
        port = target.sockets[0].getsockname()[1]
        async with (
            target,
            serving(proxy_to(f"http://127.0.0.1:{port}/")) as proxy,
            aiohttp.ClientSession() as http,
            http.post(proxy, headers=UPGRADE) as answer,
        ):
            assert answer.status == 502

    run(scenario)


def test_each_half_of_a_plain_connection_ends_by_itself(run: Run) -> None:
    async def until_eof(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: test\r\n\r\nready "
        )
        received = await reader.read()
        writer.write(b"got " + received)
        writer.close()

    async def scenario() -> None:
        target = await asyncio.start_server(until_eof, "127.0.0.1", 0)
        port = target.sockets[0].getsockname()[1]
        async with target, serving(proxy_to(f"http://127.0.0.1:{port}/")) as proxy:
            host, proxy_port = proxy.removeprefix("http://").split(":")
            reader, writer = await asyncio.open_connection(host, proxy_port)
            writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: test\r\n\r\n")
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"data")
            writer.write_eof()
            assert await reader.read() == b"ready got data"
            writer.close()

    run(scenario)


def test_the_clients_identity_stays_behind(run: Run) -> None:
    seen: dict[str, str] = {}

    async def look(request: web.Request) -> web.StreamResponse:
        seen.update(request.headers)
        return web.Response(status=400)

    async def scenario() -> None:
        async with serving({"/": look}) as target, serving(proxy_to(target)) as proxy:
            mine = {"Authorization": "Bearer x", "Impersonate-User": "root", "X-Remote-Group": "all"}
            async with aiohttp.ClientSession() as http, http.post(proxy, headers={**UPGRADE, **mine}):
                pass
        assert not set(mine) & set(seen)
        assert seen["Upgrade"] == "SPDY/3.1"

    run(scenario)


async def test_the_python_kubernetes_client_execs_and_forwards(certificates: Certificates) -> None:
    """Over v4.channel.k8s.io, in a process of its own: it blocks, and leaves sockets open."""
    pytest.importorskip("kubernetes")

    async def shout(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write((await reader.readline()).upper())
        await writer.drain()
        await reader.read()
        writer.close()

    pod = await asyncio.start_server(shout, "127.0.0.1", 0)
    port = pod.sockets[0].getsockname()[1]
    async with pod, chain(certificates) as cluster:
        client = await asyncio.create_subprocess_exec(
            sys.executable,
            *(Path(__file__).with_name("streaming_python_client.py"), cluster.api_url),
            *(certificates.path, str(port)),
            stdout=asyncio.subprocess.PIPE,
        )
        out, _ = await client.communicate()
    assert json.loads(out) == {
        "stdout": "out text\n",
        "stderr": "err\n",
        "returncode": 5,
        "forwarded": "HELLO\n",
    }
