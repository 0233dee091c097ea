"""A node: the kubelet over a runtime in memory, and a real API server in the same process."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator, Callable
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

import pytest

from podling.api import core_v1
from podling.apiserver.config import APIServerConfig
from podling.apiserver.server import APIServer
from podling.client.client import Client
from podling.client.errors import NotFoundError
from podling.kubelet.config import KubeletConfig
from podling.kubelet.kubelet import Kubelet
from podling.machine import pki

from .builders import make_pod
from .memory_runtime import MemoryRuntime

NODE = "node-1"
FAILED = pytest.fail.Exception


class NodeUnderTest:
    """What a test sees of it: the API as an administrator, and the runtime's inside."""

    def __init__(self, api: Client, runtime: MemoryRuntime, kubelet_client: Client, config: KubeletConfig):
        self.api = api
        self.runtime = runtime
        self.config = config
        self._kubelet_client = kubelet_client
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        kubelet = Kubelet(self.config, self._kubelet_client, self.runtime, self.runtime)
        self._task = asyncio.create_task(kubelet.run())
        await self.eventually(self._registered)

    async def _registered(self) -> None:
        await self.api.get(core_v1.Node, NODE)

    async def kill(self) -> None:
        """As kill -9: nothing is told to anyone."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None

    async def create(self, *containers: dict[str, Any], name: str = "web", **spec: Any) -> core_v1.Pod:
        pod = make_pod(*containers, name=name, **spec)
        pod.metadata.uid = None
        return await self.api.create(pod)

    async def get(self, name: str = "web") -> core_v1.Pod:
        return await self.api.get(core_v1.Pod, name, "default")

    async def events(self) -> list[tuple[str, str]]:
        listed = await self.api.list(core_v1.Event, "default")
        return [(event.reason or "", event.message or "") for event in listed.items]

    async def delete(self, name: str = "web", grace_period_s: int | None = None) -> None:
        await self.api.delete(core_v1.Pod, name, "default", grace_period_s=grace_period_s)

    async def gone(self, name: str = "web") -> None:
        async def absent() -> None:
            with pytest.raises(NotFoundError):
                await self.get(name)

        await self.eventually(absent)

    async def phase(self, wanted: str, name: str = "web") -> core_v1.Pod:
        async def reached() -> core_v1.Pod:
            pod = await self.get(name)
            assert pod.status is not None
            assert pod.status.phase == wanted
            return pod

        return await self.eventually(reached)

    async def ready(self, name: str = "web") -> core_v1.Pod:
        async def reached() -> core_v1.Pod:
            pod = await self.get(name)
            assert {c.type: c.status for c in pod.status.conditions}.get("Ready") == "True"
            return pod

        return await self.eventually(reached)

    async def eventually(self, check: Callable[[], Any], timeout_s: float = 30.0) -> Any:
        """Until `check` passes; its last failure is the test's."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        while True:
            try:
                result = check()
                return await result if asyncio.iscoroutine(result) else result
            except (AssertionError, NotFoundError, LookupError, ValueError, AttributeError, FAILED):
                if loop.time() > deadline:
                    raise
            await asyncio.sleep(0.01)


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("pki")
    ca = pki.make_ca()
    ca.write(directory, "ca")
    pki.issue(ca, "node-1", addresses=[IPv4Address("127.0.0.1")]).write(directory, "serving")
    pki.issue(ca, "admin", organizations=["system:masters"]).write(directory, "admin")
    pki.issue(ca, "nobody").write(directory, "nobody")
    return directory


@pytest.fixture
async def api_server(certificates: Path, tmp_path: Path) -> AsyncIterator[APIServer]:
    server = APIServer(
        APIServerConfig(
            bind_address="127.0.0.1",
            port=6443,
            advertise_address=IPv4Address("10.192.0.2"),
            tls_cert=certificates / "serving.crt",
            tls_key=certificates / "serving.key",
            client_ca=certificates / "ca.crt",
            store_path=tmp_path / "store.db",
            service_cidr=IPv4Network("10.96.0.0/16"),
            pod_cidr=IPv4Network("10.244.0.0/16"),
        )
    )
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
async def node(api_server: APIServer, certificates: Path, tmp_path: Path) -> AsyncIterator[NodeUnderTest]:
    resolv_conf = tmp_path / "resolv.conf"
    resolv_conf.write_text("nameserver 10.0.0.1\n")
    config = KubeletConfig(
        node_name=NODE,
        node_ip="10.192.0.3",
        root_dir=tmp_path / "kubelet",
        pod_logs_dir=tmp_path / "logs",
        resolv_conf=resolv_conf,
        tls_cert=certificates / "serving.crt",
        tls_key=certificates / "serving.key",
        client_ca=certificates / "ca.crt",
        bind_address="127.0.0.1",
        cgroups_per_qos=False,
        eviction_hard=(),  # the machine that runs the tests may be short of anything
    )
    admin = Client(api_server.local_transport("admin", ["system:masters"]), "test")
    account = core_v1.ServiceAccount()
    account.metadata.name = "default"
    with contextlib.suppress(Exception):
        await admin.create(account, "default")
    own = Client(api_server.local_transport(f"system:node:{NODE}", ["system:nodes"]), "kubelet")
    under_test = NodeUnderTest(admin, MemoryRuntime(), own, config)
    await under_test.start()
    yield under_test
    await under_test.kill()


@pytest.fixture
def kubelet_client(api_server: APIServer) -> Client:
    """The API as the node of the tests has it."""
    return Client(api_server.local_transport(f"system:node:{NODE}", ["system:nodes"]), "kubelet")


@pytest.fixture
def other_config(node: NodeUnderTest) -> Callable[..., KubeletConfig]:
    return lambda **changes: dataclasses.replace(node.config, **changes)
