"""Routes to other nodes' pods: a real API server, real routes. The test's own namespace is the node "me"."""

from __future__ import annotations

import ipaddress
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from kernel.api_local import LocalAPI, eventually, make_node, running
from kernel.net_local import Namespaces, ask, echo_server, namespaces
from podling.api.core_v1 import Node, NodeAddress
from podling.client.client import Client
from podling.linux.netlink import Netlink, Route
from podling.linux.netns import open_netns
from podling.network.route_table import RTPROT_PODLING
from podling.network.routes import RouteSync

__all__ = ["namespaces"]

IF, IP, NET = ipaddress.ip_interface, ipaddress.ip_address, ipaddress.ip_network


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[LocalAPI]:
    local = LocalAPI(tmp_path)
    await local.start()
    yield local
    await local.stop()


@pytest.fixture
def switch() -> Iterator[int]:
    """This node's link to the others; its ifindex."""
    with Netlink() as nl:
        nl.link_add_bridge("switch0", mac="02:00:00:00:00:01")
        nl.addr_add("switch0", IF("10.192.0.2/24"))
        yield nl.link_get("switch0").index
        nl.link_del("switch0", missing_ok=True)


def add_node(namespaces: Namespaces, name: str, address: str, pods: str) -> Path:
    """Another node on the switch, holding the first address of its pod subnet."""
    path = namespaces.make(name)
    fd = open_netns(path)
    with Netlink() as nl, Netlink(path) as inside:
        nl.link_add_veth(f"port-{name}", "eth0", peer_netns_fd=fd)
        inside.link_set("eth0", up=True)
        nl.link_set(f"port-{name}", master="switch0", up=True)
        inside.addr_add("eth0", IF(address))
        inside.addr_add("lo", IF(pods))
    return path


def node(name: str, ip: str, cidr: str) -> Node:
    made = make_node(name, podCIDR=cidr, podCIDRs=[cidr])
    assert made.status is not None
    made.status.addresses = [NodeAddress(type="InternalIP", address=ip)]
    return made


def ours() -> dict[str, str]:
    with Netlink() as nl:
        return {str(route.dst): str(route.gateway) for route in nl.route_list(protocol=RTPROT_PODLING)}


async def becomes(wanted: dict[str, str]) -> None:
    async def look() -> Any:
        return ours() == wanted

    try:
        await eventually(look, 5)
    except TimeoutError:
        assert ours() == wanted


async def create(client: Client, *nodes: Node) -> None:
    for made in nodes:
        await client.create(made)


async def test_packets_reach_a_pod_of_another_node(api: LocalAPI, switch: int, namespaces: Namespaces):
    other = add_node(namespaces, "one", "10.192.0.3/24", "10.244.2.1/32")
    client = api.local()
    await create(
        client, node("me", "10.192.0.2", "10.244.1.0/24"), node("one", "10.192.0.3", "10.244.2.0/24")
    )
    async with running(RouteSync(client, "me").run):
        await becomes({"10.244.2.0/24": "10.192.0.3"})
        with echo_server(other, "10.244.2.1"):
            assert ask(Path("/proc/self/ns/net"), "10.244.2.1") == "10.192.0.2"
    assert ours() == {"10.244.2.0/24": "10.192.0.3"}  # a stopped agent cuts no connection
    with Netlink() as nl:
        nl.route_del(Route(dst=NET("10.244.2.0/24")))


async def test_nodes_come_go_and_change(api: LocalAPI, switch: int):
    client = api.local()
    with Netlink() as nl:  # what an earlier agent left, and what is none of ours
        nl.route_add(Route(dst=NET("10.244.77.0/24"), gateway=IP("10.192.0.77"), protocol=RTPROT_PODLING))
        nl.route_add(Route(dst=NET("10.244.88.0/24"), gateway=IP("10.192.0.88")))
    await create(client, node("me", "10.192.0.2", "10.244.1.0/24"))
    async with running(RouteSync(client, "me").run):
        await becomes({})
        await create(
            client, node("one", "10.192.0.3", "10.244.2.0/24"), node("two", "10.192.0.4", "10.244.3.0/24")
        )
        await becomes({"10.244.2.0/24": "10.192.0.3", "10.244.3.0/24": "10.192.0.4"})
        moved = {"status": {"addresses": [{"type": "InternalIP", "address": "10.192.0.9"}]}}
        await client.patch(Node, "one", moved, subresource="status")
        await becomes({"10.244.2.0/24": "10.192.0.9", "10.244.3.0/24": "10.192.0.4"})
        await client.delete(Node, "two")
        await becomes({"10.244.2.0/24": "10.192.0.9"})
        await client.delete(Node, "one")
        await becomes({})
    with Netlink() as nl:
        assert "10.244.88.0/24" in {str(route.dst) for route in nl.route_list()}


async def test_a_route_that_is_deleted_or_lost_comes_back(api: LocalAPI, switch: int):
    client = api.local()
    await create(client, node("one", "10.192.0.3", "10.244.2.0/24"))
    wanted = {"10.244.2.0/24": "10.192.0.3"}
    async with running(RouteSync(client, "me").run):
        await becomes(wanted)
        with Netlink() as nl:
            nl.route_del(Route(dst=NET("10.244.2.0/24")))
            await becomes(wanted)
            nl.link_set(switch, up=False)  # the kernel drops its routes without a word
            await becomes({})
            nl.link_set(switch, up=True)
            await becomes(wanted)
            nl.addr_del(switch, IF("10.192.0.2/24"))
            nl.addr_add(switch, IF("10.192.0.2/24"))
            await becomes(wanted)


async def test_a_node_out_of_reach_is_routed_once_it_is_within(
    api: LocalAPI, switch: int, caplog: pytest.LogCaptureFixture
):
    client = api.local()
    await create(
        client, node("far", "10.193.0.3", "10.244.9.0/24"), node("near", "10.192.0.3", "10.244.2.0/24")
    )
    async with running(RouteSync(client, "me").run):
        await becomes({"10.244.2.0/24": "10.192.0.3"})
        assert "nodes must share a network" in caplog.text
        with Netlink() as nl:
            nl.addr_add(switch, IF("10.193.0.2/24"))
        await becomes({"10.244.2.0/24": "10.192.0.3", "10.244.9.0/24": "10.193.0.3"})


async def test_a_subnet_this_node_is_on_itself_is_not_routed_away(api: LocalAPI, switch: int):
    client = api.local()
    await create(client, node("one", "10.192.0.3", "10.244.2.0/24"))
    async with running(RouteSync(client, "me").run):
        await becomes({"10.244.2.0/24": "10.192.0.3"})
        with Netlink() as nl:
            nl.link_add_bridge("dind0")
            nl.addr_add("dind0", IF("10.244.2.1/24"))
            await becomes({})
            nl.link_del("dind0")
        await becomes({"10.244.2.0/24": "10.192.0.3"})
