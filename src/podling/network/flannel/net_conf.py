"""flannel's configuration, `net-conf.json`: the range of all pods and how packets travel between nodes.

    {
      "Network": "10.244.0.0/16",          IPv4; "IPv6Network" with "EnableIPv6" for the other family
      "EnableIPv4": true,
      "Backend": {
        "Type": "vxlan",                   or "host-gw" or "udp" (the default, as flannel's)
        "VNI": 1, "Port": 8472, "GBP": false, "DirectRouting": false, "MTU": 0       vxlan
        "Port": 8285, "MTU": 0                                                       udp
      }
    }

SubnetLen, SubnetMin and SubnetMax are taken and not used: subnets come from the Nodes. Unknown keys are
ignored, as flanneld does. See flannel's documentation, "configuration" and "backends".
"""

from __future__ import annotations

import ipaddress
import json
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Network, IPv6Network
from typing import Any

from podling.network.addresses import IPNetwork


class BackendType(StrEnum):
    VXLAN = "vxlan"
    HOST_GW = "host-gw"
    UDP = "udp"


DEFAULT_VNI = 1
DEFAULT_PORTS = {BackendType.VXLAN: 8472, BackendType.HOST_GW: 0, BackendType.UDP: 8285}
"""UDP ports; flannel's, which for vxlan is that of Linux before the IANA's 4789."""
VNI_LIMIT = 1 << 24


class NetConfError(ValueError):
    """A configuration that cannot be used; the text says all that is wrong with it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Backend:
    type: BackendType = BackendType.VXLAN
    vni: int = DEFAULT_VNI
    port: int = DEFAULT_PORTS[BackendType.VXLAN]
    gbp: bool = False
    """vxlan: carry the packet's group (mark) across."""
    direct_routing: bool = False
    """vxlan: plain routes to nodes on this node's own network."""
    mtu: int = 0
    """Bytes of the packets between nodes; 0: what the external interface takes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NetConf:
    network: IPv4Network | None
    """The range of all pods; None: no IPv4."""
    ipv6_network: IPv6Network | None = None
    backend: Backend = Backend()

    @property
    def networks(self) -> tuple[IPNetwork, ...]:
        return tuple(net for net in (self.network, self.ipv6_network) if net is not None)

    def network_of(self, version: int) -> IPNetwork | None:
        return self.network if version == 4 else self.ipv6_network


def net_conf(kind: str, networks: tuple[IPNetwork, ...]) -> NetConf:
    """The configuration with everything else at its default. Raises `NetConfError`."""
    document: dict[str, Any] = {"Backend": {"Type": kind}, "EnableIPv4": False}
    for network in networks:
        prefix = "" if network.version == 4 else "IPv6"
        document |= {f"{prefix}Network": str(network), f"EnableIPv{network.version}": True}
    return parse(json.dumps(document))


def parse(text: str | bytes) -> NetConf:
    """Raises `NetConfError` with every fault there is."""
    try:
        document = json.loads(text)
    except ValueError as err:
        raise NetConfError(f"net-conf.json is not JSON: {err}") from err
    if not isinstance(document, dict):
        raise NetConfError("net-conf.json must be a JSON object")
    faults: list[str] = []
    get = _Reader(document, "", faults)
    network = get.network("Network", IPv4Network) if get.value("EnableIPv4", bool, True) else None
    ipv6 = get.network("IPv6Network", IPv6Network) if get.value("EnableIPv6", bool, False) else None
    backend = _backend(get.value("Backend", dict, {}), faults)
    if not faults and network is None and ipv6 is None:
        faults.append("EnableIPv4 and EnableIPv6 are both false")
    if ipv6 is not None and backend.type is BackendType.UDP:
        faults.append('backend "udp" has no IPv6: use vxlan or host-gw')
    if faults:
        raise NetConfError("; ".join(faults))
    return NetConf(network=network, ipv6_network=ipv6, backend=backend)


def _backend(document: dict[str, Any], faults: list[str]) -> Backend:
    get = _Reader(document, "Backend.", faults)
    name = get.value("Type", str, BackendType.UDP)
    try:
        kind = BackendType(name)
    except ValueError:
        faults.append(f'Backend.Type: no backend "{name}": there are {", ".join(BackendType)}')
        kind = BackendType.VXLAN
    made = Backend(
        type=kind,
        vni=get.value("VNI", int, DEFAULT_VNI),
        # flannel takes 0 for the default too.
        port=get.value("Port", int, 0) or DEFAULT_PORTS[kind],
        gbp=get.value("GBP", bool, False),
        direct_routing=get.value("DirectRouting", bool, False),
        mtu=get.value("MTU", int, 0),
    )
    if not 0 < made.vni < VNI_LIMIT:
        faults.append(f"Backend.VNI: {made.vni} is not between 1 and {VNI_LIMIT - 1}")
    if not 0 <= made.port < 65536:
        faults.append(f"Backend.Port: {made.port} is not a UDP port")
    if made.mtu and not 576 <= made.mtu <= 65535:
        faults.append(f"Backend.MTU: {made.mtu} is not between 576 and 65535 bytes")
    if get.value("Learning", bool, False):
        faults.append("Backend.Learning: entries are kept from the Nodes; learning would overrule them")
    return made


class _Reader:
    """Typed look-ups that gather faults; keys are compared as Go's JSON does, whatever their case."""

    def __init__(self, document: dict[str, Any], path: str, faults: list[str]) -> None:
        self._values = {key.lower(): value for key, value in document.items()}
        self._path = path
        self._faults = faults

    def value(self, key: str, kind: type, default: Any) -> Any:
        found = self._values.get(key.lower())
        if found is None:
            return default
        if not isinstance(found, kind) or (kind is int and isinstance(found, bool)):
            words = {bool: "true or false", int: "a number", str: "a string", dict: "an object"}[kind]
            self._faults.append(f"{self._path}{key}: {json.dumps(found)} is not {words}")
            return default
        return found

    def network(self, key: str, kind: type[IPv4Network] | type[IPv6Network]) -> Any:
        text = self.value(key, str, "")
        try:
            found = ipaddress.ip_network(text, strict=False)
        except ValueError:
            found = None
        if not isinstance(found, kind):
            self._faults.append(f'{self._path}{key}: "{text}" is not an IPv{kind(0).version} range')
            return None
        return found
