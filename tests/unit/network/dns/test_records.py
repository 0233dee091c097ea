"""The Kubernetes DNS specification 1.1.0 as a table; each case names its section."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable, Sequence
from ipaddress import IPv4Network
from typing import Any

import msgspec
import pytest

from podling.api.core_v1 import Service
from podling.network.dns.message import Answer, Code, Query, Record, Type
from podling.network.dns.records import Zone
from podling.network.services import Endpoint, Key


def service(**spec: Any) -> Service:
    return msgspec.convert({"metadata": {"name": "x", "namespace": "default"}, "spec": spec}, Service)


HTTPS = [{"name": "https", "port": 443, "protocol": "TCP"}, {"port": 80, "protocol": "TCP"}]
SERVICES: dict[Key, Service] = {
    ("default", "kubernetes"): service(clusterIP="10.3.0.1", ports=HTTPS),
    ("default", "headless"): service(clusterIP="None", ports=HTTPS),
    ("default", "empty"): service(clusterIP="None", ports=HTTPS),
    ("default", "outside"): service(type="ExternalName", externalName="www.example.com"),
    ("kube-system", "kube-dns"): service(clusterIP="10.3.0.10", ports=[]),
}
ENDPOINTS: dict[Key, list[Endpoint]] = {
    ("default", "headless"): [
        Endpoint("https", "TCP", "10.3.0.100", 8443, hostname="my-pet"),
        Endpoint("https", "TCP", "10.3.0.101", 8443),
        Endpoint("https", "TCP", "10.3.0.102", 8443, ready=False),
    ],
    ("default", "empty"): [Endpoint("https", "TCP", "10.3.0.103", 8443, ready=False)],
}


class Cluster:
    def service(self, key: Key) -> Service | None:
        return SERVICES.get(key)

    def endpoints(self, key: Key) -> Sequence[Endpoint]:
        return ENDPOINTS.get(key, [])

    def service_keys(self) -> Iterable[Key]:
        return SERVICES

    def services_at(self, address: str) -> Iterable[Key]:
        addresses = {key: [s.spec.cluster_ip] for key, s in SERVICES.items() if s.spec}
        for key, found in ENDPOINTS.items():
            addresses[key] = [endpoint.address for endpoint in found]
        return [key for key, known in addresses.items() if address in known]


ZONE = Zone(Cluster(), "cluster.local", [IPv4Network("10.3.0.0/16")])


def ask(name: str, kind: Type) -> Answer | None:
    return ZONE.answer(Query(id=1, flags=0, name=name, type=kind, question=b""))


def text(record: Record) -> str:
    match record.type:
        case Type.A:
            return socket.inet_ntoa(record.data)
        case Type.SRV:
            priority, weight, port = struct.unpack_from(">HHH", record.data)
            return f"{priority} {weight} {port} {name_text(record.data[6:])}"
        case Type.TXT:
            return record.data[1:].decode()
        case _:
            return name_text(record.data)


def name_text(raw: bytes) -> str:
    labels = []
    while raw[0]:
        labels.append(raw[1 : 1 + raw[0]].decode())
        raw = raw[1 + raw[0] :]
    return ".".join(labels)


@pytest.mark.parametrize(
    ("name", "kind", "expected"),
    [
        # 2.2 Record for Schema Version
        ("dns-version.cluster.local", Type.TXT, ["1.1.0"]),
        # 2.3.1 A/AAAA Record
        ("kubernetes.default.svc.cluster.local", Type.A, ["10.3.0.1"]),
        # 2.3.2 SRV Records
        (
            "_https._tcp.kubernetes.default.svc.cluster.local",
            Type.SRV,
            ["0 100 443 kubernetes.default.svc.cluster.local"],
        ),
        # 2.3.3 PTR Record
        ("1.0.3.10.in-addr.arpa", Type.PTR, ["kubernetes.default.svc.cluster.local"]),
        # 2.4.1 A/AAAA Records
        ("headless.default.svc.cluster.local", Type.A, ["10.3.0.100", "10.3.0.101"]),
        ("my-pet.headless.default.svc.cluster.local", Type.A, ["10.3.0.100"]),
        ("10-3-0-101.headless.default.svc.cluster.local", Type.A, ["10.3.0.101"]),
        # 2.4.2 SRV Records
        (
            "_https._tcp.headless.default.svc.cluster.local",
            Type.SRV,
            [
                "0 100 8443 my-pet.headless.default.svc.cluster.local",
                "0 100 8443 10-3-0-101.headless.default.svc.cluster.local",
            ],
        ),
        # 2.4.3 PTR Records
        ("100.0.3.10.in-addr.arpa", Type.PTR, ["my-pet.headless.default.svc.cluster.local"]),
        # 2.5.1 CNAME Record
        ("outside.default.svc.cluster.local", Type.CNAME, ["www.example.com"]),
        ("outside.default.svc.cluster.local", Type.A, ["www.example.com"]),
        # 2.6.1 A/AAAA Records of pods
        ("172-17-0-3.default.pod.cluster.local", Type.A, ["172.17.0.3"]),
        # The zone itself (RFC 1034)
        ("cluster.local", Type.NS, ["ns.dns.cluster.local"]),
        ("ns.dns.cluster.local", Type.A, ["10.3.0.10"]),
    ],
)
def test_names_that_are(name: str, kind: Type, expected: list[str]):
    answer = ask(name, kind)
    assert answer is not None
    assert answer.code is Code.NOERROR
    assert [text(record) for record in answer.answers] == expected


@pytest.mark.parametrize(
    "name",
    [
        "kubernetes.default.svc.cluster.local",
        "default.svc.cluster.local",
        "svc.cluster.local",
        "pod.cluster.local",
        "_tcp.kubernetes.default.svc.cluster.local",
        "headless.default.svc.cluster.local",
    ],
)
def test_a_name_without_such_a_record_is_no_error(name: str):
    """So that a client that asks for A and AAAA together takes what there is."""
    answer = ask(name, Type.AAAA)
    assert answer is not None
    assert (answer.code, list(answer.answers)) == (Code.NOERROR, [])
    assert [record.type for record in answer.authority] == [Type.SOA]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("nobody.default.svc.cluster.local", Type.A),
        ("empty.default.svc.cluster.local", Type.A),  # 2.4.1: no ready endpoints
        ("10-3-0-102.headless.default.svc.cluster.local", Type.A),
        ("my-pet.kubernetes.default.svc.cluster.local", Type.A),
        ("_nope._tcp.kubernetes.default.svc.cluster.local", Type.SRV),
        ("_https._udp.kubernetes.default.svc.cluster.local", Type.SRV),
        ("elsewhere.svc.cluster.local", Type.A),
        ("kubernetes.default.cluster.local", Type.A),
        ("1-2-3.default.pod.cluster.local", Type.A),
        ("999-2-3-4.default.pod.cluster.local", Type.A),
        ("99.0.3.10.in-addr.arpa", Type.PTR),
    ],
)
def test_names_that_are_not(name: str, kind: Type):
    answer = ask(name, kind)
    assert answer is not None
    assert answer.code is Code.NXDOMAIN
    assert [record.type for record in answer.authority] == [Type.SOA]


@pytest.mark.parametrize("name", ["example.com", "cluster.local.example.com", "8.8.8.8.in-addr.arpa", ""])
def test_what_is_not_the_clusters_is_for_somebody_else(name: str):
    assert ask(name, Type.A) is None


def test_srv_answers_bring_the_addresses_along():
    answer = ask("_https._tcp.headless.default.svc.cluster.local", Type.SRV)
    assert answer is not None
    assert [text(record) for record in answer.additional] == ["10.3.0.100", "10.3.0.101"]


def test_short_names_are_answered_under_the_name_that_was_asked():
    asked = Query(id=1, flags=0, name="kubernetes.default", type=Type.A, question=b"")
    answer = ZONE.short_answer(asked)
    assert answer is not None
    assert [(record.name, text(record)) for record in answer.answers] == [("kubernetes.default", "10.3.0.1")]
    nobody = Query(id=1, flags=0, name="example.com", type=Type.A, question=b"")
    assert ZONE.short_answer(nobody) is None
