"""The DNS server on real sockets, over the real API: UDP, TCP, EDNS, truncation, upstream, and how soon."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import time
import urllib.request
from collections.abc import AsyncIterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import msgspec
import pytest

from kernel.api_local import LocalAPI, eventually, running
from podling.api.core_v1 import Endpoints, Service
from podling.client.client import Client
from podling.network.dns.message import Code, Type, encode_name, parse_query
from podling.network.dns.server import BATCH, MAX_FORWARDED, DNSServer
from podling.network.dns.upstream import Upstream
from podling.network.services import Key, ServiceView
from unit.network.dns import specification

ADDRESS, PORT = "127.0.0.1", 10053
UPSTREAM = "127.0.0.53"
PATIENCE_S = 30
"""However slow the machine, nothing is asked a second time."""
WEB = "web.default.svc.cluster.local"


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[LocalAPI]:
    local = LocalAPI(tmp_path)
    await local.start()
    yield local
    await local.stop()


@dataclass(frozen=True)
class Node:
    """A DNS server and what it goes by."""

    kube: Client
    view: ServiceView
    server: DNSServer


@pytest.fixture
async def node(api: LocalAPI, tmp_path: Path) -> AsyncIterator[Node]:
    client = api.local()
    view = ServiceView(client)
    resolv_conf = tmp_path / "resolv.conf"
    resolv_conf.write_text(f"nameserver {UPSTREAM}\n")
    server = DNSServer(
        view,
        IPv4Address(ADDRESS),
        networks=[IPv4Network("10.96.0.0/16"), IPv4Network("10.244.0.0/16")],
        upstream=Upstream(resolv_conf, timeout_s=PATIENCE_S),
        port=PORT,
    )
    async with running(view.run), running(server.run):
        await server.started.wait()
        yield Node(client, view, server)


@pytest.fixture
def kube(node: Node) -> Client:
    """A client of an API server whose services the DNS server answers."""
    return node.kube


def query(name: str, kind: Type, *, edns_bytes: int = 0) -> bytes:
    opt = b"\0" + struct.pack(">HHIH", Type.OPT, edns_bytes, 0, 0) if edns_bytes else b""
    head = struct.pack(">HHHHHH", 77, 0x0100, 1, 0, 0, 1 if opt else 0)
    return head + encode_name(name) + struct.pack(">HH", kind, 1) + opt


def over_udp(message: bytes) -> bytes:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(PATIENCE_S)
        sock.sendto(message, (ADDRESS, PORT))
        return sock.recv(65535)


def over_tcp(*messages: bytes) -> list[bytes]:
    with socket.create_connection((ADDRESS, PORT), timeout=PATIENCE_S) as sock, sock.makefile("rb") as stream:
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


async def test_a_change_is_answered_from_the_moment_the_watch_brings_it(node: Node):
    """Within 100 ms of the change is what the watch takes: nothing polls, nothing waits for a timer."""
    name = "new.default.svc.cluster.local"
    head = struct.pack(">HHHHHH", 77, 0x0100, 1, 0, 0, 0)
    asked = parse_query(head + encode_name(name) + struct.pack(">HH", Type.A, 1))
    seen: list[bytes] = []

    def ask_at_once(key: Key) -> None:
        """A handler after the server's own, in the same turn of the loop."""
        if key == ("default", "new"):
            response = node.server.resolver.now(asked, limit=512)
            assert response is not None
            seen.append(response.message)

    node.view.add_handler(ask_at_once)
    assert code(await ask(name)) == Code.NXDOMAIN  # and is remembered
    await node.kube.create(service("new", "10.96.9.1"))
    await eventually(lambda: _true(len(seen) == 1), 10)
    assert socket.inet_aton("10.96.9.1") in seen[0]
    assert seen[0] == await ask(name)
    await node.kube.delete(Service, "new", "default")
    await eventually(lambda: _true(len(seen) == 2), 10)
    assert code(seen[1]) == code(await ask(name)) == Code.NXDOMAIN


async def _true(value: bool) -> bool:
    return value


@pytest.fixture
async def specified(node: Node) -> Node:
    for (namespace, name), spec in specification.SERVICES.items():
        meta = {"name": name, "namespace": namespace}
        await node.kube.create(msgspec.convert({"metadata": meta, "spec": spec}, Service))
    for (namespace, name), subset in specification.ENDPOINTS.items():
        meta = {"name": name, "namespace": namespace}
        await node.kube.create(msgspec.convert({"metadata": meta, "subsets": [subset]}, Endpoints))

    async def all_there() -> bool:
        services = all(node.view.service(key) for key in specification.SERVICES)
        return services and all(node.view.endpoints(key) for key in specification.ENDPOINTS)

    await eventually(all_there, 20)
    return node


async def test_the_specification_over_sockets(specified: Node):
    """Every case by UDP, all together on one TCP connection, and read by dnspython."""
    cases = specification.CASES
    # The external name of the outside is asked for as CNAME only: nobody is upstream here.
    queries = [query(case.full, case.type) for case in cases]
    by_tcp = {m[:2]: m for m in await asyncio.to_thread(over_tcp, *_numbered(queries))}
    assert len(by_tcp) == len(cases)
    for number, (case, message) in enumerate(zip(cases, queries, strict=True)):
        by_udp = await asyncio.to_thread(over_udp, message)
        for given in (by_udp, by_tcp[number.to_bytes(2, "big")]):
            assert code(given) == case.code, case
            assert _shown(given) == sorted(case.answers), case


def _numbered(queries: list[bytes]) -> list[bytes]:
    return [number.to_bytes(2, "big") + message[2:] for number, message in enumerate(queries)]


def _shown(message: bytes) -> list[str]:
    """The answers as an independent reader has them."""
    dns_message = pytest.importorskip("dns.message", reason="dnspython is not installed")
    found = []
    for rrset in dns_message.from_wire(message).answer:
        found += [each.to_text().strip('"').rstrip(".") for each in rrset]
    return sorted(found)


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


class UpstreamServer:
    """Knows `www.example.com` (192.0.2.1), denies what has `default` in it, has 150 addresses of `big`."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, bytes]] = []
        """By which protocol, and the first label."""
        self.hold = asyncio.Event()
        self.hold.set()

    def reply(self, data: bytes, protocol: str) -> bytes:
        asked = parse_query(data)
        label = asked.name.split(".")[0]
        self.asked.append((protocol, label.encode()))
        count = 150 if label == "big" else 0 if "default" in asked.name or label == "none" else 1
        if asked.type == Type.AAAA:
            count = 0
        denied = "default" in asked.name
        cut = count > 50 and protocol == "udp"
        records = [
            b"\xc0\x0c" + struct.pack(">HHIH", asked.type, 1, 60, 4) + bytes([192, 0, 2, n + 1])
            for n in range(count)
        ]
        if asked.type == Type.PTR:
            target = encode_name("www.example.com")
            records = [b"\xc0\x0c" + struct.pack(">HHIH", asked.type, 1, 60, len(target)) + target]
        soa = encode_name("ns") + encode_name("root") + struct.pack(">IIIII", 1, 2, 3, 4, 60)
        authority = b"" if records else b"\0" + struct.pack(">HHIH", Type.SOA, 1, 60, len(soa)) + soa
        records = [] if cut else records
        flags = 0x8180 | (3 if denied else 0) | (0x0200 if cut else 0)
        head = data[:2] + struct.pack(">HHHHH", flags, 1, len(records), bool(authority), 0)
        return head + asked.question + b"".join(records) + authority

    async def datagrams(self, sock: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            data, peer = await loop.sock_recvfrom(sock, 4096)
            reply = self.reply(data, "udp")
            await self.hold.wait()
            await loop.sock_sendto(sock, reply, peer)

    async def stream(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        size = int.from_bytes(await reader.readexactly(2), "big")
        reply = self.reply(await reader.readexactly(size), "tcp")
        writer.write(len(reply).to_bytes(2, "big") + reply)
        await writer.drain()
        writer.close()


@pytest.fixture
async def upstream() -> AsyncIterator[UpstreamServer]:
    made = UpstreamServer()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        sock.bind((UPSTREAM, 53))
        server = await asyncio.start_server(made.stream, UPSTREAM, 53)
        async with server, running(lambda: made.datagrams(sock)):
            yield made


async def test_other_names_are_asked_upstream(kube: Client, upstream: UpstreamServer):
    found = await ask("www.example.com")
    assert found[:2] == struct.pack(">H", 77)
    assert socket.inet_aton("192.0.2.1") in found
    assert code(await ask("8.8.8.8.in-addr.arpa", Type.PTR)) == Code.NOERROR
    assert len(upstream.asked) == 2
    # Never: the cluster's own names, and addresses of its ranges.
    assert code(await ask("nobody.default.svc.cluster.local")) == Code.NXDOMAIN
    assert code(await ask("9.9.96.10.in-addr.arpa", Type.PTR)) == Code.NXDOMAIN
    assert len(upstream.asked) == 2
    # What upstream does not know may be a short name of ours.
    for _ in range(2):
        assert socket.inet_aton("10.96.0.1") in await ask("kubernetes.default")


async def test_answers_and_denials_of_others_are_remembered(kube: Client, upstream: UpstreamServer):
    for _ in range(3):
        both = await asyncio.gather(ask("www.example.com"), ask("www.example.com", Type.AAAA))
        assert [(code(m), answers(m)) for m in both] == [(0, 1), (0, 0)]
        assert code(await ask("default.example.com")) == Code.NXDOMAIN
        assert answers(await ask("WWW.example.COM", edns_bytes=1232)) == 1
    assert sorted(label for _, label in upstream.asked) == [b"default", b"www", b"www"]
    shown = await metrics()
    assert (
        shown['coredns_cache_hits_total{server="dns://127.0.0.1:10053",zones=".",view="",type="success"}']
        >= 5
    )
    assert (
        shown['coredns_cache_hits_total{server="dns://127.0.0.1:10053",zones=".",view="",type="denial"}'] == 4
    )


async def test_many_clients_of_one_name_are_one_question_upstream(kube: Client, upstream: UpstreamServer):
    upstream.hold.clear()
    loop = asyncio.get_running_loop()
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) for _ in range(50)]
        for client in clients:
            client.setblocking(False)
            client.connect((ADDRESS, PORT))
            client.send(query("www.example.com", Type.A))
        await eventually(lambda: _true(len(upstream.asked) == 1), 10)
        # The cluster's names are answered meanwhile.
        assert answers(await ask("kubernetes.default.svc.cluster.local")) == 1
        upstream.hold.set()
        async with asyncio.timeout(PATIENCE_S):
            assert [answers(await loop.sock_recv(client, 512)) for client in clients] == [1] * 50
    assert upstream.asked == [("udp", b"www")]


async def test_a_flood_of_names_nobody_answers_is_refused_beyond_a_bound(
    kube: Client, upstream: UpstreamServer
):
    upstream.hold.clear()
    loop = asyncio.get_running_loop()
    count = MAX_FORWARDED + 2 * BATCH
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.setblocking(False)
        client.connect((ADDRESS, PORT))
        for number in range(count):
            client.send(query(f"n{number}.example.com", Type.A))
        async with asyncio.timeout(PATIENCE_S):
            assert code(await loop.sock_recv(client, 512)) == Code.REFUSED
            upstream.hold.set()
            codes = [code(await loop.sock_recv(client, 512)) for _ in range(count - 1)]
    assert codes.count(Code.NOERROR) >= MAX_FORWARDED
    assert set(codes) <= {Code.NOERROR, Code.REFUSED}
    assert (await metrics())["coredns_forward_max_concurrent_rejects_total"] == 1 + codes.count(Code.REFUSED)
    assert answers(await ask("after.example.com")) == 1


async def test_many_connections_at_once_are_served_in_turn(kube: Client):
    """Each opened before any is asked, each asked twice."""
    message = query("kubernetes.default.svc.cluster.local", Type.A)
    opened = [await asyncio.open_connection(ADDRESS, PORT) for _ in range(200)]
    for _ in range(2):
        for _, writer in opened:
            writer.write(len(message).to_bytes(2, "big") + message)
        for reader, _ in opened:
            size = int.from_bytes(await reader.readexactly(2), "big")
            assert answers(await reader.readexactly(size)) == 1
    for _, writer in opened:
        writer.close()
        await writer.wait_closed()


async def test_a_slow_question_holds_up_none_behind_it_on_a_connection(
    kube: Client, upstream: UpstreamServer
):
    upstream.hold.clear()
    slow, quick = _numbered(
        [query("www.example.com", Type.A), query("kubernetes.default.svc.cluster.local", Type.A)]
    )
    reader, writer = await asyncio.open_connection(ADDRESS, PORT)
    for message in (slow, quick):
        writer.write(len(message).to_bytes(2, "big") + message)
    order = []
    for _ in range(2):
        size = int.from_bytes(await reader.readexactly(2), "big")
        order.append((await reader.readexactly(size))[:2])
        upstream.hold.set()
    writer.close()
    assert order == [b"\0\1", b"\0\0"]


async def test_large_answers_of_others_are_fetched_by_tcp_and_cut_for_datagrams(
    kube: Client, upstream: UpstreamServer
):
    short = await ask("big.example.com")
    assert truncated(short)
    assert len(short) <= 512
    assert upstream.asked == [("udp", b"big"), ("tcp", b"big")]
    (whole,) = await asyncio.to_thread(over_tcp, query("big.example.com", Type.A))
    assert (truncated(whole), answers(whole)) == (False, 150)
    assert answers(await ask("big.example.com", edns_bytes=4096)) == 150
    assert len(upstream.asked) == 2  # the rest is remembered


async def test_an_external_name_brings_the_addresses_of_its_target(specified: Node, upstream: UpstreamServer):
    found = await ask("outside.default.svc.cluster.local")
    assert _shown(found) == ["192.0.2.1", "www.example.com"]
    assert _shown(await ask("outside.default.svc.cluster.local", Type.AAAA)) == ["www.example.com"]
    assert _shown(await ask("outside.default.svc.cluster.local", Type.CNAME)) == ["www.example.com"]


async def metrics() -> dict[str, float]:
    def fetch() -> str:
        with urllib.request.urlopen(f"http://{ADDRESS}:9153/metrics", timeout=10) as response:
            assert response.headers["Content-Type"] == "text/plain; version=0.0.4"
            return str(response.read().decode())

    lines = (await asyncio.to_thread(fetch)).splitlines()
    pairs = (line.rpartition(" ")[::2] for line in lines if not line.startswith("#"))
    return {name: float(value) for name, value in pairs}


async def test_what_is_answered_is_counted_under_coredns_names(kube: Client, upstream: UpstreamServer):
    here = 'server="dns://127.0.0.1:10053",zone=".",view=""'
    for _ in range(3):
        await ask("kubernetes.default.svc.cluster.local")
        await ask("www.example.com")
    await ask("nobody.default.svc.cluster.local", Type.AAAA)
    await asyncio.to_thread(over_tcp, query("kubernetes.default.svc.cluster.local", Type.A))
    shown = await metrics()
    for name, value in {
        f'coredns_dns_requests_total{{{here},proto="udp",family="1",type="A"}}': 6,
        f'coredns_dns_requests_total{{{here},proto="udp",family="1",type="AAAA"}}': 1,
        f'coredns_dns_requests_total{{{here},proto="tcp",family="1",type="A"}}': 1,
        f'coredns_dns_responses_total{{{here},rcode="NOERROR",plugin="kubernetes"}}': 4,
        f'coredns_dns_responses_total{{{here},rcode="NXDOMAIN",plugin="kubernetes"}}': 1,
        f'coredns_dns_responses_total{{{here},rcode="NOERROR",plugin="forward"}}': 1,
        f'coredns_dns_responses_total{{{here},rcode="NOERROR",plugin="cache"}}': 2,
        f"coredns_dns_request_duration_seconds_count{{{here}}}": 8,
        f'coredns_dns_request_duration_seconds_bucket{{{here},le="+Inf"}}': 8,
        'coredns_cache_misses_total{server="dns://127.0.0.1:10053",zones=".",view=""}': 1,
        f'coredns_forward_requests_total{{to="{UPSTREAM}:53"}}': 1,
        f'coredns_forward_responses_total{{to="{UPSTREAM}:53",rcode="NOERROR"}}': 1,
    }.items():
        assert shown[name] == value, name


async def test_without_an_upstream_the_answer_is_a_failure_at_once(kube: Client):
    started = time.monotonic()
    assert code(await ask("www.example.com")) == Code.SERVFAIL
    assert time.monotonic() - started < PATIENCE_S  # nobody was waited for
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
