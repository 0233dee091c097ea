"""The real API server on loopback, and clients of it; for tests of what talks to it."""

from __future__ import annotations

import asyncio
import base64
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

import msgspec
import pytest

from podling.api.core_v1 import Node, Pod
from podling.apiserver.config import APIServerConfig
from podling.apiserver.server import APIServer
from podling.client.client import Client
from podling.client.http import ClientConfig, HttpTransport
from podling.machine import pki

LOOPBACK = IPv4Address("127.0.0.1")


class LocalAPI:
    """A server that can be stopped and started again on the same store and port."""

    def __init__(self, directory: Path, address: IPv4Address = LOOPBACK) -> None:
        self._address = address
        self._ca = pki.make_ca()
        ca_cert, _ = self._ca.write(directory, "ca")
        cert, key = pki.issue(self._ca, "kube-apiserver", addresses=[address]).write(directory, "apiserver")
        # Chosen beforehand: the `kubernetes` endpoints name the port before the server listens.
        with socket.create_server((str(address), 0)) as free:
            port: int = free.getsockname()[1]
        self._config = APIServerConfig(
            bind_address=str(address),
            port=port,
            advertise_address=address,
            tls_cert=cert,
            tls_key=key,
            client_ca=ca_cert,
            store_path=directory / "store.db",
            service_cidr=IPv4Network("10.96.0.0/16"),
            pod_cidr=IPv4Network("10.244.0.0/16"),
        )
        self.server = APIServer(self._config)

    async def start(self) -> None:
        await self.server.start()

    async def stop(self) -> None:
        """Like a crash for its clients, but that the store is closed properly."""
        await self.server.stop()
        self.server = APIServer(self._config)

    def local(self, user: str = "admin", *groups: str) -> Client:
        return Client(self.server.local_transport(user, groups or ("system:masters",)))

    @property
    def url(self) -> str:
        return f"https://{self._address}:{self.server.port}"

    def kubeconfig(self, path: Path, user: str, *groups: str) -> Path:
        """A file with which a process of its own reaches this server."""
        pair = pki.issue(self._ca, user, organizations=groups)

        def b64(data: bytes) -> str:
            return base64.b64encode(data).decode()

        cluster = {"server": self.url, "certificate-authority-data": b64(self._ca.cert_pem)}
        who = {"client-certificate-data": b64(pair.cert_pem), "client-key-data": b64(pair.key_pem)}
        document = {
            "clusters": [{"name": "local", "cluster": cluster}],
            "users": [{"name": user, "user": who}],
            "contexts": [{"name": "local", "context": {"cluster": "local", "user": user}}],
            "current-context": "local",
        }
        path.write_text(json.dumps(document))
        return path

    def https(self, user: str = "admin", *groups: str) -> Client:
        pair = pki.issue(self._ca, user, organizations=groups or ("system:masters",))
        config = ClientConfig(
            server=self.url,
            ca_data=self._ca.cert_pem,
            cert_data=pair.cert_pem,
            key_data=pair.key_pem,
        )
        return Client(HttpTransport(config))


@asynccontextmanager
async def running(work: Callable[[], Awaitable[None]]) -> AsyncIterator[None]:
    """Something that runs until it is cancelled; a failure of it is the test's."""
    task = asyncio.ensure_future(work())
    try:
        yield
    finally:
        if task.done():
            await task
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def eventually(look: Callable[[], Awaitable[Any]], timeout_s: float = 30.0) -> Any:
    """The first true answer of `look`."""
    async with asyncio.timeout(timeout_s):
        while True:
            found = await look()
            if found:
                return found
            await asyncio.sleep(0.005)


def make_node(name: str, *, cpu: str = "2", ready: str = "True", **spec: Any) -> Node:
    return msgspec.convert(
        {
            "metadata": {"name": name},
            "spec": spec,
            "status": {
                "capacity": {"cpu": cpu, "memory": "4Gi", "pods": "110"},
                "allocatable": {"cpu": cpu, "memory": "4Gi", "pods": "110"},
                "conditions": [
                    {
                        "type": "Ready",
                        "status": ready,
                        "reason": "KubeletReady",
                        "message": "ready",
                        "lastHeartbeatTime": "2026-01-01T00:00:00Z",
                        "lastTransitionTime": "2026-01-01T00:00:00Z",
                    }
                ],
            },
        },
        Node,
    )


def make_pod(name: str, *, cpu: str = "", labels: dict[str, str] | None = None, **spec: Any) -> Pod:
    resources = {"requests": {"cpu": cpu}} if cpu else {}
    return msgspec.convert(
        {
            "metadata": {"name": name, "namespace": "default", "labels": labels or {}},
            "spec": {
                "containers": [{"name": "c", "image": "busybox", "resources": resources}],
                **spec,
            },
        },
        Pod,
    )
