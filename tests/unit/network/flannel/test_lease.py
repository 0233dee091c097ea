from __future__ import annotations

import ipaddress
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from podling.api.core_v1 import Node
from podling.network.flannel.lease import (
    Lease,
    compute_annotations,
    compute_remotes,
    overwritten_ip,
    own_mac,
    stale_annotations,
)
from podling.network.flannel.net_conf import BackendType

IP, NET = ipaddress.ip_address, ipaddress.ip_network
PREFIX = "flannel.alpha.coreos.com/"


def node(name: str, *cidrs: str, **said: str) -> Node:
    annotations = {PREFIX + key.replace("_", "-"): value for key, value in said.items()}
    document: dict[str, Any] = {
        "metadata": {"name": name, "annotations": annotations},
        "spec": {"podCIDR": cidrs[0], "podCIDRs": list(cidrs)} if cidrs else {},
    }
    return msgspec.convert(document, Node)


def vxlan_node(name: str, cidr: str, public_ip: str, mac: str = "02:00:00:00:00:01", **said: str) -> Node:
    data = f'{{"VNI":1,"VtepMAC":"{mac}"}}'
    fields = {"kube_subnet_manager": "true", "backend_type": "vxlan", "backend_data": data, **said}
    return node(name, cidr, public_ip=public_ip, **fields)


def test_annotations_are_flannels():
    lease = Lease(
        subnet=NET("10.244.1.0/24"),
        public_ip=IP("10.192.0.3"),
        backend="vxlan",
        vni=1,
        mac="02:00:00:00:00:01",
    )
    assert compute_annotations([lease]) == {
        PREFIX + "kube-subnet-manager": "true",
        PREFIX + "backend-type": "vxlan",
        PREFIX + "backend-data": '{"VNI":1,"VtepMAC":"02:00:00:00:00:01"}',
        PREFIX + "public-ip": "10.192.0.3",
    }


def test_of_the_other_family_they_have_names_of_their_own():
    lease = Lease(subnet=NET("fd00:1::/64"), public_ip=IP("fd00::3"), backend="host-gw")
    made = compute_annotations([lease])
    assert made[PREFIX + "public-ipv6"] == "fd00::3"
    assert made[PREFIX + "backend-v6-data"] == "null"
    assert PREFIX + "public-ip" not in made


def test_the_patch_has_what_differs_and_takes_back_what_is_gone():
    said = {PREFIX + "public-ip": "1.1.1.1", PREFIX + "public-ipv6": "::1", "mine": "x"}
    wanted = {PREFIX + "public-ip": "2.2.2.2", PREFIX + "kube-subnet-manager": "true"}
    assert stale_annotations(said, wanted) == {
        PREFIX + "public-ip": "2.2.2.2",
        PREFIX + "kube-subnet-manager": "true",
        PREFIX + "public-ipv6": None,
    }
    assert stale_annotations(wanted, wanted) == {}


def test_what_one_node_says_another_reads():
    lease = Lease(
        subnet=NET("10.244.1.0/24"),
        public_ip=IP("10.192.0.3"),
        backend="vxlan",
        vni=7,
        mac="02:00:00:00:00:01",
    )
    said = {key.removeprefix(PREFIX): value for key, value in compute_annotations([lease]).items()}
    (remote,) = compute_remotes([node("a", "10.244.1.0/24", **said)], "me", 4, BackendType.VXLAN)
    assert (remote.subnet, remote.public_ip, remote.vni, remote.mac, remote.node) == (
        *(lease.subnet, lease.public_ip, 7, lease.mac, "a"),
    )


def test_nodes_that_are_not_of_the_network_are_left_out():
    nodes = [
        node("no-annotations", "10.244.1.0/24"),
        vxlan_node("no-subnet-manager", "10.244.2.0/24", "10.0.0.2", kube_subnet_manager="false"),
        vxlan_node("other-backend", "10.244.3.0/24", "10.0.0.3", backend_type="host-gw"),
        vxlan_node("no-mac", "10.244.4.0/24", "10.0.0.4", backend_data="null"),
        vxlan_node("bad-address", "10.244.5.0/24", "10.0.0"),
        vxlan_node("bad-mac", "10.244.6.0/24", "10.0.0.6", mac="zz"),
        vxlan_node("me", "10.244.7.0/24", "10.0.0.7"),
        vxlan_node("good", "10.244.8.0/24", "10.0.0.8"),
    ]
    assert [r.node for r in compute_remotes(nodes, "me", 4, BackendType.VXLAN)] == ["good"]


def test_of_two_that_claim_a_subnet_the_first_by_name_has_it_and_ours_is_ours():
    nodes = [
        vxlan_node("b", "10.244.1.0/24", "10.0.0.2"),
        vxlan_node("a", "10.244.1.0/24", "10.0.0.1"),
        vxlan_node("me", "10.244.2.0/24", "10.0.0.3"),
        vxlan_node("c", "10.244.2.128/25", "10.0.0.4"),
    ]
    found = compute_remotes(nodes, "me", 4, BackendType.VXLAN)
    assert [(r.node, str(r.subnet)) for r in found] == [("a", "10.244.1.0/24")]


def test_what_was_told_before_and_what_people_set():
    mine = vxlan_node("me", "10.244.1.0/24", "10.0.0.1", public_ip_overwrite="192.0.2.1")
    assert own_mac(mine) == {4: "02:00:00:00:00:01"}
    assert overwritten_ip(mine, 4) == IP("192.0.2.1")
    assert overwritten_ip(mine, 6) is None


@given(st.text(), st.text(), st.text())
def test_nothing_a_stranger_writes_into_a_node_raises(data: str, public_ip: str, cidr: str):
    strange = node(
        *("strange", cidr),
        kube_subnet_manager="true",
        backend_type="vxlan",
        backend_data=data,
        public_ip=public_ip,
    )
    compute_remotes([strange], "me", 4, BackendType.VXLAN)
    own_mac(strange)
