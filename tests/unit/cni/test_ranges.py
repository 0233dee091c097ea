from __future__ import annotations

import ipaddress
from itertools import islice
from typing import Any

import pytest

from podling.cni.plugins.ipam.ranges import parse_ranges
from podling.cni.types import ConfigError

IP = ipaddress.ip_address


def one_set(*ranges: dict[str, Any]):
    return parse_ranges({"ranges": [list(ranges)]})[0]


def test_defaults_of_a_subnet():
    four, six = parse_ranges({"ranges": [[{"subnet": "10.1.2.0/24"}], [{"subnet": "fd00::/64"}]]})
    assert str(four) == "10.1.2.1-10.1.2.254"
    assert four.ranges[0].gateway == IP("10.1.2.1")
    assert str(six) == "fd00::1-fd00::ffff:ffff:ffff:ffff"


def test_the_older_form_goes_before_the_list_and_runtime_ranges_before_both():
    sets = parse_ranges(
        {"subnet": "10.1.0.0/24", "rangeStart": "10.1.0.9", "ranges": [[{"subnet": "10.2.0.0/24"}]]},
        [[{"subnet": "10.3.0.0/24"}]],
    )
    assert [str(s).split("-")[0] for s in sets] == ["10.3.0.1", "10.1.0.9", "10.2.0.1"]


def test_addresses_go_round_from_the_last_one():
    ranges = one_set({"subnet": "10.1.2.0/29"})
    assert [str(a) for a in ranges.candidates(None, set())] == [f"10.1.2.{n}" for n in range(2, 7)]
    assert [str(a)[-1] for a in ranges.candidates(IP("10.1.2.4"), set())] == ["5", "6", "2", "3", "4"]
    assert [str(a)[-1] for a in ranges.candidates(IP("10.1.2.6"), {"10.1.2.3"})] == ["2", "4", "5", "6"]
    assert [str(a)[-1] for a in ranges.candidates(IP("10.9.9.9"), set())] == ["2", "3", "4", "5", "6"]


def test_several_ranges_of_a_set_are_walked_in_order():
    ranges = one_set(
        {"subnet": "10.1.1.0/24", "rangeStart": "10.1.1.10", "rangeEnd": "10.1.1.11"},
        {"subnet": "10.1.2.0/24", "rangeStart": "10.1.2.20", "rangeEnd": "10.1.2.21"},
    )
    order = [str(a) for a in ranges.candidates(IP("10.1.1.11"), set())]
    assert order == ["10.1.2.20", "10.1.2.21", "10.1.1.10", "10.1.1.11"]


def test_a_large_range_is_not_walked_whole():
    ranges = one_set({"subnet": "fd00::/64"})
    assert [str(a) for a in islice(ranges.candidates(None, set()), 2)] == ["fd00::2", "fd00::3"]


@pytest.mark.parametrize(
    ("ipam", "words"),
    [
        ({}, "no IP ranges specified"),
        ({"ranges": [[]]}, "invalid range set 0: empty range set"),
        ({"ranges": ["x"]}, "must be a list of ranges"),
        ({"ranges": [[7]]}, "must be a JSON object"),
        ({"ranges": [[{}]]}, "a range needs a subnet"),
        ({"subnet": "10.1.2.0/33"}, "invalid CIDR address: 10.1.2.0/33"),
        ({"subnet": "10.1.2.0/31"}, "Network 10.1.2.0/31 too small to allocate from"),
        ({"subnet": "10.1.2.0/24", "gateway": "10.1.3.1"}, "gateway 10.1.3.1 not in network 10.1.2.0/24"),
        ({"subnet": "10.1.2.0/24", "rangeStart": "x"}, "rangeStart: invalid IP address: x"),
        ({"subnet": "10.1.2.0/24", "rangeEnd": "10.2.0.0"}, "10.2.0.0 not in network"),
        ({"subnet": "10.1.2.0/24", "rangeEnd": "fd00::1"}, "not the same protocol"),
        (
            {"subnet": "10.1.2.0/24", "rangeStart": "10.1.2.9", "rangeEnd": "10.1.2.8"},
            "before start 10.1.2.9",
        ),
        ({"ranges": [[{"subnet": "10.1.2.0/24"}, {"subnet": "fd00::/64"}]]}, "mixed address families"),
        ({"ranges": [[{"subnet": "10.1.2.0/24"}] * 2]}, "overlap"),
        ({"ranges": [[{"subnet": "10.1.2.0/24"}]] * 2}, "range set 0 overlaps with 1"),
    ],
)
def test_bad_ranges_are_refused_in_the_references_words(ipam: dict[str, Any], words: str):
    with pytest.raises(ConfigError) as info:
        parse_ranges(ipam)
    assert words in info.value.message
