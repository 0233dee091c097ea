"""Services, and the endpoints behind them."""

from __future__ import annotations

import ipaddress
from typing import Final

from podling.api import names
from podling.api.validation.container import PROTOCOLS
from podling.api.validation.faults import (
    IMMUTABLE,
    Faults,
    Object,
    check_choice,
    check_text,
    duplicate,
    forbidden,
    invalid,
    required,
    same,
    too_many,
    unsupported,
)
from podling.api.validation.meta import check_labels, check_metadata, check_metadata_update
from podling.api.validation.probe import check_port

_TYPES: Final = ("ClusterIP", "ExternalName", "LoadBalancer", "NodePort")
_POLICIES: Final = ("Cluster", "Local")
_MAX_TIMEOUT_SECONDS: Final = 86_400
_ADDRESS_TYPES: Final = ("FQDN", "IPv4", "IPv6")
_MAX_ENDPOINTS: Final = 1000
_MAX_ADDRESSES: Final = 100


def check_service(obj: Object, faults: Faults) -> None:
    check_metadata(obj.get("metadata", {}), names.check_label_1035, faults, namespaced=True)
    _check_spec(obj.get("spec") or {}, faults)


def check_service_update(new: Object, old: Object, faults: Faults) -> None:
    check_metadata_update(new.get("metadata", {}), old.get("metadata", {}), faults)
    after, before = new.get("spec") or {}, old.get("spec") or {}
    was, now = before.get("clusterIP"), after.get("clusterIP")
    if was and now != was and "ExternalName" not in (after.get("type"), before.get("type")):
        detail = "may not change once set"
        faults.append(invalid("spec.clusterIPs[0]", [now] if now else [], detail))
    _check_spec(after, faults)


def _check_spec(spec: Object, faults: Faults) -> None:
    kind = spec.get("type", "")
    headless = spec.get("clusterIP") == "None"
    ports = spec.get("ports", [])
    if not ports and not headless and kind != "ExternalName":
        faults.append(required("spec.ports"))
    if kind == "LoadBalancer" and headless:
        faults.append(
            invalid("spec.clusterIPs[0]", "None", "may not be set to 'None' for LoadBalancer services")
        )
    if kind == "NodePort" and headless:
        faults.append(invalid("spec.clusterIPs[0]", "None", "may not be set to 'None' for NodePort services"))
    if kind == "ExternalName":
        _check_external_name(spec, faults)
    _check_ports(ports, kind, faults)
    if "selector" in spec:
        check_labels(spec["selector"], "spec.selector", faults)
    check_choice("spec.type", kind, _TYPES, faults)
    _check_affinity(spec, faults)
    if kind != "ExternalName":
        for index, address in enumerate(spec.get("clusterIPs", ())):
            if address != "None":
                check_text(f"spec.clusterIPs[{index}]", address, names.check_ip(address), faults)
    for index, address in enumerate(spec.get("externalIPs", ())):
        check_text(f"spec.externalIPs[{index}]", address, names.check_ip(address), faults)
    for key in ("externalTrafficPolicy", "internalTrafficPolicy"):
        if spec.get(key) and spec[key] not in _POLICIES:
            faults.append(unsupported(f"spec.{key}", spec[key], _POLICIES))


def _check_external_name(spec: Object, faults: Faults) -> None:
    if spec.get("clusterIP"):
        detail = "may not be set when `type` is 'ExternalName'"
        faults.append(forbidden("spec.clusterIPs", detail))
    name = spec.get("externalName", "").removesuffix(".")
    if name:
        check_text("spec.externalName", name, names.check_subdomain(name), faults)
    else:
        faults.append(required("spec.externalName"))


def _check_ports(ports: list[Object], kind: str, faults: Faults) -> None:
    taken_names: set[str] = set()
    taken: set[tuple[str, int]] = set()
    node_ports: set[tuple[str, int]] = set()
    for index, port in enumerate(ports):
        where = f"spec.ports[{index}]"
        name, number, protocol = port.get("name", ""), port.get("port", 0), port.get("protocol", "")
        if not name:
            if len(ports) > 1:
                faults.append(required(f"{where}.name"))
        else:
            check_text(f"{where}.name", name, names.check_label(name), faults)
            if name in taken_names:
                faults.append(duplicate(f"{where}.name", name))
            taken_names.add(name)
        check_text(f"{where}.port", number, names.check_port_number(number), faults)
        check_choice(f"{where}.protocol", protocol, PROTOCOLS, faults)
        check_port(port.get("targetPort", 0), f"{where}.targetPort", faults)
        node_port = port.get("nodePort", 0)
        if node_port and kind in ("ClusterIP", "ExternalName"):
            detail = f"may not be used when `type` is '{kind}'"
            faults.append(forbidden(f"{where}.nodePort", detail))
        elif node_port and (protocol, node_port) in node_ports:
            faults.append(duplicate(f"{where}.nodePort", node_port))
        node_ports.add((protocol, node_port))
        if (protocol, number) in taken:
            faults.append(duplicate(where, {"protocol": protocol, "port": number}))
        taken.add((protocol, number))


def _check_affinity(spec: Object, faults: Faults) -> None:
    check_choice("spec.sessionAffinity", spec.get("sessionAffinity"), ("ClientIP", "None"), faults)
    if spec.get("sessionAffinity") != "ClientIP":
        return
    timeout = spec.get("sessionAffinityConfig", {}).get("clientIP", {}).get("timeoutSeconds", 0)
    if not 0 < timeout <= _MAX_TIMEOUT_SECONDS:
        where = "spec.sessionAffinityConfig.clientIP.timeoutSeconds"
        detail = f"must be greater than 0 and less than {_MAX_TIMEOUT_SECONDS}"
        faults.append(invalid(where, timeout, detail))


def check_endpoints(obj: Object, faults: Faults) -> None:
    check_metadata(obj.get("metadata", {}), names.check_subdomain, faults, namespaced=True)
    _check_subsets(obj, faults)


def check_endpoints_update(new: Object, old: Object, faults: Faults) -> None:
    check_metadata_update(new.get("metadata", {}), old.get("metadata", {}), faults)
    _check_subsets(new, faults)


def _check_subsets(obj: Object, faults: Faults) -> None:
    for index, subset in enumerate(obj.get("subsets", ())):
        where = f"subsets[{index}]"
        if not subset.get("addresses") and not subset.get("notReadyAddresses"):
            faults.append(required(where, "must specify `addresses` or `notReadyAddresses`"))
        for key in ("addresses", "notReadyAddresses"):
            for address_index, address in enumerate(subset.get(key, ())):
                path, ip = f"{where}.{key}[{address_index}]", address.get("ip", "")
                check_text(f"{path}.ip", ip, names.check_ip(ip), faults)
                if address.get("hostname"):
                    check_text(
                        f"{path}.hostname",
                        address["hostname"],
                        names.check_label(address["hostname"]),
                        faults,
                    )
        ports = subset.get("ports", ())
        for port_index, port in enumerate(ports):
            path, name, number = f"{where}.ports[{port_index}]", port.get("name", ""), port.get("port", 0)
            if name:
                check_text(f"{path}.name", name, names.check_label(name), faults)
            elif len(ports) > 1:
                faults.append(required(f"{path}.name"))
            check_text(f"{path}.port", number, names.check_port_number(number), faults)
            check_choice(f"{path}.protocol", port.get("protocol"), PROTOCOLS, faults)


def check_endpoint_slice(obj: Object, faults: Faults) -> None:
    check_metadata(obj.get("metadata", {}), names.check_subdomain, faults, namespaced=True)
    check_choice("addressType", obj.get("addressType"), _ADDRESS_TYPES, faults)
    _check_slice(obj, faults)


def check_endpoint_slice_update(new: Object, old: Object, faults: Faults) -> None:
    check_metadata_update(new.get("metadata", {}), old.get("metadata", {}), faults)
    _check_slice(new, faults)
    if not same(new.get("addressType"), old.get("addressType")):
        faults.append(invalid("addressType", new.get("addressType", ""), IMMUTABLE))


def _check_slice(obj: Object, faults: Faults) -> None:
    kind, endpoints = obj.get("addressType"), obj.get("endpoints") or ()
    if len(endpoints) > _MAX_ENDPOINTS:
        faults.append(too_many("endpoints", len(endpoints), _MAX_ENDPOINTS))
        return
    for index, endpoint in enumerate(endpoints):
        path, addresses = f"endpoints[{index}].addresses", endpoint.get("addresses") or ()
        if not addresses:
            faults.append(required(path, "must contain at least 1 address"))
        elif len(addresses) > _MAX_ADDRESSES:
            faults.append(too_many(path, len(addresses), _MAX_ADDRESSES))
        for number, address in enumerate(addresses):
            check_text(f"{path}[{number}]", address, _address_faults(kind, address), faults)
        if endpoint.get("hostname"):
            where = f"endpoints[{index}].hostname"
            check_text(where, endpoint["hostname"], names.check_label(endpoint["hostname"]), faults)
    taken: set[str] = set()
    for index, port in enumerate(obj.get("ports") or ()):
        name = port.get("name") or ""
        if name in taken:
            faults.append(duplicate("ports.name", name))
        taken.add(name)
        if name:
            check_text(f"ports[{index}].name", name, names.check_label(name), faults)
        check_choice(f"ports[{index}].protocol", port.get("protocol"), PROTOCOLS, faults)


def _address_faults(kind: str | None, address: str) -> list[str]:
    if kind == "FQDN":
        return names.check_subdomain(address)
    problems = names.check_ip(address)
    if not problems and kind and f"IPv{ipaddress.ip_address(address).version}" != kind:
        problems = [f"must be an {kind} address"]
    return problems
