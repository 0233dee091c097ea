"""static below bridge: the addresses asked for are the ones on the interface."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kernel.cni_local import Node
from kernel.net_local import Namespaces, ask, echo_server, namespaces
from podling.cni.types import CHECK_FAILED, CNIError, ConfigError

__all__ = ["namespaces"]


@pytest.fixture
def node(tmp_path: Path, namespaces: Namespaces) -> Node:
    return Node(tmp_path, namespaces)


def ipam(*addresses: str, **more: Any) -> dict[str, Any]:
    return {"type": "static", "addresses": [{"address": a} for a in addresses]} | more


def test_addresses_routes_and_dns_are_as_written(node: Node):
    pod, other = node.pod("pod"), node.pod("other")
    conf = node.bridge(
        ipam={
            "type": "static",
            "addresses": [
                {"address": "10.10.0.7/24", "gateway": "10.10.0.254"},
                {"address": "fd00:ffff::a/64", "gateway": "fd00:ffff::1"},
            ],
            "routes": [{"dst": "0.0.0.0/0"}, {"dst": "192.168.0.0/16", "gw": "10.10.0.253"}],
            "dns": {"nameservers": ["8.8.8.8"], "domain": "example.com", "search": ["example.com"]},
        }
    )
    result = node.add("c1", pod, conf)
    assert node.addresses(pod, "eth0") == {"10.10.0.7/24", "fd00:ffff::a/64"}
    assert node.routes(pod) >= {"0.0.0.0/0 via 10.10.0.254", "192.168.0.0/16 via 10.10.0.253"}
    assert result.dns.nameservers == ("8.8.8.8",)
    node.add("c2", other, node.bridge(ipam=ipam("10.10.0.8/24"), isGateway=False))
    with echo_server(pod, "10.10.0.7"):
        assert ask(other, "10.10.0.7") == "10.10.0.8"
    checked = conf | {"prevResult": result.to_json("1.0.0")}
    node.call("CHECK", "c1", pod, checked)
    for _ in range(2):
        node.call("DEL", "c1", pod, conf)
    assert node.addresses(node.netns, "cni0") == {"10.10.0.254/24", "fd00:ffff::1/64"}


def test_an_add_that_finds_its_interface_taken_leaves_the_earlier_one(node: Node):
    pod = node.pod("pod")
    conf = node.bridge(ipam=ipam("10.10.0.7/24"))
    node.add("c1", pod, conf)
    with pytest.raises(CNIError, match="already exists"):
        node.add("c1", pod, conf)
    assert node.addresses(pod, "eth0") == {"10.10.0.7/24"}


def execute(node: Node, conf: dict[str, Any], args: str = "") -> dict[str, Any]:
    conf = {"cniVersion": "1.0.0", "name": "net"} | conf
    _, result = node.execute("ADD", conf, plugin="static", CONTAINERID="c1", NETNS="x", ARGS=args)
    assert result is not None
    return result


def test_arguments_add_to_or_replace_the_configured_addresses(node: Node):
    conf: dict[str, Any] = {"ipam": ipam("10.1.0.2/24")}

    def given(cni_args: str = "", **more: Any) -> list[tuple[str, str | None]]:
        return [(ip["address"], ip.get("gateway")) for ip in execute(node, conf | more, cni_args)["ips"]]

    assert given() == [("10.1.0.2/24", None)]
    assert given("IP=10.2.0.2/24, 10.3.0.2/24;GATEWAY=10.2.0.1,10.1.0.1") == [
        ("10.1.0.2/24", "10.1.0.1"),
        ("10.2.0.2/24", "10.2.0.1"),
        ("10.3.0.2/24", None),
    ]
    convention = {"args": {"cni": {"ips": ["10.4.0.2/24"]}}}
    assert given("IP=10.2.0.2/24", **convention) == [("10.4.0.2/24", None)]
    assert given(runtimeConfig={"ips": ["fd00::2/64"]}, **convention) == [("fd00::2/64", None)]


@pytest.mark.parametrize(
    ("conf", "args", "words"),
    [
        ({}, "", "missing 'ipam' key"),
        ({"ipam": ipam("10.1.0.2")}, "", "invalid CIDR 10.1.0.2"),
        ({"ipam": ipam("banana/24")}, "", "invalid CIDR banana/24"),
        ({"ipam": {"type": "static", "addresses": [{}]}}, "", "each needs an address"),
        ({"ipam": {"type": "static", "addresses": "x"}}, "", "ipam.addresses: must be a list"),
        ({"ipam": ipam()}, "IP=10.1.0.2", "invalid CIDR 10.1.0.2"),
        ({"ipam": ipam("10.1.0.2/24")}, "GATEWAY=x", "invalid gateway address: x"),
        ({"ipam": ipam("10.1.0.2/24", routes=[{"dst": "x"}])}, "", "invalid ipam.routes"),
    ],
)
def test_mistakes_are_refused(node: Node, conf: dict[str, Any], args: str, words: str):
    error = execute(node, conf, args)
    assert error["code"] == 7
    assert words in error["msg"]


def test_check_compares_with_the_configuration(node: Node):
    pod = node.pod("pod")
    conf = node.bridge(ipam=ipam("10.1.0.2/24"))
    result = node.add("c1", pod, conf).to_json("1.0.0")
    changed = conf | {"ipam": ipam("10.1.0.3/24"), "prevResult": result}
    with pytest.raises(CNIError, match=r"Failed to match addr 10\.1\.0\.3") as caught:
        node.call("CHECK", "c1", pod, changed)
    assert caught.value.code == CHECK_FAILED
    with pytest.raises(ConfigError):
        node.add("c2", node.pod("two"), node.bridge(ipam=ipam("10.1.0.2")))
