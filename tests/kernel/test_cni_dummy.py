"""The dummy plugin on a kernel that has dummy links; on one without, the error that says so."""

from __future__ import annotations

from pathlib import Path

import pytest

from kernel.cni_local import Node
from kernel.link_kinds import assert_the_driver_is_asked_for, missing
from kernel.net_local import Namespaces, ask, echo_server, link_names, namespaces
from podling.cni.types import CHECK_FAILED, INVALID_CONFIG, CNIError
from podling.linux.netlink import Netlink
from podling.linux.netns import remove_netns

__all__ = ["namespaces"]

needs_dummy = pytest.mark.skipif(missing("dummy"), reason="the kernel has no dummy links (CONFIG_DUMMY)")


@pytest.fixture
def node(tmp_path: Path, namespaces: Namespaces) -> Node:
    return Node(tmp_path, namespaces)


def test_a_kernel_without_it_is_named(node: Node):
    words = 'kernel has no "dummy" link type: it needs CONFIG_DUMMY (modprobe dummy)'
    assert_the_driver_is_asked_for(node, node.conf("dummy"), words)


def test_it_needs_addresses(node: Node):
    pod = node.pod("pod")
    for command in ("ADD", "CHECK"):
        with pytest.raises(CNIError, match="dummy interface requires an IPAM configuration") as info:
            node.call(command, "c1", pod, node.conf("dummy", ipam={}))
        assert info.value.code == INVALID_CONFIG
    node.delete_twice("c1", pod, node.conf("dummy", ipam={}))
    node.delete_twice("c1", "", node.conf("dummy"))


@needs_dummy
def test_its_addresses_work_in_the_container_and_del_takes_it_away(node: Node):
    pod = node.pod("pod")
    conf = node.conf("dummy", ipam=node.ipam("10.244.1.0/24", "fd00:10:244:1::/64"))
    result = node.add("c1", pod, conf)
    assert [str(ip.address) for ip in result.ips] == ["10.244.1.2/24", "fd00:10:244:1::2/64"]
    assert {ip.interface for ip in result.ips} == {0}
    assert node.addresses(pod, "eth0") == {"10.244.1.2/24", "fd00:10:244:1::2/64"}
    assert link_names(node.netns) == {"lo"}
    with Netlink(pod) as nl:
        link = nl.link_get("eth0")
        assert (link.kind, link.up, link.mac) == ("dummy", True, result.interfaces[0].mac)
        for address in ("10.244.1.2", "fd00:10:244:1::2"):
            with echo_server(pod, address):
                assert ask(pod, address) == address
        checked = conf | {"prevResult": result.to_json("1.0.0")}
        node.call("CHECK", "c1", pod, checked)
        with pytest.raises(CNIError, match='failed to create dummy "eth0": it already exists'):
            node.add("c2", pod, conf)
        nl.link_set("eth0", up=False)
        with pytest.raises(CNIError, match=r"is gone|is down") as info:
            node.call("CHECK", "c1", pod, checked)
        assert info.value.code == CHECK_FAILED
    node.delete_twice("c1", pod, conf)
    assert link_names(pod) == {"lo"}
    assert node.reserved() == {"last_reserved_ip.0", "last_reserved_ip.1"}


@needs_dummy
def test_as_a_program(node: Node):
    pod = node.pod("pod")
    conf = node.conf("dummy")
    call = {"plugin": "dummy", "CONTAINERID": "c1", "NETNS": str(pod)}
    status, result = node.execute("ADD", conf, **call)
    assert status == 0, result
    assert node.execute("CHECK", conf | {"prevResult": result}, **call) == (0, None)
    remove_netns(pod)
    for _ in range(2):
        assert node.execute("DEL", conf, **call) == (0, None)
    assert node.reserved() == {"last_reserved_ip.0"}
