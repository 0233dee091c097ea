"""The library with chains of our own and of foreign plugins, which here are shell scripts."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from kernel.cni_local import Node, eventually
from kernel.net_local import Namespaces, ask, echo_server, link_names, namespaces
from podling.cni.library import CNI, NetworkStatus, NoNetworkError
from podling.cni.types import (
    DECODING_FAILURE,
    INVALID_CONFIG,
    PLUGIN_FAILED,
    PLUGIN_TIMEOUT,
    TRY_AGAIN_LATER,
    CNIError,
    Result,
)
from podling.linux.netlink import Netlink
from podling.linux.netns import remove_netns, run_in_netns
from podling.linux.record import replace

__all__ = ["namespaces"]

Work: TypeAlias = Callable[[CNI], Coroutine[Any, Any, Any]]


@pytest.fixture
def node(tmp_path: Path, namespaces: Namespaces) -> Node:
    return Node(tmp_path, namespaces)


def on_node(node: Node, work: Work, *, timeout_s: float = 20) -> Any:
    """Run `work` with a library whose every thread is on the node, as in an agent."""

    async def main() -> Any:
        cni = CNI(node.conf_dir, [node.bin_dir], node.results, timeout_s=timeout_s)
        return await work(cni)

    return run_in_netns(node.netns, asyncio.run, main())


def script(node: Node, name: str, body: str) -> None:
    """A foreign plugin that notes its calls in `NAME.log` as `COMMAND has-prevResult`."""
    path = node.bin_dir / name
    log = node.bin_dir / "calls.log"
    path.write_text(
        f"""#!/bin/sh
stdin=$(cat)
echo "{name} $CNI_COMMAND $(echo "$stdin" | grep -c prevResult)" >> {log}
echo "$stdin" > {node.bin_dir}/{name}.$CNI_COMMAND.json
env | grep ^CNI_ | sort > {node.bin_dir}/{name}.$CNI_COMMAND.env
{body}
"""
    )
    path.chmod(0o755)


def calls(node: Node) -> list[str]:
    log = node.bin_dir / "calls.log"
    return log.read_text().splitlines() if log.exists() else []


RESULT = '{"cniVersion": "1.0.0", "ips": [{"address": "10.9.9.9/24"}]}'
GOOD = f"[ $CNI_COMMAND = ADD ] && echo '{RESULT}'; exit 0"


def chain(node: Node, *kinds: str, **more: Any) -> None:
    plugins = [node.bridge(isDefaultGateway=True) if kind == "bridge" else {"type": kind} for kind in kinds]
    node.write("10.conflist", {"cniVersion": "1.0.0", "name": "net", "plugins": plugins} | more)


def test_a_pod_from_nothing_to_traffic_to_nothing(node: Node):
    one, two = node.pod("one"), node.pod("two")
    chain(node, "bridge")

    async def work(cni: CNI) -> None:
        network = await cni.load()
        assert network is not None
        assert network.name == "net"
        assert await cni.status() == NetworkStatus(ready=True)
        first = await cni.add("c1", one, args={"K8S_POD_NAME": "one"})
        second, _ = await asyncio.gather(cni.add("c2", two), asyncio.sleep(0))
        assert [str(a) for a in first.addresses_of("eth0")] == ["10.244.1.2/24"]
        assert cni.cached("c2") == replace(
            second, interfaces=tuple(replace(i, mtu=0) for i in second.interfaces)
        )
        assert {entry.container_id for entry in cni.attachments()} == {"c1", "c2"}
        await cni.check("c1", one)
        with echo_server(two, "10.244.1.3"):
            assert await asyncio.to_thread(ask, one, "10.244.1.3") == "10.244.1.2"
        for _ in range(2):
            await cni.delete("c1", one)
            await cni.delete("c2", two)
        assert cni.attachments() == []

    on_node(node, work)
    assert link_names(node.netns) == {"lo", "cni0"}
    assert link_names(one) == link_names(two) == {"lo"}
    assert node.reserved() == {"last_reserved_ip.0"}
    assert list(node.results.iterdir()) == []


def test_load_makes_the_bridge_with_its_address(node: Node):
    chain(node, "bridge")
    on_node(node, lambda cni: cni.load())
    assert node.addresses(node.netns, "cni0") == {"10.244.1.1/24"}


def test_lo_is_up_in_a_namespace_somebody_else_made(node: Node):
    pod = node.pod("pod")
    with Netlink(pod) as nl:
        nl.link_set("lo", up=False)
    chain(node, "bridge")
    on_node(node, lambda cni: cni.add("c1", pod))
    with Netlink(pod) as nl:
        assert nl.link_get("lo").up


def test_a_chain_passes_results_on_and_del_runs_it_backwards(node: Node):
    pod = node.pod("pod")
    script(node, "first", GOOD)
    script(node, "second", GOOD)
    chain(node, "bridge", "first", "second")

    async def work(cni: CNI) -> Result:
        result = await cni.add("c1", pod)
        await cni.delete("c1", pod)
        return result

    result = on_node(node, work)
    assert [str(ip.address) for ip in result.ips] == ["10.9.9.9/24"]  # the last plugin's word
    assert calls(node) == ["first ADD 1", "second ADD 1", "second DEL 1", "first DEL 1"]
    seen = json.loads((node.bin_dir / "first.ADD.json").read_text())
    assert seen["prevResult"]["ips"][0]["address"] == "10.244.1.2/24"
    last = json.loads((node.bin_dir / "first.DEL.json").read_text())
    assert last["prevResult"]["ips"][0]["address"] == "10.9.9.9/24"
    assert link_names(pod) == {"lo"}


def test_arguments_and_capabilities_reach_plugins_that_ask(node: Node):
    pod = node.pod("pod")
    script(node, "first", GOOD)
    plugin = {"type": "first", "capabilities": {"portMappings": True}}
    node.write("10.conflist", {"cniVersion": "1.0.0", "name": "net", "plugins": [plugin]})
    ports = {"portMappings": [{"hostPort": 8080, "containerPort": 80}], "bandwidth": {}}

    async def work(cni: CNI) -> None:
        await cni.add("c1", pod, args={"IgnoreUnknown": "1", "K8S_POD_NAME": "x"}, capability_args=ports)
        await cni.delete("c1", pod)

    on_node(node, work)
    environment = (node.bin_dir / "first.ADD.env").read_text().splitlines()
    assert environment == [
        "CNI_ARGS=IgnoreUnknown=1;K8S_POD_NAME=x",
        "CNI_COMMAND=ADD",
        "CNI_CONTAINERID=c1",
        "CNI_IFNAME=eth0",
        f"CNI_NETNS={pod}",
        f"CNI_PATH={node.bin_dir}",
    ]
    for command in ("ADD", "DEL"):  # DEL has them from the cache
        seen = json.loads((node.bin_dir / f"first.{command}.json").read_text())
        assert seen["runtimeConfig"] == {"portMappings": ports["portMappings"]}
        assert "capabilities" not in seen


@pytest.mark.parametrize(
    ("body", "code", "words"),
    [
        (
            """echo '{"cniVersion":"1.0.0","code":11,"msg":"busy","details":"later"}'; exit 1""",
            TRY_AGAIN_LATER,
            "busy; later",
        ),
        ("echo oops >&2; exit 3", PLUGIN_FAILED, "ended with status 3 and printed no error; stderr: oops"),
        ("kill -9 $$", PLUGIN_FAILED, "was killed by signal 9"),
        ("echo hello; echo noise >&2", DECODING_FAILURE, "answered no JSON"),
        ("echo '{'; exit 1", DECODING_FAILURE, "answered no JSON"),
        ("exit 0", PLUGIN_FAILED, "ended well but printed no result"),
        ("""echo '{"cniVersion":"1.0.0","ips":[{"address":"x"}]}'""", DECODING_FAILURE, "invalid result"),
    ],
)
def test_a_failing_add_is_undone_and_its_error_told(node: Node, body: str, code: int, words: str):
    pod = node.pod("pod")
    script(node, "bad", f"[ $CNI_COMMAND = DEL ] && exit 0; {body}")
    chain(node, "bridge", "bad")
    with pytest.raises(CNIError) as info:
        on_node(node, lambda cni: cni.add("c1", pod))
    assert info.value.code == code
    assert words in str(info.value)
    assert calls(node) == ["bad ADD 1", "bad DEL 0"]
    assert link_names(pod) == {"lo"}
    assert link_names(node.netns) == {"lo", "cni0"}
    assert node.reserved() == {"last_reserved_ip.0"}
    assert not node.results.exists()


def test_a_plugin_that_hangs_is_killed_with_its_children(node: Node):
    pod = node.pod("pod")
    pid_file = node.bin_dir / "pid"
    script(node, "bad", f"[ $CNI_COMMAND = DEL ] && exit 0; sleep 60 & echo $! > {pid_file}; wait")
    chain(node, "bridge", "bad")
    with pytest.raises(CNIError, match=r'type="bad" name="net" ADD: no answer in 2 s') as info:
        on_node(node, lambda cni: cni.add("c1", pod), timeout_s=2)
    assert info.value.code == PLUGIN_TIMEOUT
    assert not running(int(pid_file.read_text()))
    assert link_names(pod) == {"lo"}


def running(pid: int) -> bool:
    """Whether the process is there and no zombie that its new parent has not buried yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in ("Z", "X")
    except FileNotFoundError:
        return False


def test_a_cancelled_add_is_undone(node: Node):
    pod = node.pod("pod")
    script(node, "slow", f"[ $CNI_COMMAND = DEL ] && exit 0; touch {node.bin_dir}/begun; sleep 60")
    chain(node, "bridge", "slow")

    async def work(cni: CNI) -> None:
        task = asyncio.create_task(cni.add("c1", pod))
        await asyncio.to_thread(eventually, (node.bin_dir / "begun").exists)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    on_node(node, work)
    assert calls(node) == ["slow ADD 1", "slow DEL 0"]
    assert link_names(pod) == {"lo"}
    assert node.reserved() == {"last_reserved_ip.0"}


def test_an_add_of_our_own_plugins_is_undone_wherever_it_is_cancelled(node: Node):
    """The thread cannot be stopped: it is waited for, and only then undone."""
    pod = node.pod("pod")
    chain(node, "bridge")

    async def work(cni: CNI) -> None:
        for after_s in (0, 0.001, 0.002, 0.003, 0.004, 0.005):
            task = asyncio.create_task(cni.add("c1", pod))
            await asyncio.sleep(after_s)
            if task.cancel():
                task.cancel()  # impatience changes nothing
            with contextlib.suppress(asyncio.CancelledError):
                await task
                await cni.delete("c1", pod)
            assert link_names(pod) == {"lo"}
            assert cni.attachments() == []

    on_node(node, work)
    assert node.reserved() <= {"last_reserved_ip.0"}
    assert link_names(node.netns) <= {"lo", "cni0"}


def test_del_goes_on_past_a_failing_plugin_and_can_be_repeated(node: Node):
    pod = node.pod("pod")
    script(node, "bad", f"[ $CNI_COMMAND = DEL ] && exit 1; {GOOD}")
    chain(node, "bridge", "bad")

    async def work(cni: CNI) -> None:
        await cni.add("c1", pod)
        with pytest.raises(CNIError, match='type="bad"'):
            await cni.delete("c1", pod)
        assert len(cni.attachments()) == 1  # so that it is tried again
        script(node, "bad", GOOD)
        await cni.delete("c1", pod)
        assert cni.attachments() == []

    on_node(node, work)
    assert link_names(pod) == {"lo"}
    assert node.reserved() == {"last_reserved_ip.0"}


def test_del_uses_the_configuration_of_add_and_needs_no_namespace(node: Node):
    pod = node.pod("pod")
    chain(node, "bridge")
    on_node(node, lambda cni: cni.add("c1", pod))
    (node.conf_dir / "10.conflist").unlink()
    remove_netns(pod)
    on_node(node, lambda cni: cni.delete("c1", pod))
    assert node.reserved() == {"last_reserved_ip.0"}
    assert link_names(node.netns) == {"lo", "cni0"}


def test_del_of_an_add_that_was_killed_half_way_cleans_up(node: Node):
    """No cached result: the present configuration has to do."""
    pod = node.pod("pod")
    chain(node, "bridge")
    on_node(node, lambda cni: cni.add("c1", pod))
    for path in node.results.iterdir():
        path.unlink()
    for _ in range(2):
        on_node(node, lambda cni: cni.delete("c1", pod))
    assert link_names(pod) == {"lo"}
    assert node.reserved() == {"last_reserved_ip.0"}


def test_without_configuration_it_says_so_until_there_is_one(node: Node):
    pod = node.pod("pod")

    async def work(cni: CNI) -> None:
        assert await cni.load() is None
        await cni.delete("c1", pod)  # nothing was ever attached
        status = await cni.status()
        assert (status.ready, status.reason) == (False, "NetworkPluginNotReady")
        assert "cni plugin not initialized" in status.message
        with pytest.raises(NoNetworkError, match=r"put a \.conflist"):
            await cni.add("c1", pod)
        node.write("10-bad.conf", {"cniVersion": "1.0.0"})
        with pytest.raises(NoNetworkError, match=r"10-bad\.conf: .*missing"):
            await cni.add("c1", pod)
        node.write("20-good.conf", node.bridge())
        assert (await cni.status()).ready
        await cni.add("c1", pod)

    on_node(node, work)


def test_a_changed_file_is_noticed(node: Node):
    async def work(cni: CNI) -> None:
        node.write("10.conf", node.bridge(name="one"))
        first = cni.network()
        assert cni.network() is first  # not read twice
        node.write("10.conf", node.bridge(name="another"))
        second = cni.network()
        assert first is not None
        assert second is not None
        assert (first.name, second.name) == ("one", "another")

    on_node(node, work)


def test_a_changed_plugin_in_the_networks_folder_is_noticed(node: Node):
    chain(node, "bridge")

    async def work(cni: CNI) -> None:
        def kinds() -> list[str]:
            network = cni.network()
            assert network is not None
            return [plugin.type for plugin in network.plugins]

        assert kinds() == ["bridge"]
        (node.conf_dir / "net").mkdir()
        node.write("net/50-tuning.conf", {"type": "tuning"})
        assert kinds() == ["bridge", "tuning"]
        (node.conf_dir / "net" / "50-tuning.conf").unlink()
        assert kinds() == ["bridge"]

    on_node(node, work)


def test_gc_deletes_what_is_not_valid_and_tells_the_plugins_the_rest(node: Node):
    one, two = node.pod("one"), node.pod("two")
    script(node, "third", GOOD)
    chain(node, "bridge", "third", cniVersion="1.1.0")

    async def work(cni: CNI) -> None:
        await cni.add("c1", one)
        await cni.add("c2", two)
        # What an ADD left that was killed before the cache knew of it; and a file half written.
        lost = node.networks / "net" / "10.244.1.77"
        lost.write_text("c77\r\neth0")
        (node.results / ".net-c77-eth0.draft").touch()
        await cni.gc([("c1", "eth0")])
        assert {entry.container_id for entry in cni.attachments()} == {"c1"}

    on_node(node, work)
    assert link_names(one) == {"lo", "eth0"}
    assert link_names(two) == {"lo"}
    assert node.reserved() == {"10.244.1.2", "last_reserved_ip.0"}
    assert [path.name for path in node.results.iterdir()] == ["net-c1-eth0"]
    assert calls(node)[-2:] == ["third DEL 1", "third GC 0"]
    told = json.loads((node.bin_dir / "third.GC.json").read_text())
    assert told["cni.dev/valid-attachments"] == [{"containerID": "c1", "ifname": "eth0"}]


def test_gc_goes_on_past_a_plugin_that_fails(node: Node):
    script(node, "bad", f"[ $CNI_COMMAND = GC ] && exit 1; {GOOD}")
    script(node, "good", GOOD)
    chain(node, "bad", "good", cniVersion="1.1.0")
    with pytest.raises(CNIError, match='type="bad" name="net" GC: ended with status 1'):
        on_node(node, lambda cni: cni.gc([]))
    assert calls(node) == ["bad GC 0", "good GC 0"]


@pytest.mark.parametrize("more", [{"cniVersion": "1.1.0", "disableGC": True}, {"cniVersion": "1.0.0"}])
def test_gc_is_not_called_where_it_is_not_wanted_or_not_known(node: Node, more: dict[str, Any]):
    script(node, "good", GOOD)
    chain(node, "good", **more)

    async def work(cni: CNI) -> None:
        await cni.add("c1", node.pod("one"))
        await cni.gc([])
        # The cached attachment goes by DEL, which every version has; unless nothing is to be collected.
        assert len(cni.attachments()) == int("disableGC" in more)

    on_node(node, work)
    assert not any("GC" in call for call in calls(node))


def test_before_0_4_there_is_no_check_and_del_gets_no_result(node: Node):
    script(node, "old", GOOD.replace("1.0.0", "0.3.1"))
    chain(node, "old", cniVersion="0.3.1")

    async def work(cni: CNI) -> None:
        pod = node.pod("pod")
        await cni.add("c1", pod)
        await cni.check("c1", pod)
        await cni.delete("c1", pod)

    on_node(node, work)
    assert calls(node) == ["old ADD 0", "old DEL 0"]


def test_a_plugin_of_the_first_versions_works_in_a_chain_with_ours(node: Node):
    """Its result has other keys; the next plugin gets it in the form that the version asks for."""
    old = '{"ip4": {"ip": "10.9.9.9/24", "gateway": "10.9.9.1"}, "dns": {}}'
    script(node, "old", f"[ $CNI_COMMAND = ADD ] && echo '{old}'; exit 0")
    node.write(
        "10.conflist",
        {"cniVersion": "0.2.0", "name": "net", "plugins": [{"type": "old"}, {"type": "tuning", "mtu": 1400}]},
    )
    pod = node.pod("pod")
    with Netlink(pod) as nl:
        nl.link_add_bridge("eth0")
    result = on_node(node, lambda cni: cni.add("c1", pod))
    assert [str(ip.address) for ip in result.ips] == ["10.9.9.9/24"]
    with Netlink(pod) as nl:
        assert nl.link_get("eth0").mtu == 1400


def test_status_names_a_missing_plugin(node: Node):
    chain(node, "bridge", "nope")
    status = on_node(node, lambda cni: cni.status())
    assert not status.ready
    assert 'failed to find plugin "nope" in path' in status.message


def test_status_asks_plugins_from_1_1_on(node: Node):
    script(
        node, "first", """[ $CNI_COMMAND = STATUS ] && echo '{"code": 50, "msg": "no uplink"}' && exit 1"""
    )
    chain(node, "first")
    assert on_node(node, lambda cni: cni.status()).ready
    chain(node, "first", cniVersion="1.1.0")
    status = on_node(node, lambda cni: cni.status())
    assert not status.ready
    assert "no uplink" in status.message


def test_what_cannot_be_a_container_is_refused(node: Node):
    chain(node, "bridge")
    pod = node.pod("pod")
    with pytest.raises(CNIError, match="CNI_CONTAINERID"):
        on_node(node, lambda cni: cni.add("../c1", pod))
    with pytest.raises(CNIError, match="CNI_CONTAINERID"):
        on_node(node, lambda cni: cni.delete("../c1", pod))
    with pytest.raises(CNIError, match="CNI_IFNAME"):
        on_node(node, lambda cni: cni.add("c1", pod, "../eth0"))
    with pytest.raises(CNIError, match="no cached result") as info:
        on_node(node, lambda cni: cni.check("c1", "/none"))
    assert info.value.code == INVALID_CONFIG


def test_our_plugins_are_called_in_process_and_a_replaced_one_is_executed(node: Node):
    pod = node.pod("pod")
    chain(node, "bridge")
    pids: set[str] = set()
    stop = threading.Event()

    def children() -> set[str]:
        return set(Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split())

    before = children()  # of tests that ran here earlier

    def count_children() -> None:
        while not stop.is_set():
            pids.update(children())

    counter = threading.Thread(target=count_children)
    counter.start()
    on_node(node, lambda cni: cni.add("c1", pod))
    stop.set()
    counter.join()
    assert pids <= before
    script(node, "bridge", GOOD)
    result = on_node(node, lambda cni: cni.add("c2", node.pod("two")))
    assert [str(ip.address) for ip in result.ips] == ["10.9.9.9/24"]
    assert calls(node) == ["bridge ADD 0"]
