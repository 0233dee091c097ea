"""Services and endpoints as tables."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final

from podling.api.selectors import format_label_selector
from podling.api.tables.columns import (
    AGE,
    NAME,
    NONE,
    Cells,
    Object,
    Table,
    age,
    column,
    few,
    name,
    pairs,
)

_MOST_ENDPOINTS: Final = 3


def _service_cells(service: Object, now: datetime) -> Cells:
    spec = service.get("spec") or {}
    addresses = spec.get("clusterIPs") or [spec.get("clusterIP")]
    return [
        name(service),
        spec.get("type", ""),
        addresses[0] or NONE,
        _external(service, spec),
        ",".join(_port(port) for port in spec.get("ports") or ()) or NONE,
        age(service, now),
        pairs(spec.get("selector")),
    ]


def _external(service: Object, spec: Object) -> str:
    given = list(spec.get("externalIPs") or ())
    match spec.get("type"):
        case "ExternalName":
            return spec.get("externalName") or NONE
        case "LoadBalancer":
            ingress = ((service.get("status") or {}).get("loadBalancer") or {}).get("ingress") or ()
            found = [i.get("ip") or i.get("hostname", "") for i in ingress]
            return ",".join([*found, *given]) or "<pending>"
        case _:
            return ",".join(given) or NONE


def _port(port: Object) -> str:
    node_port = f":{port['nodePort']}" if port.get("nodePort") else ""
    return f"{port.get('port')}{node_port}/{port.get('protocol')}"


SERVICES: Final = Table(
    columns=(
        NAME,
        column("Type", "type determines how the Service is exposed."),
        column("Cluster-IP", "clusterIP is the IP address of the service and is usually assigned randomly."),
        column(
            "External-IP",
            "externalIPs is a list of IP addresses for which nodes in the cluster will also accept traffic "
            "for this service.",
        ),
        column("Port(s)", "The list of ports that are exposed by this service."),
        AGE,
        column(
            "Selector",
            "Route service traffic to pods with label keys and values matching this selector.",
            wide=True,
        ),
    ),
    cells=_service_cells,
)


def _endpoints_cells(endpoints: Object, now: datetime) -> Cells:
    return [name(endpoints), _addresses(endpoints), age(endpoints, now)]


def _addresses(endpoints: Object) -> str:
    found: list[str] = []
    for subset in endpoints.get("subsets") or ():
        addresses = [a.get("ip", "") for a in subset.get("addresses") or ()]
        ports = subset.get("ports") or ()
        # A headless service may have no ports.
        found += [_join(a, p.get("port")) for p in ports for a in addresses] if ports else addresses
    shown = ",".join(found[:_MOST_ENDPOINTS])
    more = len(found) - _MOST_ENDPOINTS
    return f"{shown} + {more} more..." if more > 0 else shown or NONE


def _join(address: str, port: int | None) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


ENDPOINTS: Final = Table(
    columns=(NAME, column("Endpoints", "The set of all endpoints is the union of all subsets."), AGE),
    cells=_endpoints_cells,
)


def _slice_cells(endpoint_slice: Object, now: datetime) -> Cells:
    return [
        name(endpoint_slice),
        endpoint_slice.get("addressType", ""),
        _slice_ports(endpoint_slice.get("ports") or ()),
        few([a for e in endpoint_slice.get("endpoints") or () for a in e.get("addresses") or ()]),
        age(endpoint_slice, now),
    ]


def _slice_ports(ports: Sequence[Object]) -> str:
    # With names when there is more than one; a port without a number is any.
    shown = [
        f"{port['name']}:{port.get('port', '*')}"
        if port.get("name") and len(ports) > 1
        else str(port.get("port", "*"))
        for port in ports
    ]
    return few(shown)


ENDPOINT_SLICES: Final = Table(
    columns=(
        NAME,
        column("AddressType", "addressType specifies the type of address carried by this EndpointSlice."),
        column(
            "Ports",
            "ports specifies the list of network ports exposed by each endpoint in this slice. Each port "
            "must have a unique name.",
        ),
        column("Endpoints", "endpoints is a list of unique endpoints in this slice."),
        AGE,
    ),
    cells=_slice_cells,
)


def _policy_cells(policy: Object, now: datetime) -> Cells:
    selector = (policy.get("spec") or {}).get("podSelector") or {}
    return [name(policy), format_label_selector(selector) or NONE, age(policy, now)]


NETWORK_POLICIES: Final = Table(
    columns=(
        NAME,
        column("Pod-Selector", "Selects the pods to which this NetworkPolicy object applies."),
        AGE,
    ),
    cells=_policy_cells,
)
