from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network
from typing import Any

import msgspec
import pytest

from podling.api.core_v1 import Service
from podling.controllers.load_balancer import choose, given, is_ours

POOL = IPv4Network("10.192.0.224/27")


def service(*given_ips: str, **spec: Any) -> Service:
    ingress = [{"ip": ip} for ip in given_ips]
    document = {
        "metadata": {"name": "web", "namespace": "default"},
        "spec": {"type": "LoadBalancer", **spec},
        "status": {"loadBalancer": {"ingress": ingress}},
    }
    return msgspec.convert(document, Service)


def test_the_first_free_address_of_the_pool():
    assert choose(service(), POOL, set()) == IPv4Address("10.192.0.225")
    assert choose(service(), POOL, {IPv4Address("10.192.0.225")}) == IPv4Address("10.192.0.226")


def test_nothing_when_all_are_taken():
    taken = set(POOL.hosts())
    assert len(taken) == 30
    assert choose(service(), POOL, taken) is None


@pytest.mark.parametrize(
    ("wanted", "taken", "chosen"),
    [
        ("10.192.0.230", set(), "10.192.0.230"),
        ("10.192.0.230", {IPv4Address("10.192.0.230")}, None),
        ("192.0.2.1", set(), None),
    ],
)
def test_an_address_that_is_asked_for(wanted: str, taken: set[IPv4Address], chosen: str | None):
    found = choose(service(loadBalancerIP=wanted), POOL, taken)
    assert found == (IPv4Address(chosen) if chosen else None)


def test_whose_services_are_ours():
    assert is_ours(service())
    assert not is_ours(service(type="NodePort"))
    assert not is_ours(service(loadBalancerClass="example.com/other"))
    assert given(service("10.192.0.225", "fd00::1")) == [IPv4Address("10.192.0.225")]
