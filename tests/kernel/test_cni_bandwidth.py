"""bandwidth on the real kernel: queues before and after, and how long real bytes take."""

from __future__ import annotations

import socket
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from kernel.cni_chain_local import Chain
from kernel.cni_local import Node
from kernel.net_local import Namespaces, link_names, namespaces
from podling.cni.plugins.meta.bandwidth import IFB_PREFIX, ifb_name
from podling.cni.types import CHECK_FAILED, INVALID_CONFIG, CNIError, ConfigError
from podling.linux.netlink import Netlink, qdisc
from podling.linux.netns import run_in_netns

__all__ = ["namespaces"]

MBIT = 1_000_000
RATES = {"ingressRate": 16 * MBIT, "ingressBurst": MBIT, "egressRate": 8 * MBIT, "egressBurst": MBIT}


@pytest.fixture
def node(tmp_path: Path, namespaces: Namespaces) -> Node:
    return Node(tmp_path, namespaces)


def chain(node: Node, *, executed: bool = False, **options: Any) -> Chain:
    bridge = node.bridge(isDefaultGateway=True)
    return Chain(node, bridge, {"type": "bandwidth"} | options, executed=executed)


def queues(node: Node, link: str) -> list[qdisc.Qdisc]:
    with Netlink(node.netns) as nl:
        index = nl.link_get(link).index
        found = [qdisc.parse_qdisc(message) for message in nl.dump(qdisc.dump_qdiscs(index))]
        return [one for one in found if one.index == index]


def seconds_for(source: Path, target: Path, address: str, size: int) -> float:
    """How long `size` bytes take over TCP."""
    with run_in_netns(target, socket.socket) as server:
        server.bind((address, 5000))
        server.listen()
        server.settimeout(10)

        def send() -> None:
            with run_in_netns(source, socket.socket) as client:
                client.settimeout(10)
                client.connect((address, 5000))
                client.sendall(bytes(size))

        thread = threading.Thread(target=send)
        thread.start()
        started = time.monotonic()
        left = size
        connection, _ = server.accept()
        with connection:
            while left and (data := connection.recv(65536)):
                left -= len(data)
        spent = time.monotonic() - started
        thread.join()
        assert left == 0
        return spent


@pytest.mark.parametrize("executed", [False, True])
def test_both_directions_are_limited_and_del_leaves_nothing(node: Node, executed: bool):
    pod, other = node.pod("pod"), node.pod("other")
    wired = chain(node, executed=executed, **RATES)
    result = wired.add("c1", pod)
    Chain(node, wired.plugins[0]).add("c2", other)
    host, ifb = result.interfaces[1], result.interfaces[3]
    assert (ifb.name, ifb.sandbox) == (ifb_name("net", "c1"), "")
    assert len(ifb.name) == 15
    assert {q.kind for q in queues(node, host.name)} == {"tbf", "ingress"}
    (bucket,) = [q.bucket for q in queues(node, ifb.name)]
    assert bucket is not None
    assert (bucket.rate, bucket.limit) == (MBIT, MBIT // 40 + MBIT // 8)
    assert 0.6 < seconds_for(pod, other, "10.244.1.3", 875_000) < 1.5  # 7 Mbit: 1 at once, 6 at 8 a second
    assert 0.35 < seconds_for(other, pod, "10.244.1.2", 1_000_000) < 1.2  # 8 Mbit: 1 at once, 7 at 16
    assert seconds_for(node.netns, other, "10.244.1.3", 1_000_000) < 0.3
    wired.check("c1", pod, result)
    for _ in range(2):
        wired.delete("c1", pod, result)
    assert link_names(node.netns) & {ifb.name, host.name} == set()
    assert not any(name.startswith(IFB_PREFIX) for name in link_names(node.netns))


def test_what_the_runtime_asks_for(node: Node):
    pod = node.pod("pod")
    asked = {"ingressRate": 64_000, "ingressBurst": 64_000}
    result = chain(node, runtimeConfig={"bandwidth": asked}).add("c1", pod)
    host = result.interfaces[1].name
    assert [q.bucket.rate for q in queues(node, host) if q.bucket] == [8000]
    assert len(result.interfaces) == 3  # no ifb for a direction that is not limited
    two = node.pod("two")
    both = chain(node, ingressRate=80_000, ingressBurst=80_000, runtimeConfig={"bandwidth": asked})
    host = both.add("c2", two).interfaces[1].name
    assert [q.bucket.rate for q in queues(node, host) if q.bucket] == [10_000]


@pytest.mark.parametrize(("key", "limited"), [("shapedSubnets", True), ("unshapedSubnets", False)])
def test_only_some_peers_are_limited(node: Node, key: str, limited: bool):
    pod, other = node.pod("pod"), node.pod("other")
    wired = chain(node, **RATES, **{key: ["10.244.1.3/32", "fd00::/8"]})
    result = wired.add("c1", pod)
    Chain(node, wired.plugins[0]).add("c2", other)
    wired.check("c1", pod, result)
    slow = 875_000 / MBIT * 0.6
    assert (seconds_for(pod, other, "10.244.1.3", 875_000) > slow) == limited
    assert (seconds_for(pod, node.netns, "10.244.1.1", 875_000) > slow) != limited
    assert (seconds_for(other, pod, "10.244.1.2", 1_000_000) > 0.3) == limited


def test_check_sees_another_rate_and_a_missing_link(node: Node):
    pod = node.pod("pod")
    wired = chain(node, **RATES)
    result = wired.add("c1", pod)
    with pytest.raises(
        CNIError, match=r"Rate doesn't match on veth\w+: it is 2000000, not 3000000"
    ) as caught:
        chain(node, **(RATES | {"ingressRate": 24 * MBIT})).check("c1", pod, result)
    assert caught.value.code == CHECK_FAILED
    with Netlink(node.netns) as nl:
        nl.link_del(result.interfaces[3].name)
    with pytest.raises(CNIError, match=r"ifb link bwp.* is gone"):
        wired.check("c1", pod, result)


def test_gc_takes_what_belongs_to_no_attachment(node: Node):
    one, two = node.pod("one"), node.pod("two")
    wired = chain(node, **RATES)
    wired.add("c1", one)
    wired.add("c2", two)
    conf = wired.plugins[1] | {"cni.dev/valid-attachments": [{"containerID": "c2", "ifname": "eth0"}]}
    node.call("GC", "", "", conf | {"name": "elsewhere"})
    assert ifb_name("net", "c1") in link_names(node.netns)
    node.call("GC", "", "", conf)
    names = link_names(node.netns)
    assert (ifb_name("net", "c1") in names, ifb_name("net", "c2") in names) == (False, True)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"ingressRate": 8}, "ingress: if rate is set, burst must also be set"),
        ({"egressBurst": 8}, "egress: if burst is set, rate must also be set"),
        ({"egressRate": -1, "egressBurst": 1}, "must be a positive integer"),
        ({"egressRate": 8, "egressBurst": 8 << 32}, "burst cannot be more than 4GB"),
        ({"egressRate": "8"}, "egressRate: must be a number"),
        (RATES | {"shapedSubnets": ["x"]}, "bad subnet 'x' provided in shapedSubnets"),
        (RATES | {"shapedSubnets": ["::/0"], "unshapedSubnets": ["::/0"]}, "cannot be both specified"),
    ],
)
def test_mistakes_are_refused(node: Node, options: dict[str, Any], words: str):
    with pytest.raises(ConfigError, match=words) as caught:
        chain(node, **options).add("c1", node.pod("pod"))
    assert caught.value.code == INVALID_CONFIG


def test_an_interface_without_a_veth_is_refused(node: Node):
    pod = node.pod("pod")
    wired = chain(node, **RATES)
    Chain(node, wired.plugins[1])
    previous = {"cniVersion": "1.0.0", "interfaces": [{"name": "eth0", "sandbox": str(pod)}]}
    with pytest.raises(CNIError, match="container interface eth0 has no veth peer"):
        node.add("c1", pod, wired.plugins[1] | {"prevResult": previous})
    with pytest.raises(ConfigError, match="must be called as chained plugin"):
        node.add("c1", pod, wired.plugins[1])
