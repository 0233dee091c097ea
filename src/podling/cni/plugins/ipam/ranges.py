"""Address ranges of host-local: reading them from a configuration and walking them. Pure; no disk, no kernel.

A range set is a list of ranges of one family from which one address is given; a configuration has one set
for each address a container gets. Error texts are those of the reference plugin, which people search for.
"""

from __future__ import annotations

import ipaddress

from podling.cni.types import ConfigError
from podling.linux.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Container, Iterator, Mapping, Sequence
    from typing import Any

    from podling.cni.types import IPAddress, IPNetwork


@record
class Range:
    """Addresses of `subnet` from `start` to `end`, both included, the gateway not."""

    subnet: IPNetwork
    start: IPAddress
    end: IPAddress
    gateway: IPAddress

    def __contains__(self, address: IPAddress) -> bool:
        return address.version == self.subnet.version and int(self.start) <= int(address) <= int(self.end)

    def overlaps(self, other: Range) -> bool:
        return other.start in self or other.end in self or self.start in other

    def __str__(self) -> str:
        return f"{self.start}-{self.end}"


@record
class RangeSet:
    ranges: tuple[Range, ...]

    def range_of(self, address: IPAddress) -> Range | None:
        return next((r for r in self.ranges if address in r), None)

    def __str__(self) -> str:
        return ",".join(map(str, self.ranges))

    def candidates(self, last: IPAddress | None, taken: Container[str]) -> Iterator[IPAddress]:
        """Addresses not `taken`, in the order of giving: from the one after `last` round to `last` itself.

        Going round rather than taking the lowest keeps an address unused for as long as possible, so that a
        client with a stale cache does not reach the next owner.
        """
        ranges = self.ranges
        place = next((i for i, r in enumerate(ranges) if last is not None and last in r), None)
        if place is None or last is None:
            spans = [(r, int(r.start), int(r.end)) for r in ranges]
        else:
            first = ranges[place]
            spans = [(first, int(last) + 1, int(first.end))]
            spans += [(r, int(r.start), int(r.end)) for r in (*ranges[place + 1 :], *ranges[:place])]
            spans.append((first, int(first.start), int(last)))
        for owner, start, end in spans:
            kind = type(owner.start)
            for number in range(start, end + 1):
                address = kind(number)
                if address != owner.gateway and str(address) not in taken:
                    yield address


def parse_ranges(ipam: Mapping[str, Any], runtime_ranges: Sequence[Any] = ()) -> tuple[RangeSet, ...]:
    """The range sets of an `ipam` object; `runtime_ranges` come from the capability `ipRanges` and go first.

    Takes both the list `ranges` and the older single range written into the object itself.
    """
    for what, given in (("ranges", ipam.get("ranges")), ("ipRanges", runtime_ranges)):
        if not isinstance(given, list | tuple | None):
            raise ConfigError(f"{what} must be a list of range sets, not {given!r}")
    raw_sets = list(ipam.get("ranges") or ())
    if ipam.get("subnet"):
        raw_sets.insert(0, [ipam])
    raw_sets = [*runtime_ranges, *raw_sets]
    if not raw_sets:
        raise ConfigError("no IP ranges specified")
    sets = tuple(_parse_set(place, raw) for place, raw in enumerate(raw_sets))
    for i, one in enumerate(sets):
        for j, other in enumerate(sets[i + 1 :], i + 1):
            if any(a.overlaps(b) for a in one.ranges for b in other.ranges):
                raise ConfigError(f"range set {i} overlaps with {j}")
    return sets


def _parse_set(place: int, raw: Any) -> RangeSet:
    try:
        if not isinstance(raw, list) or not raw:
            raise ConfigError("empty range set" if raw == [] else "a range set must be a list of ranges")
        ranges = tuple(map(_parse_range, raw))
        if len({r.subnet.version for r in ranges}) > 1:
            raise ConfigError("mixed address families")
        for i, one in enumerate(ranges):
            for other in ranges[i + 1 :]:
                if one.overlaps(other):
                    raise ConfigError(f"subnets {one} and {other} overlap")
    except ConfigError as err:
        raise ConfigError(f"invalid range set {place}: {err.message}", err.details) from err
    return RangeSet(ranges=ranges)


def _parse_range(raw: Any) -> Range:
    if not isinstance(raw, dict):
        raise ConfigError("a range must be a JSON object")
    for key in ("subnet", "rangeStart", "rangeEnd", "gateway"):
        if not isinstance(raw.get(key), str | None):  # `ipaddress` takes numbers too
            raise ConfigError(f"{key} must be a string, not {raw[key]!r}")
    try:
        subnet = ipaddress.ip_network(raw["subnet"] or "", strict=False)
    except KeyError as err:
        raise ConfigError("a range needs a subnet") from err
    except ValueError as err:
        raise ConfigError(f"invalid CIDR address: {raw['subnet']}") from err
    if subnet.max_prefixlen - subnet.prefixlen < 2:
        raise ConfigError(f"Network {subnet} too small to allocate from")
    first, last = subnet.network_address + 1, subnet.broadcast_address
    gateway = _parse_address(raw, "gateway", subnet) or first
    start = _parse_address(raw, "rangeStart", subnet) or first
    end = _parse_address(raw, "rangeEnd", subnet) or (last - 1 if subnet.version == 4 else last)
    if int(start) > int(end):
        raise ConfigError(f"{end} is in network {subnet} but before start {start}")
    return Range(subnet=subnet, start=start, end=end, gateway=gateway)


def _parse_address(raw: Mapping[str, Any], key: str, subnet: IPNetwork) -> IPAddress | None:
    text = raw.get(key)
    if not text:
        return None
    try:
        address = ipaddress.ip_address(text)
    except ValueError as err:
        raise ConfigError(f"{key}: invalid IP address: {text}") from err
    if address.version != subnet.version:
        raise ConfigError(f"IP {address} is not the same protocol as subnet {subnet}")
    if address not in subnet:
        what = "gateway " if key == "gateway" else ""
        raise ConfigError(f"{what}{address} not in network {subnet}")
    return address
