"""flannel and sample: delegating to bridge by what flanneld has written; and the pattern of a plugin."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kernel.cni_chain_local import Chain
from kernel.cni_local import Node
from kernel.net_local import Namespaces, ask, echo_server, link_names, namespaces
from podling.cni.types import CHECK_FAILED, INVALID_CONFIG, NOT_AVAILABLE, CNIError, ConfigError
from podling.linux.netlink import Netlink

__all__ = ["namespaces"]

LEASE = """\
FLANNEL_NETWORK=10.1.0.0/16
FLANNEL_SUBNET=10.1.17.1/24
FLANNEL_MTU=1472
FLANNEL_IPMASQ=true
"""


@pytest.fixture
def node(tmp_path: Path, namespaces: Namespaces) -> Node:
    made = Node(tmp_path, namespaces)
    (tmp_path / "subnet.env").write_text(LEASE)
    return made


@pytest.fixture
def conf(node: Node, tmp_path: Path) -> dict[str, Any]:
    return {
        "cniVersion": "1.0.0",
        "name": "mynet",
        "type": "flannel",
        "subnetFile": str(tmp_path / "subnet.env"),
        "dataDir": str(tmp_path / "flannel"),
        "ipam": {"dataDir": str(node.networks)},
        "delegate": {"isDefaultGateway": True, "hairpinMode": True},
    }


@pytest.mark.parametrize("executed", [False, True])
def test_bridge_does_the_work_on_the_leased_subnet(
    node: Node, conf: dict[str, Any], tmp_path: Path, executed: bool
):
    one, two = node.pod("one"), node.pod("two")
    wired = Chain(node, conf, executed=executed)
    result = wired.add("c1", one)
    wired.add("c2", two)
    assert node.addresses(one, "eth0") == {"10.1.17.2/24"}
    assert node.addresses(node.netns, "cni0") == {"10.1.17.1/24"}
    assert node.routes(one) == {"0.0.0.0/0 via 10.1.17.1", "10.1.0.0/16 via 10.1.17.1", "10.1.17.0/24"}
    with Netlink(one) as nl:
        assert nl.link_get("eth0").mtu == 1472
    with echo_server(two, "10.1.17.3"):
        assert ask(one, "10.1.17.3") == "10.1.17.2"
    kept = json.loads((tmp_path / "flannel" / "c1").read_text())
    assert (kept["type"], kept["name"], kept["ipMasq"], kept["isGateway"]) == ("bridge", "mynet", False, True)
    assert kept["ipam"]["ranges"] == [[{"subnet": "10.1.17.0/24"}]]
    wired.check("c1", one, result)
    (tmp_path / "subnet.env").unlink()  # flanneld is gone: DEL must work all the same
    for _ in range(2):
        wired.delete("c1", one, result)
        wired.delete("c2", two)
    assert link_names(one) == {"lo"}
    assert node.reserved("mynet") == {"last_reserved_ip.0"}
    assert list((tmp_path / "flannel").iterdir()) == []


def test_dual_stack_and_several_networks(node: Node, conf: dict[str, Any], tmp_path: Path):
    (tmp_path / "subnet.env").write_text(
        "FLANNEL_NETWORK=10.1.0.0/16,10.2.0.0/16\nFLANNEL_IPV6_NETWORK=fd00:1::/48\n"
        "FLANNEL_SUBNET=10.1.17.1/24\nFLANNEL_IPV6_SUBNET=fd00:1:0:7::1/64\n"
        "FLANNEL_MTU=1400\nFLANNEL_IPMASQ=false\n"
    )
    pod = node.pod("pod")
    Chain(node, conf | {"runtimeConfig": {"mac": "02:00:00:00:00:07"}}).add("c1", pod)
    assert node.addresses(pod, "eth0") == {"10.1.17.2/24", "fd00:1:0:7::2/64"}
    assert node.routes(pod) >= {"10.2.0.0/16 via 10.1.17.1", "fd00:1::/48 via fd00:1:0:7::1"}
    kept = json.loads((tmp_path / "flannel" / "c1").read_text())
    assert kept["ipMasq"] is True
    assert kept["runtimeConfig"] == {"mac": "02:00:00:00:00:07"}
    with Netlink(pod) as nl:
        assert nl.link_get("eth0").mac == "02:00:00:00:00:07"


def test_what_the_delegate_says_is_not_overruled(node: Node, conf: dict[str, Any], tmp_path: Path):
    conf["delegate"] = {"bridge": "mybridge0", "mtu": 1300, "isGateway": False, "ipMasq": False}
    Chain(node, conf).add("c1", node.pod("pod"))
    assert "mybridge0" in link_names(node.netns)
    assert node.addresses(node.netns, "mybridge0") == set()


def test_without_a_lease_it_says_what_is_missing(node: Node, conf: dict[str, Any], tmp_path: Path):
    env = tmp_path / "subnet.env"
    env.unlink()
    for command in ("ADD", "STATUS"):
        with pytest.raises(CNIError, match=r"subnet.env: no such file") as caught:
            node.call(command, "c1", node.pod(command), conf)
        assert caught.value.code == NOT_AVAILABLE
    env.write_text("FLANNEL_NETWORK=10.1.0.0/16\nFLANNEL_MTU=1\n")
    with pytest.raises(ConfigError, match="is missing FLANNEL_SUBNET, FLANNEL_IPMASQ"):
        node.call("STATUS", "c1", "", conf)
    env.write_text(LEASE.replace("1472", "x"))
    with pytest.raises(ConfigError, match=r"subnet\.env: invalid literal"):
        node.call("STATUS", "c1", "", conf)
    env.write_text(LEASE)
    node.call("STATUS", "c1", "", conf)


@pytest.mark.parametrize(
    ("delegate", "words"),
    [
        ({"name": "x"}, "must not have 'name' field"),
        ({"ipam": {}}, "must not have 'ipam' field"),
        ({"type": 5}, r"must have \(string\) 'type' field"),
        ("x", "delegate: must be an object"),
        ({"type": "banana"}, 'failed to find plugin "banana"'),
        ({"vlan": -1}, "invalid VLAN ID -1"),
    ],
)
def test_mistakes_are_refused_and_nothing_is_left(
    node: Node, conf: dict[str, Any], tmp_path: Path, delegate: Any, words: str
):
    with pytest.raises(CNIError, match=words) as caught:
        node.add("c1", node.pod("pod"), conf | {"delegate": delegate})
    assert caught.value.code == INVALID_CONFIG
    assert not (tmp_path / "flannel" / "c1").exists()
    node.call("DEL", "c1", "", conf)


def test_sample_hands_the_result_on_and_shows_the_call(node: Node, tmp_path: Path):
    pod, output = node.pod("pod"), tmp_path / "calls"
    plugin = {"type": "sample", "anotherAwesomeArg": "outstanding", "cniOutput": str(output)}
    wired = Chain(node, node.bridge(), plugin, executed=True)
    result = wired.add("c1", pod)
    assert [str(ip.address) for ip in result.ips] == ["10.244.1.2/24"]
    assert "ContainerID: c1\n" in output.read_text()
    assert "prevResult" in output.read_text()
    wired.check("c1", pod, result)
    with Netlink(pod) as nl:
        nl.addr_del("eth0", result.ips[0].address)
    with pytest.raises(CNIError, match=r"addresses gone from eth0: 10.244.1.2/24") as caught:
        Chain(node, plugin).check("c1", pod, result)
    assert caught.value.code == CHECK_FAILED
    wired.delete("c1", pod, result)


@pytest.mark.parametrize(
    ("plugin", "words"),
    [
        ({"type": "sample"}, "anotherAwesomeArg must be specified"),
        ({"type": "sample", "anotherAwesomeArg": "x"}, "must be called as chained plugin"),
        (
            {"type": "sample", "anotherAwesomeArg": "x", "prevResult": {"cniVersion": "1.0.0"}},
            "got no container IPs",
        ),
    ],
)
def test_sample_refuses(node: Node, plugin: dict[str, Any], words: str):
    with pytest.raises(ConfigError, match=words):
        Chain(node, plugin).add("c1", node.pod("pod"))
