from __future__ import annotations

import json
from ipaddress import IPv4Network, IPv6Network
from typing import Any

import pytest

from podling.network.flannel.net_conf import BackendType, NetConfError, net_conf, parse


def conf(**fields: Any) -> str:
    return json.dumps({"Network": "10.244.0.0/16", **fields})


def test_vxlan_has_flannels_defaults():
    made = parse(conf(Backend={"Type": "vxlan"}))
    assert made.networks == (IPv4Network("10.244.0.0/16"),)
    backend = made.backend
    assert (backend.vni, backend.port, backend.gbp, backend.direct_routing, backend.mtu) == (
        *(1, 8472, False, False, 0),
    )


def test_every_option_of_vxlan_is_read():
    options = {"Type": "vxlan", "VNI": 4096, "Port": 4789, "GBP": True, "DirectRouting": True, "MTU": 1400}
    backend = parse(conf(Backend=options)).backend
    assert (backend.vni, backend.port, backend.gbp, backend.direct_routing, backend.mtu) == (
        *(4096, 4789, True, True, 1400),
    )


def test_what_says_nothing_of_a_backend_gets_udp():
    backend = parse(conf()).backend
    assert (backend.type, backend.port) == (BackendType.UDP, 8285)


def test_ipv6_is_used_when_enabled():
    fields = {"IPv6Network": "2001:cafe:42::/56", "Backend": {"Type": "host-gw"}}
    assert parse(conf(**fields)).ipv6_network is None
    assert parse(conf(**fields, EnableIPv6=True)).ipv6_network == IPv6Network("2001:cafe:42::/56")
    only = parse(conf(**fields, EnableIPv6=True, EnableIPv4=False))
    assert only.networks == (IPv6Network("2001:cafe:42::/56"),)


def test_unknown_keys_and_the_case_of_known_ones_do_not_matter():
    made = parse('{"network": "10.1.0.0/16", "Color": "blue", "SubnetLen": 24, "backend": {"type": "vxlan"}}')
    assert made.networks == (IPv4Network("10.1.0.0/16"),)
    assert made.backend.type is BackendType.VXLAN


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("nonsense", "is not JSON"),
        ("[]", "must be a JSON object"),
        ("{}", 'Network: "" is not an IPv4 range'),
        (conf(Backend={"Type": "wireguard"}), 'no backend "wireguard": there are vxlan, host-gw, udp'),
        (conf(Backend={"Type": "vxlan", "VNI": 0}), "Backend.VNI: 0"),
        (conf(Backend={"Type": "vxlan", "VNI": "one"}), 'Backend.VNI: "one" is not a number'),
        (conf(Backend={"Type": "vxlan", "Port": 70000}), "Backend.Port: 70000"),
        (conf(Backend={"Type": "vxlan", "MTU": 12}), "Backend.MTU: 12"),
        (conf(Backend={"Type": "vxlan", "Learning": True}), "Backend.Learning"),
        (conf(Backend="vxlan"), 'Backend: "vxlan" is not an object'),
        (conf(EnableIPv4=False), "both false"),
        (conf(EnableIPv6=True, IPv6Network="10.0.0.0/8"), 'IPv6Network: "10.0.0.0/8" is not an IPv6 range'),
        (conf(EnableIPv6=True, IPv6Network="fd00::/48", Backend={"Type": "udp"}), '"udp" has no IPv6'),
    ],
)
def test_what_cannot_be_is_refused_in_words(text: str, words: str):
    with pytest.raises(NetConfError) as refused:
        parse(text)
    assert words in str(refused.value)


def test_all_faults_are_told_at_once():
    with pytest.raises(NetConfError) as refused:
        parse(json.dumps({"Network": "x", "Backend": {"Type": "y", "Port": -1}}))
    for words in ("Network", "Backend.Type", "Backend.Port"):
        assert words in str(refused.value)


def test_a_configuration_from_ranges_alone():
    made = net_conf("vxlan", (IPv4Network("10.244.0.0/16"), IPv6Network("fd00::/48")))
    assert made.networks == (IPv4Network("10.244.0.0/16"), IPv6Network("fd00::/48"))
