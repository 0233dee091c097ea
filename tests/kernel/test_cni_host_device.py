"""The host-device plugin on the real kernel: a link goes into the container, and comes back."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from kernel.cni_local import Node
from kernel.net_local import Namespaces, ask, echo_server, link_names, namespaces
from podling.cni.types import CHECK_FAILED, INVALID_CONFIG, KERNEL_REFUSED, CNIError
from podling.linux.netlink import Netlink
from podling.linux.netns import remove_netns

__all__ = ["namespaces"]


@pytest.fixture
def node(tmp_path: Path, namespaces: Namespaces) -> Node:
    return Node(tmp_path, namespaces)


def test_add_moves_the_device_in_and_del_moves_it_out(node: Node):
    neighbour = node.segment("wan0", "10.244.1.254/24")
    pod = node.pod("pod")
    conf = node.conf("host-device", device="wan0", ipam=node.ipam(routes=[{"dst": "0.0.0.0/0"}]))
    with Netlink(node.netns) as nl:
        before = nl.link_get("wan0")
    result = node.add("c1", pod, conf)

    (eth0,) = result.interfaces
    assert (eth0.name, eth0.mac, eth0.sandbox) == ("eth0", before.mac, str(pod))
    assert result.to_json("1.0.0")["ips"] == [
        {"interface": 0, "address": "10.244.1.2/24", "gateway": "10.244.1.1"}
    ]
    assert link_names(node.netns) == {"lo"}
    assert link_names(pod) == {"lo", "eth0"}
    with Netlink(pod) as nl:
        assert (nl.link_get("eth0").alias, nl.link_get("eth0").up) == ("wan0", True)
    assert node.routes(pod) == {"0.0.0.0/0 via 10.244.1.1", "10.244.1.0/24"}
    with echo_server(neighbour, "10.244.1.254"):
        assert ask(pod, "10.244.1.254") == "10.244.1.2"

    node.delete_twice("c1", pod, conf)
    assert link_names(node.netns) == {"lo", "wan0"}
    assert link_names(pod) == {"lo"}
    with Netlink(node.netns) as nl:
        after = nl.link_get("wan0")
    assert (after.mac, after.alias, after.up) == (before.mac, "", False)
    assert node.addresses(node.netns, "wan0") == set()
    assert node.reserved() == {"last_reserved_ip.0"}


def test_dual_stack_and_names_that_exist_on_both_sides(node: Node):
    """The device is called as another one in the container is."""
    neighbour = node.segment("net0", "10.244.1.254/24", "fd00:10:244:1::254/64")
    pod = node.pod("pod")
    with Netlink(pod) as nl:
        nl.link_add_bridge("net0")
    conf = node.conf("host-device", device="net0", ipam=node.ipam("10.244.1.0/24", "fd00:10:244:1::/64"))
    node.add("c1", pod, conf)
    assert link_names(pod) == {"lo", "net0", "eth0"}
    for server in ("10.244.1.254", "fd00:10:244:1::254"):
        with echo_server(neighbour, server):
            assert ask(pod, server) == server.removesuffix("254") + "2"
    node.delete_twice("c1", pod, conf)
    assert link_names(node.netns) == {"lo", "net0"}


def test_by_hardware_address_and_without_ipam(node: Node):
    node.segment("wan0")
    pod = node.pod("pod")
    with Netlink(node.netns) as nl:
        mac = nl.link_get("wan0").mac
    conf = node.conf("host-device", hwaddr=mac.upper(), ipam={})
    result = node.add("c1", pod, conf)
    assert (result.ips, result.interfaces[0].mac) == ((), mac)
    with Netlink(pod) as nl:
        assert nl.link_get("eth0").up
    conf["prevResult"] = result.to_json("1.0.0")
    node.call("CHECK", "c1", pod, conf)
    node.delete_twice("c1", pod, conf)
    assert link_names(node.netns) == {"lo", "wan0"}


def test_by_kernel_path_as_a_program(node: Node):
    node.segment("aaa0")  # comes first among the virtual devices
    pod = node.pod("pod")
    conf = node.conf("host-device", kernelpath="/sys/devices/virtual/../virtual")

    def execute(command: str, conf: dict[str, Any]) -> tuple[int, dict[str, Any] | None]:
        # /sys shows the links of the namespace it was mounted in: the node has its own.
        script = f"mount -t sysfs sys /sys && exec {node.bin_dir}/host-device"
        done = subprocess.run(
            ["nsenter", f"--net={node.netns}", "unshare", "-m", "sh", "-c", script],
            input=json.dumps(conf),
            env={
                "PATH": os.environ["PATH"],
                "CNI_COMMAND": command,
                "CNI_PATH": str(node.bin_dir),
                "CNI_IFNAME": "eth0",
                "CNI_CONTAINERID": "c1",
                "CNI_NETNS": str(pod),
            },
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, json.loads(done.stdout) if done.stdout else None

    status, result = execute("ADD", conf)
    assert status == 0, result
    assert link_names(node.netns) == {"lo"}
    assert execute("CHECK", conf | {"prevResult": result}) == (0, None)
    for _ in range(2):
        assert execute("DEL", conf) == (0, None)
    assert link_names(node.netns) == {"lo", "aaa0"}
    status, error = execute("ADD", conf | {"kernelpath": "/sys/devices/none"})
    assert (status, error and error["code"]) == (1, INVALID_CONFIG)


def test_what_is_refused_leaves_everything_in_its_place(node: Node):
    node.segment("wan0")
    pod = node.pod("pod")
    for options, words in (
        ({}, 'specify either "device", "hwaddr", "kernelpath" or "pciBusID"'),
        ({"device": "eth9"}, "failed to find host device: there is no device eth9"),
        ({"hwaddr": "banana"}, 'failed to parse MAC address "banana"'),
        ({"hwaddr": "02:00:00:00:00:77"}, "there is no hwaddr 02:00:00:00:00:77"),
        ({"kernelpath": "/sys/class/net/wan0"}, "must be absolute and begin with /sys/devices/"),
        ({"kernelpath": "/sys/devices/../../etc"}, "must be absolute and begin with /sys/devices/"),
        ({"pciBusID": "0000:ff:1f.7"}, "error with host device: PCI device 0000:ff:1f.7: No such file"),
        ({"pciBusID": "../x"}, "invalid pciBusID"),
        (
            {"device": "wan0", "runtimeConfig": {"deviceID": "0000:ff:1f.7"}},
            "DeviceID 0000:ff:1f.7 not found",
        ),
    ):
        with pytest.raises(CNIError, match=words) as info:
            node.add("c1", pod, node.conf("host-device") | options)
        assert info.value.code == INVALID_CONFIG
    with pytest.raises(CNIError) as info:
        node.add("c1", pod, node.conf("host-device", device="lo"))
    assert info.value.code == KERNEL_REFUSED
    assert link_names(node.netns) == {"lo", "wan0"}
    assert node.reserved() == set()


def test_a_failed_add_brings_the_device_back_as_it_was(node: Node):
    node.segment("wan0")
    pod = node.pod("pod")
    unreachable = node.ipam(routes=[{"dst": "10.9.0.0/16", "gw": "192.168.99.1"}])
    with pytest.raises(CNIError, match="unreachable"):
        node.add("c1", pod, node.conf("host-device", device="wan0", ipam=unreachable))
    with Netlink(pod) as nl:
        nl.link_add_bridge("eth0")
    with pytest.raises(CNIError, match='failed to move link: "eth0" already exists'):
        node.add("c1", pod, node.conf("host-device", device="wan0"))
    with Netlink(node.netns) as nl:
        assert (nl.link_get("wan0").up, nl.link_get("wan0").alias) == (True, "")
    node.delete_twice("c1", pod, node.conf("host-device", device="wan0"))
    assert link_names(pod) == {"lo", "eth0"}  # which is not ours to move
    assert node.reserved() == {"last_reserved_ip.0"}


def test_del_refuses_while_the_host_has_that_name_again(node: Node):
    node.segment("wan0")
    pod = node.pod("pod")
    conf = node.conf("host-device", device="wan0")
    node.add("c1", pod, conf)
    with Netlink(node.netns) as nl:
        nl.link_add_bridge("wan0")
        with pytest.raises(CNIError, match='the host has a link "wan0" again') as info:
            node.call("DEL", "c1", pod, conf)
        assert info.value.code == KERNEL_REFUSED
        assert node.reserved() == {"10.244.1.2", "last_reserved_ip.0"}
        nl.link_del("wan0")
    node.delete_twice("c1", pod, conf)
    assert link_names(node.netns) == {"lo", "wan0"}


def test_del_succeeds_when_netns_is_gone(node: Node):
    node.segment("wan0")
    pod = node.pod("pod")
    conf = node.conf("host-device", device="wan0")
    node.add("c1", pod, conf)
    remove_netns(pod)
    node.delete_twice("c1", pod, conf)
    node.delete_twice("c1", "", conf)
    assert node.reserved() == {"last_reserved_ip.0"}


def test_check_finds_each_difference(node: Node):
    node.segment("wan0")
    pod = node.pod("pod")
    conf = node.conf("host-device", device="wan0")
    conf["prevResult"] = node.add("c1", pod, conf).to_json("1.0.0")
    node.call("CHECK", "c1", pod, conf)

    def differs(words: str) -> None:
        with pytest.raises(CNIError, match=words) as info:
            node.call("CHECK", "c1", pod, conf)
        assert info.value.code == CHECK_FAILED

    with Netlink(pod) as inside:
        (address,) = [a for a in inside.addr_list("eth0") if a.scope == 0]
        inside.addr_del("eth0", address.interface)
        differs("address 10.244.1.2/24 is gone from eth0")
        inside.link_set("eth0", mac="02:00:00:00:00:01")
        differs("has MAC address 02:00:00:00:00:01")
        inside.link_del("eth0")
        differs("interface eth0 in .* is gone")
