"""host-local needs neither root nor kernel: everything it does is in files."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from podling.cni.plugins import skel
from podling.cni.plugins.ipam.host_local import PLUGIN
from podling.cni.types import ADDRESSES_EXHAUSTED, ALREADY_ALLOCATED, Args, CNIError, Result


class HostLocal:
    """The plugin with a configuration, called as a runtime calls it."""

    def __init__(self, data_dir: Path, **ipam: Any) -> None:
        self.directory = data_dir / "net"
        self.ipam = {"type": "host-local", "dataDir": str(data_dir), "subnet": "10.1.2.0/24"} | ipam

    def call(self, command: str, container: str, *, ifname: str = "eth0", args: str = "", **conf: Any) -> Any:
        return skel.run(
            PLUGIN,
            Args(
                command=command,
                container_id=container,
                netns="/run/netns/x",
                ifname=ifname,
                args=args,
                path=(),
                conf={"cniVersion": "1.0.0", "name": "net", "ipam": self.ipam} | conf,
            ),
        )

    def add(self, container: str, **more: Any) -> list[str]:
        result = self.call("ADD", container, **more)
        assert isinstance(result, Result)
        return [str(ip.address) for ip in result.ips]

    def files(self) -> set[str]:
        return {path.name for path in self.directory.iterdir()}


@pytest.fixture
def plugin(tmp_path: Path) -> HostLocal:
    return HostLocal(tmp_path)


def test_the_disk_holds_what_the_reference_would_write(plugin: HostLocal):
    assert plugin.add("c1") == ["10.1.2.2/24"]
    assert plugin.files() == {"lock", "last_reserved_ip.0", "10.1.2.2"}
    assert (plugin.directory / "10.1.2.2").read_bytes() == b"c1\r\neth0"
    assert (plugin.directory / "last_reserved_ip.0").read_text() == "10.1.2.2"


def test_a_released_address_is_not_given_out_again_at_once(plugin: HostLocal):
    assert plugin.add("c1") == ["10.1.2.2/24"]
    plugin.call("DEL", "c1")
    assert plugin.add("c2") == ["10.1.2.3/24"]


def test_del_twice_and_of_strangers_is_success(plugin: HostLocal):
    plugin.call("DEL", "never-added")
    plugin.add("c1")
    for _ in range(2):
        plugin.call("DEL", "c1")
    assert plugin.files() == {"lock", "last_reserved_ip.0"}


def test_del_frees_only_the_interface_asked_for(plugin: HostLocal):
    plugin.add("c1")
    assert plugin.add("c1", ifname="net1") == ["10.1.2.3/24"]
    plugin.call("DEL", "c1", ifname="net1")
    assert "10.1.2.2" in plugin.files()
    assert "10.1.2.3" not in plugin.files()


def test_exhaustion_in_the_references_words(tmp_path: Path):
    plugin = HostLocal(tmp_path, rangeStart="10.1.2.10", rangeEnd="10.1.2.11")
    plugin.add("c1")
    plugin.add("c2")
    with pytest.raises(CNIError) as info:
        plugin.add("c3")
    assert info.value.code == ADDRESSES_EXHAUSTED
    assert info.value.message == (
        "failed to allocate for range 0: no IP addresses available in range set: 10.1.2.10-10.1.2.11"
    )
    plugin.call("DEL", "c1")
    assert plugin.add("c3") == ["10.1.2.10/24"]


def test_a_full_subnet_names_its_whole_range(tmp_path: Path):
    plugin = HostLocal(tmp_path)
    plugin.directory.mkdir()
    for number in range(2, 255):
        (plugin.directory / f"10.1.2.{number}").write_text("other\r\neth0")
    with pytest.raises(CNIError, match=r"no IP addresses available in range set: 10\.1\.2\.1-10\.1\.2\.254"):
        plugin.add("c1")


def test_dual_stack_and_a_failure_in_the_second_set_keeps_nothing(tmp_path: Path):
    ranges = [[{"subnet": "10.1.2.0/24"}], [{"subnet": "fd00::/64", "rangeEnd": "fd00::2"}]]
    plugin = HostLocal(tmp_path, subnet="", ranges=ranges)
    assert plugin.add("c1") == ["10.1.2.2/24", "fd00::2/64"]
    with pytest.raises(CNIError, match="failed to allocate for range 1"):
        plugin.add("c2")
    assert plugin.files() == {"lock", "last_reserved_ip.0", "last_reserved_ip.1", "10.1.2.2", "fd00::2"}


def test_adding_twice_is_refused_and_keeps_the_first(plugin: HostLocal):
    plugin.add("c1")
    with pytest.raises(CNIError, match="duplicate allocation is not allowed") as info:
        plugin.add("c1")
    assert info.value.code == ALREADY_ALLOCATED
    assert "10.1.2.2" in plugin.files()


def test_addresses_can_be_asked_for_in_three_ways(plugin: HostLocal):
    assert plugin.add("c1", args="IgnoreUnknown=1;IP=10.1.2.50") == ["10.1.2.50/24"]
    assert plugin.add("c2", runtimeConfig={"ips": ["10.1.2.51/24"]}) == ["10.1.2.51/24"]
    assert plugin.add("c3", args="", runtimeConfig={}) == ["10.1.2.52/24"]
    conventions = {"cni": {"ips": ["10.1.2.60"]}}
    result = skel.run(
        PLUGIN,
        Args(
            command="ADD",
            container_id="c4",
            netns="/x",
            ifname="eth0",
            args="",
            path=(),
            conf={"cniVersion": "1.0.0", "name": "net", "ipam": plugin.ipam, "args": conventions},
        ),
    )
    assert result is not None
    assert str(result.ips[0].address) == "10.1.2.60/24"


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        ("10.1.2.1", "requested ip 10.1.2.1 is subnet's gateway"),
        ("10.1.2.2", "requested IP address 10.1.2.2 is not available in range set 10.1.2.1-10.1.2.254"),
        ("10.9.9.9", "failed to allocate all requested IPs: 10.9.9.9"),
        ("banana", "cannot understand ip"),
    ],
)
def test_an_address_that_cannot_be_had_is_refused(plugin: HostLocal, wanted: str, words: str):
    plugin.add("first")
    before = plugin.files()
    with pytest.raises(CNIError) as info:
        plugin.add("c1", args=f"IP={wanted}")
    assert words in info.value.message
    assert plugin.files() == before


def test_routes_and_dns_are_passed_on(tmp_path: Path):
    (tmp_path / "resolv.conf").write_text(
        "# hello\nnameserver 10.96.0.10\nnameserver ::1\n"
        "domain example.org\nsearch a b\noptions ndots:5 edns0\n"
    )
    plugin = HostLocal(tmp_path, routes=[{"dst": "0.0.0.0/0"}], resolvConf=str(tmp_path / "resolv.conf"))
    result = plugin.call("ADD", "c1").to_json("1.0.0")
    assert result["routes"] == [{"dst": "0.0.0.0/0"}]
    assert result["dns"] == {
        "nameservers": ["10.96.0.10", "::1"],
        "domain": "example.org",
        "search": ["a", "b"],
        "options": ["ndots:5", "edns0"],
    }
    with pytest.raises(CNIError, match="resolvConf"):
        HostLocal(tmp_path, resolvConf="/nonexistent").add("c2")


def test_check_finds_the_reservation_gone(plugin: HostLocal):
    plugin.add("c1")
    plugin.call("CHECK", "c1")
    plugin.call("DEL", "c1")
    with pytest.raises(CNIError, match="Failed to find address added by container c1"):
        plugin.call("CHECK", "c1")


def test_gc_frees_what_no_valid_attachment_has(plugin: HostLocal):
    plugin.add("c1")
    plugin.add("c2")
    plugin.call(
        "GC",
        "",
        cniVersion="1.1.0",
        **{"cni.dev/valid-attachments": [{"containerID": "c2", "ifname": "eth0"}]},
    )
    assert plugin.files() == {"lock", "last_reserved_ip.0", "10.1.2.3"}


def test_an_empty_reservation_of_a_killed_reference_plugin_is_free(plugin: HostLocal):
    plugin.directory.mkdir()
    (plugin.directory / "10.1.2.2").touch()
    assert plugin.add("c1") == ["10.1.2.2/24"]


def test_reservations_of_the_reference_without_interface_are_released(plugin: HostLocal):
    plugin.directory.mkdir()
    (plugin.directory / "10.1.2.7").write_text("c7")
    plugin.call("DEL", "c7")
    assert "10.1.2.7" not in plugin.files()


def test_many_at_once_get_different_addresses(plugin: HostLocal):
    with ThreadPoolExecutor(16) as pool:
        given = list(pool.map(plugin.add, (f"c{number}" for number in range(60))))
    assert len({address for (address,) in given}) == 60


# Kills itself between creating a file and writing it: first the reservation, then the last address.
KILLED = """
import ipaddress, os, signal, sys
from podling.cni.plugins.ipam.reservations import Reservations
moments, write = int(sys.argv[2]), os.write
def kill(fd, data):
    global moments
    moments -= 1
    if not moments:
        os.kill(os.getpid(), signal.SIGKILL)
    return write(fd, data)
with Reservations(sys.argv[1]) as store:
    os.write = kill
    store.reserve(ipaddress.ip_address("10.1.2.2"), container_id="c1", ifname="eth0", range_set=0)
"""


@pytest.mark.parametrize("moment", [1, 2])
def test_a_kill_at_any_moment_leaves_a_state_that_works(plugin: HostLocal, moment: int):
    command = [sys.executable, "-c", KILLED, str(plugin.directory), str(moment)]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    plugin.call("DEL", "c1")  # as the runtime does for every ADD it did not see end
    assert plugin.add("c2") == ["10.1.2.2/24"]
    plugin.call("DEL", "c2")
    assert plugin.files() == {"lock", "last_reserved_ip.0"}


def test_what_others_do_in_the_directory_is_seen(plugin: HostLocal):
    """The reference plugin, or a hand: by a new name, a missing one, and the same name anew."""
    plugin.add("c1")
    (plugin.directory / "10.1.2.3").write_text("other\r\neth0")
    assert plugin.add("c2") == ["10.1.2.4/24"]
    (plugin.directory / "10.1.2.4").unlink()
    plugin.call("DEL", "c2")
    os.utime(plugin.directory, ns=(1, 1))
    (plugin.directory / "10.1.2.2").write_text("thief\r\neth0")
    plugin.call("DEL", "c1")
    assert "10.1.2.2" in plugin.files()


def test_the_lock_of_a_killed_process_is_gone(plugin: HostLocal):
    code = f"""
import time
from podling.cni.plugins.ipam.reservations import Reservations
Reservations({str(plugin.directory)!r}).__enter__()
print("locked", flush=True)
time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"locked\n"
        os.kill(holder.pid, signal.SIGKILL)
        holder.wait()
    assert plugin.add("c1") == ["10.1.2.2/24"]
