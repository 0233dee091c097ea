from __future__ import annotations

from ipaddress import ip_network

from podling.controllers.node_ipam import lowest_free

CLUSTER = ip_network("10.244.0.0/16")


def test_the_lowest_free_subnet_is_given() -> None:
    assert lowest_free(CLUSTER, 24, []) == ip_network("10.244.0.0/24")
    taken = [ip_network(f"10.244.{n}.0/24") for n in (0, 1, 3)]
    assert lowest_free(CLUSTER, 24, taken) == ip_network("10.244.2.0/24")


def test_a_larger_subnet_in_use_is_stepped_over() -> None:
    assert lowest_free(CLUSTER, 24, [ip_network("10.244.0.0/22")]) == ip_network("10.244.4.0/24")


def test_foreign_ranges_do_not_matter() -> None:
    taken = [ip_network("10.96.0.0/16"), ip_network("fd00::/64")]
    assert lowest_free(CLUSTER, 24, taken) == ip_network("10.244.0.0/24")


def test_none_when_all_are_in_use() -> None:
    assert lowest_free(ip_network("10.244.0.0/24"), 24, [ip_network("10.244.0.128/25")]) is None
