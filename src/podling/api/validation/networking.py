"""Network policies."""

from __future__ import annotations

import ipaddress
from typing import Any, Final

from podling.api import names
from podling.api.validation.faults import Faults, Object, forbidden, invalid, required, unsupported
from podling.api.validation.meta import check_label_selector, check_metadata, check_metadata_update
from podling.api.validation.probe import check_port

_PROTOCOLS: Final = ("SCTP", "TCP", "UDP")
_TYPES: Final = ("Egress", "Ingress")
_NO_CIDR: Final = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)"


def check_network_policy(obj: Object, faults: Faults) -> None:
    check_metadata(obj.get("metadata", {}), names.check_subdomain, faults, namespaced=True)
    _check_spec(obj.get("spec") or {}, faults)


def check_network_policy_update(new: Object, old: Object, faults: Faults) -> None:
    check_metadata_update(new.get("metadata", {}), old.get("metadata", {}), faults)
    _check_spec(new.get("spec") or {}, faults)


def _check_spec(spec: Object, faults: Faults) -> None:
    check_label_selector(spec.get("podSelector") or {}, "spec.podSelector", faults)
    for direction, end in (("ingress", "from"), ("egress", "to")):
        for index, rule in enumerate(spec.get(direction) or ()):
            path = f"spec.{direction}[{index}]"
            for number, port in enumerate(rule.get("ports") or ()):
                _check_port(port, f"{path}.ports[{number}]", faults)
            for number, peer in enumerate(rule.get(end) or ()):
                _check_peer(peer, f"{path}.{end}[{number}]", faults)
    types = spec.get("policyTypes") or ()
    if len(types) > len(_TYPES):
        faults.append(invalid("spec.policyTypes", types, "may not specify more than two policyTypes"))
        return
    for index, kind in enumerate(types):
        if kind not in _TYPES:
            faults.append(unsupported(f"spec.policyTypes[{index}]", kind, _TYPES))


def _check_port(port: Object, path: str, faults: Faults) -> None:
    protocol, number, end = port.get("protocol"), port.get("port"), port.get("endPort")
    if protocol and protocol not in _PROTOCOLS:
        faults.append(unsupported(f"{path}.protocol", protocol, _PROTOCOLS))
    if number is not None:
        check_port(number, f"{path}.port", faults)
    if end is None:
        return
    if number is None:
        faults.append(invalid(f"{path}.endPort", end, "may not be specified when `port` is not specified"))
    elif isinstance(number, str):
        faults.append(invalid(f"{path}.endPort", end, "may not be specified when `port` is non-numeric"))
    elif end < number:
        faults.append(invalid(f"{path}.endPort", end, "must be greater than or equal to `port`"))
    else:
        for problem in names.check_port_number(end):
            faults.append(invalid(f"{path}.endPort", end, problem))


def _check_peer(peer: Object, path: str, faults: Faults) -> None:
    named = [key for key in ("podSelector", "namespaceSelector", "ipBlock") if peer.get(key) is not None]
    for key in named:
        if key != "ipBlock":
            check_label_selector(peer[key], f"{path}.{key}", faults)
    if not named:
        faults.append(required(path, "must specify a peer"))
    elif "ipBlock" in named:
        if len(named) > 1:
            faults.append(forbidden(path, "may not specify both ipBlock and another peer"))
        _check_block(peer["ipBlock"], f"{path}.ipBlock", faults)


def _check_block(block: Object, path: str, faults: Faults) -> None:
    if not block.get("cidr"):
        faults.append(required(f"{path}.cidr"))
        return
    network = _network(block["cidr"])
    if network is None:
        faults.append(invalid(f"{path}.cidr", block["cidr"], _NO_CIDR))
    for index, text in enumerate(block.get("except") or ()):
        excluded, where = _network(text), f"{path}.except[{index}]"
        if excluded is None:
            faults.append(invalid(where, text, _NO_CIDR))
        elif network is not None and not _strictly_within(excluded, network):
            faults.append(invalid(where, text, "must be a strict subset of `cidr`"))


def _network(text: str) -> Any:
    try:
        return ipaddress.ip_network(text, strict=False) if "/" in text else None
    except ValueError:
        return None


def _strictly_within(part: Any, whole: Any) -> bool:
    return bool(part.version == whole.version and part.prefixlen > whole.prefixlen and part.subnet_of(whole))
