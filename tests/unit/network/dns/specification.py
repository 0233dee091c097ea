"""The Kubernetes DNS specification 1.1.0 as a table, with the cluster its examples speak of."""

from __future__ import annotations

from typing import Any, NamedTuple

from podling.network.dns.message import Code, Type

HTTPS = {"name": "https", "port": 443, "protocol": "TCP"}
DOMAIN_UDP = {"name": "domain", "port": 53, "protocol": "UDP"}
UNNAMED = {"port": 80, "protocol": "TCP"}

SERVICES: dict[tuple[str, str], dict[str, Any]] = {
    ("default", "plain"): {"clusterIP": "10.96.3.1", "ports": [HTTPS, {**DOMAIN_UDP}]},
    ("default", "unnamed"): {"clusterIP": "10.96.3.2", "ports": [UNNAMED]},
    ("default", "headless"): {"clusterIP": "None", "ports": [HTTPS]},
    ("default", "empty"): {"clusterIP": "None", "ports": [HTTPS]},
    ("default", "outside"): {"type": "ExternalName", "externalName": "www.example.com"},
    ("default", "alias"): {"type": "ExternalName", "externalName": "plain.default.svc.cluster.local"},
    ("default", "alias-of-alias"): {
        "type": "ExternalName",
        "externalName": "alias.default.svc.cluster.local",
    },
    ("default", "circle"): {"type": "ExternalName", "externalName": "circle.default.svc.cluster.local"},
    ("default", "nowhere"): {"type": "ExternalName", "externalName": "nobody.default.svc.cluster.local"},
}
ENDPOINTS: dict[tuple[str, str], dict[str, Any]] = {
    ("default", "headless"): {
        "addresses": [{"ip": "10.244.3.100", "hostname": "my-pet"}, {"ip": "10.244.3.101"}],
        "notReadyAddresses": [{"ip": "10.244.3.102"}],
        "ports": [{"name": "https", "port": 8443, "protocol": "TCP"}],
    },
    ("default", "empty"): {
        "notReadyAddresses": [{"ip": "10.244.3.103"}],
        "ports": [{"name": "https", "port": 8443, "protocol": "TCP"}],
    },
}


class Case(NamedTuple):
    section: str
    name: str
    """Below `cluster.local` unless it ends in a dot."""
    type: Type
    answers: list[str] = []  # noqa: RUF012 - never changed
    code: Code = Code.NOERROR

    def __str__(self) -> str:
        return f"{self.section}: {self.name} {self.type.name}"

    @property
    def full(self) -> str:
        return self.name[:-1] if self.name.endswith(".") else f"{self.name}.cluster.local"


A, AAAA, SRV, PTR, CNAME, TXT, SOA, NS = (
    Type.A,
    Type.AAAA,
    Type.SRV,
    Type.PTR,
    Type.CNAME,
    Type.TXT,
    Type.SOA,
    Type.NS,
)
NODATA: list[str] = []
NX = Code.NXDOMAIN
PLAIN = "plain.default.svc.cluster.local"
HEADLESS = "headless.default.svc.cluster.local"

CASES = [
    Case("2.2 Record for Schema Version", "dns-version", TXT, ["1.1.0"]),
    Case("2.2 Record for Schema Version", "dns-version", A, NODATA),
    Case("2.3.1 A/AAAA Record", "plain.default.svc", A, ["10.96.3.1"]),
    Case("2.3.1 A/AAAA Record", "plain.default.svc", AAAA, NODATA),
    Case("2.3.1 A/AAAA Record", "nobody.default.svc", A, code=NX),
    Case("2.3.1 A/AAAA Record", "nobody.default.svc", AAAA, code=NX),
    Case("2.3.1 A/AAAA Record", "plain.elsewhere.svc", A, code=NX),
    Case("2.3.1 A/AAAA Record", "plain.default", A, code=NX),
    Case("2.3.1 A/AAAA Record", "default.svc", A, NODATA),
    Case("2.3.1 A/AAAA Record", "elsewhere.svc", A, code=NX),
    Case("2.3.1 A/AAAA Record", "svc", A, NODATA),
    Case("2.3.2 SRV Records", "_https._tcp.plain.default.svc", SRV, [f"0 100 443 {PLAIN}"]),
    Case("2.3.2 SRV Records", "_domain._udp.plain.default.svc", SRV, [f"0 100 53 {PLAIN}"]),
    Case("2.3.2 SRV Records", "_https._tcp.plain.default.svc", A, NODATA),
    Case("2.3.2 SRV Records", "_tcp.plain.default.svc", SRV, NODATA),
    Case("2.3.2 SRV Records", "_https._udp.plain.default.svc", SRV, code=NX),
    Case("2.3.2 SRV Records", "_nope._tcp.plain.default.svc", SRV, code=NX),
    Case("2.3.2 SRV Records (unnamed ports have none)", "_tcp.unnamed.default.svc", SRV, code=NX),
    Case("2.3.3 PTR Record", "1.3.96.10.in-addr.arpa.", PTR, [PLAIN]),
    Case("2.3.3 PTR Record", "99.3.96.10.in-addr.arpa.", PTR, code=NX),
    Case("2.4.1 A/AAAA Records", "headless.default.svc", A, ["10.244.3.100", "10.244.3.101"]),
    Case("2.4.1 A/AAAA Records", "headless.default.svc", AAAA, NODATA),
    Case("2.4.1 A/AAAA Records (hostname)", "my-pet.headless.default.svc", A, ["10.244.3.100"]),
    Case("2.4.1 A/AAAA Records (hostname)", "my-pet.headless.default.svc", AAAA, NODATA),
    Case("2.4.1 A/AAAA Records (no hostname)", "10-244-3-101.headless.default.svc", A, ["10.244.3.101"]),
    Case("2.4.1 A/AAAA Records (not ready)", "10-244-3-102.headless.default.svc", A, code=NX),
    Case("2.4.1 A/AAAA Records (none ready)", "empty.default.svc", A, code=NX),
    Case("2.4.1 A/AAAA Records (not headless)", "my-pet.plain.default.svc", A, code=NX),
    Case(
        "2.4.2 SRV Records",
        "_https._tcp.headless.default.svc",
        SRV,
        [f"0 100 8443 10-244-3-101.{HEADLESS}", f"0 100 8443 my-pet.{HEADLESS}"],
    ),
    Case("2.4.2 SRV Records (none ready)", "_https._tcp.empty.default.svc", SRV, code=NX),
    Case("2.4.3 PTR Records", "100.3.244.10.in-addr.arpa.", PTR, [f"my-pet.{HEADLESS}"]),
    Case("2.4.3 PTR Records (no hostname)", "101.3.244.10.in-addr.arpa.", PTR, [f"10-244-3-101.{HEADLESS}"]),
    Case("2.4.3 PTR Records (not ready)", "102.3.244.10.in-addr.arpa.", PTR, code=NX),
    Case("2.5.1 CNAME Record", "outside.default.svc", CNAME, ["www.example.com"]),
    Case("2.5.1 CNAME Record", "alias.default.svc", CNAME, [PLAIN]),
    Case("2.5.1 CNAME Record (followed)", "alias.default.svc", A, [PLAIN, "10.96.3.1"]),
    Case("2.5.1 CNAME Record (followed)", "alias.default.svc", AAAA, [PLAIN]),
    Case(
        "2.5.1 CNAME Record (followed)",
        "alias-of-alias.default.svc",
        A,
        ["alias.default.svc.cluster.local", PLAIN, "10.96.3.1"],
    ),
    Case("2.5.1 CNAME Record (a circle)", "circle.default.svc", A, ["circle.default.svc.cluster.local"]),
    Case(
        "2.5.1 CNAME Record (to nobody)", "nowhere.default.svc", A, ["nobody.default.svc.cluster.local"], NX
    ),
    Case("2.6.1 A/AAAA Records of pods", "172-17-0-3.default.pod", A, ["172.17.0.3"]),
    Case("2.6.1 A/AAAA Records of pods", "172-17-0-3.default.pod", AAAA, NODATA),
    Case("2.6.1 A/AAAA Records of pods", "2001-db8--3.default.pod", AAAA, ["2001:db8::3"]),
    Case("2.6.1 A/AAAA Records of pods", "1-2-3.default.pod", A, code=NX),
    Case("2.6.1 A/AAAA Records of pods", "999-2-3-4.default.pod", A, code=NX),
    Case("The zone itself (RFC 1034)", "cluster.local.", NS, ["ns.dns.cluster.local"]),
    Case("The zone itself (RFC 1034)", "cluster.local.", A, NODATA),
]
