"""flannel between nodes that are network namespaces: real daemons, a real API server, real packets."""

from __future__ import annotations

import contextlib
import errno
import json
import socket
import subprocess
from collections.abc import AsyncIterator
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest

from kernel.api_local import LocalAPI, eventually
from kernel.flannel_local import (
    IF,
    SWITCH,
    TIMEOUT_S,
    FlannelNet,
    FlannelNode,
    Pod,
    patiently,
    plug_in,
    reach_each_other,
)
from kernel.net_local import Namespaces, ask, echo_server, namespaces
from podling.api.core_v1 import Event, Node
from podling.linux.netlink import Netlink
from podling.linux.netns import run_in_netns

__all__ = ["namespaces"]

BACKENDS = ("vxlan", "host-gw", "udp")


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[LocalAPI]:
    with Netlink() as nl:
        nl.link_add_bridge("switch0", mac="02:00:00:00:00:01")
        nl.addr_add("switch0", IF(f"{SWITCH}/24"))
    local = LocalAPI(tmp_path, IPv4Address(SWITCH))
    try:
        await local.start()
        yield local
        await local.stop()
    finally:
        with Netlink() as nl:
            nl.link_del("switch0", missing_ok=True)


@pytest.fixture
async def net(api: LocalAPI, namespaces: Namespaces, tmp_path: Path) -> AsyncIterator[FlannelNet]:
    made = FlannelNet(namespaces, api, tmp_path)
    yield made
    made.close()


async def bring_up(net: FlannelNet, backend: Any, *numbers: int, options: tuple[str, ...] = ()) -> None:
    """Nodes with one pod each, all knowing each other."""
    for number in numbers:
        net.start(await net.add_node(number), backend, *options)
    for node in net.nodes:
        await net.ready(node)
        net.add_pod(node)
    await complete(net)


async def complete(net: FlannelNet) -> None:
    for node in net.nodes:
        others = [subnet for other in net.nodes if other is not node for subnet in other.subnets]
        await net.until(lambda n=node, o=others: set(o) <= set(routes(n)) or whole(n), node)  # type: ignore[misc]


def whole(node: FlannelNode) -> bool:
    """The udp backend has one route for everything."""
    return "10.244.0.0/16" in routes(node)


def routes(node: FlannelNode) -> dict[str, str]:
    """Of ours: destination to the rest of the line, as `ip route` says it."""
    shown = node.run("ip", "-4", "route", "show", "proto", "80")
    shown += node.run("ip", "-6", "route", "show", "proto", "80")
    return {line.split()[0]: " ".join(line.split()[1:]) for line in shown.splitlines()}


def link(node: FlannelNode, name: str) -> dict[str, Any]:
    found = json.loads(node.run("ip", "-d", "-j", "link", "show", name, check=False) or "[{}]")
    return dict(found[0])


def neighbours(node: FlannelNode, device: str) -> dict[str, str]:
    shown = node.json("ip", "-j", "neigh", "show", "dev", device)
    return {entry["dst"]: entry.get("lladdr", "") for entry in shown if "PERMANENT" in entry["state"]}


def forwarding(node: FlannelNode, device: str) -> dict[str, str]:
    shown = node.json("bridge", "-j", "fdb", "show", "dev", device)
    return {entry["mac"]: entry["dst"] for entry in shown if "dst" in entry}


def kept_state(node: FlannelNode, device: str = "flannel.1") -> dict[str, Any]:
    """All that flannel keeps on a node, but for what is new in a link that was made anew."""
    found = link(node, device)
    return {
        "link": {key: found.get(key) for key in ("ifname", "mtu", "address", "ifalias", "operstate")},
        "kind": found.get("linkinfo"),
        "addresses": node.run("ip", "-br", "-4", "addr", "show", device, check=False),
        "neighbours": neighbours(node, device) if found else {},
        "forwarding": forwarding(node, device) if found else {},
        "routes": {dst: way.replace(" linkdown", "") for dst, way in routes(node).items()},
        "tables": node.run("nft", "list", "ruleset"),
    }


def forget_neighbours(link: str) -> None:
    subprocess.run(["ip", "neigh", "flush", "dev", link], check=True)


def refused(pod: Pod, address: str) -> bool:
    """Whether the network answers that there is no such place, which only who asks for it is told."""
    ip_recverr = 11  # <linux/in.h>
    with run_in_netns(pod.netns, socket.socket, socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(0.2)
        client.setsockopt(socket.IPPROTO_IP, ip_recverr, 1)
        client.connect((address, 4000))
        client.send(b"anybody?")
        with contextlib.suppress(TimeoutError):
            try:
                client.recv(100)
            except OSError as err:
                if err.errno == errno.ENETUNREACH:
                    return True
                raise
    return False


async def told(net: FlannelNet, node: FlannelNode, name: str, value: str) -> None:
    async def look() -> bool:
        return await annotation(net, node, name) == value

    try:
        await eventually(look, TIMEOUT_S)
    except TimeoutError:
        raise AssertionError(f"{name} is {await annotation(net, node, name)}: {node.log}") from None


async def annotation(net: FlannelNet, node: FlannelNode, name: str) -> str:
    found = await net.client.get(Node, node.name)
    return found.metadata.annotations.get(f"flannel.alpha.coreos.com/{name}", "")


@pytest.mark.parametrize("backend", BACKENDS)
async def test_every_pod_reaches_every_pod_with_no_nat_in_between(
    net: FlannelNet, namespaces: Namespaces, backend: str
):
    await bring_up(net, backend, 2, 3, 4, options=("--ip-masq",))
    net.add_pod(net.nodes[0], 6)
    await reach_each_other(net.pods)
    for node in net.nodes:
        assert await annotation(net, node, "backend-type") == backend
        assert await annotation(net, node, "public-ip") == node.address
        assert await annotation(net, node, "kube-subnet-manager") == "true"
    await STATES[backend](net)
    # The largest packet of a pod crosses unbroken, and only what leaves the pod network is masqueraded.
    one, *_, two = net.pods
    mtu = int(net.nodes[0].lease()["FLANNEL_MTU"])
    assert patiently(lambda: sized(one, two, mtu)) == "unbroken"
    outside = namespaces.make("outside")  # its port ends with the switch
    plug_in(outside, "outside", "switch0", "10.192.0.77/24")
    with echo_server(outside, "10.192.0.77"):
        assert patiently(lambda: ask(one.netns, "10.192.0.77")) == net.nodes[0].address


async def vxlan_knows_beforehand_where_everything_is(net: FlannelNet) -> None:
    here, *others = net.nodes
    device = link(here, "flannel.1")
    data = device["linkinfo"]["info_data"]
    assert (data["id"], data["port"], data["local"], data["link"]) == (1, 8472, here.address, "eth0")
    assert data["learning"] is False
    assert device["mtu"] == 1450
    assert here.lease() == {
        "FLANNEL_NETWORK": "10.244.0.0/16",
        "FLANNEL_SUBNET": "10.244.2.1/24",
        "FLANNEL_MTU": "1450",
        "FLANNEL_IPMASQ": "true",
    }
    assert "inet 10.244.2.0/32" in here.run("ip", "addr", "show", "flannel.1")
    macs = {node.name: link(node, "flannel.1")["address"] for node in net.nodes}
    assert routes(here) == {
        node.subnets[0]: f"via 10.244.{node.number}.0 dev flannel.1 onlink" for node in others
    }
    assert neighbours(here, "flannel.1") == {f"10.244.{n.number}.0": macs[n.name] for n in others}
    assert forwarding(here, "flannel.1") == {macs[n.name]: n.address for n in others}
    told = json.loads(await annotation(net, here, "backend-data"))
    assert told == {"VNI": 1, "VtepMAC": macs[here.name]}


async def host_gw_is_plain_routes(net: FlannelNet) -> None:
    here, *others = net.nodes
    assert routes(here) == {node.subnets[0]: f"via {node.address} dev eth0" for node in others}
    assert here.lease()["FLANNEL_MTU"] == "1500"
    assert await annotation(net, here, "backend-data") == "null"


async def udp_is_a_tun_device(net: FlannelNet) -> None:
    here = net.nodes[0]
    device = link(here, "flannel0")
    assert device["linkinfo"]["info_kind"] == "tun"
    assert "POINTOPOINT" in device["flags"]
    assert device["mtu"] == 1472
    assert "inet 10.244.2.0/32" in here.run("ip", "addr", "show", "flannel0")
    assert routes(here) == {"10.244.0.0/16": "dev flannel0 scope link"}
    assert here.lease()["FLANNEL_MTU"] == "1472"
    assert refused(here.pods[0], "10.244.99.5")


STATES = {
    "vxlan": vxlan_knows_beforehand_where_everything_is,
    "host-gw": host_gw_is_plain_routes,
    "udp": udp_is_a_tun_device,
}


VXLAN_DELETIONS = {
    "link": "ip link del flannel.1",
    "down": "ip link set flannel.1 down",
    "address": "ip addr del 10.244.2.0/32 dev flannel.1",
    "mtu": "ip link set flannel.1 mtu 1000",
    "route": "ip route del 10.244.3.0/24",
    "replaced route": "ip route replace blackhole 10.244.3.0/24",
    "neighbour": "ip neigh del 10.244.3.0 dev flannel.1",
    "wrong neighbour": "ip neigh replace 10.244.3.0 lladdr 02:00:00:00:00:99 dev flannel.1 nud permanent",
    "stray neighbour": "ip neigh add 10.244.9.0 lladdr 02:00:00:00:00:99 dev flannel.1 nud permanent",
    "forwarding": "bridge fdb del {mac} dev flannel.1",
    "wrong forwarding": "bridge fdb replace {mac} dev flannel.1 dst 10.192.0.99",
    "more forwarding": "bridge fdb append {mac} dev flannel.1 dst 10.192.0.99",
    "masquerade": "nft flush ruleset",
    "eth0 down": "sh -c 'ip link set eth0 down; ip link set eth0 up'",
}


async def test_whatever_of_vxlan_is_deleted_or_changed_is_put_right(net: FlannelNet):
    await bring_up(net, "vxlan", 2, 3, options=("--ip-masq",))
    here, other = net.nodes
    mac = link(other, "flannel.1")["address"]
    right = kept_state(here)
    assert right["neighbours"]
    assert "masquerade" in right["tables"]
    for what, command in VXLAN_DELETIONS.items():
        here.run("sh", "-c", command.format(mac=mac))
        await net.until(lambda: kept_state(here) == right, here)
        assert kept_state(here) == right, what
    await reach_each_other(net.pods)
    # Not behind its back but under its feet: the external interface takes shorter packets from now on.
    here.run("ip", "link", "set", "eth0", "mtu", "1400")
    await net.until(lambda: here.lease()["FLANNEL_MTU"] == "1350", here)
    assert link(here, "flannel.1")["mtu"] == 1350


@pytest.mark.parametrize("backend", ["host-gw", "udp"])
async def test_deleted_routes_and_devices_come_back(net: FlannelNet, backend: str):
    await bring_up(net, backend, 2, 3)
    here = net.nodes[0]
    right = routes(here)
    broken = [f"ip route del {next(iter(right))}", "ip link set eth0 down; ip link set eth0 up"]
    if backend == "udp":
        assert here.daemon is not None
        forwarder = f"$(cat /proc/{here.daemon.pid}/task/*/children)"
        broken += ["ip link del flannel0", "ip link set flannel0 down", f"kill -KILL {forwarder}"]
    for command in broken:
        here.run("sh", "-c", command)
        await net.until(lambda: routes(here) == right, here)
    await reach_each_other(net.pods)


@pytest.mark.parametrize("backend", BACKENDS)
async def test_nodes_leave_come_back_and_take_another_ones_address(net: FlannelNet, backend: str):
    await bring_up(net, backend, 2, 3, 4)
    here, leaving, moving = net.nodes
    await net.remove_node(leaving)
    for node in (here, moving):
        await net.until(lambda n=node: leaving.subnets[0] not in routes(n))  # type: ignore[misc]
    if backend == "udp":
        await net.until(lambda: refused(here.pods[0], "10.244.3.5"))
    if backend == "vxlan":
        await net.until(lambda: leaving.address not in forwarding(here, "flannel.1").values())
        await net.until(lambda: "10.244.3.0" not in neighbours(here, "flannel.1"))
    # The address of the one that left is taken by another while all are running.
    moving.run("ip", "addr", "del", f"{moving.address}/24", "dev", "eth0")
    moving.run("ip", "addr", "add", f"{leaving.address}/24", "dev", "eth0")
    # Who held it before may be remembered by hardware address for a while.
    here.run("ip", "neigh", "flush", "dev", "eth0")
    forget_neighbours("switch0")
    if backend == "vxlan":
        await net.until(lambda: leaving.address in forwarding(here, "flannel.1").values())
        assert link(moving, "flannel.1")["linkinfo"]["info_data"]["local"] == leaving.address
    elif backend == "host-gw":
        await net.until(lambda: leaving.address in routes(here).get(moving.subnets[0], ""))
    await told(net, moving, "public-ip", leaving.address)
    await reach_each_other(net.pods)
    # What is set by hand is what others use.
    by_hand = {"metadata": {"annotations": {"flannel.alpha.coreos.com/public-ip-overwrite": "10.192.0.33"}}}
    await net.client.patch(Node, moving.name, by_hand)
    if backend == "vxlan":
        await net.until(lambda: set(forwarding(here, "flannel.1").values()) == {"10.192.0.33"})
    elif backend == "host-gw":
        await net.until(lambda: "10.192.0.33" in routes(here).get(moving.subnets[0], ""))


async def test_a_restarted_daemon_cuts_nothing_catches_up_and_may_change_backend(net: FlannelNet):
    await bring_up(net, "vxlan", 2, 3)
    here, other = net.nodes
    before = link(here, "flannel.1")
    net.stop(here)
    await reach_each_other(net.pods)
    net.start(await net.add_node(4), "vxlan")
    await net.until(lambda: "10.244.4.0" in neighbours(other, "flannel.1"))
    assert "10.244.4.0" not in neighbours(here, "flannel.1")
    net.start(here, "vxlan")
    await net.until(lambda: "10.244.4.0" in neighbours(here, "flannel.1"))
    after = link(here, "flannel.1")
    assert "anew" not in here.log
    assert (after["ifindex"], after["address"]) == (before["ifindex"], before["address"])
    await net.remove_node(net.nodes[-1])
    for backend, device in (("udp", "flannel0"), ("host-gw", "eth0")):
        for node in net.nodes:
            net.stop(node)
            net.start(node, backend)
        for node in net.nodes:
            await net.until(lambda n=node, d=device: f"dev {d}" in " ".join(routes(n).values()), node)  # type: ignore[misc]
            await net.until(lambda n=node: not link(n, "flannel.1"), node)  # type: ignore[misc]
        await told(net, here, "backend-type", backend)
        await told(net, other, "backend-type", backend)
        await reach_each_other(net.pods)
    assert not link(here, "flannel0")
    assert await annotation(net, here, "backend-data") == "null"


@pytest.mark.parametrize("backend", ["vxlan", "host-gw"])
async def test_dual_stack(api: LocalAPI, namespaces: Namespaces, tmp_path: Path, backend: str):
    net = FlannelNet(namespaces, api, tmp_path, ipv6=True)
    try:
        await bring_up(net, backend, 2, 3)
        await reach_each_other(net.pods)
        here, other = net.nodes
        lease = here.lease()
        assert lease["FLANNEL_IPV6_NETWORK"] == "fd00:244::/48"
        assert lease["FLANNEL_IPV6_SUBNET"] == "fd00:244:0:2::1/64"
        assert await annotation(net, here, "public-ipv6") == "fd00:192::2"
        way = routes(here)[other.subnets[1]]
        if backend == "vxlan":
            assert lease["FLANNEL_MTU"] == "1430"
            assert way.startswith("via fd00:244:0:3:: dev flannel-v6.1")
            mac = link(other, "flannel-v6.1")["address"]
            assert neighbours(here, "flannel-v6.1") == {"fd00:244:0:3::": mac}
            assert forwarding(here, "flannel-v6.1") == {mac: "fd00:192::3"}
            assert json.loads(await annotation(net, here, "backend-v6-data"))["VNI"] == 1
        else:
            assert way.startswith("via fd00:192::3 dev eth0")
    finally:
        net.close()


async def test_direct_routing_tunnels_only_to_nodes_behind_a_router(net: FlannelNet):
    """Node 9 is on a network of its own; the switch's machine routes between."""
    backend = {"Type": "vxlan", "DirectRouting": True, "VNI": 7, "Port": 4789, "GBP": True}
    for number in (2, 3):
        net.start(await net.add_node(number), backend)
    with Netlink() as nl:
        nl.link_add_bridge("switch1", mac="02:00:00:00:00:02")
    try:
        with Netlink() as nl:
            nl.addr_add("switch1", IF("10.193.0.1/24"))
        from podling.linux.sysctl import ensure_sysctl

        ensure_sysctl("net.ipv4.ip_forward", 1)
        far = await net.add_node(9, switch="switch1")
        far.run("ip", "addr", "flush", "dev", "eth0")
        far.run("ip", "addr", "add", "10.193.0.9/24", "dev", "eth0")
        far.run("ip", "route", "add", "default", "via", "10.193.0.1")
        for near in net.nodes[:2]:
            near.run("ip", "route", "add", "default", "via", SWITCH)
        net.start(far, backend)
        for node in net.nodes:
            await net.ready(node)
            net.add_pod(node)
        await complete(net)
        here = net.nodes[0]
        assert routes(here) == {
            "10.244.3.0/24": "via 10.192.0.3 dev eth0",
            "10.244.9.0/24": "via 10.244.9.0 dev flannel.7 onlink",
        }
        assert set(forwarding(here, "flannel.7").values()) == {"10.193.0.9"}
        data = link(here, "flannel.7")["linkinfo"]["info_data"]
        assert (data["id"], data["port"], data["gbp"]) == (7, 4789, True)
        await reach_each_other(net.pods)
    finally:
        with Netlink() as nl:
            nl.link_del("switch1", missing_ok=True)


def sized(one: Pod, two: Pod, mtu: int) -> str:
    """Send a datagram that just fits, with fragmentation forbidden."""
    ip_mtu_discover, ip_pmtudisc_do = 10, 2  # <linux/in.h>
    with (
        run_in_netns(two.netns, socket.socket, socket.AF_INET, socket.SOCK_DGRAM) as server,
        run_in_netns(one.netns, socket.socket, socket.AF_INET, socket.SOCK_DGRAM) as client,
    ):
        server.bind((two.addresses[0], 4001))
        server.settimeout(1)
        client.setsockopt(socket.IPPROTO_IP, ip_mtu_discover, ip_pmtudisc_do)
        client.sendto(bytes(mtu - 28), (two.addresses[0], 4001))
        assert len(server.recv(65536)) == mtu - 28
        with pytest.raises(OSError, match="too long"):
            client.sendto(bytes(mtu - 27), (two.addresses[0], 4001))
    return "unbroken"


async def test_a_pod_network_that_overlaps_the_nodes_own_routes_is_refused(net: FlannelNet):
    node = await net.add_node(2)
    node.run("ip", "link", "add", "office", "type", "bridge")
    node.run("ip", "addr", "add", "10.244.77.1/24", "dev", "office")
    node.run("ip", "link", "set", "office", "up")
    net.start(node, "vxlan")
    words = "the pod network 10.244.0.0/16 overlaps this node's route 10.244.77.0/24 dev office"

    async def said() -> bool:
        events = await net.client.list(Event)
        return any(words in (event.message or "") for event in events.items)

    await eventually(said, TIMEOUT_S)
    assert words in node.log
    assert not node.lease()
    node.run("ip", "link", "del", "office")
    await net.ready(node)
