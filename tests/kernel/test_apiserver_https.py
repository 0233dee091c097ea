"""The HTTPS edge: certificates, limits, clients that misbehave, restarts, and the way to kubelets."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
from collections.abc import AsyncIterator
from io import BytesIO
from ipaddress import IPv4Address
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from kernel.api_local import eventually
from kernel.apiserver_local import LOOPBACK, Cluster
from podling.apiserver.server import APIServer
from podling.machine import pki
from podling.store import memory
from podling.store.interface import StoreOpenError

CONFIG_MAPS = "/api/v1/namespaces/default/configmaps"
PODS = "/api/v1/namespaces/default/pods"


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    cluster = Cluster(tmp_path)
    await cluster.server.start()
    yield cluster
    await cluster.server.stop()


@pytest.fixture
async def session(cluster: Cluster) -> AsyncIterator[aiohttp.ClientSession]:
    async with cluster.session() as session:
        yield session


def config_map(name: str, **data: str) -> dict[str, object]:
    return {"metadata": {"name": name}, "data": data}


async def test_without_a_certificate_there_is_health_and_nothing_else(cluster):
    async with cluster.session(user=None) as session:
        for path in ("/healthz", "/livez", "/readyz"):
            async with session.get(path) as answer:
                assert (answer.status, await answer.text()) == (200, "ok")
        async with session.get("/version") as answer:
            assert (await answer.json())["gitVersion"] == "v1.37.0+podling"
        async with session.get("/api") as answer:
            assert answer.status == 401
            assert (await answer.json())["message"] == "Unauthorized"


async def test_a_certificate_of_another_ca_gets_no_connection(cluster, tmp_path):
    other = pki.make_ca()
    cert, key = pki.issue(other, "admin", organizations=["system:masters"]).write(tmp_path, "evil")
    context = ssl.create_default_context(cafile=str(cluster.directory / "ca.crt"))
    context.load_cert_chain(cert, key)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context)) as session:
        with pytest.raises(aiohttp.ClientError):
            await session.get(f"{cluster.url}/api")


async def test_plain_http_gets_no_answer(cluster):
    reader, writer = await asyncio.open_connection(LOOPBACK, cluster.server.port)
    writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
    async with asyncio.timeout(5):
        assert b"ok" not in await reader.read()
    writer.close()


async def test_a_body_that_is_too_large_is_refused(session):
    body = json.dumps(config_map("large", a="x" * 3145728)).encode()
    headers = {"Content-Type": "application/json"}
    async with session.post(CONFIG_MAPS, data=BytesIO(body), headers=headers) as answer:
        assert answer.status == 413
        status = await answer.json()
    assert status["message"] == "Request entity too large: limit is 3145728"
    assert status["reason"] == "RequestEntityTooLarge"

    async def chunks() -> AsyncIterator[bytes]:
        for start in range(0, len(body), 65536):
            yield body[start : start + 65536]

    async with session.post(CONFIG_MAPS, data=chunks(), headers=headers) as answer:
        assert answer.status == 413


async def test_a_watch_over_https_streams_lines(session):
    async with session.get(CONFIG_MAPS) as answer:
        version = (await answer.json())["metadata"]["resourceVersion"]
    async with session.get(CONFIG_MAPS, params={"watch": "1", "resourceVersion": version}) as watch:
        await session.post(CONFIG_MAPS, json=config_map("a"))
        async with asyncio.timeout(5):
            event = json.loads(await watch.content.readline())
        assert (event["type"], event["object"]["metadata"]["name"]) == ("ADDED", "a")


async def test_a_client_that_goes_away_leaves_no_watch_behind(cluster, session):
    watches = cluster.server._store._collections.of("configmaps/").watches
    async with session.get(CONFIG_MAPS, params={"watch": "1"}) as answer:
        assert answer.status == 200
        assert len(watches) == 1
        answer.close()

    async def is_forgotten() -> bool:
        return not watches

    await eventually(is_forgotten)


async def test_a_client_that_does_not_read_delays_nobody_and_is_cut_off(cluster, session, monkeypatch):
    """Its watch fills the sockets' buffers and then its queue."""
    monkeypatch.setattr(memory, "MAX_PENDING_BYTES", 1_000_000)
    with socket.socket() as small:
        small.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        small.connect((LOOPBACK, cluster.server.port))
        small.setblocking(False)
        reader, writer = await asyncio.open_connection(
            sock=small, ssl=cluster.tls(), server_hostname=LOOPBACK
        )
        writer.write(f"GET {CONFIG_MAPS}?watch=1 HTTP/1.0\r\nHost: x\r\n\r\n".encode())
        await reader.readline()
        data = "x" * 100_000
        for number in range(80):
            async with session.post(CONFIG_MAPS, json=config_map(f"m{number}", a=data)) as answer:
                assert answer.status == 201
        async with asyncio.timeout(20):
            lines = (await reader.read()).splitlines()
        writer.close()
    last = json.loads(lines[-1])
    assert (last["type"], last["object"]["code"]) == ("ERROR", 410)


async def test_an_abandoned_write_is_finished(cluster, session):
    _, writer = await asyncio.open_connection(LOOPBACK, cluster.server.port, ssl=cluster.tls())
    body = json.dumps(config_map("abandoned")).encode()
    head = f"POST {CONFIG_MAPS} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    await writer.drain()
    writer.transport.abort()

    async def is_there() -> bool:
        async with session.get(f"{CONFIG_MAPS}/abandoned") as answer:
            return answer.status == 200

    await eventually(is_there)


async def test_objects_survive_a_restart_and_the_port_is_free_again(cluster, session):
    async with session.post(CONFIG_MAPS, json=config_map("kept", a="b")) as answer:
        made = await answer.json()
    await cluster.server.stop()
    cluster.server = APIServer(cluster.config)
    await cluster.server.start()
    async with cluster.session() as again:
        async with again.get(f"{CONFIG_MAPS}/kept") as answer:
            assert await answer.json() == made
        params = {"watch": "1", "resourceVersion": str(int(made["metadata"]["resourceVersion"]) - 1)}
        async with again.get(CONFIG_MAPS, params=params) as watch, asyncio.timeout(5):
            assert json.loads(await watch.content.readline())["type"] == "ADDED"


async def test_a_second_server_on_the_same_store_does_not_start(cluster):
    second = APIServer(cluster.config)
    with pytest.raises(StoreOpenError, match="another process has this store open"):
        await second.start()


async def test_stopping_ends_watches_at_once(cluster, session):
    async with session.get(CONFIG_MAPS, params={"watch": "1", "resourceVersion": "0"}) as watch:
        async with asyncio.timeout(1):
            await cluster.server.stop()
        try:
            async with asyncio.timeout(5):
                await watch.read()
        except aiohttp.ClientError:
            pass


class Kubelet:
    """Answers as a kubelet's 10250 does, and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, str], str]] = []
        self.released = asyncio.Event()
        self.port = 0

    async def start(self, cluster: Cluster) -> web.AppRunner:
        pair = pki.issue(cluster.ca, "system:node:n1", addresses=[IPv4Address(LOOPBACK)])
        cert, key = pair.write(cluster.directory, "kubelet")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(cert, key)
        context.load_verify_locations(cluster.directory / "ca.crt")
        context.verify_mode = ssl.CERT_REQUIRED
        app = web.Application()
        app.router.add_get("/containerLogs/{namespace}/{pod}/{container}", self.logs)
        runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=1)
        await runner.setup()
        site = web.TCPSite(runner, LOOPBACK, 0, ssl_context=context)
        await site.start()
        self.port = runner.addresses[0][1]
        return runner

    async def logs(self, request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        subject = request.transport.get_extra_info("peercert")["subject"]
        self.asked.append((request.path, dict(request.query), str(subject)))
        if request.match_info["container"] == "starting":
            text = 'container "starting" in pod "two" is waiting to start: ContainerCreating'
            return web.Response(status=400, text=text)
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"first\n")
        try:
            if "follow" in request.query:
                await asyncio.Event().wait()
        finally:
            self.released.set()
        return response


@pytest.fixture
async def kubelet(cluster: Cluster, session: aiohttp.ClientSession) -> AsyncIterator[Kubelet]:
    kubelet = Kubelet()
    runner = await kubelet.start(cluster)
    node = {
        "metadata": {"name": "n1"},
        "status": {
            "addresses": [{"type": "Hostname", "address": "n1"}, {"type": "InternalIP", "address": LOOPBACK}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": kubelet.port}},
        },
    }
    async with session.post("/api/v1/nodes", json=node) as answer:
        assert answer.status == 201
    for name, containers in (("one", ["c"]), ("two", ["a", "starting"])):
        pod = {
            "metadata": {"name": name},
            "spec": {
                "nodeName": "n1",
                "containers": [{"name": c, "image": "busybox"} for c in containers],
                "initContainers": [{"name": "setup", "image": "busybox"}] if name == "two" else [],
            },
        }
        async with session.post(PODS, json=pod) as answer:
            assert answer.status == 201
    yield kubelet
    await runner.cleanup()


async def test_logs_come_from_the_nodes_kubelet(session, kubelet):
    params = {"tailLines": "5", "timestamps": "true"}
    async with session.get(f"{PODS}/one/log", params=params) as answer:
        assert (answer.status, answer.content_type) == (200, "text/plain")
        assert await answer.text() == "first\n"
    (path, query, subject) = kubelet.asked[0]
    assert (path, query) == ("/containerLogs/default/one/c", params)
    assert "apiserver-kubelet-client" in subject


async def test_following_logs_ends_with_the_reader(session, kubelet):
    async with session.get(f"{PODS}/one/log", params={"follow": "true"}) as answer:
        assert await answer.content.readline() == b"first\n"
        answer.close()
    async with asyncio.timeout(5):
        await kubelet.released.wait()


@pytest.mark.parametrize(
    ("path", "code", "message"),
    [
        (
            "two/log",
            400,
            "a container name must be specified for pod two, choose one of: [a starting] "
            "or one of the init containers: [setup]",
        ),
        ("two/log?container=nope", 400, "container nope is not valid for pod two"),
        (
            "two/log?container=starting",
            400,
            'container "starting" in pod "two" is waiting to start: ContainerCreating',
        ),
        ("one/log?tailLines=-1", 422, "must be greater than or equal to 0"),
        ("one/log?sinceSeconds=0", 422, "must be greater than 0"),
        ("nope/log", 404, 'pods "nope" not found'),
        ("one/exec?command=ls&stdout=true", 400, "Upgrade request required"),
        ("one/exec?stdout=true", 422, "command: Required value"),
        ("one/exec?command=ls", 422, "at least one of stdin, stdout, or stderr must be true"),
        ("two/exec?command=ls&stdout=true&container=x", 400, "container x is not valid for pod two"),
    ],
)
async def test_logs_and_exec_that_cannot_be(session, kubelet, path, code, message):
    async with session.get(f"{PODS}/{path}") as answer:
        status = await answer.json()
        assert (answer.status, status["code"]) == (code, code)
        assert message in status["message"]


async def test_a_pod_without_a_node_has_no_logs_and_no_exec(session):
    pod = {"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}}
    await session.post(PODS, json=pod)
    async with session.get(f"{PODS}/p/log") as answer:
        assert (answer.status, await answer.read()) == (200, b"")
    async with session.get(f"{PODS}/p/exec", params={"command": "ls", "stdout": "1"}) as answer:
        assert answer.status == 400
        assert (await answer.json())["message"] == "pod p does not have a host assigned"


async def test_a_kubelet_that_is_away_is_an_internal_error(session, kubelet):
    patch = {"status": {"daemonEndpoints": {"kubeletEndpoint": {"Port": 1}}}}
    headers = {"Content-Type": "application/merge-patch+json"}
    await session.patch("/api/v1/nodes/n1/status", json=patch, headers=headers)
    async with session.get(f"{PODS}/one/log") as answer:
        assert answer.status == 500
        message = (await answer.json())["message"]
    assert f'Get "https://{LOOPBACK}:1/containerLogs/default/one/c"' in message
