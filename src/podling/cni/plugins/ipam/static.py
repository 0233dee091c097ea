"""static: gives the addresses that are written in the configuration, or asked for by the runtime.

Addresses with prefix length and gateway stand in `ipam.addresses`; CNI_ARGS `IP` and `GATEWAY` (lists with
commas) add to them; `args.cni.ips` replaces all, and the capability `ips` replaces that. `routes` and `dns`
are handed on. It keeps no state: nobody else is kept from using the same address.
"""

from __future__ import annotations

import ipaddress

from podling.cni.plugins import skel
from podling.cni.plugins.meta.chained import Keys
from podling.cni.types import CHECK_FAILED, DNS, Args, CNIError, CNIRoute, ConfigError, IPConfig, Result
from podling.linux.record import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from podling.cni.types import IPAddress, IPInterface


def _parse(args: Args) -> Result:
    """What ADD will answer; the call is the whole of it."""
    ipam = args.conf.get("ipam")
    if not isinstance(ipam, dict):
        raise ConfigError("IPAM config missing 'ipam' key")
    options = Keys("static", args.conf)
    convention = options.part("args").part("cni").texts("ips")
    runtime = options.part("runtimeConfig").texts("ips")
    inside = options.part("ipam")
    if runtime or convention:
        ips = [IPConfig(address=_cidr(text)) for text in runtime or convention]
    else:
        ips = [_configured(raw) for raw in inside.get("addresses", list, [])]
        ips += [IPConfig(address=_cidr(text)) for text in _listed(args, "IP")]
        ips = _with_gateways(ips, _listed(args, "GATEWAY"))
    dns = inside.get("dns", dict, {})
    options.done()
    try:
        routes = tuple(map(CNIRoute.from_json, ipam.get("routes") or ()))
    except (KeyError, ValueError, TypeError, AttributeError) as err:
        raise ConfigError(f"invalid ipam.routes: {err}") from err
    return Result(ips=tuple(ips), routes=routes, dns=DNS.from_json(dns))


def _configured(raw: Any) -> IPConfig:
    if not isinstance(raw, dict) or not isinstance(raw.get("address"), str):
        raise ConfigError(f"ipam.addresses: each needs an address, such as 10.10.0.1/24, not {raw!r}")
    gateway = raw.get("gateway")
    return IPConfig(address=_cidr(raw["address"]), gateway=_address(gateway) if gateway else None)


def _listed(args: Args, key: str) -> list[str]:
    return [text.strip() for text in args.cni_args.get(key, "").split(",") if text.strip()]


def _cidr(text: str) -> IPInterface:
    if "/" not in text:
        raise ConfigError(f"invalid CIDR {text}", "an address needs its prefix length, as in 10.10.0.1/24")
    try:
        return ipaddress.ip_interface(text)
    except ValueError as err:
        raise ConfigError(f"invalid CIDR {text}: {err}") from err


def _address(text: Any) -> IPAddress:
    try:
        return ipaddress.ip_address(str(text))
    except ValueError as err:
        raise ConfigError(f"invalid gateway address: {text}") from err


def _with_gateways(ips: list[IPConfig], gateways: list[str]) -> list[IPConfig]:
    """Each gateway of CNI_ARGS is that of the addresses in whose subnet it lies."""
    for text in gateways:
        gateway = _address(text)
        ips = [replace(ip, gateway=gateway) if gateway in ip.address.network else ip for ip in ips]
    return ips


def _delete(args: Args) -> None:
    """Nothing is kept, so nothing is to be given back."""


def _check(args: Args) -> None:
    wanted = _parse(args)
    previous = args.prev_result()
    if previous is None:
        raise ConfigError("Required prevResult missing")
    present = {ip.address.ip: ip for ip in previous.ips}
    for ip in wanted.ips:
        found = present.get(ip.address.ip)
        if found is None or ip.gateway not in (None, found.gateway):
            raise CNIError(
                CHECK_FAILED, f"static: Failed to match addr {ip.address.ip} on interface {args.ifname}"
            )


def _status(args: Args) -> None:
    _parse(args)


PLUGIN = skel.Plugin(name="static", add=_parse, delete=_delete, check=_check, status=_status)
