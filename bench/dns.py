"""The DNS server of a node as a pod has it: over sockets, by way of the service's address, from one pod.

Run as a program it is that server, alone in a process as in the agent, with services but no API server.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from ipaddress import IPv4Address
from pathlib import Path

import msgspec
import uvloop

from podling.api.core_v1 import Service
from podling.linux.netns import run_in_netns
from podling.machine.supervisor import GC_THRESHOLD
from podling.network.dns.message import Type, encode_name
from podling.network.dns.server import PORT, DNSServer
from podling.network.proxy.rules import ServiceRules, compute_rules
from podling.network.services import Endpoint, Key, ServiceView

ADDRESS = "10.96.0.10"
NAMES = 1000
QUESTIONS = 40_000
UNDER_WAY = 32
"""Questions a pod has asked and has no answer to yet: more wait longer and are not answered faster."""
PATIENCE_S = 2.0


def rules(node_address: str) -> ServiceRules:
    """Of the service `kube-dns`, whose endpoint is the node's own server."""
    document = {
        "metadata": {"name": "kube-dns", "namespace": "kube-system"},
        "spec": {"clusterIP": ADDRESS, "ports": [{"name": "dns", "port": 53, "protocol": "UDP"}]},
    }
    endpoint = Endpoint("dns", "UDP", node_address, PORT, node="n")
    return compute_rules(msgspec.convert(document, Service), [endpoint], "n")


@contextlib.contextmanager
def server(node_address: str) -> Iterator[None]:
    argv = [sys.executable, "-m", "bench.dns", node_address]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "started\n"
            yield
        finally:
            process.terminate()


def ask(netns: Path) -> dict[str, object]:
    """Of names asked again and again, and of names each asked once: answers a second, and milliseconds."""
    known = [question(f"s{n}.bench.svc.cluster.local") for n in range(NAMES)]
    new = [
        question(f"{str(IPv4Address('10.0.0.0') + n).replace('.', '-')}.bench.pod.cluster.local")
        for n in range(QUESTIONS)
    ]
    with run_in_netns(netns, socket.socket, socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(PATIENCE_S)
        sock.connect((ADDRESS, 53))
        _ask_all(sock, known)
        again = _ask_all(sock, list(itertools.islice(itertools.cycle(known), QUESTIONS)))
        once = _ask_all(sock, new)
    return {
        "again": _rate(again),
        "again_ms": sorted(again[1]),
        "once": _rate(once),
        "once_ms": sorted(once[1]),
    }


def _rate(measured: tuple[float, list[float]]) -> float:
    seconds, taken = measured
    return len(taken) / seconds


def question(name: str) -> bytes:
    """Without identifier."""
    return struct.pack(">HHHHH", 0x0100, 1, 0, 0, 0) + encode_name(name) + struct.pack(">HH", Type.A, 1)


def _ask_all(sock: socket.socket, questions: Sequence[bytes]) -> tuple[float, list[float]]:
    """Seconds in all and milliseconds each, with `UNDER_WAY` asked at any time."""
    sent: dict[int, float] = {}
    taken: list[float] = []
    clock, send, receive = time.perf_counter, sock.send, sock.recv

    def ask_next(number: int) -> None:
        sent[number & 0xFFFF] = clock()
        send((number & 0xFFFF).to_bytes(2, "big") + questions[number])

    gc.disable()  # the client's own pauses are not the server's
    started = clock()
    for number in range(UNDER_WAY):
        ask_next(number)
    for number in range(len(questions)):
        answer = receive(512)
        assert (answer[3] & 0xF, answer[7]) == (0, 1)
        taken.append((clock() - sent.pop(int.from_bytes(answer[:2], "big"))) * 1000)
        if number + UNDER_WAY < len(questions):
            ask_next(number + UNDER_WAY)
    seconds = clock() - started
    gc.enable()
    return seconds, taken


class _View(ServiceView):
    """Services that never change."""

    def __init__(self, services: dict[Key, Service]) -> None:
        self._known = services

    async def wait_synced(self) -> None:
        pass

    def add_handler(self, handler: Callable[[Key], None]) -> None:
        pass

    def service_keys(self) -> list[Key]:
        return list(self._known)

    def service(self, key: Key) -> Service | None:
        return self._known.get(key)

    def endpoints(self, key: Key) -> list[Endpoint]:
        return []


async def _serve(address: str) -> None:
    from bench.services import service

    gc.collect()  # as the supervisor does before it forks agents
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLD)
    view = _View({("bench", f"s{n}"): service(n) for n in range(NAMES)})
    dns = DNSServer(view, IPv4Address(address))
    task = asyncio.create_task(dns.run())
    await dns.started.wait()
    print("started", flush=True)
    await task


if __name__ == "__main__":
    uvloop.run(_serve(sys.argv[1]))
