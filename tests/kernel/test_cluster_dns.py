"""The service `kube-dns`, kept by its controller against the real API server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from kernel.api_local import LocalAPI, eventually, make_node, running
from podling.api.core_v1 import Endpoints, NodeAddress, Service
from podling.client.client import Client
from podling.client.errors import NotFoundError
from podling.controllers.manager import ControllerConfig, ControllerManager

DNS = "10.96.0.10"


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[Client]:
    api = LocalAPI(tmp_path)
    await api.start()
    manager = ControllerManager(
        api.local("system:kube-controller-manager"), ControllerConfig(cluster_dns=DNS)
    )
    async with running(manager.run):
        yield api.local()
    await api.stop()


async def add_node(client: Client, name: str, address: str) -> None:
    node = make_node(name)
    assert node.status is not None
    node.status.addresses = [NodeAddress(type="InternalIP", address=address)]
    await client.create(node)


async def servers(client: Client) -> dict[str, str | None]:
    """Address and node of every endpoint."""
    try:
        found = await client.get(Endpoints, "kube-dns", "kube-system")
    except NotFoundError:
        return {}
    return {a.ip: a.node_name for subset in found.subsets for a in subset.addresses}


async def test_every_node_is_an_endpoint_of_kube_dns(client: Client):
    await add_node(client, "one", "10.192.0.3")
    await add_node(client, "two", "10.192.0.4")

    async def both() -> bool:
        return await servers(client) == {"10.192.0.3": "one", "10.192.0.4": "two"}

    await eventually(both)
    service = await client.get(Service, "kube-dns", "kube-system")
    assert service.spec is not None
    assert (service.spec.cluster_ip, service.spec.internal_traffic_policy) == (DNS, "Local")
    assert [(p.name, p.port, p.protocol) for p in service.spec.ports] == [
        ("dns", 53, "UDP"),
        ("dns-tcp", 53, "TCP"),
        ("metrics", 9153, "TCP"),
    ]


async def test_what_is_deleted_comes_back(client: Client):
    await add_node(client, "one", "10.192.0.3")

    async def served() -> bool:
        return bool(await servers(client))

    await eventually(served)
    await client.delete(Service, "kube-dns", "kube-system")

    async def back() -> bool:
        try:
            await client.get(Service, "kube-dns", "kube-system")
        except NotFoundError:
            return False
        return await served()

    await eventually(back)


async def test_a_service_with_a_selector_is_its_owners(client: Client):
    await add_node(client, "one", "10.192.0.3")

    async def served() -> bool:
        return bool(await servers(client))

    await eventually(served)
    await client.patch(Service, "kube-dns", {"spec": {"selector": {"k8s-app": "coredns"}}}, "kube-system")

    async def left() -> bool:
        return not await servers(client)

    await eventually(left)  # the endpoints controller has it now
    await add_node(client, "two", "10.192.0.4")
    assert not await servers(client)
