"""Our plugins as programs, called as any runtime calls them; and beside the reference plugins."""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from kernel.cni_local import Node
from kernel.net_local import Namespaces, link_names, namespaces
from podling.cni.install import SHEBANG_MAX, script
from podling.cni.plugins.main.masquerade import FAMILY, TABLE
from podling.linux import nft
from podling.linux.netlink import Netlink
from podling.linux.netns import run_in_netns

__all__ = ["namespaces"]

REFERENCE = Path("/usr/lib/cni")  # Debian's containernetworking-plugins
needs_reference = pytest.mark.skipif(
    not (REFERENCE / "host-local").exists(), reason="the package containernetworking-plugins is not installed"
)


@pytest.fixture
def node(tmp_path: Path, namespaces: Namespaces) -> Node:
    return Node(tmp_path, namespaces)


def test_bridge_as_a_program(node: Node):
    pod = node.pod("pod")
    conf = node.bridge(isDefaultGateway=True, ipMasq=True, cniVersion="0.4.0")
    status, result = node.execute("ADD", conf, CONTAINERID="c1", NETNS=str(pod))
    assert status == 0
    assert result is not None
    assert result["cniVersion"] == "0.4.0"
    assert result["ips"] == [
        {"version": "4", "interface": 2, "address": "10.244.1.2/24", "gateway": "10.244.1.1"}
    ]
    assert [interface["name"] for interface in result["interfaces"]][::2] == ["cni0", "eth0"]
    checked = conf | {"prevResult": result}
    assert node.execute("CHECK", checked, CONTAINERID="c1", NETNS=str(pod)) == (0, None)
    for _ in range(2):
        assert node.execute("DEL", checked, CONTAINERID="c1", NETNS=str(pod)) == (0, None)
    assert link_names(pod) == {"lo"}
    assert node.reserved() == {"last_reserved_ip.0"}
    assert "c1" not in run_in_netns(node.netns, nft.list_table, FAMILY, TABLE)


def test_version_and_status(node: Node):
    for plugin in ("bridge", "host-local", "loopback"):
        status, reply = node.execute("VERSION", '{"cniVersion": "1.0.0"}', plugin=plugin)
        assert status == 0
        assert reply == {
            "cniVersion": "1.0.0",
            "supportedVersions": ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"],
        }
    assert node.execute("STATUS", node.bridge(cniVersion="1.1.0")) == (0, None)


def test_loopback_brings_lo_up_and_down(node: Node):
    pod = node.pod("pod")
    with Netlink(pod) as nl:
        nl.link_set("lo", up=False)
    conf = {"cniVersion": "1.0.0", "name": "lo", "type": "loopback"}
    call: dict[str, Any] = {"plugin": "loopback", "CONTAINERID": "c1", "NETNS": str(pod), "IFNAME": "lo"}
    status, result = node.execute("ADD", conf, **call)
    assert status == 0
    assert result is not None
    assert {"interface": 0, "address": "127.0.0.1/8"} in result["ips"]
    with Netlink(pod) as nl:
        assert nl.link_get("lo").up
    for _ in range(2):
        assert node.execute("DEL", conf, **call) == (0, None)


@pytest.mark.parametrize(
    ("command", "conf", "environment", "code", "words"),
    [
        ("ADD", "{", {}, 6, "error unmarshalling network config"),
        ("ADD", "[]", {}, 6, "must be a JSON object"),
        ("ADD", "{}", {}, 7, "invalid network name: ''"),
        ("ADD", '{"cniVersion": "2.0.0", "name": "x"}', {}, 1, "incompatible CNI versions"),
        ("CHECK", '{"cniVersion": "0.3.1", "name": "x"}', {}, 1, "does not allow CHECK"),
        ("GC", '{"cniVersion": "1.0.0", "name": "x"}', {}, 1, "does not allow GC"),
        ("STATUS", '{"cniVersion": "1.0.0", "name": "x"}', {}, 1, "does not allow STATUS"),
        ("ADD", '{"cniVersion": "1.0.0", "name": "../x"}', {}, 7, "invalid network name: '../x'"),
        (
            "ADD",
            '{"cniVersion": "1.0.0", "name": "x"}',
            {"CONTAINERID": "../c"},
            4,
            "invalid CNI_CONTAINERID",
        ),
        ("ADD", '{"cniVersion": "1.0.0", "name": "x"}', {"IFNAME": "../e"}, 4, "not a valid interface name"),
        ("ADD", '{"cniVersion": "1.0.0", "name": "x"}', {"IFNAME": "e" * 16}, 4, "longer than 15 bytes"),
        ("ADD", '{"cniVersion": "1.0.0", "name": "x"}', {"NETNS": ""}, 4, "[CNI_NETNS] missing"),
        ("ADD", '{"cniVersion": "1.0.0", "name": "x"}', {"CONTAINERID": ""}, 4, "[CNI_CONTAINERID] missing"),
        ("ADD", '{"cniVersion": "1.0.0", "name": "x"}', {"NETNS": "/none"}, 3, "failed to open netns"),
        ("ADD", '{"cniVersion": "1.0.0", "name": "x", "vlan": -1}', {}, 7, "invalid VLAN ID -1"),
        ("DANCE", '{"cniVersion": "1.0.0", "name": "x"}', {}, 4, "unknown CNI_COMMAND: DANCE"),
        ("", '{"cniVersion": "1.0.0", "name": "x"}', {}, 4, "[CNI_COMMAND] missing"),
    ],
)
def test_errors_are_json_with_the_specs_codes(
    node: Node, command: str, conf: str, environment: dict[str, str], code: int, words: str
):
    call = {"CONTAINERID": "c1", "NETNS": str(node.pod("pod"))} | environment
    status, error = node.execute(command, conf, **call)
    assert status == 1
    assert error is not None
    assert error["code"] == code
    assert words in error["msg"]
    assert "cniVersion" in error


def test_an_exhausted_range_as_a_program_says_it(node: Node):
    small = node.ipam() | {"ranges": [[{"subnet": "10.1.2.0/24", "rangeEnd": "10.1.2.2"}]]}
    conf = node.bridge(ipam=small)
    one, two = node.pod("one"), node.pod("two")
    assert node.execute("ADD", conf, CONTAINERID="c1", NETNS=str(one))[0] == 0
    status, error = node.execute("ADD", conf, CONTAINERID="c2", NETNS=str(two))
    assert status == 1
    assert error is not None
    assert error["msg"] == (
        "failed to allocate for range 0: no IP addresses available in range set: 10.1.2.1-10.1.2.2"
    )
    assert link_names(two) == {"lo"}


def test_capability_arguments_as_containerd_writes_them(node: Node):
    """Its structs' names are capitalised, which plugins written in Go do not notice."""
    ranges = [[{"Subnet": "10.5.0.0/24", "RangeStart": "10.5.0.9", "RangeEnd": "", "Gateway": ""}]]
    conf = {
        "cniVersion": "1.0.0",
        "name": "net",
        "type": "host-local",
        "ipam": {"type": "host-local", "dataDir": str(node.networks)},
        "runtimeConfig": {"ipRanges": ranges},
    }
    call = {"plugin": "host-local", "CONTAINERID": "c1", "NETNS": "/none"}
    status, result = node.execute("ADD", conf, **call)
    assert status == 0, result
    assert result is not None
    assert result["ips"] == [{"address": "10.5.0.9/24", "gateway": "10.5.0.1"}]


@needs_reference
@pytest.mark.parametrize("version", ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0"])
def test_results_of_every_version_have_the_references_form(node: Node, version: str):
    seen = []
    for directory in (REFERENCE, node.bin_dir):
        pod = node.pod(f"pod-{directory.parent.name}")
        dual = node.ipam("10.244.1.0/24", "fd00:10:244:1::/64", routes=[{"dst": "10.9.0.0/16"}])
        conf = node.conf("ptp", cniVersion=version, name=directory.parent.name, ipam=dual)
        call = {"plugin": "ptp", "directory": directory, "CONTAINERID": "c1", "NETNS": str(pod)}
        status, result = node.execute("ADD", conf, **call)
        assert status == 0, result
        assert result is not None
        for interface in result.get("interfaces", ()):
            interface["name"] = interface["name"][:4]
            del interface["mac"]
            interface.get("sandbox") and interface.update(sandbox="pod")
        seen.append(result)
        assert node.execute("DEL", conf, **call) == (0, None)
    assert seen[0] == seen[1]


@needs_reference
def test_our_bridge_executes_a_foreign_ipam_plugin(node: Node):
    """This `static` is not ours: it is executed, and its error handed on."""
    pod = node.pod("pod")
    ipam = {"type": "static", "addresses": [{"address": "10.7.0.2/24", "gateway": "10.7.0.1"}]}
    (node.bin_dir / "static").unlink()
    (node.bin_dir / "static").symlink_to(REFERENCE / "static")
    conf = node.bridge(isDefaultGateway=True, ipam=ipam)
    result = node.add("c1", pod, conf)
    assert [str(ip.address) for ip in result.ips] == ["10.7.0.2/24"]
    assert node.addresses(node.netns, "cni0") == {"10.7.0.1/24"}
    node.call("DEL", "c1", pod, conf)
    bad = node.bridge(ipam={"type": "static", "addresses": [{"address": "banana"}]})
    status, error = node.execute("ADD", bad, CONTAINERID="c1", NETNS=str(pod))
    assert status == 1
    assert error is not None
    assert 'plugin type="static"' in error["msg"]
    assert "banana" in error["msg"]


@needs_reference
def test_the_reference_takes_over_our_reservations_and_we_take_over_its(node: Node):
    pods = [node.pod(f"pod{number}") for number in range(3)]
    conf = node.bridge(isGateway=True)
    ours, theirs = {"directory": node.bin_dir}, {"directory": REFERENCE}
    given = []
    for pod, side in zip(pods, (ours, theirs, ours), strict=True):
        status, result = node.execute("ADD", conf, CONTAINERID=pod.name, NETNS=str(pod), **side)
        assert status == 0, result
        assert result is not None
        given.append(result["ips"][0]["address"])
    assert given == ["10.244.1.2/24", "10.244.1.3/24", "10.244.1.4/24"]
    for pod, side in zip(pods, (theirs, ours, theirs), strict=True):
        assert node.execute("DEL", conf, CONTAINERID=pod.name, NETNS=str(pod), **side)[0] == 0
    assert node.reserved() == {"last_reserved_ip.0"}
    assert link_names(node.netns) == {"lo", "cni0"}


@needs_reference
def test_our_host_local_serves_the_references_bridge(node: Node):
    pod = node.pod("pod")
    (node.bin_dir / "bridge").unlink()
    (node.bin_dir / "bridge").symlink_to(REFERENCE / "bridge")
    conf = node.bridge(isGateway=True)
    status, result = node.execute("ADD", conf, CONTAINERID="c1", NETNS=str(pod))
    assert status == 0, result
    assert node.addresses(pod, "eth0") == {"10.244.1.2/24"}
    assert node.execute("CHECK", conf | {"prevResult": result}, CONTAINERID="c1", NETNS=str(pod))[0] == 0
    assert node.execute("DEL", conf, CONTAINERID="c1", NETNS=str(pod))[0] == 0


# Adopts whoever loses its parent, as PID 1 would, and says how it ended.
ADOPT = """
import ctypes, os, subprocess, sys
assert ctypes.CDLL(None).prctl(36, 1, 0, 0, 0) == 0  # PR_SET_CHILD_SUBREAPER
done = subprocess.run(sys.argv[1:], stdin=0, stdout=subprocess.PIPE, check=True)
assert done.stdout == b"", done.stdout
print("ended")
try:
    while True:
        print(os.waitpid(-1, 0)[1])
except ChildProcessError:
    pass
"""


def test_what_outlives_a_del_ends_by_itself(node: Node):
    """The kernel frees a deleted link after a while; a child waits for that, and the plugin for nobody."""
    pod = node.pod("pod")
    conf = node.bridge()
    assert node.execute("ADD", conf, CONTAINERID="c1", NETNS=str(pod))[0] == 0
    command = ["nsenter", f"--net={node.netns}", sys.executable, "-c", ADOPT, node.bin_dir / "bridge"]
    environment = {"COMMAND": "DEL", "CONTAINERID": "c1", "NETNS": str(pod), "IFNAME": "eth0"}
    done = subprocess.run(
        command,
        input=json.dumps(conf),
        env={f"CNI_{key}": value for key, value in (environment | {"PATH": str(node.bin_dir)}).items()},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.split() == ["ended", "0"]
    assert link_names(pod) == {"lo"}
    assert node.reserved() == {"last_reserved_ip.0"}


def test_dels_of_one_container_at_the_same_time_all_succeed(node: Node):
    pod = node.pod("pod")
    conf = node.bridge()
    assert node.execute("ADD", conf, CONTAINERID="c1", NETNS=str(pod))[0] == 0
    with ThreadPoolExecutor(8) as pool:
        ends = pool.map(lambda _: node.execute("DEL", conf, CONTAINERID="c1", NETNS=str(pod)), range(8))
        assert list(ends) == [(0, None)] * 8
    assert link_names(pod) == {"lo"}


def test_fifty_adds_at_the_same_time(node: Node):
    """As many processes: every address is given once, every pod has its own, DEL leaves nothing."""
    pods = [node.pod(f"pod{number}") for number in range(50)]
    conf = node.bridge(isDefaultGateway=True)
    with ThreadPoolExecutor(50) as pool:
        ends = list(
            pool.map(lambda pod: node.execute("ADD", conf, CONTAINERID=pod.name, NETNS=str(pod)), pods)
        )
        given = [result["ips"][0]["address"] for status, result in ends if status == 0 and result]
        assert len(set(given)) == 50, [end for end in ends if end[0]]
        assert [node.addresses(pod, "eth0") for pod in pods] == [{address} for address in given]
        assert all(node.routes(pod) == {"10.244.1.0/24", "0.0.0.0/0 via 10.244.1.1"} for pod in pods)
        pool.map(lambda pod: node.execute("DEL", conf, CONTAINERID=pod.name, NETNS=str(pod)), pods)
    assert link_names(node.netns) == {"lo", "cni0"}
    assert all(link_names(pod) == {"lo"} for pod in pods)
    assert node.reserved() == {"last_reserved_ip.0"}


def test_a_long_path_to_the_interpreter_goes_through_a_shell(tmp_path: Path):
    deep = tmp_path / ("it's " + "x" * SHEBANG_MAX)
    deep.mkdir()
    python = deep / "python"
    python.symlink_to("/usr/bin/env")  # stands for an interpreter: shows how it was called
    text = script("loopback", str(python), tmp_path, tmp_path / "cpython-311.bundle")
    assert text.startswith("#!/bin/sh\n")
    path = tmp_path / "loopback"
    path.write_text(text)
    compile(text, "loopback", "exec")
    done = subprocess.run(["sh", path], capture_output=True, text=True, check=False)
    assert "invalid option -- 'I'" in done.stderr  # env was started, and got our -IS
