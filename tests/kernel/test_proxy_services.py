"""Services on a node, each cell a real connection: a real API server, real nftables, pods in namespaces."""

from __future__ import annotations

import asyncio
import subprocess
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from kernel.api_local import LocalAPI, eventually
from kernel.net_local import Namespaces, namespaces
from kernel.proxy_local import (
    NODE_IP,
    Node,
    Place,
    Reply,
    connect,
    endpoints,
    proxy,
    service,
    serving,
    udp_socket,
)
from podling.api.core_v1 import Endpoints, Service
from podling.linux import nft
from podling.linux.netlink import Netlink, Route
from podling.linux.sysctl import read_sysctl
from podling.network.proxy.ruleset import TABLE

__all__ = ["namespaces"]

WEB = "10.96.7.1"
SERVICES = IPv4Network("10.96.0.0/16")


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[LocalAPI]:
    local = LocalAPI(tmp_path)
    await local.start()
    yield local
    await local.stop()


@pytest.fixture
def node(namespaces: Namespaces) -> Iterator[Node]:
    made = Node(namespaces)
    yield made
    made.close()
    nft.run(f"add table ip {TABLE}; delete table ip {TABLE}")


async def ask(place: Place | None, address: str, port: int = 80, *, timeout_s: float = 2.0) -> Reply:
    return await asyncio.to_thread(
        connect, place.netns if place else None, address, port, timeout_s=timeout_s
    )


async def listed(words: str) -> None:
    """Until the node's table has these words."""

    async def look() -> bool:
        return words in nft.list_table("ip", TABLE)

    await eventually(look, 3)


async def answers(place: Place | None, address: str, servers: set[str], port: int = 80) -> None:
    """Until connections reach all of `servers` and nobody else; none: until nobody is reached."""

    async def look() -> bool:
        seen = set()
        for _ in range(12 * len(servers) or 1):
            with suppress(OSError):  # refused, or no route: the rules are not there yet
                seen.add((await ask(place, address, port)).server)
        return seen == servers

    await eventually(look, 5)


async def refused(place: Place | None, address: str, port: int = 80) -> None:
    with pytest.raises(ConnectionRefusedError):
        await ask(place, address, port)


async def test_connections_to_a_cluster_ip_spread_over_its_endpoints(api: LocalAPI, node: Node):
    one, two, three, client = (node.pod(n) for n in (11, 12, 13, 20))
    async with proxy(api) as kube:
        await kube.create(service("web", WEB))
        await kube.create(endpoints("web", one.address, two.address, three.address))
        with serving(one, two, three):
            await answers(client, WEB, {one.address, two.address, three.address})
            replies = [await ask(client, WEB) for _ in range(90)]
            count = Counter(reply.server for reply in replies)
            assert min(count.values()) > 10, count
            assert {reply.client for reply in replies} == {client.address}  # pods keep their address
            await answers(None, WEB, {one.address, two.address, three.address})
            # Endpoints follow: the next connections go nowhere else.
            gone = endpoints("web", two.address)
            await kube.patch(Endpoints, "web", {"subsets": gone.subsets}, "default")
            await answers(client, WEB, {two.address})
            await kube.delete(Service, "web", "default")
            await answers(client, WEB, set())
            await refused(client, WEB)


async def test_a_service_without_endpoints_refuses_at_once(api: LocalAPI, node: Node):
    one, client = node.pod(11), node.pod(20)
    async with proxy(api) as kube:
        await kube.create(service("web", WEB, type="NodePort"))
        port = (await kube.get(Service, "web", "default")).spec.ports[0].node_port
        await listed(f"{WEB} . tcp . 80 : goto reject")
        await refused(client, WEB)
        await refused(None, WEB)
        await refused(node.outsider(), NODE_IP, port)
        # An address of the range that is nobody's is refused too, and does not wander off.
        await refused(client, "10.96.200.200")
        await kube.create(endpoints("web", one.address))
        with serving(one):
            await answers(client, WEB, {one.address})


async def test_a_pod_reaches_itself_through_its_service(api: LocalAPI, node: Node):
    one = node.pod(11)
    async with proxy(api) as kube:
        await kube.create(service("web", WEB))
        await kube.create(endpoints("web", one.address))
        with serving(one):
            await answers(one, WEB, {one.address})
            assert (await ask(one, WEB)).client == "10.244.1.1"


async def test_a_node_port_is_open_on_the_node_and_masqueraded(api: LocalAPI, node: Node):
    one, outsider, pod = node.pod(11), node.outsider(), node.pod(20)
    async with proxy(api) as kube:
        made = service("web", WEB, type="NodePort", externalIPs=["192.0.2.7"])
        assert made.spec is not None
        made.spec.ports[0].node_port = 30080
        await kube.create(made)
        await kube.create(endpoints("web", one.address))
        with serving(one):
            await answers(outsider, NODE_IP, {one.address}, 30080)
            assert (await ask(outsider, NODE_IP, 30080)).client == "10.244.1.1"
            assert (await ask(outsider, "192.0.2.7")).server == one.address
            assert (await ask(pod, NODE_IP, 30080)).server == one.address
            assert (await ask(None, NODE_IP, 30080)).server == one.address
            await refused(outsider, NODE_IP, 30081)


async def test_a_local_policy_keeps_the_address_and_never_leaves_the_node(api: LocalAPI, node: Node):
    here, elsewhere, outsider, pod = node.pod(11), node.pod(12), node.outsider(), node.pod(20)
    async with proxy(api) as kube:
        made = service("web", WEB, type="NodePort", externalTrafficPolicy="Local")
        assert made.spec is not None
        made.spec.ports[0].node_port = 30080
        await kube.create(made)
        both = endpoints("web", here.address)
        both.subsets[0].addresses += endpoints("web", elsewhere.address, node="other").subsets[0].addresses
        await kube.create(both)
        with serving(here, elsewhere):
            await answers(outsider, NODE_IP, {here.address}, 30080)
            assert (await ask(outsider, NODE_IP, 30080)).client == outsider.address
            await answers(pod, NODE_IP, {here.address, elsewhere.address}, 30080)
            far = endpoints("web", elsewhere.address, node="other")
            await kube.patch(Endpoints, "web", {"subsets": far.subsets}, "default")
            await answers(pod, NODE_IP, {elsewhere.address}, 30080)
            with pytest.raises(TimeoutError):
                await ask(outsider, NODE_IP, 30080, timeout_s=0.3)


async def test_an_internal_local_policy_drops_without_a_local_endpoint(api: LocalAPI, node: Node):
    here, elsewhere, pod = node.pod(11), node.pod(12), node.pod(20)
    async with proxy(api) as kube:
        await kube.create(service("web", WEB, internalTrafficPolicy="Local"))
        both = endpoints("web", here.address)
        both.subsets[0].addresses += endpoints("web", elsewhere.address, node="other").subsets[0].addresses
        await kube.create(both)
        with serving(here, elsewhere):
            await answers(pod, WEB, {here.address})
            far = endpoints("web", elsewhere.address, node="other")
            await kube.patch(Endpoints, "web", {"subsets": far.subsets}, "default")
            await listed(f"{WEB} . tcp . 80 : drop")
            with pytest.raises(TimeoutError):
                await ask(pod, WEB, timeout_s=0.3)


async def test_a_client_keeps_its_endpoint_until_that_is_gone(api: LocalAPI, node: Node):
    pods = [node.pod(n) for n in (11, 12, 13)]
    clients = [node.pod(n) for n in (20, 21, 22)]
    addresses = [pod.address for pod in pods]
    async with proxy(api) as kube:
        await kube.create(service("web", WEB, sessionAffinity="ClientIP"))
        await kube.create(endpoints("web", *addresses))
        with serving(*pods):
            await listed(": goto cluster-3-sticky-10800")
            kept = {}
            for client in clients:
                servers = {(await ask(client, WEB)).server for _ in range(8)}
                assert len(servers) == 1
                kept[client.address] = servers.pop()
            victim = kept[clients[0].address]
            left = [a for a in addresses if a != victim]
            await kube.patch(Endpoints, "web", {"subsets": endpoints("web", *left).subsets}, "default")
            await listed(": goto cluster-2-sticky-10800")
            for client in clients:
                servers = {(await ask(client, WEB)).server for _ in range(8)}
                assert len(servers) == 1
                if kept[client.address] != victim:
                    assert servers == {kept[client.address]}
                else:
                    assert victim not in servers


async def test_a_udp_flow_does_not_outlive_its_endpoint(api: LocalAPI, node: Node):
    one, two, client = node.pod(11), node.pod(12), node.pod(20)
    async with proxy(api) as kube:
        await kube.create(service("dns", WEB, udp=True))
        await kube.create(endpoints("dns", one.address, udp=True))
        await listed(f"{WEB} . udp . 80 : goto cluster-1")
        with serving(one, two, udp=True), udp_socket(client.netns) as sock:
            sock.connect((WEB, 80))

            def exchange() -> str:
                sock.send(b"who")
                return sock.recv(100).decode().split()[0]

            async def reaches_two() -> bool:
                try:
                    return await asyncio.to_thread(exchange) == two.address
                except TimeoutError:
                    return False  # its answer came while the flow was being forgotten: datagrams get lost

            assert await asyncio.to_thread(exchange) == one.address
            moved = endpoints("dns", two.address, udp=True)
            await kube.patch(Endpoints, "dns", {"subsets": moved.subsets}, "default")
            await eventually(reaches_two, 3)


@pytest.mark.parametrize(
    "damage",
    [
        "flush ruleset",
        f"delete table ip {TABLE}",
        f"flush map ip {TABLE} services",
        f"flush chain ip {TABLE} services",
    ],
)
async def test_what_a_stranger_did_to_the_table_is_repaired(api: LocalAPI, node: Node, damage: str):
    one, client = node.pod(11), node.pod(20)
    async with proxy(api) as kube:
        await kube.create(service("web", WEB))
        await kube.create(endpoints("web", one.address))
        with serving(one):
            await answers(client, WEB, {one.address})
            await asyncio.to_thread(subprocess.run, ["nft", damage], check=True)
            await answers(client, WEB, {one.address})


async def test_rules_stay_when_the_agent_stops_and_the_next_one_takes_over(api: LocalAPI, node: Node):
    one, two, client = node.pod(11), node.pod(12), node.pod(20)
    async with proxy(api) as kube:
        await kube.create(service("web", WEB))
        await kube.create(endpoints("web", one.address))
        with serving(one):
            await answers(client, WEB, {one.address})
    with serving(one, two):
        assert (await ask(client, WEB)).server == one.address
        await kube.patch(Endpoints, "web", {"subsets": endpoints("web", two.address).subsets}, "default")
        async with proxy(api):
            await answers(client, WEB, {two.address})


async def test_traffic_goes_on_without_an_api_server_and_changes_catch_up(api: LocalAPI, node: Node):
    one, two, client = node.pod(11), node.pod(12), node.pod(20)
    async with proxy(api, api.https()) as kube:
        await kube.create(service("web", WEB))
        await kube.create(endpoints("web", one.address))
        with serving(one, two):
            await answers(client, WEB, {one.address})
            await api.stop()
            assert (await ask(client, WEB)).server == one.address
            await api.start()
            moved = endpoints("web", two.address)
            await kube.patch(Endpoints, "web", {"subsets": moved.subsets}, "default")
            await answers(client, WEB, {two.address})


async def test_the_route_to_services_comes_back(api: LocalAPI, node: Node):
    """Without a default route a process could not send what is to be translated."""

    async def routed() -> bool:
        with Netlink() as nl:
            return any(route.dst == SERVICES for route in nl.route_list(family=2))

    async with proxy(api):
        await eventually(routed, 3)
        with Netlink() as nl:
            nl.route_del(Route(dst=SERVICES))
            await eventually(routed, 3)
            nl.link_set("switch0", up=False)
            nl.link_set("switch0", up=True)
            await eventually(routed, 3)


async def test_of_two_services_with_one_address_the_first_has_it_until_it_goes(api: LocalAPI, node: Node):
    one, two, outsider = node.pod(11), node.pod(12), node.outsider()
    shared = "192.0.2.7"
    async with proxy(api) as kube:
        await kube.create(service("first", WEB, externalIPs=[shared]))
        await kube.create(endpoints("first", one.address))
        with serving(one, two):
            await answers(outsider, shared, {one.address})
            await kube.create(service("second", "10.96.7.2", externalIPs=[shared]))
            await kube.create(endpoints("second", two.address))
            await answers(None, "10.96.7.2", {two.address})
            await answers(outsider, shared, {one.address})
            await kube.delete(Service, "first", "default")
            await answers(outsider, shared, {two.address})


async def test_the_table_can_be_listed_whatever_is_in_it(api: LocalAPI, node: Node):
    async with proxy(api) as kube:
        for number, spec in enumerate(
            [
                {},
                {"sessionAffinity": "ClientIP"},
                {"type": "NodePort"},
                {"type": "NodePort", "externalTrafficPolicy": "Local", "sessionAffinity": "ClientIP"},
            ]
        ):
            await kube.create(service(f"s{number}", f"10.96.8.{number + 1}", **spec))
            await kube.create(endpoints(f"s{number}", "10.244.1.5", "10.244.1.6"))
        await listed("10.96.8.4 . tcp")
        done = await asyncio.to_thread(subprocess.run, ["nft", "list", "ruleset"], capture_output=True)
        assert (done.returncode, done.stderr) == (0, b"")
        assert read_sysctl("net.ipv4.ip_forward") == "1"
