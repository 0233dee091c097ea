"""tuning on the real kernel: parameters and attributes before ADD, after it, and after DEL."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kernel.cni_chain_local import Chain
from kernel.cni_local import Node
from kernel.net_local import Namespaces, namespaces
from podling.cni.plugins.meta import tuning
from podling.cni.plugins.meta.tuning import sysctl_path
from podling.cni.types import CHECK_FAILED, INVALID_CONFIG, CNIError, ConfigError
from podling.linux.netlink import Netlink, links
from podling.linux.netlink.tunables import IFF_ALLMULTI, tx_queue_length
from podling.linux.netns import remove_netns, run_in_netns
from podling.linux.sysctl import read_sysctl, write_sysctl

__all__ = ["namespaces"]

MAC = "c2:b0:57:49:47:f1"


@pytest.fixture
def node(tmp_path: Path, namespaces: Namespaces) -> Node:
    return Node(tmp_path, namespaces)


def chain(node: Node, *, executed: bool = False, **options: Any) -> Chain:
    plugin = {"type": "tuning", "dataDir": str(node.results / "tuning")} | options
    return Chain(node, node.bridge(), plugin, executed=executed)


def state(pod: Path) -> dict[str, Any]:
    with Netlink(pod) as nl:
        link = nl.link_get("eth0")
        return {
            "mac": link.mac,
            "mtu": link.mtu,
            "promisc": bool(link.flags & links.IFF_PROMISC),
            "allmulti": bool(link.flags & IFF_ALLMULTI),
            "txQLen": tx_queue_length(nl, link.index),
        }


@pytest.mark.parametrize("executed", [False, True])
def test_attributes_are_changed_reported_and_given_back(node: Node, executed: bool):
    pod = node.pod("pod")
    options = {"mac": MAC, "mtu": 1454, "promisc": True, "allmulti": True, "txQLen": 20000}
    wired = chain(node, executed=executed, cniVersion="1.1.0", **options)
    bare = Chain(node, wired.plugins[0])
    bare.add("c1", pod)
    before = state(pod)
    bare.delete("c1", pod)

    result = wired.add("c1", pod)

    assert state(pod) == options
    eth0 = result.interfaces[2]
    assert (eth0.name, eth0.mac, eth0.mtu) == ("eth0", MAC, 1454)
    wired.check("c1", pod, result)
    saved = json.loads((node.results / "tuning" / "c1_eth0.json").read_text())
    assert saved | {"mac": ""} == before | {"mac": ""}
    for _ in range(2):
        Chain(node, wired.plugins[1], executed=executed).delete("c1", pod, result)
    assert state(pod) == before | {"mac": saved["mac"]}
    assert list((node.results / "tuning").iterdir()) == []


def test_parameters_are_those_of_the_container_only(node: Node):
    pod = node.pod("pod")
    before = run_in_netns(node.netns, read_sysctl, "net.core.somaxconn")
    sysctl = {
        "net.core.somaxconn": "500",
        "net.ipv4.conf.IFNAME.arp_filter": "1",
        "net/ipv4/conf/eth0/log_martians": "1",
        "net.ipv4.ip_local_port_range": "40000 41000",
    }
    wired = chain(node, sysctl=sysctl)
    result = wired.add("c1", pod)
    for name, value in (
        ("net.core.somaxconn", "500"),
        ("net.ipv4.conf.eth0.arp_filter", "1"),
        ("net.ipv4.conf.eth0.log_martians", "1"),
        ("net.ipv4.ip_local_port_range", "40000\t41000"),
    ):
        assert run_in_netns(pod, read_sysctl, name) == value
    assert run_in_netns(node.netns, read_sysctl, "net.core.somaxconn") == before
    wired.check("c1", pod, result)
    run_in_netns(pod, write_sysctl, "net.core.somaxconn", "400")
    with pytest.raises(
        CNIError, match="configured value of /proc/sys/net/core/somaxconn is 500, current value is 400"
    ):
        wired.check("c1", pod, result)
    wired.delete("c1", pod, result)


def test_arguments_go_before_options(node: Node):
    def mac_of(args: str = "", **options: Any) -> str:
        pod = node.pod(f"pod{len(node._namespaces.made)}")
        wired = chain(node, mac="02:00:00:00:00:01", **options)
        wired.add(pod.name, pod, args=args)
        found: str = state(pod)["mac"]
        wired.delete(pod.name, pod, args=args)
        return found

    # The capability `mac` is bridge's too; here only tuning asks for it.
    assert mac_of() == "02:00:00:00:00:01"
    assert mac_of("MAC=02:00:00:00:00:02") == "02:00:00:00:00:02"
    assert mac_of("MAC=02:00:00:00:00:02", runtimeConfig={"mac": "02-00-00-00-00-03"}) == "02:00:00:00:00:03"
    convention = {"cni": {"mac": "02:00:00:00:00:04", "mtu": 1300, "sysctl": {"net.core.somaxconn": "77"}}}
    wired = chain(node, runtimeConfig={"mac": "02:00:00:00:00:03"}, mtu=1200)
    wired.plugins[1]["args"] = convention
    pod = node.pod("last")
    wired.add("last", pod)
    assert (state(pod)["mac"], state(pod)["mtu"]) == ("02:00:00:00:00:04", 1300)
    assert run_in_netns(pod, read_sysctl, "net.core.somaxconn") == "77"


def test_del_without_the_namespace(node: Node):
    pod = node.pod("pod")
    wired = chain(node, mtu=1400)
    result = wired.add("c1", pod)
    remove_netns(pod)
    Chain(node, wired.plugins[1]).delete("c1", pod, result)
    Chain(node, wired.plugins[1]).delete("c1", "", result)
    assert list((node.results / "tuning").iterdir()) == []


def test_check_looks_at_the_interface(node: Node):
    pod = node.pod("pod")
    wired = chain(node, mtu=1400, promisc=True)
    result = wired.add("c1", pod)
    with Netlink(pod) as nl:
        nl.link_set("eth0", promisc=False)
    with pytest.raises(CNIError, match="promiscuous mode of eth0 is True, current value is False") as caught:
        wired.check("c1", pod, result)
    assert caught.value.code == CHECK_FAILED
    with Netlink(pod) as nl:
        nl.link_set("eth0", promisc=True, mtu=1300)
    with pytest.raises(CNIError, match="MTU of eth0 is 1400, current value is 1300"):
        wired.check("c1", pod, result)


def test_a_refused_change_is_undone(node: Node):
    pod = node.pod("pod")
    wired = chain(node, mtu=1400, mac="01:00:00:00:00:01")  # a multicast address is none for an interface
    Chain(node, wired.plugins[0]).add("c1", pod)
    before = state(pod)
    Chain(node, wired.plugins[0]).delete("c1", pod)
    with pytest.raises(CNIError, match="tuning: eth0"):
        wired.add("c1", pod)
    assert state(pod) | {"mac": ""} == before | {"mac": ""}
    assert list((node.results / "tuning").iterdir()) == []


def test_the_allowlist(node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    file = tmp_path / "allowlist.conf"
    file.write_text("^net\\.core\\.somaxconn$\n\n")
    monkeypatch.setattr(tuning, "ALLOWLIST", str(file))
    pod = node.pod("pod")
    chain(node, sysctl={"net.core.somaxconn": "33"}).add("c1", pod)
    with pytest.raises(ConfigError, match=r"Sysctl net.ipv4.ip_forward is not allowed. Only the following"):
        Chain(node, *chain(node, sysctl={"net.ipv4.ip_forward": "1"}).plugins).add("c2", node.pod("two"))
    file.write_text("[")
    with pytest.raises(ConfigError, match="invalid regular expression"):
        chain(node, sysctl={"net.core.somaxconn": "33"}).add("c3", node.pod("three"))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"sysctl": {"kernel.pid_max": "1"}}, 'invalid net sysctl key: "kernel.pid_max"'),
        ({"sysctl": {"net/../kernel/pid_max": "1"}}, "invalid net sysctl key"),
        ({"sysctl": {"net...": "1"}}, "invalid net sysctl key"),
        ({"sysctl": {"net.core.somaxconn": 5}}, "must be a string"),
        ({"sysctl": {"net.core.somaxconn": "5", "net/core/somaxconn": "6"}}, "duplicated sysctl keys"),
        ({"mac": "banana"}, "invalid args banana for MAC addr"),
        ({"mtu": -1}, "invalid mtu -1"),
        ({"promisc": "yes"}, "promisc: must be true or false"),
    ],
)
def test_mistakes_are_refused(node: Node, options: dict[str, Any], words: str):
    with pytest.raises(ConfigError, match=words) as caught:
        chain(node, **options).add("c1", node.pod("pod"))
    assert caught.value.code == INVALID_CONFIG


def test_what_the_kernel_lacks_is_named(node: Node):
    with pytest.raises(CNIError, match=r"this kernel has no parameter net\.core\.banana"):
        chain(node, sysctl={"net.core.banana": "1"}).add("c1", node.pod("pod"))
    with pytest.raises(CNIError, match=r"cannot set net.core.somaxconn to 'x': Invalid argument"):
        chain(node, sysctl={"net.core.somaxconn": "x"}).add("c2", node.pod("two"))


def test_the_first_separator_of_a_key_separates():
    assert sysctl_path("net.ipv4.conf.eth0/100.forwarding", "x") == (
        "net",
        "ipv4",
        "conf",
        "eth0.100",
        "forwarding",
    )
    assert sysctl_path("net/ipv4/conf/eth0.100/forwarding", "x")[3] == "eth0.100"
    assert sysctl_path("net.ipv4.conf.IFNAME.forwarding", "a.b")[3] == "a.b"
