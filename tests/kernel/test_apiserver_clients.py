"""kubectl's streams and the Python client, through the real API server to a kubelet's address."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import kubernetes
import pytest
from aiohttp import web

from kernel.apiserver_local import LOOPBACK, Cluster
from kernel.streaming_local import LocalBackend, serving
from podling.client.streamproxy import proxy_upgrade
from podling.machine import pki
from podling.machine.kubectl import KubectlNotFoundError, kubectl_path
from podling.runtime.cri import messages as cri
from podling.runtime.streaming.server import StreamingServer

STREAMS = (("stdin", "input"), ("stdout", "output"), ("stderr", "error"), ("tty", "tty"))
PODS = "/api/v1/namespaces/default/pods"


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    cluster = Cluster(tmp_path)
    await cluster.server.start()
    yield cluster
    await cluster.server.stop()


def kubelet_context(cluster: Cluster) -> ssl.SSLContext:
    pair = pki.issue(cluster.ca, "system:node:n1", addresses=[IPv4Address(LOOPBACK)])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*pair.write(cluster.directory, "kubelet"))
    context.load_verify_locations(cluster.directory / "ca.crt")
    context.verify_mode = ssl.CERT_REQUIRED
    return context


@pytest.fixture
async def pod(cluster: Cluster) -> AsyncIterator[str]:
    """A pod on a node whose kubelet executes on this machine; its name."""
    streaming = StreamingServer(LocalBackend())

    async def execute(request: web.Request) -> web.StreamResponse:
        wants = {name: request.query.get(theirs) == "1" for name, theirs in STREAMS}
        ask = cri.ExecRequest(container_id="c", cmd=request.query.getall("command"), **wants)
        return await proxy_upgrade(request, streaming.exec_url(ask))

    async with AsyncExitStack() as stack:
        await streaming.start()
        stack.push_async_callback(streaming.stop)
        routes = {"/exec/default/web/c": execute}
        url = await stack.enter_async_context(serving(routes, kubelet_context(cluster)))
        session = await stack.enter_async_context(cluster.session())
        node = {
            "metadata": {"name": "n1"},
            "status": {
                "addresses": [{"type": "InternalIP", "address": LOOPBACK}],
                "daemonEndpoints": {"kubeletEndpoint": {"Port": int(url.rpartition(":")[2])}},
            },
        }
        spec = {"nodeName": "n1", "containers": [{"name": "c", "image": "busybox"}]}
        await session.post("/api/v1/nodes", json=node)
        await session.post(PODS, json={"metadata": {"name": "web"}, "spec": spec})
        yield "web"


@pytest.mark.parametrize("version", ["1.27", "1.37"])
async def test_exec_reaches_the_kubelet_and_brings_back_streams_and_code(cluster, pod, version):
    """1.27 speaks SPDY, 1.37 WebSocket."""
    try:
        binary = kubectl_path(version)
    except KubectlNotFoundError as err:
        pytest.skip(f"needs kubectl {version}: {err}")
    script = "cat; echo out; echo err >&2; exit 7"
    ran = await cluster.kubectl(binary, "exec", "-i", pod, "--", "sh", "-c", script, stdin="in\n")
    assert (ran.code, ran.out) == (7, "in\nout\n")
    assert ran.err.startswith("err\n")
    missing = await cluster.kubectl(binary, "exec", pod, "-c", "nope", "--", "true")
    assert missing.code == 1
    assert "container nope is not valid for pod web" in missing.err or "not found" in missing.err


def use_python_client(cluster: Cluster) -> None:
    """Runs in a thread: this client blocks."""
    config: Any = kubernetes.client.Configuration()
    kubernetes.config.load_kube_config(str(cluster.kubeconfig()), client_configuration=config)
    with kubernetes.client.ApiClient(config) as connection:
        core = kubernetes.client.CoreV1Api(connection)
        start = core.list_namespaced_config_map("default").metadata.resource_version
        for name in ("a", "b"):
            body = {"metadata": {"name": name, "labels": {"x": name}}, "data": {"k": "v"}}
            core.create_namespaced_config_map("default", body)
        core.patch_namespaced_config_map("a", "default", {"data": {"k": "w"}})
        core.delete_namespaced_config_map("b", "default")
        watch = kubernetes.watch.Watch()
        seen = [
            (event["type"], event["object"].metadata.name)
            for event in watch.stream(
                core.list_namespaced_config_map, "default", resource_version=start, timeout_seconds=1
            )
        ]
        assert seen == [("ADDED", "a"), ("ADDED", "b"), ("MODIFIED", "a"), ("DELETED", "b")]
        chosen = core.list_namespaced_config_map("default", label_selector="x=a")
        assert [(item.metadata.name, item.data) for item in chosen.items] == [("a", {"k": "w"})]
        with pytest.raises(kubernetes.client.ApiException) as refused:
            core.read_namespaced_pod("none", "default")
        assert refused.value.status == 404
        spec = {"containers": [{"name": "c", "image": "busybox"}]}
        made = core.create_namespaced_pod("default", {"metadata": {"name": "p"}, "spec": spec})
        assert made.status.phase == "Pending"
        assert core.list_node().items == []
        version = kubernetes.client.VersionApi(connection).get_code()
        assert version.git_version == "v1.37.0+podling"


async def test_the_python_client_lists_watches_and_writes(cluster):
    await asyncio.to_thread(use_python_client, cluster)
