"""host-local: gives out addresses of configured ranges, one machine's reservations in files.

Configuration and on-disk format are the reference plugin's (its documentation: "host-local IP address
management plugin"): `ranges`, or `subnet`, `rangeStart`, `rangeEnd` and `gateway`; `routes`; `dataDir`;
`resolvConf`. Addresses can be asked for by `ips` (capability, or `args.cni.ips`) and by CNI_ARGS `IP`,
further ranges be given by the capability `ipRanges`.

Invariants: an address belongs to at most one interface of one container; a failed ADD keeps none; DEL works
without the namespace and as often as one likes.
"""

from __future__ import annotations

import ipaddress
import os

from podling.cni.plugins import skel
from podling.cni.plugins.ipam import ranges
from podling.cni.plugins.ipam.reservations import Reservations
from podling.cni.types import (
    ADDRESSES_EXHAUSTED,
    ALREADY_ALLOCATED,
    CHECK_FAILED,
    DNS,
    INVALID_ENVIRONMENT,
    IO_FAILURE,
    Args,
    CNIError,
    CNIRoute,
    ConfigError,
    IPConfig,
    Result,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from podling.cni.plugins.ipam.ranges import RangeSet
    from podling.cni.types import IPAddress

DEFAULT_DATA_DIR = "/var/lib/cni/networks"


def _add(args: Args) -> Result:
    ipam = _ipam(args)
    runtime = args.conf.get("runtimeConfig") or {}
    range_sets = ranges.parse_ranges(ipam, runtime.get("ipRanges") or ())
    requested = _requested(args, runtime)
    routes, dns = _routes(ipam), _dns(ipam)
    with Reservations(_directory(args, ipam)) as store:
        _refuse_duplicate(store, args, range_sets)
        try:
            ips = tuple(
                _allocate(store, args, place, range_set, requested)
                for place, range_set in enumerate(range_sets)
            )
            if requested:
                raise ConfigError("failed to allocate all requested IPs: " + " ".join(map(str, requested)))
        except BaseException:
            # Nothing of this owner was in these sets before, see above.
            for address in store.addresses_of(args.container_id, args.ifname):
                if any(range_set.range_of(address) for range_set in range_sets):
                    store.free(str(address))
            raise
    return Result(ips=ips, routes=routes, dns=dns)


def _refuse_duplicate(store: Reservations, args: Args, range_sets: tuple[RangeSet, ...]) -> None:
    for place, range_set in enumerate(range_sets):
        for address in store.addresses_of(args.container_id, args.ifname):
            if range_set.range_of(address):
                raise CNIError(
                    ALREADY_ALLOCATED,
                    f"failed to allocate for range {place}: {address} has been allocated to "
                    f"{args.container_id}, duplicate allocation is not allowed",
                    "DEL the earlier attachment first",
                )


def _allocate(
    store: Reservations, args: Args, place: int, range_set: RangeSet, requested: list[IPAddress]
) -> IPConfig:
    """One address of the set: the first requested one that lies in it (taken off the list), else the next."""
    wanted = next((address for address in requested if range_set.range_of(address)), None)
    if wanted is not None:
        requested.remove(wanted)
        address = _requested_address(store, place, range_set, wanted)
    else:
        candidates = range_set.candidates(store.last_reserved(place), store.taken)
        found = next(candidates, None)
        if found is None:
            raise CNIError(
                ADDRESSES_EXHAUSTED,
                f"failed to allocate for range {place}: no IP addresses available in range set: {range_set}",
            )
        address = found
    store.reserve(address, container_id=args.container_id, ifname=args.ifname, range_set=place)
    owner = range_set.range_of(address)
    assert owner is not None
    return IPConfig(address=ipaddress.ip_interface((address, owner.subnet.prefixlen)), gateway=owner.gateway)


def _requested_address(store: Reservations, place: int, range_set: RangeSet, address: IPAddress) -> IPAddress:
    owner = range_set.range_of(address)
    prefix = f"failed to allocate for range {place}: "
    if owner is not None and address == owner.gateway:
        raise ConfigError(f"{prefix}requested ip {address} is subnet's gateway")
    if str(address) in store.taken:
        raise CNIError(
            ADDRESSES_EXHAUSTED,
            f"{prefix}requested IP address {address} is not available in range set {range_set}",
        )
    return address


def _delete(args: Args) -> None:
    directory = _directory(args, _ipam(args))
    if os.path.isdir(directory):
        with Reservations(directory) as store:
            store.release(args.container_id, args.ifname)


def _check(args: Args) -> None:
    ipam = _ipam(args)
    with Reservations(_directory(args, ipam)) as store:
        if not store.names_of(args.container_id, args.ifname):
            raise CNIError(
                CHECK_FAILED, f"host-local: Failed to find address added by container {args.container_id}"
            )


def _gc(args: Args) -> None:
    """Release what belongs to no valid attachment (CNI spec, "GC: Clean up any stale resources")."""
    directory = _directory(args, _ipam(args))
    if os.path.isdir(directory):
        with Reservations(directory) as store:
            store.release_others(args.valid_attachments)


def _status(args: Args) -> None:
    ranges.parse_ranges(_ipam(args))


def _ipam(args: Args) -> Mapping[str, Any]:
    ipam = args.conf.get("ipam")
    if not isinstance(ipam, dict):
        raise ConfigError("IPAM config missing 'ipam' key")
    for key in ("dataDir", "resolvConf"):
        if not isinstance(ipam.get(key), str | None) or "\0" in (ipam.get(key) or ""):
            raise ConfigError(f"ipam.{key}: must be a path, not {ipam[key]!r}")
    return ipam


def _directory(args: Args, ipam: Mapping[str, Any]) -> str:
    return os.path.join(str(ipam.get("dataDir") or DEFAULT_DATA_DIR), args.name)


def _requested(args: Args, runtime: Mapping[str, Any]) -> list[IPAddress]:
    """Addresses asked for by CNI_ARGS, `args` and the capability `ips`, which may carry prefix lengths."""
    texts = [args.cni_args["IP"]] if args.cni_args.get("IP") else []
    for listed in (((args.conf.get("args") or {}).get("cni") or {}).get("ips"), runtime.get("ips")):
        if not isinstance(listed, list | None):
            raise CNIError(INVALID_ENVIRONMENT, f"cannot understand ips: must be a list, not {listed!r}")
        texts += listed or []
    try:
        return [ipaddress.ip_interface(text).ip for text in dict.fromkeys(map(str, texts))]
    except ValueError as err:
        raise CNIError(INVALID_ENVIRONMENT, f"cannot understand ip: {err}") from err


def _routes(ipam: Mapping[str, Any]) -> tuple[CNIRoute, ...]:
    try:
        return tuple(map(CNIRoute.from_json, ipam.get("routes") or ()))
    except (KeyError, ValueError, TypeError, AttributeError) as err:
        raise ConfigError(f"invalid ipam.routes: {err}") from err


def _dns(ipam: Mapping[str, Any]) -> DNS:
    """What the file named by `resolvConf` says, in the words of `man 5 resolv.conf`."""
    path = ipam.get("resolvConf")
    if not path:
        return DNS()
    try:
        with open(path) as file:
            lines = [line.split() for line in file if line.strip() and line[0] not in "#;"]
    except OSError as err:
        raise CNIError(IO_FAILURE, f"ipam.resolvConf: {err}") from err
    search = [words[1:] for words in lines if words[0] == "search"]
    return DNS(
        nameservers=tuple(words[1] for words in lines if words[0] == "nameserver" and len(words) > 1),
        domain=next((words[1] for words in reversed(lines) if words[0] == "domain" and len(words) > 1), ""),
        search=tuple(search[-1]) if search else (),
        options=tuple(option for words in lines if words[0] == "options" for option in words[1:]),
    )


PLUGIN = skel.Plugin(name="host-local", add=_add, delete=_delete, check=_check, status=_status, gc=_gc)
