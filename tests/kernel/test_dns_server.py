"""The DNS server on real sockets, over the real API: UDP, TCP, EDNS, truncation, upstream, and how soon."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
import time
from collections.abc import AsyncIterator, Iterator
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import msgspec
import pytest

from kernel.api_local import LocalAPI, eventually, running
from podling.api.core_v1 import Endpoints, Service
from podling.client.client import Client
from podling.network.dns.message import Code, Type, encode_name
from podling.network.dns.server import DNSServer
from podling.network.dns.upstream import Upstream
from podling.network.services import ServiceView

ADDRESS, PORT = "127.0.0.1", 10053
UPSTREAM = "127.0.0.53"
WEB = "web.default.svc.cluster.local"


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[LocalAPI]:
    local = LocalAPI(tmp_path)
    await local.start()
    yield local
    await local.stop()


@pytest.fixture
async def kube(api: LocalAPI, tmp_path: Path) -> AsyncIterator[Client]:
    """A client of an API server whose services the DNS server answers."""
    client = api.local()
    view = ServiceView(client)
    resolv_conf = tmp_path / "resolv.conf"
    resolv_conf.write_text(f"nameserver {UPSTREAM}\n")
    server = DNSServer(
        view,
        IPv4Address(ADDRESS),
        networks=[IPv4Network("10.96.0.0/16")],
        upstream=Upstream(resolv_conf),
        port=PORT,
    )
    async with running(view.run), running(server.run):
        await server.started.wait()
        yield client


def query(name: str, kind: Type, *, edns_bytes: int = 0) -> bytes:
    opt = b"\0" + struct.pack(">HHIH", Type.OPT, edns_bytes, 0, 0) if edns_bytes else b""
    head = struct.pack(">HHHHHH", 77, 0x0100, 1, 0, 0, 1 if opt else 0)
    return head + encode_name(name) + struct.pack(">HH", kind, 1) + opt


def over_udp(message: bytes) -> bytes:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(3)
        sock.sendto(message, (ADDRESS, PORT))
        return sock.recv(65535)


def over_tcp(*messages: bytes) -> list[bytes]:
    with socket.create_connection((ADDRESS, PORT), timeout=3) as sock, sock.makefile("rb") as stream:
        sock.sendall(b"".join(len(m).to_bytes(2, "big") + m for m in messages))
        return [stream.read(int.from_bytes(stream.read(2), "big")) for _ in messages]


async def ask(name: str, kind: Type = Type.A, *, edns_bytes: int = 0) -> bytes:
    return await asyncio.to_thread(over_udp, query(name, kind, edns_bytes=edns_bytes))


async def known(name: str) -> None:
    """Until the name has addresses."""

    async def look() -> bool:
        return answers(await ask(name)) > 0

    await eventually(look, 3)


def code(message: bytes) -> int:
    return message[3] & 0xF


def answers(message: bytes) -> int:
    return int(struct.unpack_from(">H", message, 6)[0])


def truncated(message: bytes) -> bool:
    return bool(message[2] & 0x02)


def service(name: str, address: str) -> Service:
    spec = {"clusterIP": address, "ports": [{"name": "http", "port": 80, "protocol": "TCP"}]}
    return msgspec.convert({"metadata": {"name": name, "namespace": "default"}, "spec": spec}, Service)


def endpoints(name: str, count: int) -> Endpoints:
    addresses = [{"ip": f"10.244.{n // 250}.{n % 250 + 1}"} for n in range(count)]
    subset = {"addresses": addresses, "ports": [{"name": "http", "port": 80, "protocol": "TCP"}]}
    return msgspec.convert(
        {"metadata": {"name": name, "namespace": "default"}, "subsets": [subset]}, Endpoints
    )


async def test_a_new_service_is_known_within_a_tenth_of_a_second(kube: Client):
    assert code(await ask(WEB)) == Code.NXDOMAIN
    slowest = 0.0
    for number in range(5):
        name = f"new-{number}"
        assert code(await ask(f"{name}.default.svc.cluster.local")) == Code.NXDOMAIN
        await kube.create(service(name, f"10.96.9.{number + 1}"))
        created = time.monotonic()
        while answers(found := await ask(f"{name}.default.svc.cluster.local")) == 0:
            assert time.monotonic() - created < 3
        slowest = max(slowest, time.monotonic() - created)
        assert socket.inet_aton(f"10.96.9.{number + 1}") in found
    assert slowest < 0.1
    await kube.delete(Service, "new-0", "default")
    deleted = time.monotonic()
    while code(await ask("new-0.default.svc.cluster.local")) != Code.NXDOMAIN:
        assert time.monotonic() - deleted < 0.5


async def test_a_and_aaaa_asked_together_are_both_answered(kube: Client):
    both = await asyncio.gather(
        ask("kubernetes.default.svc.cluster.local", Type.A),
        ask("kubernetes.default.svc.cluster.local", Type.AAAA),
    )
    assert [(code(m), answers(m)) for m in both] == [(0, 1), (0, 0)]


async def test_large_answers_are_cut_to_what_the_client_takes_and_whole_over_tcp(kube: Client):
    await kube.create(service("big", "None"))
    await kube.create(endpoints("big", 150))
    name = "big.default.svc.cluster.local"
    await known(name)
    short = await ask(name)
    assert truncated(short)
    assert len(short) <= 512
    longer = await ask(name, edns_bytes=1232)
    assert truncated(longer)
    assert 512 < len(longer) <= 1232
    assert not truncated(await ask(name, edns_bytes=4096))
    (whole, again) = await asyncio.to_thread(over_tcp, query(name, Type.A), query(name, Type.A))
    assert not truncated(whole)
    assert answers(whole) == answers(again) == 150


async def test_clients_are_spread_over_a_headless_service(kube: Client):
    await kube.create(service("spread", "None"))
    await kube.create(endpoints("spread", 3))
    name = "spread.default.svc.cluster.local"
    await known(name)
    seen = {(await ask(name)) for _ in range(40)}
    assert len(seen) > 1


@contextlib.contextmanager
def upstream() -> Iterator[list[bytes]]:
    """A server that knows every name (192.0.2.1), on UDP and TCP; what it was asked."""
    asked: list[bytes] = []
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    udp.bind((UPSTREAM, 53))
    udp.settimeout(0.05)
    stop = threading.Event()

    def serve() -> None:
        while not stop.is_set():
            with contextlib.suppress(TimeoutError):
                data, peer = udp.recvfrom(4096)
                asked.append(data)
                found = b"\xc0\x0c" + struct.pack(">HHIH", Type.A, 1, 60, 4) + socket.inet_aton("192.0.2.1")
                nowhere = b"\x07default" in data
                head = data[:2] + (b"\x81\x83" if nowhere else b"\x81\x80")
                body = data[12:] + (b"" if nowhere else found)
                udp.sendto(head + struct.pack(">HHHH", 1, 0 if nowhere else 1, 0, 0) + body, peer)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield asked
    finally:
        stop.set()
        thread.join()
        udp.close()


async def test_other_names_are_asked_upstream(kube: Client):
    with upstream() as asked:
        found = await ask("www.example.com")
        assert found[:2] == struct.pack(">H", 77)
        assert socket.inet_aton("192.0.2.1") in found
        assert code(await ask("8.8.8.8.in-addr.arpa", Type.PTR)) == Code.NOERROR
        assert len(asked) == 2
        # Never: the cluster's own names, and addresses of its ranges.
        assert code(await ask("nobody.default.svc.cluster.local")) == Code.NXDOMAIN
        assert code(await ask("9.9.96.10.in-addr.arpa", Type.PTR)) == Code.NXDOMAIN
        assert len(asked) == 2
        # What upstream does not know may be a short name of ours.
        assert socket.inet_aton("10.96.0.1") in await ask("kubernetes.default")


async def test_without_an_upstream_the_answer_is_a_failure_at_once(kube: Client):
    started = time.monotonic()
    assert code(await ask("www.example.com")) == Code.SERVFAIL
    assert time.monotonic() - started < 1
    assert socket.inet_aton("10.96.0.1") in await ask("kubernetes.default")


async def test_a_port_that_is_taken_is_waited_for(kube: Client):
    """The rest of the agent must not end because of it."""
    view = ServiceView(kube)
    second = DNSServer(view, IPv4Address(ADDRESS), port=PORT)
    async with running(view.run), running(second.run):
        await asyncio.sleep(0.1)
        assert not second.started.is_set()
    assert answers(await ask("kubernetes.default.svc.cluster.local")) == 1


async def test_nonsense_is_answered_or_ignored_and_harms_nobody(kube: Client):
    assert code(await asyncio.to_thread(over_udp, query("a", Type.A)[:15])) == Code.FORMERR
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for data in (b"", b"x", b"\0" * 12, b"\xff" * 600):
            sock.sendto(data, (ADDRESS, PORT))
    with socket.create_connection((ADDRESS, PORT)) as sock:
        sock.sendall(b"\0\3abc")
    assert answers(await ask("kubernetes.default.svc.cluster.local")) == 1
