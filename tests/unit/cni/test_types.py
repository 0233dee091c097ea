from __future__ import annotations

from typing import Any

import pytest

from podling.cni.types import (
    DECODING_FAILURE,
    INCOMPATIBLE_VERSION,
    INVALID_ENVIRONMENT,
    VERSIONS,
    CNIError,
    Result,
    parse_args,
)

NEWEST: dict[str, Any] = {
    "cniVersion": "1.1.0",
    "interfaces": [
        {"name": "cni0", "mac": "0a:58:0a:f4:01:01", "mtu": 1500},
        {"name": "veth0", "mac": "0a:58:0a:f4:01:02"},
        {"name": "eth0", "mac": "0a:58:0a:f4:01:03", "mtu": 1400, "sandbox": "/run/netns/x"},
    ],
    "ips": [
        {"interface": 2, "address": "10.244.1.2/24", "gateway": "10.244.1.1"},
        {"interface": 2, "address": "fd00::2/64"},
    ],
    "routes": [{"dst": "0.0.0.0/0", "gw": "10.244.1.1", "mtu": 1400, "priority": 10, "scope": 0}],
    "dns": {"nameservers": ["10.96.0.10"], "search": ["cluster.local"]},
}


def test_the_newest_form_survives_unchanged():
    assert Result.from_json(NEWEST).to_json("1.1.0") == NEWEST


def test_older_forms_lack_newer_keys():
    old = Result.from_json(NEWEST).to_json("1.0.0")
    assert "mtu" not in old["interfaces"][0]
    assert old["routes"] == [{"dst": "0.0.0.0/0", "gw": "10.244.1.1"}]
    assert "version" not in old["ips"][0]


@pytest.mark.parametrize("version", ["0.3.0", "0.3.1", "0.4.0"])
def test_before_1_0_addresses_say_their_family(version: str):
    ips = Result.from_json(NEWEST).to_json(version)["ips"]
    assert [ip["version"] for ip in ips] == ["4", "6"]


@pytest.mark.parametrize("version", VERSIONS)
def test_every_version_reads_back_to_the_same(version: str):
    text = Result.from_json(NEWEST).to_json(version)
    assert text["cniVersion"] == version
    assert Result.from_json(text).to_json(version) == text


@pytest.mark.parametrize("version", ["0.1.0", "0.2.0"])
def test_before_0_3_there_is_one_address_a_family_with_its_routes(version: str):
    result = Result.from_json(NEWEST | {"ips": [*NEWEST["ips"], {"address": "10.244.1.3/24"}]})
    text = result.to_json(version)
    assert text == {
        "cniVersion": version,
        "ip4": {
            "ip": "10.244.1.2/24",
            "gateway": "10.244.1.1",
            "routes": [{"dst": "0.0.0.0/0", "gw": "10.244.1.1"}],
        },
        "ip6": {"ip": "fd00::2/64"},
        "dns": {"nameservers": ["10.96.0.10"], "search": ["cluster.local"]},
    }
    again = Result.from_json(text)
    assert [str(ip.address) for ip in again.ips] == ["10.244.1.2/24", "fd00::2/64"]
    assert [str(route.dst) for route in again.routes] == ["0.0.0.0/0"]
    assert again.interfaces == ()
    with pytest.raises(CNIError, match="no valid IP addresses") as info:
        Result().to_json(version)
    assert info.value.code == INCOMPATIBLE_VERSION


def test_a_result_that_names_no_version_has_that_of_its_call():
    text = {"ips": [{"address": "10.0.0.2/24"}]}
    assert Result.from_json(text).ips == ()  # as 0.1.0, which has no such key
    assert str(Result.from_json(text, "1.0.0").ips[0].address) == "10.0.0.2/24"


def test_an_empty_result_has_dns_as_the_reference_prints_it():
    assert Result().to_json("1.0.0") == {"cniVersion": "1.0.0", "dns": {}}


def test_addresses_of_the_container():
    result = Result.from_json(NEWEST)
    assert [str(a) for a in result.addresses_of("eth0")] == ["10.244.1.2/24", "fd00::2/64"]
    assert result.addresses_of("cni0") == []


@pytest.mark.parametrize(
    ("raw", "code", "words"),
    [
        ([], DECODING_FAILURE, "must be a JSON object"),
        ({"cniVersion": "2.0.0"}, INCOMPATIBLE_VERSION, "2.0.0"),
        ({"ip4": {"gateway": "10.0.0.1"}}, DECODING_FAILURE, "missing key 'ip'"),
        ({"cniVersion": "1.0.0", "ips": [{}]}, DECODING_FAILURE, "missing key 'address'"),
        ({"cniVersion": "1.0.0", "ips": [{"address": "10.0.0.0.1/8"}]}, DECODING_FAILURE, "10.0.0.0.1"),
        ({"cniVersion": "1.0.0", "ips": 7}, DECODING_FAILURE, "invalid result"),
        ({"cniVersion": "1.0.0", "interfaces": ["eth0"]}, DECODING_FAILURE, "invalid result"),
    ],
)
def test_a_bad_result_is_refused_with_a_reason(raw: object, code: int, words: str):
    with pytest.raises(CNIError) as info:
        Result.from_json(raw)
    assert info.value.code == code
    assert words in info.value.message


def test_an_error_in_the_form_of_the_spec():
    error = CNIError(7, "bad thing", "do this")
    assert error.to_json("1.0.0") == {
        "cniVersion": "1.0.0",
        "code": 7,
        "msg": "bad thing",
        "details": "do this",
    }
    assert str(error) == "bad thing; do this"


def test_cni_args():
    assert parse_args("") == []
    assert parse_args("IgnoreUnknown=1;K8S_POD_NAME=a=b") == [("IgnoreUnknown", "1"), ("K8S_POD_NAME", "a=b")]
    for bad in ("x", "a=1;;b=2", "=1"):
        with pytest.raises(CNIError) as info:
            parse_args(bad)
        assert info.value.code == INVALID_ENVIRONMENT
