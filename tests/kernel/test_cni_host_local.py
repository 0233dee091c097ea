"""host-local against a model: ours alone, and in turns with the reference plugin on the same directory."""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from podling.cni.install import install
from podling.cni.plugins import skel
from podling.cni.plugins.ipam.host_local import PLUGIN
from podling.cni.types import ADDRESSES_EXHAUSTED, ALREADY_ALLOCATED, Args, CNIError, Result

REFERENCE = Path("/usr/lib/cni/host-local")  # Debian's containernetworking-plugins
needs_reference = pytest.mark.skipif(
    not REFERENCE.exists(), reason="the package containernetworking-plugins is not installed"
)

# Two sets: the first of two ranges, with gateways in the middle and outside; the second of IPv6.
SETS = [
    [
        {"subnet": "10.1.0.0/29", "rangeStart": "10.1.0.2", "rangeEnd": "10.1.0.5", "gateway": "10.1.0.3"},
        {"subnet": "10.2.0.0/30"},
    ],
    [{"subnet": "fd00::/126"}],
]
POOLS = [
    ["10.1.0.2", "10.1.0.4", "10.1.0.5", "10.2.0.2"],
    ["fd00::2", "fd00::3"],
]
"""What each set can give, in its order: no gateway, no broadcast address of IPv4."""

containers = st.sampled_from([f"c{number}" for number in range(5)])
Owner = tuple[str, str]


def conf_for(data_dir: str) -> dict[str, Any]:
    ipam = {"type": "host-local", "dataDir": data_dir, "ranges": SETS}
    return {"cniVersion": "1.0.0", "name": "net", "type": "host-local", "ipam": ipam}


def ours(command: str, container: str, ifname: str, conf: dict[str, Any]) -> list[str] | int:
    """The addresses, or the code of the refusal."""
    args = Args(
        command=command, container_id=container, netns="/none", ifname=ifname, args="", path=(), conf=conf
    )
    try:
        result = skel.run(PLUGIN, args)
    except CNIError as err:
        return err.code
    return [str(ip.address.ip) for ip in result.ips] if isinstance(result, Result) else []


def theirs(
    command: str, container: str, ifname: str, conf: dict[str, Any], program: Path = REFERENCE
) -> list[str] | int:
    done = subprocess.run(
        [program],
        input=json.dumps(conf),
        env={
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": container,
            "CNI_NETNS": "/none",
            "CNI_IFNAME": ifname,
            "CNI_PATH": "/none",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    reply = json.loads(done.stdout) if done.stdout else {}
    if done.returncode:
        return int(reply["code"])
    return [ip["address"].split("/")[0] for ip in reply.get("ips", ())]


class HostLocal(RuleBasedStateMachine):
    """What the files must say after any sequence of calls, whoever made them."""

    sides: tuple[Callable[..., list[str] | int], ...] = (ours,)

    @initialize()
    def begin(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.directory = Path(self.folder.name) / "net"
        self.conf = conf_for(self.folder.name)
        self.owners: dict[str, Owner] = {}
        self.last: list[str | None] = [None, None]

    def teardown(self) -> None:
        if hasattr(self, "folder"):
            self.folder.cleanup()

    def expected(self, place: int, taken: set[str]) -> str | None:
        """The next free address of a set, going round from the one given last."""
        pool = POOLS[place]
        last = self.last[place]
        start = pool.index(last) + 1 if last is not None else 0
        turn = pool[start:] + pool[:start]
        return next((address for address in turn if address not in taken), None)

    @rule(container=containers, ifname=st.sampled_from(["eth0", "net1"]), side=st.integers(0, 1))
    def add(self, container: str, ifname: str, side: int) -> None:
        answer = self.sides[side % len(self.sides)]("ADD", container, ifname, self.conf)
        if (container, ifname) in self.owners.values():
            assert answer in (ALREADY_ALLOCATED, 999)  # the reference has no code of its own for it
            return
        taken = set(self.owners)
        first, second = self.expected(0, taken), self.expected(1, taken)
        if first is not None:
            self.last[0] = first  # also of an ADD that fails later: it has had the address for a moment
        if first is None or second is None:
            assert answer in (ADDRESSES_EXHAUSTED, 999)
            return
        assert answer == [first, second]
        self.last[1] = second
        self.owners |= {first: (container, ifname), second: (container, ifname)}

    @rule(container=containers, ifname=st.sampled_from(["eth0", "net1"]), side=st.integers(0, 1))
    def delete(self, container: str, ifname: str, side: int) -> None:
        assert self.sides[side % len(self.sides)]("DEL", container, ifname, self.conf) == []
        self.owners = {a: owner for a, owner in self.owners.items() if owner != (container, ifname)}

    @rule(valid=st.sets(containers, max_size=3))
    def gc(self, valid: set[str]) -> None:
        attachments = [{"containerID": container, "ifname": "eth0"} for container in sorted(valid)]
        conf = self.conf | {"cniVersion": "1.1.0", "cni.dev/valid-attachments": attachments}
        assert ours("GC", "", "", conf) == []
        self.owners = {a: o for a, o in self.owners.items() if o[0] in valid and o[1] == "eth0"}

    @rule(container=containers, side=st.integers(0, 1))
    def check(self, container: str, side: int) -> None:
        answer = self.sides[side % len(self.sides)](
            "CHECK", container, "eth0", self.conf | {"prevResult": {}}
        )
        assert (answer == []) == ((container, "eth0") in self.owners.values())

    @invariant()
    def the_files_say_the_same(self) -> None:
        if not hasattr(self, "directory") or not self.directory.exists():
            return
        files = {
            path.name: path.read_bytes().decode() for path in self.directory.iterdir() if path.name != "lock"
        }
        for place, last in enumerate(self.last):
            assert files.pop(f"last_reserved_ip.{place}", None) == last
        assert {name: tuple(text.split("\r\n")) for name, text in files.items()} == self.owners


class Exchange(HostLocal):
    sides = (ours, theirs)


Exchange.TestCase.settings = settings(max_examples=8, stateful_step_count=25, deadline=None)
HostLocal.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestOursAlone = HostLocal.TestCase
TestInTurnsWithTheReference = needs_reference(Exchange.TestCase)


# Attaches and detaches until it is killed. What it was told is in its log before it goes on:
# `+ CONTAINER ADDRESS` after an ADD, `- CONTAINER` before a DEL.
WORKER = """
import json, os, random, sys
from podling.cni.plugins import skel
from podling.cni.plugins.ipam.host_local import PLUGIN
from podling.cni.types import Args
name, conf, log = sys.argv[1], json.loads(sys.argv[2]), os.open(sys.argv[3], os.O_WRONLY | os.O_APPEND)
chance, alive, number = random.Random(name), [], 0
def call(command, container):
    args = Args(command=command, container_id=container, netns="/none", ifname="eth0", args="", path=(),
                conf=conf)
    return skel.run(PLUGIN, args)
while True:
    if alive and (len(alive) > 12 or chance.random() < 0.45):
        container = alive.pop(chance.randrange(len(alive)))
        os.write(log, f"- {container}\\n".encode())
        call("DEL", container)
    else:
        number += 1
        container = f"{name}-{number}"
        alive.append(container)
        result = call("ADD", container)
        os.write(log, f"+ {container} {result.ips[0].address.ip}\\n".encode())
"""


def test_no_address_is_given_twice_however_many_ask_and_are_killed(tmp_path: Path):
    """Six processes at once, killed at any moment and started anew, and the reference plugin among them."""
    conf = conf_for(str(tmp_path))
    conf["ipam"]["ranges"] = [[{"subnet": "10.1.0.0/24"}]]
    logs = [tmp_path / f"log-{number}" for number in range(6)]
    for log in logs:
        log.touch()
    chance = random.Random(7)
    program = REFERENCE if REFERENCE.exists() else install_one(tmp_path / "bin")
    foreign: dict[str, str] = {}
    stop = threading.Event()

    def another() -> None:
        for number in range(1000):
            if stop.is_set():
                return
            answer = theirs("ADD", f"foreign-{number}", "eth0", conf, program)
            assert isinstance(answer, list)
            foreign[f"foreign-{number}"] = answer[0]
            if number % 3:
                del foreign[f"foreign-{number}"]
                assert theirs("DEL", f"foreign-{number}", "eth0", conf, program) == []

    thread = threading.Thread(target=another)
    thread.start()
    workers: dict[int, subprocess.Popen[bytes]] = {}
    for life in range(4):
        for place, log in enumerate(logs):
            if place not in workers:
                command = [sys.executable, "-c", WORKER, f"w{place}-{life}", json.dumps(conf), str(log)]
                workers[place] = subprocess.Popen(command)
        before = [log.stat().st_size for log in logs]
        deadline = time.monotonic() + 60
        while any(log.stat().st_size < size + 200 for log, size in zip(logs, before, strict=True)):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        for place in chance.sample(sorted(workers), 6 if life == 3 else 3):
            time.sleep(chance.random() / 50)
            os.kill(workers[place].pid, signal.SIGKILL)
            assert workers.pop(place).wait() == -signal.SIGKILL
    stop.set()
    thread.join()

    held = dict(foreign)
    for log in logs:
        for line in log.read_text().splitlines():
            sign, container, *address = line.split()
            if sign == "+":
                held[container] = address[0]
            else:
                held.pop(container, None)
    assert len(held) > 10
    assert len(set(held.values())) == len(held)
    directory = tmp_path / "net"
    for container, address in held.items():
        assert (directory / address).read_bytes() == f"{container}\r\neth0".encode()
    # A runtime tells to DEL all that it does not know to be alive, and what it knows.
    for path in directory.iterdir():
        with contextlib.suppress(ValueError):
            ipaddress.ip_address(path.name)
            if owner := path.read_text().split():
                assert ours("DEL", owner[0], "eth0", conf) == []
    assert {path.name for path in directory.iterdir() if path.stat().st_size} == {"last_reserved_ip.0"}


def install_one(directory: Path) -> Path:
    install(directory)
    return directory / "host-local"
