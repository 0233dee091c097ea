"""What a service means on a node: pkg/proxy's cases as values."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from podling.api.core_v1 import Service
from podling.network.proxy.rules import (
    NO_ADDRESS,
    NO_RULES,
    OUTSIDE,
    Backend,
    Chain,
    Frontend,
    Kind,
    Refusal,
    ServiceRules,
    compute_rules,
)
from podling.network.services import Endpoint

IP = "10.96.0.20"
WEB = Frontend(IP, 6, 80)
HERE = Endpoint("", "TCP", "10.244.1.2", 8080, node="me")
THERE = Endpoint("", "TCP", "10.244.2.2", 8080, node="other")


def service(**spec: Any) -> Service:
    document = {
        "metadata": {"name": "web", "namespace": "default"},
        "spec": {"clusterIP": IP, "ports": [{"port": 80, "protocol": "TCP"}], **spec},
    }
    return msgspec.convert(document, Service)


def rules(*endpoints: Endpoint, **spec: Any) -> ServiceRules:
    return compute_rules(service(**spec), sorted(endpoints), "me")


def test_a_cluster_ip_leads_to_its_ready_endpoints():
    assert rules(HERE, THERE) == ServiceRules(
        services={WEB: Chain(Kind.CLUSTER, 2)},
        backends={(WEB, 0): Backend("10.244.1.2", 8080), (WEB, 1): Backend("10.244.2.2", 8080)},
        hairpin=frozenset({"10.244.1.2"}),
    )


@pytest.mark.parametrize(
    "spec",
    [
        {"clusterIP": "None"},
        {"clusterIP": ""},
        {"type": "ExternalName", "externalName": "example.com"},
        {"clusterIP": "fd00::1"},
        {"ports": []},
    ],
)
def test_what_has_no_rules(spec: dict[str, Any]):
    assert rules(HERE, **spec) == NO_RULES
    assert compute_rules(None, [HERE], "me") == NO_RULES


def test_without_endpoints_connections_are_refused():
    assert rules().services == {WEB: Refusal.REJECT}
    assert rules(HERE._replace(ready=False, serving=False)).services == {WEB: Refusal.REJECT}
    assert rules(HERE._replace(address="fd00::2")).services == {WEB: Refusal.REJECT}


def test_ending_endpoints_serve_only_where_none_is_ready():
    ending = THERE._replace(ready=False, terminating=True)
    assert rules(HERE, ending).backends == {(WEB, 0): Backend("10.244.1.2", 8080)}
    assert rules(ending).backends == {(WEB, 0): Backend("10.244.2.2", 8080)}


def test_each_port_has_the_endpoints_of_its_name_and_protocol():
    ports = [
        {"name": "http", "port": 80, "protocol": "TCP"},
        {"name": "dns", "port": 53, "protocol": "UDP"},
        {"name": "sctp", "port": 90, "protocol": "SCTP"},
    ]
    http = HERE._replace(port_name="http", port=8080)
    dns = HERE._replace(port_name="dns", protocol="UDP", port=5353)
    found = rules(http, dns, ports=ports)
    assert found.services == {
        WEB: Chain(Kind.CLUSTER, 1),
        Frontend(IP, 17, 53): Chain(Kind.CLUSTER, 1),
        Frontend(IP, 132, 90): Refusal.REJECT,
    }
    assert found.backends[Frontend(IP, 17, 53), 0] == Backend("10.244.1.2", 5353)


def test_node_ports_and_external_addresses_are_masqueraded():
    found = rules(
        HERE,
        type="LoadBalancer",
        externalIPs=["192.0.2.1"],
        ports=[{"port": 80, "protocol": "TCP", "nodePort": 30080}],
    )
    assert found.services == {
        WEB: Chain(Kind.CLUSTER, 1),
        Frontend("192.0.2.1", 6, 80): Chain(Kind.EXTERNAL, 1),
        Frontend(NO_ADDRESS, 6, 30080): Chain(Kind.NODE_PORT, 1),
    }


def test_the_address_a_load_balancer_gave_counts_unless_it_translates_itself():
    made = service(type="LoadBalancer")
    status = {"loadBalancer": {"ingress": [{"ip": "192.0.2.5"}, {"ip": "192.0.2.6", "ipMode": "Proxy"}]}}
    made.status = msgspec.convert({"status": status}, Service).status
    found = compute_rules(made, [HERE], "me")
    assert set(found.services) == {WEB, Frontend("192.0.2.5", 6, 80)}


def test_affinity_is_in_the_chain():
    sticky = rules(HERE, sessionAffinity="ClientIP")
    assert sticky.services == {WEB: Chain(Kind.CLUSTER, 1, sticky_s=10800)}
    config = {"clientIP": {"timeoutSeconds": 60}}
    short = rules(HERE, sessionAffinity="ClientIP", sessionAffinityConfig=config)
    assert short.services == {WEB: Chain(Kind.CLUSTER, 1, sticky_s=60)}


@pytest.mark.parametrize(
    ("endpoints", "expected"),
    [
        ((HERE, THERE), Chain(Kind.CLUSTER, 1)),
        ((THERE,), Refusal.DROP),
        ((), Refusal.REJECT),
    ],
)
def test_internal_traffic_policy_local(endpoints: tuple[Endpoint, ...], expected: Chain | Refusal):
    assert rules(*endpoints, internalTrafficPolicy="Local").services == {WEB: expected}


def test_external_traffic_policy_local_numbers_the_nodes_own_apart():
    ports = [{"port": 80, "protocol": "TCP", "nodePort": 30080}]
    frontend = Frontend(NO_ADDRESS, 6, 30080)
    found = rules(HERE, THERE, type="NodePort", externalTrafficPolicy="Local", ports=ports)
    assert found.services[frontend] == Chain(Kind.NODE_PORT_LOCAL, 2, 1)
    assert {n: b.address for (f, n), b in found.backends.items() if f == frontend} == {
        0: "10.244.1.2",
        1: "10.244.2.2",
        OUTSIDE: "10.244.1.2",
    }
    alone = rules(THERE, type="NodePort", externalTrafficPolicy="Local", ports=ports)
    assert alone.services[frontend] == Chain(Kind.NODE_PORT_LOCAL, 1, 0)


def test_chains_are_named_by_what_they_do():
    assert Chain(Kind.CLUSTER, 3).name == "cluster-3"
    assert Chain(Kind.NODE_PORT_LOCAL, 3, 1, 60).name == "node-port-local-3-1-sticky-60"
