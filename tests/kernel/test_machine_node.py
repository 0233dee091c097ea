"""Node sandboxes and the switch on the real kernel, without a cluster in them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from podling.linux.processes import ProcessRef, end
from podling.machine import node as node_sandbox
from podling.machine import node_cgroup, switch
from podling.machine.config import ClusterConfig, NodeConfig
from podling.machine.paths import NodePaths
from podling.pause.build import pause_path

CONFIG = ClusterConfig(name="kernel-test", index=5, workers=1, egress=False)


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[dict[str, ProcessRef]]:
    """Two nodes on a switch."""
    started: dict[str, ProcessRef] = {}
    switch.make(CONFIG)
    try:
        for node in CONFIG.nodes:
            started[node.name] = start(node, tmp_path)
        yield started
    finally:
        for process in started.values():
            assert end(process, grace_s=0)
            os.waitpid(process.pid, 0)
        switch.remove(CONFIG, ip_forward_was="")
        node_cgroup.remove(CONFIG.name)


def start(node: NodeConfig, root: Path) -> ProcessRef:
    def plug_in(pid: int) -> None:
        switch.plug_in(CONFIG, node, pid)

    return node_sandbox.start_node(node, CONFIG.name, NodePaths(root / node.name), pause_path(), plug_in)


def children() -> list[str]:
    """PIDs of this process's children, zombies included."""
    return Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()


def run(process: ProcessRef, node: str, *argv: str) -> str:
    """Output of a command on the node."""
    reader, writer = os.pipe()
    pid = node_sandbox.fork_into(process.pid, CONFIG.name, node, "exec")
    if pid == 0:
        try:
            os.dup2(writer, 1)
            os.execvp(argv[0], argv)
        finally:
            os._exit(127)
    os.close(writer)
    with os.fdopen(reader) as output:
        text = output.read()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0, text
    return text


def test_a_node_has_namespaces_and_an_address_of_its_own(nodes: dict[str, ProcessRef]) -> None:
    master = nodes["kube-master"]
    for ns in ("net", "mnt", "pid", "uts", "ipc", "cgroup"):
        assert os.readlink(f"/proc/{master.pid}/ns/{ns}") != os.readlink(f"/proc/self/ns/{ns}")
    assert run(master, "kube-master", "hostname").strip() == "kube-master"
    addresses = json.loads(run(master, "kube-master", "ip", "-j", "addr", "show", "eth0"))
    assert addresses[0]["addr_info"][0]["local"] == "10.192.5.2"
    processes = run(master, "kube-master", "ps", "-eo", "pid,args").splitlines()
    assert processes[1].split() == ["1", "/pause"]


def test_nodes_and_the_machine_reach_each_other(nodes: dict[str, ProcessRef]) -> None:
    run(nodes["kube-master"], "kube-master", "ping", "-c", "1", "-W", "2", "10.192.5.3")
    subprocess.run(["ping", "-c", "1", "-W", "2", "10.192.5.2"], check=True, stdout=subprocess.DEVNULL)


def test_what_a_node_writes_the_machine_does_not_see(nodes: dict[str, ProcessRef]) -> None:
    for path in ("/etc/podling-test", "/opt/podling-test", "/var/podling-test", "/run/podling-test"):
        run(nodes["kube-master"], "kube-master", "touch", path)
        run(nodes["kube-master"], "kube-master", "stat", path)
        assert not Path(path).exists()


def test_a_node_sees_its_own_cgroup_as_the_root_and_no_other(nodes: dict[str, ProcessRef]) -> None:
    seen = run(nodes["kube-master"], "kube-master", "cat", "/proc/self/cgroup").splitlines()
    ours = [line for line in seen if not line.startswith("0::")] or seen
    assert all(line.rpartition(":")[2] == "/exec" for line in ours)


def test_an_unreachable_route_keeps_pod_addresses_on_the_machine(nodes: dict[str, ProcessRef]) -> None:
    routes = subprocess.run(["ip", "route"], check=True, capture_output=True, text=True).stdout
    assert "unreachable 10.249.0.0/16" in routes
    assert "unreachable 10.101.0.0/16" in routes


def test_a_node_that_cannot_be_made_says_which_and_leaves_nothing(tmp_path: Path) -> None:
    before = children()

    def plug_in(_: int) -> None:
        raise OSError("no cable")

    node = CONFIG.nodes[0]
    with pytest.raises(OSError, match="no cable"):
        node_sandbox.start_node(node, CONFIG.name, NodePaths(tmp_path / "n"), pause_path(), plug_in)
    node_cgroup.remove(CONFIG.name)
    assert children() == before


def test_killing_pid_1_takes_the_whole_node_along(tmp_path: Path) -> None:
    switch.make(CONFIG)
    try:
        process = start(CONFIG.nodes[0], tmp_path)
        child = node_sandbox.fork_into(process.pid, CONFIG.name, "kube-master", "exec")
        if child == 0:
            os.execvp("sleep", ["sleep", "1000"])
        os.kill(process.pid, signal.SIGKILL)
        # First the child: PID 1 is not gone before its whole namespace has been reaped.
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
        assert os.waitstatus_to_exitcode(os.waitpid(process.pid, 0)[1]) == -signal.SIGKILL
    finally:
        switch.remove(CONFIG, ip_forward_was="")
        node_cgroup.remove(CONFIG.name)
    links = subprocess.run(["ip", "-br", "link"], check=True, capture_output=True, text=True).stdout
    assert "podling5" not in links
    assert not list(Path("/sys/fs/cgroup").glob("*/podling/kernel-test"))
