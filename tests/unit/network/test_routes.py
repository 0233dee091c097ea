from __future__ import annotations

from podling.api.core_v1 import Node, NodeAddress, NodeSpec, NodeStatus
from podling.api.meta_v1 import ObjectMeta
from podling.network.routes import compute_routes


def node(name: str, *ips: str, cidrs: tuple[str, ...] = (), kind: str = "InternalIP") -> Node:
    return Node(
        metadata=ObjectMeta(name=name),
        spec=NodeSpec(pod_cidr=cidrs[0] if cidrs else None, pod_cid_rs=list(cidrs)),
        status=NodeStatus(addresses=[NodeAddress(type=kind, address=ip) for ip in ips]),
    )


def wanted(*nodes: Node) -> dict[str, str]:
    return {str(dst): str(gateway) for dst, gateway in compute_routes(nodes, "me").items()}


ME = node("me", "10.192.0.2", cidrs=("10.244.1.0/24",))


def test_every_other_node_has_a_route_by_its_internal_address():
    one = node("one", "10.192.0.3", cidrs=("10.244.2.0/24",))
    two = node("two", "10.192.0.4", cidrs=("10.244.3.0/24",))
    assert wanted(ME, one, two) == {"10.244.2.0/24": "10.192.0.3", "10.244.3.0/24": "10.192.0.4"}


def test_dual_stack_takes_the_first_address_of_each_family():
    one = node("one", "10.192.0.3", "10.192.0.9", "fd00::3", cidrs=("10.244.2.0/24", "fd01::/64"))
    assert wanted(ME, one) == {"10.244.2.0/24": "10.192.0.3", "fd01::/64": "fd00::3"}


def test_the_older_single_field_counts_where_the_list_is_empty():
    one = node("one", "10.192.0.3")
    assert one.spec is not None
    one.spec.pod_cidr = "10.244.2.0/24"
    assert wanted(ME, one) == {"10.244.2.0/24": "10.192.0.3"}


def test_nodes_that_are_not_ready_for_it_have_none():
    nodes = (
        node("no-cidr", "10.192.0.3"),
        node("no-address", cidrs=("10.244.2.0/24",)),
        node("other-address", "10.192.0.5", cidrs=("10.244.3.0/24",), kind="ExternalIP"),
        node("other-family", "10.192.0.6", cidrs=("fd01::/64",)),
        node("bad", "10.192.0.777", "x", cidrs=("10.244.4.0/99", "x")),
        Node(metadata=ObjectMeta(name="empty")),
    )
    assert wanted(ME, *nodes) == {}


def test_our_own_subnet_is_never_routed_away_and_conflicts_have_one_winner():
    thief = node("thief", "10.192.0.9", cidrs=("10.244.0.0/16",))
    first = node("a", "10.192.0.3", cidrs=("10.244.2.0/24",))
    second = node("b", "10.192.0.4", cidrs=("10.244.2.0/24",))
    assert wanted(ME, second, first, thief) == {"10.244.2.0/24": "10.192.0.3"}
