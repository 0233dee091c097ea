"""Network policies on a node, each cell of the matrix a real connection that is tried.

Kubernetes documentation, "Network Policies"; the sections are named at the cases.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from kernel.api_local import LocalAPI, eventually, running
from kernel.net_local import Namespaces, namespaces
from kernel.proxy_local import POD_PORT, Node, Place, _socket_in, connect, serving, udp_socket
from podling.api.core_v1 import Namespace, Pod, ServiceAccount
from podling.api.networking_v1 import NetworkPolicy
from podling.client.client import Client
from podling.client.events import EventRecorder
from podling.linux import nft
from podling.network.policy.enforcer import PolicyEnforcer
from podling.network.policy.ruleset import TABLE

__all__ = ["namespaces"]

OTHER_PORT = 8081
REFUSED_AFTER_S = 0.6
"""A packet that is dropped is only told by its absence: on a bridge of this machine an answer takes 1 ms."""

PODS = {
    # name: number, namespace, labels
    "web": (2, "default", {"app": "web"}),
    "db": (3, "default", {"app": "db"}),
    "client": (4, "other", {"app": "web"}),
    "probe": (5, "other", {"app": "probe"}),
}
NAMESPACES = {"default": {"team": "a"}, "other": {"team": "b"}}
OUTSIDE = "outside"


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[LocalAPI]:
    local = LocalAPI(tmp_path)
    await local.start()
    yield local
    await local.stop()


@pytest.fixture
def places(namespaces: Namespaces) -> Iterator[dict[str, Place]]:
    node = Node(namespaces)
    made = {name: node.pod(number) for name, (number, _, _) in PODS.items()}
    made[OUTSIDE] = node.outsider()
    pods = [place for name, place in made.items() if name != OUTSIDE]
    with serving(*pods), serving(*pods, port=OTHER_PORT), serving(made[OUTSIDE]):
        yield made
    node.close()
    nft.run(f"add table ip {TABLE}; delete table ip {TABLE}")


@pytest.fixture
async def client(api: LocalAPI) -> AsyncIterator[Client]:
    made = api.local()
    for name, labels in NAMESPACES.items():
        if name == "default":
            await made.patch(Namespace, name, {"metadata": {"labels": labels}})
        else:
            await made.create(msgspec.convert({"metadata": {"name": name, "labels": labels}}, Namespace))
            # There is no controller here to make it.
            await made.create(msgspec.convert({"metadata": {"name": "default"}}, ServiceAccount), name)
    for name in PODS:
        await add_pod(made, name)
    yield made
    await made.close()


@pytest.fixture
async def enforcer(client: Client, places: dict[str, Place]) -> AsyncIterator[PolicyEnforcer]:
    made = PolicyEnforcer(client, "me", EventRecorder(client, "network-policy"))
    async with running(made.run):
        yield made


async def add_pod(client: Client, name: str, *, with_status: bool = True) -> Pod:
    number, namespace, labels = PODS[name]
    port = {"containerPort": POD_PORT, "name": "http"}
    document = {
        "metadata": {"name": name, "namespace": namespace, "labels": labels},
        "spec": {"nodeName": "me", "containers": [{"name": "c", "image": "x", "ports": [port]}]},
    }
    made = await client.create(msgspec.convert(document, Pod))
    if with_status:
        ip = f"10.244.1.{number}"
        status = {"status": {"podIP": ip, "podIPs": [{"ip": ip}], "phase": "Running"}}
        await client.patch(Pod, name, status, namespace, subresource="status")
    return made


def policy(name: str, namespace: str = "default", **spec: Any) -> NetworkPolicy:
    spec.setdefault("podSelector", {})
    return msgspec.convert({"metadata": {"name": name, "namespace": namespace}, "spec": spec}, NetworkPolicy)


def reaches(source: Place, target: Place, port: int) -> bool:
    try:
        return connect(source.netns, target.address, port, timeout_s=REFUSED_AFTER_S).server == target.address
    except TimeoutError:
        return False


async def matrix(places: dict[str, Place]) -> set[str]:
    """Every connection that works, as `source>target:port`; from and to everyone, on both ports."""
    cells = [
        (source, target, port)
        for source in places
        for target in places
        for port in (POD_PORT, OTHER_PORT)
        if source != target and OUTSIDE not in (target if port == OTHER_PORT else "",)
    ]
    tries = (asyncio.to_thread(reaches, places[s], places[t], port) for s, t, port in cells)
    worked = await asyncio.gather(*tries)
    return {f"{s}>{t}:{port}" for (s, t, port), works in zip(cells, worked, strict=True) if works}


ALL = frozenset(
    f"{source}>{target}:{port}"
    for source in (*PODS, OUTSIDE)
    for target in (*PODS, OUTSIDE)
    for port in (POD_PORT, OTHER_PORT)
    if source != target and not (target == OUTSIDE and port == OTHER_PORT)
)


def to(target: str) -> set[str]:
    return {cell for cell in ALL if f">{target}:" in cell}


def by(source: str) -> set[str]:
    return {cell for cell in ALL if cell.startswith(f"{source}>")}


def only(cells: set[str], *sources: str, port: int | None = None) -> set[str]:
    """Of `cells`, those from `sources`, on one port if it is given."""
    return {
        cell
        for cell in cells
        if cell.split(">")[0] in sources and (port is None or cell.endswith(f":{port}"))
    }


WEB: dict[str, Any] = {"podSelector": {"matchLabels": {"app": "web"}}}
HTTP = [{"port": POD_PORT}]
CASES: dict[str, tuple[dict[str, Any], set[str]]] = {
    # "Default deny all ingress traffic"
    "deny-ingress": (
        {"policyTypes": ["Ingress"]},
        set(ALL) - to("web") - to("db"),
    ),
    # "Allow all ingress traffic"
    "allow-ingress": ({"policyTypes": ["Ingress"], "ingress": [{}]}, set(ALL)),
    # "Behavior of to and from selectors": podSelector, in the policy's own namespace
    "from-pods": (
        {"podSelector": {"matchLabels": {"app": "db"}}, "ingress": [{"from": [WEB]}]},
        set(ALL) - to("db") | only(to("db"), "web"),
    ),
    # namespaceSelector
    "from-namespace": (
        {
            "podSelector": {"matchLabels": {"app": "db"}},
            "ingress": [{"from": [{"namespaceSelector": {"matchLabels": {"team": "b"}}}]}],
        },
        set(ALL) - to("db") | only(to("db"), "client", "probe"),
    ),
    # namespaceSelector *and* podSelector in one entry: both must match
    "from-both": (
        {
            "podSelector": {"matchLabels": {"app": "db"}},
            "ingress": [{"from": [{"namespaceSelector": {"matchLabels": {"team": "b"}}, **WEB}]}],
        },
        set(ALL) - to("db") | only(to("db"), "client"),
    ),
    # two entries: either may match
    "from-either": (
        {
            "podSelector": {"matchLabels": {"app": "db"}},
            "ingress": [{"from": [{"namespaceSelector": {"matchLabels": {"team": "b"}}}, WEB]}],
        },
        set(ALL) - to("db") | only(to("db"), "web", "client", "probe"),
    ),
    # matchExpressions
    "from-expressions": (
        {
            "ingress": [
                {
                    "from": [
                        {
                            "namespaceSelector": {},
                            "podSelector": {
                                "matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["web"]}]
                            },
                        }
                    ]
                }
            ]
        },
        set(ALL) - to("web") - to("db") | only(to("web") | to("db"), "db", "probe"),
    ),
    # ipBlock with except
    "from-block": (
        {"ingress": [{"from": [{"ipBlock": {"cidr": "10.244.1.0/24", "except": ["10.244.1.4/32"]}}]}]},
        set(ALL) - to("web") - to("db") | only(to("web") | to("db"), "web", "db", "probe"),
    ),
    "from-outside": (
        {"ingress": [{"from": [{"ipBlock": {"cidr": "10.192.0.0/16"}}]}]},
        set(ALL) - to("web") - to("db") | only(to("web") | to("db"), OUTSIDE),
    ),
    # ports by number, by name, by range ("Targeting a range of ports")
    "port": (
        {"ingress": [{"ports": HTTP}]},
        set(ALL) - {c for c in to("web") | to("db") if c.endswith(f":{OTHER_PORT}")},
    ),
    "named-port": (
        {"ingress": [{"ports": [{"port": "http"}], "from": [WEB]}]},
        set(ALL) - to("web") - to("db") | only(to("db"), "web", port=POD_PORT),
    ),
    "unknown-port": (
        {"ingress": [{"ports": [{"port": "nobody-has-it"}]}]},
        set(ALL) - to("web") - to("db"),
    ),
    "port-range": (
        {"ingress": [{"ports": [{"port": OTHER_PORT, "endPort": OTHER_PORT + 10}]}]},
        set(ALL) - {c for c in to("web") | to("db") if c.endswith(f":{POD_PORT}")},
    ),
    "udp-only": ({"ingress": [{"ports": [{"protocol": "UDP"}]}]}, set(ALL) - to("web") - to("db")),
    # "Default deny all egress traffic"
    "deny-egress": ({"policyTypes": ["Egress"]}, set(ALL) - by("web") - by("db")),
    "allow-egress": ({"policyTypes": ["Egress"], "egress": [{}]}, set(ALL)),
    "to-pods": (
        {"policyTypes": ["Egress"], "egress": [{"to": [{"namespaceSelector": {}, **WEB}], "ports": HTTP}]},
        set(ALL) - by("web") - by("db")
        | {f"web>client:{POD_PORT}", f"db>web:{POD_PORT}", f"db>client:{POD_PORT}"},
    ),
    "to-named-port": (
        {
            "policyTypes": ["Egress"],
            "egress": [
                {"to": [{"namespaceSelector": {"matchLabels": {"team": "b"}}}], "ports": [{"port": "http"}]}
            ],
        },
        set(ALL) - by("web") - by("db")
        | {f"{s}>{t}:{POD_PORT}" for s in ("web", "db") for t in ("client", "probe")},
    ),
    "to-block": (
        {"policyTypes": ["Egress"], "egress": [{"to": [{"ipBlock": {"cidr": "10.192.0.99/32"}}]}]},
        set(ALL) - by("web") - by("db") | {f"web>outside:{POD_PORT}", f"db>outside:{POD_PORT}"},
    ),
    # "Default deny all ingress and all egress traffic"
    "deny-all": (
        {"policyTypes": ["Ingress", "Egress"]},
        set(ALL) - to("web") - to("db") - by("web") - by("db"),
    ),
}


@pytest.mark.parametrize("case", CASES)
async def test_every_connection_is_as_the_policy_says(
    enforcer: PolicyEnforcer, client: Client, places: dict[str, Place], case: str
) -> None:
    spec, expected = CASES[case]
    await client.create(policy(case, **spec))

    async def in_force() -> bool:
        # Twice the same: a cell that worked before the rules were there is not an answer.
        return await matrix(places) == expected

    await eventually(in_force, timeout_s=20)
    await client.delete(NetworkPolicy, case, "default")

    async def lifted() -> bool:
        return await matrix(places) == set(ALL)

    await eventually(lifted, timeout_s=20)
    assert TABLE not in nft.run("list tables")


async def test_policies_add_up(enforcer: PolicyEnforcer, client: Client, places: dict[str, Place]) -> None:
    """ "NetworkPolicies are additive": whatever any of them allows is allowed."""
    await client.create(policy("deny", policyTypes=["Ingress"]))
    await client.create(policy("web", ingress=[{"from": [WEB]}]))
    others = [{"namespaceSelector": {"matchLabels": {"team": "b"}}}]
    await client.create(policy("others", ingress=[{"from": others, "ports": [{"port": OTHER_PORT}]}]))
    protected = to("web") | to("db")
    expected = (
        set(ALL) - protected | only(protected, "web") | only(protected, "client", "probe", port=OTHER_PORT)
    )

    async def in_force() -> bool:
        return await matrix(places) == expected

    await eventually(in_force, timeout_s=20)


async def test_labels_that_change_change_what_is_allowed(
    enforcer: PolicyEnforcer, client: Client, places: dict[str, Place]
) -> None:
    trusted = {"namespaceSelector": {}, "podSelector": {"matchLabels": {"trusted": "yes"}}}
    await client.create(
        policy("trust", podSelector={"matchLabels": {"app": "db"}}, ingress=[{"from": [trusted]}])
    )

    def probe_reaches_db() -> bool:
        return reaches(places["probe"], places["db"], POD_PORT)

    async def reached() -> bool:
        return await asyncio.to_thread(probe_reaches_db)

    async def refused() -> bool:
        return not await asyncio.to_thread(probe_reaches_db)

    await eventually(refused)
    await client.patch(Pod, "probe", {"metadata": {"labels": {"trusted": "yes"}}}, "other")
    await eventually(reached)
    await client.patch(Pod, "probe", {"metadata": {"labels": {"trusted": None}}}, "other")
    await eventually(refused)
    # The pod is selected no more.
    await client.patch(Pod, "db", {"metadata": {"labels": {"app": "cache"}}}, "default")
    await eventually(reached)


async def test_connections_go_on_when_a_policy_comes(
    enforcer: PolicyEnforcer, client: Client, places: dict[str, Place]
) -> None:
    """Made before anything of ours was in the kernel, in both directions of the policy."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(_socket_in(places["db"].netns, socket.SOCK_STREAM))
        listener.bind((places["db"].address, 9000))
        listener.listen()
        sock = stack.enter_context(_socket_in(places["probe"].netns, socket.SOCK_STREAM))
        sock.settimeout(10)
        sock.connect((places["db"].address, 9000))
        peer, _ = listener.accept()
        stack.callback(peer.close)
        peer.settimeout(10)
        await client.create(policy("deny", policyTypes=["Ingress", "Egress"]))

        async def refused() -> bool:
            return not await asyncio.to_thread(reaches, places["probe"], places["db"], POD_PORT)

        await eventually(refused)
        for _ in range(3):
            sock.sendall(b"to the pod")
            assert await asyncio.to_thread(peer.recv, 100) == b"to the pod"
            peer.sendall(b"and back")
            assert await asyncio.to_thread(sock.recv, 100) == b"and back"


async def test_a_new_pods_rules_are_there_before_its_first_packet(
    enforcer: PolicyEnforcer, client: Client, places: dict[str, Place]
) -> None:
    """The API does not know the address yet: `admit` returns when the kernel has the rules."""
    await client.delete(Pod, "db", "default", grace_period_s=0)
    await client.create(policy("deny", policyTypes=["Ingress"]))
    pod = await add_pod(client, "db", with_status=False)
    assert reaches(places["probe"], places["db"], POD_PORT)
    await enforcer.admit(pod, [places["db"].address])
    assert not reaches(places["probe"], places["db"], POD_PORT)
    # Its sandbox was lost and it has another address: the old one is somebody else's by now.
    await enforcer.admit(pod, ["10.244.1.77"])
    assert reaches(places["probe"], places["db"], POD_PORT)


async def test_admit_costs_nothing_without_policies(enforcer: PolicyEnforcer, client: Client) -> None:
    pod = await client.get(Pod, "db", "default")
    await enforcer.admit(pod, ["10.244.1.3"])
    assert TABLE not in nft.run("list tables")


async def test_rules_that_somebody_flushes_come_back(
    enforcer: PolicyEnforcer, client: Client, places: dict[str, Place]
) -> None:
    await client.create(policy("deny", policyTypes=["Ingress"]))

    async def refused() -> bool:
        return not await asyncio.to_thread(reaches, places["probe"], places["db"], POD_PORT)

    await eventually(refused)
    nft.run("flush ruleset")
    await eventually(refused, timeout_s=20)
    assert TABLE in nft.run("list tables")


async def test_udp_is_held_to_its_ports(
    enforcer: PolicyEnforcer, client: Client, places: dict[str, Place]
) -> None:
    await client.create(policy("dns", ingress=[{"ports": [{"protocol": "UDP", "port": 5353}]}]))

    def answered(port: int) -> bool:
        with udp_socket(places["probe"].netns) as sock:
            sock.sendto(b"?", (places["db"].address, port))
            try:
                return bool(sock.recv(100))
            except TimeoutError:
                return False

    with serving(places["db"], udp=True, port=5353), serving(places["db"], udp=True, port=5354):

        async def as_said() -> bool:
            return await asyncio.to_thread(answered, 5353) and not await asyncio.to_thread(answered, 5354)

        await eventually(as_said, timeout_s=20)


async def test_a_node_always_reaches_its_pods(
    enforcer: PolicyEnforcer, client: Client, places: dict[str, Place]
) -> None:
    """ "Traffic to and from the node where a Pod is running is always allowed"."""
    await client.create(policy("deny", policyTypes=["Ingress", "Egress"]))

    async def refused() -> bool:
        return not await asyncio.to_thread(reaches, places["probe"], places["db"], POD_PORT)

    await eventually(refused)
    reply = await asyncio.to_thread(connect, None, places["db"].address, POD_PORT)
    assert reply.server == places["db"].address
