"""What a name of the cluster's domain means: the Kubernetes DNS specification 1.1.0 as pure functions.

Names are answered from the services and endpoints as they are now; nothing is stored per name. What is not
the cluster's (`Zone.answer` gives None) is for an upstream server.

Source: https://github.com/kubernetes/dns/blob/master/docs/specification.md
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable, Sequence
from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import Protocol

from podling.api.core_v1 import Service
from podling.network.dns.message import Answer, Code, Query, Record, Type, encode_name
from podling.network.services import Endpoint, Key

VERSION = "1.1.0"
TTL_S = 5
"""The specification leaves it open; this is CoreDNS's own. Short, because names move with pods."""
REVERSE, REVERSE_V6 = "in-addr.arpa", "ip6.arpa"
MAX_CHAIN = 8
"""External names that lead to external names of the cluster."""
SRV_PRIORITY, SRV_WEIGHT = 0, 100


class Source(Protocol):
    def service(self, key: Key) -> Service | None: ...
    def endpoints(self, key: Key) -> Sequence[Endpoint]: ...
    def service_keys(self) -> Iterable[Key]: ...
    def services_at(self, address: str) -> Iterable[Key]:
        """Services whose cluster IP, or whose endpoint while headless, the address is."""
        ...


class Zone:
    def __init__(
        self, source: Source, domain: str, networks: Sequence[IPv4Network | IPv6Network] = ()
    ) -> None:
        """`networks` are the cluster's own ranges: their reverse names are not asked for elsewhere."""
        self._source = source
        self._domain = domain.rstrip(".").lower()
        self._networks = networks
        self._soa = Record(
            self._domain,
            Type.SOA,
            TTL_S,
            encode_name(f"ns.dns.{self._domain}")
            + encode_name(f"hostmaster.{self._domain}")
            + struct.pack(">IIIII", 1, 7200, 1800, 86400, TTL_S),
        )

    def answer(self, query: Query) -> Answer | None:
        """None for a name that is not the cluster's."""
        name = query.name
        if self._inside(name):
            return self._select(query, self._forward(name))
        if not name.endswith((f".{REVERSE}", f".{REVERSE_V6}")):
            return None
        address = _reversed_address(name)
        found = self._reverse(name, address) if address else None
        if found is None and not (address and any(ip_address(address) in n for n in self._networks)):
            return None
        return self._select(query, found)

    def outside(self, query: Query, answer: Answer) -> str | None:
        """The name that `answer` leads to and somebody else knows, when the question wants more than that."""
        if (
            query.type in (Type.CNAME, Type.ANY)
            or not answer.answers
            or answer.answers[-1].type != Type.CNAME
        ):
            return None
        target = _decode_name(answer.answers[-1].data)
        return None if self._inside(target) else target

    def _inside(self, name: str) -> bool:
        return name == self._domain or name.endswith(f".{self._domain}")

    def short_answer(self, query: Query) -> Answer | None:
        """For `service.namespace` and `service.namespace.svc`, when nobody else knows such a name.

        Differs from upstream, where only the search list of the client makes these work: nslookup of busybox
        since 1.29 does not use it for names with a dot, and that is what people try first.
        """
        match query.name.split("."):
            case [service, namespace] | [service, namespace, "svc"]:
                found = self._service(query.name, (namespace, service))
                return self._select(query, found) if found is not None else None
        return None

    def _select(self, query: Query, found: Sequence[Record] | None) -> Answer:
        if found is None:
            return Answer(code=Code.NXDOMAIN, authority=(self._soa,))
        chain: list[Record] = []
        while True:
            wanted = [r for r in found if query.type in (r.type, Type.ANY)]
            alias = next((r for r in found if r.type == Type.CNAME), None)
            if wanted or alias is None:
                break
            # RFC 1034, "Algorithm": what an alias leads to is part of the answer, as far as it is ours.
            chain.append(alias)
            target = _decode_name(alias.data)
            if len(chain) == MAX_CHAIN or not self._inside(target) or target in (r.name for r in chain):
                return Answer(answers=chain)
            following = self._forward(target)
            if following is None:
                return Answer(code=Code.NXDOMAIN, answers=chain, authority=(self._soa,))
            found = following
        authority = () if wanted else (self._soa,)
        return Answer(answers=[*chain, *wanted], authority=authority, additional=self._targets(wanted))

    def _forward(self, name: str) -> list[Record] | None:
        """All records of a name; empty for one that only has names below it, None for no such name."""
        labels = name.removesuffix(self._domain).rstrip(".").split(".")
        match labels[::-1]:
            case [""]:
                return [self._soa, self._record(self._domain, Type.NS, encode_name(f"ns.dns.{self._domain}"))]
            case ["dns-version"]:
                return [self._record(name, Type.TXT, bytes([len(VERSION)]) + VERSION.encode())]
            case ["svc"] | ["pod"] | ["dns"]:
                return []
            case ["dns", "ns"]:
                return self._name_server(name)
            case ["svc", namespace]:
                return [] if any(key[0] == namespace for key in self._source.service_keys()) else None
            case ["svc", namespace, service]:
                return self._service(name, (namespace, service))
            case ["svc", namespace, service, below] if not below.startswith("_"):
                return self._host(name, (namespace, service), below)
            case ["svc", namespace, service, protocol] if protocol.startswith("_"):
                known = {f"_{p}" for p in self._protocols((namespace, service))}
                return [] if protocol in known else None
            case ["svc", namespace, service, protocol, port] if protocol[0:1] == port[0:1] == "_":
                return self._ports(name, (namespace, service), port[1:], protocol[1:]) or None
            case ["pod", _, dashed]:
                address = dashed.replace("-", ".")
                if not _valid(address):
                    address = dashed.replace("-", ":")
                return [self._a(name, address)] if _valid(address) else None
            case _:
                return None

    def _name_server(self, name: str) -> list[Record]:
        """The name the SOA gives: the DNS service's own address."""
        service = self._source.service(("kube-system", "kube-dns"))
        address = service.spec.cluster_ip if service and service.spec else None
        return [self._a(name, address)] if address and _valid(address) else []

    def _service(self, name: str, key: Key) -> list[Record] | None:
        service = self._source.service(key)
        if service is None or service.spec is None:
            return None
        if service.spec.type == "ExternalName":
            target = (service.spec.external_name or "").rstrip(".").lower()
            return [self._record(name, Type.CNAME, encode_name(target))]
        if not _headless(service):
            address = service.spec.cluster_ip or ""
            return [self._a(name, address)] if _valid(address) else []
        # "When there are no ready endpoints for the headless Service, the answer should be NXDOMAIN."
        addresses = dict.fromkeys(e.address for e in self._ready(key) if _valid(e.address))
        return [self._a(name, address) for address in addresses] or None

    def _host(self, name: str, key: Key, host: str) -> list[Record] | None:
        service = self._source.service(key)
        if service is None or not _headless(service):
            return None
        addresses = dict.fromkeys(e.address for e in self._ready(key) if _host_name(e) == host)
        return [self._a(name, address) for address in addresses] or None

    def _protocols(self, key: Key) -> set[str]:
        service = self._source.service(key)
        ports = service.spec.ports if service and service.spec else []
        return {(port.protocol or "TCP").lower() for port in ports if port.name}

    def _ports(self, name: str, key: Key, port_name: str, protocol: str) -> list[Record]:
        service = self._source.service(key)
        if service is None or service.spec is None:
            return []
        full = f"{key[1]}.{key[0]}.svc.{self._domain}"
        if not _headless(service):
            return [
                self._srv(name, port.port, full)
                for port in service.spec.ports
                if port.name == port_name and (port.protocol or "TCP").lower() == protocol
            ]
        return [
            self._srv(name, endpoint.port, f"{_host_name(endpoint)}.{full}")
            for endpoint in self._ready(key)
            if endpoint.port_name == port_name and endpoint.protocol.lower() == protocol
        ]

    def _ready(self, key: Key) -> list[Endpoint]:
        return [endpoint for endpoint in self._source.endpoints(key) if endpoint.ready]

    def _reverse(self, name: str, address: str) -> list[Record] | None:
        targets: dict[str, None] = {}
        for key in self._source.services_at(address):
            service = self._source.service(key)
            if service is None:
                continue
            full = f"{key[1]}.{key[0]}.svc.{self._domain}"
            if not _headless(service):
                targets[full] = None
                continue
            for endpoint in self._ready(key):
                if endpoint.address == address:
                    targets[f"{_host_name(endpoint)}.{full}"] = None
        return [self._record(name, Type.PTR, encode_name(target)) for target in targets] or None

    def _targets(self, answers: Iterable[Record]) -> list[Record]:
        """Addresses of the hosts that SRV records name."""
        found: dict[Record, None] = {}
        for record in answers:
            if record.type == Type.SRV:
                target = _decode_name(record.data[6:])
                for each in self._forward(target) or []:
                    if each.type in (Type.A, Type.AAAA):
                        found[each] = None
        return list(found)

    def _record(self, name: str, kind: Type, data: bytes) -> Record:
        return Record(name, kind, TTL_S, data)

    def _a(self, name: str, address: str) -> Record:
        """A or AAAA, as the address is."""
        raw = _packed(address)
        return Record(name, Type.A if len(raw) == 4 else Type.AAAA, TTL_S, raw)

    def _srv(self, name: str, port: int, target: str) -> Record:
        data = struct.pack(">HHH", SRV_PRIORITY, SRV_WEIGHT, port) + encode_name(target)
        return Record(name, Type.SRV, TTL_S, data)


def _headless(service: Service) -> bool:
    return service.spec is not None and service.spec.cluster_ip == "None"


def _host_name(endpoint: Endpoint) -> str:
    """The endpoint's own, or its address with dashes (as CoreDNS has it)."""
    return endpoint.hostname.lower() or endpoint.address.replace(".", "-").replace(":", "-")


def _valid(address: str) -> bool:
    return bool(_packed(address))


def _packed(address: str) -> bytes:
    """Empty for what is no address. Not by `ipaddress`, which takes 15 us for what libc does in one."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        return socket.inet_pton(family, address)
    except (OSError, ValueError):  # a zero byte is a ValueError
        return b""


def _reversed_address(name: str) -> str:
    """Of `2.1.244.10.in-addr.arpa` or 32 digits before `ip6.arpa`; empty when it is none."""
    if name.endswith(f".{REVERSE}"):
        address = ".".join(reversed(name.removesuffix(f".{REVERSE}").split(".")))
    else:
        digits = name.removesuffix(f".{REVERSE_V6}").split(".")[::-1]
        if len(digits) != 32 or any(len(digit) != 1 for digit in digits):
            return ""
        address = ":".join("".join(digits[n : n + 4]) for n in range(0, 32, 4))
    return str(ip_address(address)) if _valid(address) else ""


def _decode_name(raw: bytes) -> str:
    labels = []
    offset = 0
    while raw[offset]:
        labels.append(raw[offset + 1 : offset + 1 + raw[offset]].decode("latin-1"))
        offset += 1 + raw[offset]
    return ".".join(labels)
