"""The tap plugin on the real kernel, with a reader that speaks for the virtual machine."""

from __future__ import annotations

import fcntl
import os
import select
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kernel.cni_local import Node
from kernel.net_local import Namespaces, link_names, namespaces
from podling.cni.plugins.main import tap
from podling.cni.types import CHECK_FAILED, INVALID_CONFIG, KERNEL_REFUSED, UNSUPPORTED_FIELD, CNIError
from podling.linux.netlink import Netlink
from podling.linux.netns import remove_netns, run_in_netns
from podling.linux.sysctl import read_sysctl

__all__ = ["namespaces"]

needs_tun = pytest.mark.skipif(
    not os.path.exists(tap.DEVICE), reason=f"there is no {tap.DEVICE} (CONFIG_TUN)"
)
VM_MAC = bytes.fromhex("020000000099")


@pytest.fixture
def node(tmp_path: Path, namespaces: Namespaces) -> Node:
    return Node(tmp_path, namespaces)


@contextmanager
def machine(netns: Path, flags: int = 0) -> Iterator[int]:
    """The device as a virtual machine opens it: a descriptor for frames."""

    def attach() -> int:
        device = os.open(tap.DEVICE, os.O_RDWR)
        try:
            request = struct.pack("16sH22x", b"eth0", tap.IFF_TAP | tap.IFF_NO_PI | flags)
            fcntl.ioctl(device, tap.TUNSETIFF, request)
        except OSError:
            os.close(device)
            raise
        return device

    device = run_in_netns(netns, attach)
    try:
        yield device
    finally:
        os.close(device)


def next_frame(device: int, ethertype: int) -> bytes:
    """The next frame of that type; IPv6's own chatter passes by."""
    while select.select([device], [], [], 2)[0]:
        frame = os.read(device, 2000)
        if frame[12:14] == struct.pack("!H", ethertype):
            return frame
    raise TimeoutError


def arp_reply(request: bytes, address: str) -> bytes:
    sender = request[22:32]  # MAC and IP address of who asks
    return (
        request[6:12]
        + VM_MAC
        + bytes.fromhex("0806 0001 0800 0604 0002")
        + VM_MAC
        + socket.inet_aton(address)
        + sender
    )


@needs_tun
def test_add_makes_a_device_a_machine_can_open_and_del_takes_it_away(node: Node):
    pod = node.pod("pod")
    conf = node.conf("tap", mtu=1400, mac="02:00:00:00:00:42", ipam=node.ipam(routes=[{"dst": "0.0.0.0/0"}]))
    result = node.add("c1", pod, conf)

    (eth0,) = result.interfaces
    assert (eth0.name, eth0.mac, eth0.sandbox) == ("eth0", "02:00:00:00:00:42", str(pod))
    assert result.to_json("1.0.0")["ips"] == [
        {"interface": 0, "address": "10.244.1.2/24", "gateway": "10.244.1.1"}
    ]
    assert node.routes(pod) == {"0.0.0.0/0 via 10.244.1.1", "10.244.1.0/24"}
    assert link_names(node.netns) == {"lo"}
    with Netlink(pod) as nl:
        link = nl.link_get("eth0")
    assert (link.kind, link.mtu, link.mac, link.up, link.carrier) == ("tun", 1400, eth0.mac, True, False)
    assert run_in_netns(pod, read_sysctl, ("net", "ipv4", "conf", "eth0", "arp_notify")) == "1"

    with machine(pod) as device, run_in_netns(pod, socket.socket, type=socket.SOCK_DGRAM) as client:
        client.sendto(b"hello machine", ("10.244.1.9", 4000))
        request = next_frame(device, 0x0806)
        while socket.inet_ntoa(request[38:42]) != "10.244.1.9":  # gratuitous ARP may come first
            request = next_frame(device, 0x0806)
        assert request[6:12].hex(":") == "02:00:00:00:00:42"
        assert socket.inet_ntoa(request[28:32]) == "10.244.1.2"
        os.write(device, arp_reply(request, "10.244.1.9"))
        packet = next_frame(device, 0x0800)
        assert packet[:6] == VM_MAC
        assert packet.endswith(b"hello machine")

    node.delete_twice("c1", pod, conf)
    assert link_names(pod) == {"lo"}
    assert node.reserved() == {"last_reserved_ip.0"}


@needs_tun
def test_dual_stack(node: Node):
    pod = node.pod("pod")
    conf = node.conf("tap", ipam=node.ipam("10.244.1.0/24", "fd00:10:244:1::/64", routes=[{"dst": "::/0"}]))
    node.add("c1", pod, conf)
    assert node.addresses(pod, "eth0") == {"10.244.1.2/24", "fd00:10:244:1::2/64"}
    assert "::/0 via fd00:10:244:1::1" in node.routes(pod)
    with (
        machine(pod) as device,
        run_in_netns(pod, socket.socket, socket.AF_INET6, socket.SOCK_DGRAM) as client,
    ):
        client.sendto(b"hello", ("fd00:10:244:1::9", 4000))
        solicitation = next_frame(device, 0x86DD)
        while solicitation[54] != 135 or solicitation[62:78] != socket.inet_pton(
            socket.AF_INET6, "fd00:10:244:1::9"
        ):
            solicitation = next_frame(device, 0x86DD)
        assert solicitation[22:38] == socket.inet_pton(socket.AF_INET6, "fd00:10:244:1::2")
    node.delete_twice("c1", pod, conf)


@needs_tun
def test_several_queues_an_owner_and_a_group(node: Node):
    one, two = node.pod("one"), node.pod("two")
    node.add("c1", one, node.conf("tap", multiQueue=True, owner=1234, group=4321, ipam={}))
    with machine(one, tap.IFF_MULTI_QUEUE), machine(one, tap.IFF_MULTI_QUEUE):
        pass

    def identity(netns: Path) -> tuple[str, str]:
        # /sys shows the links of the namespace it is mounted in; ethtool-like requests show less than this.
        import subprocess

        script = "mount -t sysfs sys /sys && cat /sys/class/net/eth0/owner /sys/class/net/eth0/group"
        command = ["nsenter", f"--net={netns}", "unshare", "-m", "sh", "-c", script]
        owner, group = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
        return owner, group

    assert identity(one) == ("1234", "4321")
    node.add("c2", two, node.conf("tap", ipam={}))
    assert identity(two) == ("-1", "-1")
    with machine(two), pytest.raises(OSError, match="busy"), machine(two):
        pass


@needs_tun
def test_without_ipam_it_may_be_a_port_of_a_bridge_in_the_container(node: Node):
    pod = node.pod("pod")
    with Netlink(pod) as nl:
        nl.link_add_bridge("br0")
        conf = node.conf("tap", bridge="br0", ipam={}, cniVersion="1.1.0")
        result = node.add("c1", pod, conf)
        assert result.ips == ()
        port = nl.link_get("eth0")
        assert (port.master, port.up) == (nl.link_get("br0").index, True)
    node.call("CHECK", "c1", pod, conf | {"prevResult": result.to_json("1.1.0")})
    node.call("STATUS", "", "", conf)
    node.delete_twice("c1", pod, conf)
    assert link_names(pod) == {"lo", "br0"}


@needs_tun
def test_the_mac_address_can_be_chosen_at_run_time(node: Node):
    conf = node.conf("tap", mac="02:00:00:00:00:01", ipam={})
    runtime = {"runtimeConfig": {"mac": "02:00:00:00:00:03"}}
    first = node.add("c1", node.pod("one"), conf, args="MAC=02:00:00:00:00:02")
    second = node.add("c2", node.pod("two"), conf | runtime, args="MAC=02:00:00:00:00:02")
    assert first.interfaces[0].mac == "02:00:00:00:00:02"
    assert second.interfaces[0].mac == "02:00:00:00:00:03"


@needs_tun
def test_what_is_refused_leaves_nothing(node: Node):
    pod = node.pod("pod")
    unreachable = node.ipam(routes=[{"dst": "10.9.0.0/16", "gw": "192.168.99.1"}])
    for options, code, words in (
        ({"mtu": -1, "mac": "banana"}, INVALID_CONFIG, "invalid mac.*invalid MTU -1"),
        ({"owner": -1, "group": "wheel"}, INVALID_CONFIG, "group: must be a number.*invalid owner -1"),
        ({"bridge": "br9"}, INVALID_CONFIG, "failed to get bridge br9"),
        ({"mtu": 10}, KERNEL_REFUSED, "mtu less than device minimum"),
        ({"mac": "01:00:00:00:00:01"}, KERNEL_REFUSED, "Cannot assign requested address"),
        ({"ipam": unreachable}, KERNEL_REFUSED, "unreachable"),
    ):
        with pytest.raises(CNIError, match=words) as info:
            node.add("c1", pod, node.conf("tap") | options)
        assert info.value.code == code
        assert link_names(pod) == {"lo"}
    assert node.reserved() <= {"last_reserved_ip.0"}
    (ip,) = node.add("c1", pod, node.conf("tap")).ips
    with pytest.raises(CNIError, match='failed to create tap "eth0": it already exists'):
        node.add("c2", pod, node.conf("tap"))
    assert node.reserved() == {str(ip.address.ip), "last_reserved_ip.0"}


def may_take_on(context: str) -> bool:
    def ask_the_kernel() -> None:
        with open("/proc/thread-self/attr/exec", "w") as file:
            file.write(context)

    try:
        run_in_netns(Path("/proc/self/ns/net"), ask_the_kernel)  # on a thread that ends with it
    except OSError:
        return False
    return True


@needs_tun
def test_a_context_is_taken_on_or_refused(node: Node):
    pod = node.pod("pod")
    context = "system_u:system_r:container_t:s0"
    conf = node.conf("tap", selinuxContext=context, owner=1234, group=1234, multiQueue=True)
    if may_take_on(context):
        node.add("c1", pod, conf)
        with machine(pod, tap.IFF_MULTI_QUEUE):
            node.delete_twice("c1", pod, conf)
    else:
        with pytest.raises(CNIError, match=r"cannot take on selinuxContext ") as info:
            node.add("c1", pod, conf)
        assert info.value.code == UNSUPPORTED_FIELD
    assert link_names(pod) == {"lo"}


@needs_tun
def test_check_finds_each_difference_and_del_needs_no_netns(node: Node):
    pod = node.pod("pod")
    conf = node.conf("tap")
    conf["prevResult"] = node.add("c1", pod, conf).to_json("1.0.0")
    node.call("CHECK", "c1", pod, conf)
    with Netlink(pod) as inside:
        (address,) = [a for a in inside.addr_list("eth0") if a.scope == 0]
        inside.addr_del("eth0", address.interface)
        with pytest.raises(CNIError, match=r"address 10\.244\.1\.2/24 is gone") as info:
            node.call("CHECK", "c1", pod, conf)
        assert info.value.code == CHECK_FAILED
        inside.link_del("eth0")
        with pytest.raises(CNIError, match=r"tun eth0 in .* is gone"):
            node.call("CHECK", "c1", pod, conf)
    remove_netns(pod)
    node.delete_twice("c1", pod, conf)
    node.delete_twice("c1", "", conf)
    assert node.reserved() == {"last_reserved_ip.0"}


@needs_tun
def test_as_a_program(node: Node):
    pod = node.pod("pod")
    conf = node.conf("tap", owner=0, group=0, multiQueue=True)
    call = {"plugin": "tap", "CONTAINERID": "c1", "NETNS": str(pod)}
    status, result = node.execute("ADD", conf, **call)
    assert status == 0, result
    assert node.execute("CHECK", conf | {"prevResult": result}, **call) == (0, None)
    for _ in range(2):
        assert node.execute("DEL", conf, **call) == (0, None)
    assert link_names(pod) == {"lo"}
