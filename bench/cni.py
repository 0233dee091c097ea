"""Our CNI plugins beside Debian's `containernetworking-plugins`: bridge with host-local, as a pod gets it.

`measure()` runs this file as a program, in a network namespace of its own that plays the node; the pods are
namespaces below a throwaway directory. All sides take turns, so a busy moment of the machine meets each:

    theirs        Debian's executables
    executables   ours, executed as any runtime executes them
    in process    ours, called by our library as the node's agent calls them

ADD and DEL are timed one at a time, then a hundred ADDs at once through our library (which calls ours in
process and executes all others), with what they made looked at in the kernel; then the bytes a second that go
through what was wired.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.report import Metric, Report, table, write
from podling.cni.install import install
from podling.cni.library import CNI
from podling.cni.plugins import skel
from podling.cni.plugins.find import MARKER, MODULES, load_plugin
from podling.cni.types import Args, Result
from podling.linux import syscalls
from podling.linux.netlink import Netlink
from podling.linux.netns import create_netns, remove_netns, run_in_netns
from podling.testing.cluster import PodlingCluster

THEIRS = Path("/usr/lib/cni")
RUNS = 30
AT_ONCE = 100
BURSTS = 3
SECONDS = 1.0  # of each turn of the bandwidth
TURNS = 7
SETTLE_S = 0.05  # between turns: the kernel frees what a DEL has deleted
CHUNK = 1 << 20

Samples = dict[str, list[float]]


class Side:
    """A set of plugins, the network they make on the node, and the library above them."""

    def __init__(self, name: str, number: int, base: Path, plugins: Path) -> None:
        self.name = name
        self.plugins = plugins
        self.reservations = base / "networks" / f"net{number}"
        self.bridge = f"br{number}"
        self.conf: dict[str, Any] = {
            "cniVersion": "1.0.0",
            "name": f"net{number}",
            "type": "bridge",
            "bridge": self.bridge,
            "isGateway": True,
            "ipam": {
                "type": "host-local",
                "dataDir": str(base / "networks"),
                "ranges": [[{"subnet": f"10.10.{number}.0/24"}]],
                "routes": [{"dst": "0.0.0.0/0"}],
            },
        }
        self.results = base / f"results{number}"
        conf_dir = base / f"net.d{number}"
        conf_dir.mkdir()
        (conf_dir / "10-bench.conf").write_text(json.dumps(self.conf))
        self.library = CNI(conf_dir, [plugins], self.results)

    def call(self, command: str, netns: Path) -> None:
        """One call of the plugin alone."""
        environment = {
            "PATH": os.environ["PATH"],
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": netns.name,
            "CNI_NETNS": str(netns),
            "CNI_IFNAME": "eth0",
            "CNI_PATH": str(self.plugins),
        }
        text = json.dumps(self.conf).encode()
        subprocess.run(
            [self.plugins / "bridge"], input=text, env=environment, check=True, capture_output=True
        )


class InProcess(Side):
    def call(self, command: str, netns: Path) -> None:
        call = Args(
            command=command,
            container_id=netns.name,
            netns=str(netns),
            ifname="eth0",
            args="",
            path=(str(self.plugins),),
            conf=self.conf,
        )
        skel.run(load_plugin(MODULES["bridge"]), call)


def make_sides(base: Path) -> list[Side]:
    """Theirs first. A bridge of ours that our library is to execute may not carry our mark."""
    install(base / "bin")
    install(base / "unmarked")
    bridge = base / "unmarked" / "bridge"
    bridge.write_text(bridge.read_text().replace(MARKER, "# "))
    return [
        Side("theirs", 0, base, THEIRS),
        Side("executables", 1, base, base / "unmarked"),
        InProcess("in process", 2, base, base / "bin"),
    ]


# --- one at a time


def one_by_one(sides: list[Side], pod: Path, samples: Samples) -> None:
    for run in range(RUNS + 2):
        for side in sides:
            took = {command: _timed(lambda c=command, s=side: s.call(c, pod)) for command in ("ADD", "DEL")}
            if run >= 2:  # the first ones make the bridge and warm caches
                for command, seconds in took.items():
                    samples.setdefault(f"{command} {side.name}", []).append(seconds * 1000)
            time.sleep(SETTLE_S)


def _timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


# --- many at once


def bursts(sides: list[Side], pods: list[Path], samples: Samples) -> None:
    for _ in range(BURSTS):
        for side in sides:
            adds, deletes = asyncio.run(_burst(side, pods))
            samples.setdefault(f"ADDs {side.name}", []).append(len(pods) / adds)
            samples.setdefault(f"DELs {side.name}", []).append(len(pods) / deletes)
            time.sleep(SETTLE_S)


async def _burst(side: Side, pods: list[Path]) -> tuple[float, float]:
    """Seconds for all ADDs, and for all DELs; AssertionError when either did not do its work."""
    library = side.library
    began = time.perf_counter()
    results = await asyncio.gather(*(library.add(pod.name, pod) for pod in pods))
    adds = time.perf_counter() - began
    _look(side, pods, results)
    began = time.perf_counter()
    await asyncio.gather(*(library.delete(pod.name, pod) for pod in pods))
    deletes = time.perf_counter() - began
    _look_again(side, pods)
    return adds, deletes


def _look(side: Side, pods: list[Path], results: list[Result]) -> None:
    given = {str(result.addresses_of("eth0")[0]) for result in results}
    assert len(given) == len(pods), "an address was handed out twice"
    for pod, result in zip(pods, results, strict=True):
        with Netlink(pod) as nl:
            link = nl.link_get("eth0")
            found = {str(address.interface) for address in nl.addr_list(link.index) if address.scope == 0}
            routes = [str(route.dst) for route in nl.route_list(family=socket.AF_INET)]
        assert link.up, f"{pod.name}: eth0 is down"
        assert found == {str(result.addresses_of("eth0")[0])}, f"{pod.name}: {found}"
        assert "0.0.0.0/0" in routes, f"{pod.name}: no default route"
    with Netlink() as nl:
        ports = nl.link_list(master=nl.link_get(side.bridge).index)
    assert len([port for port in ports if port.up]) == len(pods)


def _look_again(side: Side, pods: list[Path]) -> None:
    for pod in pods:
        with Netlink(pod) as nl:
            assert [link.name for link in nl.link_list()] == ["lo"], f"{pod.name}: a link is left"
    with Netlink() as nl:
        assert not nl.link_list(master=nl.link_get(side.bridge).index), "a port is left"
    assert not [name for name in os.listdir(side.reservations) if name[0].isdigit()], "an address is left"
    assert not list(side.results.iterdir()), "a cached result is left"


# --- bytes a second


def bandwidth(sides: list[Side], pods: list[Path], samples: Samples) -> None:
    """From one pod to another, through both veth pairs and the bridge."""
    pairs = list(zip(pods[::2], pods[1::2], strict=False))
    wired = [(side, *pair) for side, pair in zip(sides, pairs, strict=False)]
    addresses: dict[str, str] = {}
    for side, sender, receiver in wired:
        for pod in (sender, receiver):
            side.call("ADD", pod)
        with Netlink(receiver) as nl:
            addresses[side.name] = str(next(a.interface.ip for a in nl.addr_list("eth0") if a.scope == 0))
    for turn in range(TURNS + 1):
        for side, sender, receiver in wired:
            gbit = _pump(sender, receiver, addresses[side.name])
            if turn:  # the first one resolves neighbours
                samples.setdefault(f"bandwidth {side.name}", []).append(gbit)
    for side, sender, receiver in wired:
        for pod in (sender, receiver):
            side.call("DEL", pod)


def _pump(sender: Path, receiver: Path, address: str) -> float:
    """Gbit a second of one TCP connection. Either end's time is the kernel's: Python waits in it."""
    listener = run_in_netns(receiver, socket.socket)
    listener.bind((address, 0))
    listener.listen()
    client = run_in_netns(sender, socket.socket)
    client.connect(listener.getsockname())
    server, _ = listener.accept()
    thread = threading.Thread(target=_fill, args=(client,))
    with listener, client, server:
        thread.start()
        buffer = bytearray(CHUNK)
        received, began = 0, time.perf_counter()
        while (took := time.perf_counter() - began) < SECONDS:
            received += server.recv_into(buffer)
        server.close()
        thread.join()
    return received * 8 / took / 1e9


def _fill(client: socket.socket) -> None:
    chunk = bytes(CHUNK)
    try:
        while True:
            client.sendall(chunk)
    except OSError:  # the receiver has had enough
        return


# --- the report


def report(samples: Samples) -> Report:
    both = {
        name: [a + d for a, d in zip(samples[f"ADD {name}"], samples[f"DEL {name}"], strict=True)]
        for name in ("theirs", "executables", "in process")
    }
    metrics = []
    for name, taken in both.items():
        metrics.append(Metric(name=f"ADD + DEL, {name}", unit="ms", samples=tuple(taken)))
        for command in ("ADD", "DEL"):
            found = tuple(samples[f"{command} {name}"])
            metrics.append(Metric(name=f"{command} alone, {name}", unit="ms", samples=found))
    for name, goal in (("in process", 0.3), ("executables", 1.5)):
        ratios = tuple(ours / theirs for ours, theirs in zip(both[name], both["theirs"], strict=True))
        metrics.append(Metric(name=f"ADD + DEL, {name} to theirs", unit="x", samples=ratios, goal=goal))
    for what in ("ADDs", "DELs"):
        for name in both:
            taken = samples[f"{what} {name}"]
            metrics.append(Metric(name=f"{AT_ONCE} {what} at once, {name}", unit="/s", samples=tuple(taken)))
    ratio = statistics.median(samples["ADDs in process"]) / statistics.median(samples["ADDs theirs"])
    metrics.append(
        Metric(
            name=f"{AT_ONCE} ADDs, in process to theirs", unit="x", samples=(ratio,), goal=2, at_least=True
        )
    )
    theirs, ours = samples["bandwidth theirs"], samples["bandwidth in process"]
    metrics += [
        Metric(name="pod to pod, theirs", unit="Gbit/s", samples=tuple(theirs)),
        Metric(
            name="pod to pod, ours",
            unit="Gbit/s",
            samples=tuple(ours),
            goal=round(min(theirs), 1),
            at_least=True,
        ),
    ]
    notes = (
        "ratios are of the same turn",
        "all links, addresses and routes of the hundred were looked for, and gone after their DELs",
        "the goal of the bandwidth is the slowest turn of theirs",
    )
    return Report(scenario="cni", metrics=tuple(metrics), notes=notes)


def take_samples() -> Samples:
    samples: Samples = {}
    with tempfile.TemporaryDirectory(prefix="bench-cni-") as folder:
        base = Path(folder)
        pods = [base / "netns" / f"pod{number}" for number in range(AT_ONCE)]
        try:
            for pod in pods:
                create_netns(pod)
            sides = make_sides(base)
            one_by_one(sides, pods[0], samples)
            bursts(sides, pods, samples)
            bandwidth([sides[0], sides[2]], pods, samples)
        finally:
            for pod in pods:
                remove_netns(pod)
    return samples


def measure(_: PodlingCluster | None = None) -> Report:
    if not (THEIRS / "bridge").exists():
        raise SystemExit("bench.cni needs Debian's package containernetworking-plugins")
    argv = [sys.executable, "-m", "bench.cni", "--samples"]
    done = subprocess.run(argv, stdout=subprocess.PIPE, check=True, timeout=600)
    return report(json.loads(done.stdout))


def main() -> None:
    if sys.argv[1:] == ["--samples"]:
        syscalls.unshare(syscalls.CLONE_NEWNET)  # nothing here reaches the machine's network
        with Netlink() as nl:
            nl.link_set("lo", up=True)
        json.dump(take_samples(), sys.stdout)
        return
    made = measure()
    write(made)
    print(table([made]))


if __name__ == "__main__":
    assert os.geteuid() == 0, "needs root: it makes namespaces"
    main()
