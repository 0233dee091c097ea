"""Our main plugins beside the reference plugins: same results, same state of the kernel, each other's DEL."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from kernel.cni_local import Node
from kernel.link_kinds import missing
from kernel.net_local import Namespaces, link_names, namespaces
from podling.linux.netlink import Netlink, links

__all__ = ["namespaces"]

REFERENCE = Path("/usr/lib/cni")  # Debian's containernetworking-plugins
pytestmark = pytest.mark.skipif(
    not (REFERENCE / "ptp").exists(), reason="the package containernetworking-plugins is not installed"
)

DUAL = {"routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}, {"dst": "10.9.0.0/16", "gw": "10.244.1.77"}]}
CASES: dict[str, dict[str, Any]] = {
    "bridge": {"type": "bridge", "isDefaultGateway": True, "hairpinMode": True, "mtu": 1400},
    "bridge promiscuous": {"type": "bridge", "isGateway": True, "promiscMode": True},
    "bridge without a gateway": {"type": "bridge", "bridge": "mynet0", "dns": {"domain": "example.com"}},
    "bridge of layer 2": {"type": "bridge", "ipam": {}},
    "ptp": {"type": "ptp", "mtu": 1400, "dns": {"nameservers": ["10.1.1.1"]}},
    "macvlan": {"type": "macvlan", "mode": "vepa", "mtu": 1400, "mac": "02:00:00:00:00:42"},
    "ipvlan": {"type": "ipvlan", "mode": "l3", "mtu": 1400},
    "vlan": {"type": "vlan", "vlanId": 5, "mtu": 1400},
    "host-device": {"type": "host-device", "device": "wan0"},
}


@pytest.fixture
def node(tmp_path: Path, namespaces: Namespaces) -> Node:
    return Node(tmp_path, namespaces)


def state(netns: Path) -> dict[str, Any]:
    """What a container sees of its links; without addresses that are made up, and IPv6's own routes."""
    with Netlink(netns) as nl:
        found = {link.index: link for link in nl.link_list()}
        names = {
            index: link.name if not link.name.startswith("veth") else "veth" for index, link in found.items()
        }
        return {
            "links": sorted(
                (
                    (names[index], link.kind, link.mtu, link.up, link.alias)
                    + (link.flags & links.IFF_PROMISC, link.hairpin)
                    + ((link.data,) if link.kind != "bridge" else ())  # has timers in it
                )
                for index, link in found.items()
            ),
            "addresses": sorted(
                (names[a.index], str(a.interface), a.scope)
                for a in nl.addr_list()
                if not a.interface.is_link_local
            ),
            "routes": sorted(
                (str(r.dst), str(r.gateway), names.get(r.oif), r.scope, str(r.prefsrc), r.priority)
                for r in nl.route_list()
                if not r.dst.is_link_local and not r.dst.is_multicast
            ),
        }


def without_names(result: dict[str, Any] | None) -> dict[str, Any]:
    assert result is not None
    result = copy.deepcopy(result)
    for interface in result["interfaces"]:
        interface.pop("mac")
        interface["name"] = interface["name"] if not interface["name"].startswith("veth") else "veth"
        interface["sandbox"] = bool(interface.get("sandbox"))
    return result


@pytest.mark.parametrize("case", CASES)
def test_result_and_kernel_are_as_the_reference_leaves_them(node: Node, case: str):
    kind = CASES[case]["type"]
    if kind in ("macvlan", "ipvlan", "vlan") and missing(kind):
        pytest.skip(f"the kernel has no {kind}")
    node.segment("wan0")
    pod = node.pod("pod")
    # Debian's does not get along with a default route beside isDefaultGateway.
    routes = DUAL if not CASES[case].get("isDefaultGateway") else {}
    ipam = node.ipam("10.244.1.0/24", "fd00:10:244:1::/64", **routes)
    call = {"plugin": kind, "CONTAINERID": "c1", "NETNS": str(pod)}
    seen = []
    for adder, deleter in ((REFERENCE, node.bin_dir), (node.bin_dir, REFERENCE)):
        # A network each, so that both get the first addresses.
        conf = node.conf(kind, name=f"by-{adder.parent.name}", master="wan0", ipam=ipam) | CASES[case]
        status, result = node.execute("ADD", conf, directory=adder, **call)
        assert status == 0, result
        checked = conf | {"prevResult": result}
        if deleter == node.bin_dir or conf["ipam"]:  # theirs cannot CHECK without IPAM
            assert node.execute("CHECK", checked, directory=deleter, **call) == (0, None)
        seen.append((state(pod), state(node.netns), without_names(result)))
        assert node.execute("DEL", checked, directory=deleter, **call) == (0, None)
        assert link_names(pod) == {"lo"}
        with Netlink(node.netns) as nl:
            nl.link_set("wan0", up=True)  # host-device leaves it down
            for bridge in nl.link_list(kind="bridge"):
                nl.link_del(bridge.index)
    theirs, ours = seen
    for one, other in zip(theirs, ours, strict=True):
        assert other == one
