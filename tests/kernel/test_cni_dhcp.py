"""dhcp against a real server, busybox's udhcpd, on the bridge of a node of its own."""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from kernel.cni_local import Node, eventually
from kernel.net_local import Namespaces, ask, echo_server, link_names, namespaces
from podling.cni.plugins.ipam import dhcp_packet as packet
from podling.cni.plugins.ipam.dhcp_daemon import parse_arguments
from podling.cni.types import (
    CHECK_FAILED,
    INVALID_CONFIG,
    NOT_AVAILABLE,
    TRY_AGAIN_LATER,
    CNIError,
    ConfigError,
)
from podling.linux.netlink import Netlink
from podling.linux.netns import open_netns, remove_netns

__all__ = ["namespaces"]

needs_server = pytest.mark.skipif(
    shutil.which("busybox") is None, reason="no DHCP server to talk to: busybox is not installed"
)

UDHCPD = """\
start 192.168.77.100
end 192.168.77.101
interface {link}
lease_file {directory}/udhcpd.leases
pidfile {directory}/udhcpd.pid
auto_time 1
min_lease 1
option subnet 255.255.255.0
option router 192.168.77.1
option dns 192.168.77.1 9.9.9.9
option domain example.test
option lease {lease_s}
"""


@contextmanager
def running(argv: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("ab") as file:
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=file, stderr=file)
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        process.wait()


class Network:
    """A node whose bridge has a DHCP server, and the daemon as a program."""

    def __init__(self, directory: Path, node: Node) -> None:
        self.directory, self.node = directory, node
        self.socket = directory / "dhcp.sock"
        self.log = directory / "log"

    def conf(self, **ipam: Any) -> dict[str, Any]:
        options = {"type": "dhcp", "daemonSocketPath": str(self.socket)} | ipam
        return self.node.bridge(isGateway=False, hairpinMode=True, ipam=options)

    @contextmanager
    def server(
        self, lease_s: int = 3600, more: str = "", *, netns: Path | None = None, link: str = "cni0"
    ) -> Iterator[subprocess.Popen[bytes]]:
        file = self.directory / "udhcpd.conf"
        file.write_text(UDHCPD.format(directory=self.directory, lease_s=lease_s, link=link) + more)
        (self.directory / "udhcpd.leases").touch()
        argv = ["nsenter", f"--net={netns or self.node.netns}", "busybox", "udhcpd", "-f", str(file)]
        with running(argv, self.log) as process:
            yield process

    @contextmanager
    def daemon(self, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
        self.socket.unlink(missing_ok=True)
        argv = ["nsenter", f"--net={self.node.netns}", str(self.node.bin_dir / "dhcp"), "daemon"]
        with running([*argv, "-socketpath", str(self.socket), *arguments], self.log) as process:
            eventually(self.socket.exists)
            yield process

    def leases(self) -> dict[str, dict[str, Any]]:
        """What the daemon keeps, by key."""
        folder = Path(f"{self.socket}.leases")
        found = [json.loads(path.read_text()) for path in folder.glob("*.json")]
        return {lease["key"]: lease for lease in found}


@pytest.fixture
def network(tmp_path: Path, namespaces: Namespaces) -> Network:
    node = Node(tmp_path, namespaces)
    with Netlink(node.netns) as nl:
        nl.link_add_bridge("cni0")
        nl.addr_add("cni0", ipaddress.ip_interface("192.168.77.1/24"))
    return Network(tmp_path, node)


@needs_server
@pytest.mark.parametrize("executed", [False, True])
def test_the_server_gives_address_routes_and_dns_and_gets_the_lease_back(network: Network, executed: bool):
    node = network.node
    one, two = node.pod("one"), node.pod("two")
    conf = network.conf()
    with network.server(), network.daemon():
        if executed:
            status, answer = node.execute("ADD", conf, CONTAINERID="c1", NETNS=str(one))
            assert status == 0, answer
        else:
            answer = node.add("c1", one, conf).to_json("1.0.0")
        assert answer is not None
        node.add("c2", two, conf)
        (ip,) = answer["ips"]
        assert (ip["gateway"], ip["interface"]) == ("192.168.77.1", 2)
        address = ip["address"].removesuffix("/24")
        assert address.startswith("192.168.77.1")
        assert answer["routes"] == [{"dst": "0.0.0.0/0", "gw": "192.168.77.1"}]
        assert answer["dns"] == {"nameservers": ["192.168.77.1", "9.9.9.9"], "domain": "example.test"}
        assert node.addresses(one, "eth0") == {ip["address"]}
        assert node.routes(one) == {"0.0.0.0/0 via 192.168.77.1", "192.168.77.0/24"}
        (other,) = node.addresses(two, "eth0")
        with echo_server(one, address):
            assert ask(two, address) + "/24" == other
        assert set(network.leases()) == {"c1/net/eth0", "c2/net/eth0"}
        checked = conf | {"prevResult": answer}
        node.call("CHECK", "c1", one, checked)
        with Netlink(one) as nl:
            nl.addr_del("eth0", nl.addr_list("eth0", family=2)[0].interface)
        with pytest.raises(CNIError, match="is gone from eth0") as caught:
            node.call("CHECK", "c1", one, checked)
        assert caught.value.code == CHECK_FAILED
        for _ in range(2):
            node.call("DEL", "c1", one, checked)
        assert link_names(one) == {"lo"}
        assert set(network.leases()) == {"c2/net/eth0"}
        # The server has it back: of its two addresses it gives the third container the first one's.
        (again,) = node.add("c3", one, conf).ips
        assert str(again.address) == ip["address"]
        node.call("DEL", "c3", one, conf)


@needs_server
def test_a_lease_is_renewed_and_the_interface_goes_down_when_it_cannot_be(network: Network):
    pod = network.node.pod("pod")
    with network.daemon("-timeout", "5s"):  # udhcpd takes two before it offers: it looks for another user
        with network.server(lease_s=4):
            network.node.add("c1", pod, network.conf())
            first = network.leases()["c1/net/eth0"]["obtained"]
            eventually(lambda: network.leases()["c1/net/eth0"]["obtained"] > first + 3)
            with Netlink(pod) as nl:
                assert nl.link_get("eth0").up

        def down() -> bool:
            with Netlink(pod) as nl:
                return not nl.link_get("eth0").up

        eventually(down)
        eventually(lambda: network.leases() == {})
        with pytest.raises(CNIError, match="no lease of c1/net/eth0 is known"):
            network.node.call("CHECK", "c1", pod, network.conf())
        network.node.call("DEL", "c1", pod, network.conf())


@needs_server
def test_a_killed_daemon_is_succeeded_by_one_that_renews_on(network: Network):
    pod, conf = network.node.pod("pod"), network.conf()
    with network.server(lease_s=6):
        with network.daemon() as process:
            result = network.node.add("c1", pod, conf)
            first = network.leases()["c1/net/eth0"]["obtained"]
            process.send_signal(signal.SIGKILL)
        with network.daemon():
            network.node.call("CHECK", "c1", pod, conf | {"prevResult": result.to_json("1.0.0")})
            eventually(lambda: network.leases()["c1/net/eth0"]["obtained"] > first + 2)
            network.node.call("DEL", "c1", pod, conf)
            assert network.leases() == {}


@needs_server
def test_a_container_that_ends_without_del_and_gc(network: Network):
    one, two, conf = network.node.pod("one"), network.node.pod("two"), network.conf()
    with network.server(lease_s=4), network.daemon():
        network.node.add("c1", one, conf)
        remove_netns(one)
        eventually(lambda: network.leases() == {})
        network.node.call("DEL", "c1", "", conf)
        network.node.add("c2", two, conf)
        valid = [{"containerID": "c2", "ifname": "eth0"}]
        network.node.call("GC", "", "", conf | {"cni.dev/valid-attachments": valid})
        assert set(network.leases()) == {"c2/net/eth0"}
        network.node.call("GC", "", "", conf | {"cni.dev/valid-attachments": []})
        assert network.leases() == {}


@needs_server
def test_a_macvlan_link_on_the_servers_network(network: Network, namespaces: Namespaces):
    """The usual pair: the container is a host of the node's own network."""
    pod, far, node = network.node.pod("pod"), namespaces.make("far"), network.node
    fd = open_netns(far)
    with Netlink(node.netns) as nl, Netlink(far) as there:
        nl.link_add_veth("uplink", "eth0", peer_netns_fd=fd, up=True)
        there.link_set("eth0", up=True)
        there.addr_add("eth0", ipaddress.ip_interface("192.168.77.1/24"))
    os.close(fd)
    ipam = {"type": "dhcp", "daemonSocketPath": str(network.socket)}
    conf = {"cniVersion": "1.0.0", "name": "net", "type": "macvlan", "master": "uplink", "ipam": ipam}
    with network.server(netns=far, link="eth0"), network.daemon():
        result = node.add("c1", pod, conf)
        assert {str(ip.address) for ip in result.ips} == node.addresses(pod, "eth0")
        with echo_server(far, "192.168.77.1"):
            assert ask(pod, "192.168.77.1") == str(result.ips[0].address.ip)
        for _ in range(2):
            node.call("DEL", "c1", pod, conf)
        assert network.leases() == {}
        assert link_names(pod) == {"lo"}


def test_without_the_daemon_it_says_what_to_start(network: Network):
    pod, conf = network.node.pod("pod"), network.conf()
    for command in ("ADD", "STATUS"):
        with pytest.raises(CNIError, match=r"error dialing DHCP daemon: .*No such file") as caught:
            network.node.call(command, "c1", pod, conf)
        assert (caught.value.code, caught.value.details) == (NOT_AVAILABLE, "start it with: dhcp daemon")
    assert link_names(pod) == {"lo"}
    for _ in range(2):
        network.node.call("DEL", "c1", pod, conf)


def test_without_a_server_it_gives_up_and_leaves_nothing(network: Network):
    pod, conf = network.node.pod("pod"), network.conf()
    with network.daemon("-timeout=1s"):
        network.node.call("STATUS", "", "", conf)
        with pytest.raises(CNIError, match="no DHCP server answers on eth0 in 1 s") as caught:
            network.node.add("c1", pod, conf)
        assert caught.value.code == TRY_AGAIN_LATER
        assert link_names(pod) == {"lo"}
        assert network.leases() == {}


@needs_server
def test_what_is_told_and_asked(network: Network):
    pod = network.node.pod("pod")
    conf = network.conf(
        priority=77,
        request=[{"skipDefault": True}, {"option": "subnet-mask"}, {"option": "121"}, {"option": "routers"}],
        provide=[{"option": "host-name", "value": "x"}, {"option": "12", "fromArg": "K8S_POD_NAME"}],
    )
    more = "option staticroutes 10.9.0.0/16 192.168.77.9, 10.8.8.0/24 0.0.0.0\n"
    with network.server(more=more), network.daemon("-broadcast"):
        result = network.node.add("c1", pod, conf, args="K8S_POD_NAME=web-0")
        sent = network.leases()["c1/net/eth0"]["options"]
        assert bytes.fromhex(sent["12"]) == b"web-0"
        assert bytes.fromhex(sent["61"]) == b"\0c1/net/eth0"
        assert bytes.fromhex(sent["55"]) == bytes((1, 121, 3))
        assert [str(route.dst) for route in result.routes] == ["10.9.0.0/16", "10.8.8.0/24"]
        assert {route.priority for route in result.routes} == {77}
        assert network.node.routes(pod) >= {"10.9.0.0/16 via 192.168.77.9", "10.8.8.0/24"}
        network.node.call("DEL", "c1", pod, conf)


@pytest.mark.parametrize(
    ("ipam", "words"),
    [
        ({"request": [{"option": "banana"}]}, "cannot parse option 'banana'"),
        ({"provide": [{"option": "300", "value": "x"}]}, "cannot parse option '300'"),
        ({"provide": ["x"]}, "cannot parse option None"),
        ({"daemonSocketPath": 5}, "daemonSocketPath: must be a string"),
    ],
)
def test_mistakes_are_refused(network: Network, ipam: dict[str, Any], words: str):
    with pytest.raises(ConfigError, match=words) as caught:
        network.node.add("c1", network.node.pod("pod"), network.conf(**ipam))
    assert caught.value.code == INVALID_CONFIG


def test_rubbish_on_the_socket_is_answered(network: Network):
    with network.daemon():
        dance, half = b'{"method": "dance", "key": "x"}', b'{"method": "allocate", "key": "x"}'
        for rubbish in (b"", b"{", b"[]", dance, half):
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(str(network.socket))
                client.sendall(rubbish)
                client.shutdown(socket.SHUT_WR)
                assert "error" in json.loads(client.recv(1000))
        network.node.call("STATUS", "", "", network.conf())


def test_arguments_of_the_daemon(network: Network):
    conf = parse_arguments(["-socketpath", "/s", "--timeout=500ms", "-resendmax", "1m", "-broadcast"])
    assert (conf.socket_path, conf.settings.timeout_s, conf.settings.resend_max_s) == ("/s", 0.5, 60.0)
    assert conf.settings.broadcast
    for wrong, words in (
        (["-x"], "unknown argument '-x'"),
        (["-timeout"], "-timeout needs a value"),
        (["-timeout", "10"], "'10' is no duration"),
    ):
        with pytest.raises(ValueError, match=words):
            parse_arguments(wrong)
    done = subprocess.run(
        [network.node.bin_dir / "dhcp", "daemon", "-x"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (2, "dhcp: unknown argument '-x'\n")


def test_messages_survive_a_round_trip_and_rubbish_does_not():
    options = {packet.CLIENT_ID: b"x" * 300, packet.HOST_NAME: b"web"}
    sent = packet.encode(packet.DHCPMessage(kind=packet.DISCOVER, xid=7, mac=b"\2" * 6, options=options))
    assert len(sent) >= packet.SIZE_MIN
    assert packet.decode(sent) is None  # a request, not a reply
    answer = packet.decode(bytes((packet.BOOTREPLY,)) + sent[1:])
    assert answer is not None
    assert (answer.kind, answer.xid, answer.options) == (packet.DISCOVER, 7, options)
    for size in range(0, len(sent), 7):
        packet.decode(bytes((packet.BOOTREPLY,)) + sent[1:size])
        packet.unwrap(sent[:size])
    assert packet.routes({packet.CLASSLESS_ROUTES: bytes((24, 10))}) == ()
