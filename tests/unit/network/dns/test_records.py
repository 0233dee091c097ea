"""The Kubernetes DNS specification 1.1.0; each case of its table names the section."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable, Sequence
from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import Any

import msgspec
import pytest

from podling.api.core_v1 import Endpoints, Service
from podling.network.dns.message import Answer, Code, Query, Record, Type
from podling.network.dns.records import Zone
from podling.network.services import Endpoint, Key, from_endpoints
from unit.network.dns import specification


def service(spec: dict[str, Any]) -> Service:
    return msgspec.convert({"metadata": {"name": "x", "namespace": "default"}, "spec": spec}, Service)


def endpoints(subset: dict[str, Any]) -> list[Endpoint]:
    found = from_endpoints(msgspec.convert({"metadata": {"name": "x"}, "subsets": [subset]}, Endpoints))
    return sorted(found)


KUBE_DNS, SIX = ("kube-system", "kube-dns"), ("default", "six")
SERVICES: dict[Key, Service] = {
    **{key: service(spec) for key, spec in specification.SERVICES.items()},
    KUBE_DNS: service({"clusterIP": "10.96.0.10", "ports": []}),
    SIX: service({"clusterIP": "None", "ports": []}),
    ("default", "plain-six"): service({"clusterIP": "fd00:10:96::5", "ports": []}),
}
ENDPOINTS: dict[Key, list[Endpoint]] = {
    **{key: endpoints(subset) for key, subset in specification.ENDPOINTS.items()},
    SIX: [Endpoint("", "TCP", "fd00:10:244::7", 80)],
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


ZONE = Zone(
    Cluster(),
    "cluster.local",
    [IPv4Network("10.96.0.0/16"), IPv4Network("10.244.0.0/16"), IPv6Network("fd00:10::/32")],
)


def ask(name: str, kind: Type) -> Answer | None:
    return ZONE.answer(Query(id=1, flags=0, name=name, type=kind, question=b""))


def text(record: Record) -> str:
    match record.type:
        case Type.A:
            return socket.inet_ntoa(record.data)
        case Type.AAAA:
            return socket.inet_ntop(socket.AF_INET6, record.data)
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


@pytest.mark.parametrize("case", specification.CASES, ids=str)
def test_the_specification(case: specification.Case):
    answer = ask(case.full, case.type)
    assert answer is not None
    assert answer.code is case.code
    found = [text(record) for record in answer.answers]
    assert (found if case.section.startswith("2.5") else sorted(found)) == case.answers
    # RFC 2308: a denial carries the SOA, by which the client may keep it.
    if case.code is Code.NXDOMAIN or not answer.answers:
        assert [record.type for record in answer.authority] == [Type.SOA]


@pytest.mark.parametrize(
    ("name", "kind", "expected"),
    [
        ("plain-six.default.svc.cluster.local", Type.AAAA, ["fd00:10:96::5"]),
        ("plain-six.default.svc.cluster.local", Type.A, []),
        ("six.default.svc.cluster.local", Type.AAAA, ["fd00:10:244::7"]),
        ("fd00-10-244--7.six.default.svc.cluster.local", Type.AAAA, ["fd00:10:244::7"]),
        (
            ip_address("fd00:10:244::7").reverse_pointer,
            Type.PTR,
            ["fd00-10-244--7.six.default.svc.cluster.local"],
        ),
        (ip_address("fd00:10:96::5").reverse_pointer, Type.PTR, ["plain-six.default.svc.cluster.local"]),
        ("ns.dns.cluster.local", Type.A, ["10.96.0.10"]),
    ],
)
def test_addresses_of_either_family(name: str, kind: Type, expected: list[str]):
    answer = ask(name, kind)
    assert answer is not None
    assert answer.code is Code.NOERROR
    assert [text(record) for record in answer.answers] == expected


@pytest.mark.parametrize(
    ("name", "kind", "outside"),
    [
        ("outside.default.svc.cluster.local", Type.A, "www.example.com"),
        ("outside.default.svc.cluster.local", Type.CNAME, None),
        ("alias.default.svc.cluster.local", Type.A, None),
        ("nowhere.default.svc.cluster.local", Type.A, None),
        ("plain.default.svc.cluster.local", Type.A, None),
    ],
)
def test_what_an_external_name_leads_to_is_asked_elsewhere_only_when_it_is_not_ours(
    name: str, kind: Type, outside: str | None
):
    query = Query(id=1, flags=0, name=name, type=kind, question=b"")
    answer = ZONE.answer(query)
    assert answer is not None
    assert ZONE.outside(query, answer) == outside


@pytest.mark.parametrize(
    "name", ["example.com", "cluster.local.example.com", "8.8.8.8.in-addr.arpa", "1.ip6.arpa", ""]
)
def test_what_is_not_the_clusters_is_for_somebody_else(name: str):
    assert ask(name, Type.A) is None


def test_srv_answers_bring_the_addresses_along():
    answer = ask("_https._tcp.headless.default.svc.cluster.local", Type.SRV)
    assert answer is not None
    assert [text(record) for record in answer.additional] == ["10.244.3.100", "10.244.3.101"]


def test_short_names_are_answered_under_the_name_that_was_asked():
    asked = Query(id=1, flags=0, name="plain.default", type=Type.A, question=b"")
    answer = ZONE.short_answer(asked)
    assert answer is not None
    assert [(record.name, text(record)) for record in answer.answers] == [("plain.default", "10.96.3.1")]
    nobody = Query(id=1, flags=0, name="example.com", type=Type.A, question=b"")
    assert ZONE.short_answer(nobody) is None
