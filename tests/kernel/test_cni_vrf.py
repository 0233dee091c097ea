"""vrf: on a kernel with the driver the interface moves; on one without, the error names what is missing."""

from __future__ import annotations

from pathlib import Path

import pytest

from kernel.cni_chain_local import Chain
from kernel.cni_local import Node
from kernel.net_local import Namespaces, link_names, namespaces
from podling.cni.types import CHECK_FAILED, KERNEL_REFUSED, CNIError, ConfigError
from podling.linux.netlink import Netlink, NetlinkError, vrf
from podling.linux.netns import remove_netns

__all__ = ["namespaces"]


@pytest.fixture
def node(tmp_path: Path, namespaces: Namespaces) -> Node:
    return Node(tmp_path, namespaces)


@pytest.fixture
def driver(namespaces: Namespaces) -> bool:
    with Netlink(namespaces.make("probe")) as nl:
        try:
            nl.execute(vrf.add_vrf("probe", table=7))
        except NetlinkError:
            return False
    return True


def test_without_the_driver_the_error_names_it_and_nothing_is_left(node: Node, driver: bool):
    if driver:
        pytest.skip("this kernel has the vrf driver")
    pod = node.pod("pod")
    wired = Chain(node, node.bridge(), {"type": "vrf", "vrfname": "red"})
    with pytest.raises(CNIError, match="this kernel has no virtual routing domains") as caught:
        wired.add("c1", pod)
    assert (caught.value.code, caught.value.details) == (KERNEL_REFUSED, "it needs CONFIG_NET_VRF")
    for _ in range(2):
        wired.delete("c1", pod)
    assert link_names(pod) == {"lo"}


def test_the_interface_moves_into_the_domain_and_back(node: Node, driver: bool):
    if not driver:
        pytest.skip("this kernel has no vrf driver (CONFIG_NET_VRF)")
    pod = node.pod("pod")
    subnets = ("10.244.1.0/24", "fd00:10:244:1::/64")
    bridge = node.bridge(isDefaultGateway=True, ipam=node.ipam(*subnets))
    wired = Chain(node, bridge, {"type": "vrf", "vrfname": "red", "table": 77})
    result = wired.add("c1", pod)
    with Netlink(pod) as nl:
        red = nl.link_get("red")
        assert nl.link_get("eth0").master == red.index
        assert vrf.table_of(nl, red.index) == 77
        assert {str(r.gateway) for r in nl.route_list(table=77) if r.gateway} == {
            "10.244.1.1",
            "fd00:10:244:1::1",
        }
    wired.check("c1", pod, result)
    Chain(node, wired.plugins[1]).delete("c1", pod, result)
    assert "red" not in link_names(pod)


def test_check_and_del_where_there_is_no_domain(node: Node):
    pod = node.pod("pod")
    bridge, plugin = node.bridge(), {"type": "vrf", "vrfname": "red"}
    result = Chain(node, bridge).add("c1", pod)
    with pytest.raises(CNIError, match="VRF red is gone") as caught:
        Chain(node, plugin).check("c1", pod, result)
    assert caught.value.code == CHECK_FAILED
    Chain(node, plugin).delete("c1", pod, result)
    remove_netns(pod)
    Chain(node, plugin).delete("c1", pod, result)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "expected to have a valid vrf name"),
        ({"vrfname": "x" * 16}, "is no interface name"),
        ({"vrfname": "red", "table": -1}, "table: -1 is no routing table"),
        ({"vrfname": 5}, "vrfname: must be a string"),
        ({"vrfname": "red"}, "missing prevResult"),
    ],
)
def test_mistakes_are_refused(node: Node, options: dict[str, object], words: str):
    with pytest.raises(ConfigError, match=words):
        Chain(node, {"type": "vrf"} | options).add("c1", node.pod("pod"))
