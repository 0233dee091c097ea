"""Endpoints and EndpointSlices as one kind of value."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from podling.api.core_v1 import Endpoints
from podling.api.discovery_v1 import EndpointSlice
from podling.network.services import Endpoint, from_endpoints, from_slices

PORTS = [{"name": "http", "port": 8080, "protocol": "TCP"}]


def slice_of(*endpoints: dict[str, Any], **fields: Any) -> EndpointSlice:
    document = {"addressType": "IPv4", "ports": PORTS, "endpoints": list(endpoints), **fields}
    return msgspec.convert(document, EndpointSlice)


@pytest.mark.parametrize(
    ("conditions", "ready", "serving", "terminating"),
    [
        (None, True, True, False),
        ({}, True, True, False),
        ({"ready": True}, True, True, False),
        ({"ready": False}, False, False, False),
        ({"ready": False, "serving": True, "terminating": True}, False, True, True),
    ],
)
def test_conditions_that_are_unset_count_as_ready(
    conditions: dict[str, bool] | None, ready: bool, serving: bool, terminating: bool
):
    (found,) = from_slices([slice_of({"addresses": ["10.244.1.2"], "conditions": conditions})])
    assert (found.ready, found.serving, found.terminating) == (ready, serving, terminating)


def test_an_endpoint_in_two_slices_counts_once():
    one = slice_of({"addresses": ["10.244.1.2"], "nodeName": "a"})
    two = slice_of({"addresses": ["10.244.1.2"]}, {"addresses": ["10.244.1.3"]})
    assert {e.address for e in from_slices([one, two])} == {"10.244.1.2", "10.244.1.3"}
    assert len(from_slices([one, two])) == 2


def test_other_families_and_ports_without_numbers_are_left_out():
    assert not from_slices([slice_of({"addresses": ["fd00::2"]}, addressType="IPv6")])
    assert not from_slices([slice_of({"addresses": ["10.244.1.2"]}, ports=[{"name": "http"}])])


def test_endpoints_say_the_same_as_slices():
    reference = {"kind": "Pod", "name": "web-1"}
    obj = msgspec.convert(
        {
            "subsets": [
                {
                    "addresses": [
                        {"ip": "10.244.1.2", "nodeName": "a", "hostname": "h", "targetRef": reference}
                    ],
                    "notReadyAddresses": [{"ip": "10.244.1.3"}],
                    "ports": PORTS,
                }
            ]
        },
        Endpoints,
    )
    both = slice_of(
        {"addresses": ["10.244.1.2"], "nodeName": "a", "hostname": "h", "targetRef": reference},
        {"addresses": ["10.244.1.3"], "conditions": {"ready": False}},
    )
    assert from_endpoints(obj) == from_slices([both])
    assert Endpoint("http", "TCP", "10.244.1.2", 8080, node="a", hostname="h", pod="web-1") in from_slices(
        [both]
    )
