from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

import msgspec

from podling.api.core_v1 import Node
from podling.network.load_balancer import EXCLUDED_LABEL, holder, may_answer

ADDRESSES = list(IPv4Network("10.192.0.224/27").hosts())


def test_only_what_a_lost_node_held_moves():
    nodes = ["a", "b", "c"]
    before = {address: holder(address, nodes) for address in ADDRESSES}
    assert set(before.values()) == set(nodes)
    after = {address: holder(address, ["a", "c"]) for address in ADDRESSES}
    assert all(after[ip] == held for ip, held in before.items() if held != "b")


def test_nobody_holds_an_address_without_nodes():
    assert holder(IPv4Address("10.192.0.225"), []) is None


def test_ready_nodes_answer_unless_they_are_kept_out():
    def node(status: str, **labels: str) -> Node:
        document = {
            "metadata": {"name": "n", "labels": labels},
            "status": {"conditions": [{"type": "Ready", "status": status}]},
        }
        return msgspec.convert(document, Node)

    assert may_answer(node("True"))
    assert not may_answer(node("Unknown"))
    assert not may_answer(node("True", **{EXCLUDED_LABEL: ""}))
