"""Variables that tell a container where services are.

Kubernetes documentation, "Service", "Discovering services", "Environment variables"; upstream's
`pkg/kubelet/envvars` and `kubelet_pods.go`, "getServiceEnvVarMap". Pure over the services there are when
the container is made; later ones do not reach it.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv6Address, ip_address

from podling.api import core_v1

MASTER_NAMESPACE = "default"
MASTER_SERVICE = "kubernetes"
"""Every pod is told of it, with or without `enableServiceLinks`: clients in pods look for it."""


def service_environment(
    services: Iterable[core_v1.Service], namespace: str, *, links: bool
) -> dict[str, str]:
    """The variables for a pod of `namespace`; `links` is its `enableServiceLinks`."""
    chosen: dict[str, core_v1.Service] = {}
    for service in services:
        name, home = service.metadata.name or "", service.metadata.namespace
        if not service.spec or service.spec.cluster_ip in (None, "", "None"):
            continue
        if links and home == namespace:
            chosen[name] = service
        elif (home, name) == (MASTER_NAMESPACE, MASTER_SERVICE):
            chosen.setdefault(name, service)
    result: dict[str, str] = {}
    for service in chosen.values():
        result.update(_variables(service))
    return result


def _variables(service: core_v1.Service) -> dict[str, str]:
    spec = service.spec
    if spec is None or not spec.ports:
        return {}
    prefix, host = _variable_name(service.metadata.name or ""), spec.cluster_ip or ""
    result = {f"{prefix}_SERVICE_HOST": host, f"{prefix}_SERVICE_PORT": str(spec.ports[0].port)}
    for port in spec.ports:
        if port.name:
            result[f"{prefix}_SERVICE_PORT_{_variable_name(port.name)}"] = str(port.port)
    for index, port in enumerate(spec.ports):
        protocol = port.protocol or "TCP"
        url = f"{protocol.lower()}://{_in_url(host)}:{port.port}"
        if index == 0:
            result[f"{prefix}_PORT"] = url
        link = f"{prefix}_PORT_{port.port}_{protocol}"
        result[link] = url
        result[f"{link}_PROTO"] = protocol.lower()
        result[f"{link}_PORT"] = str(port.port)
        result[f"{link}_ADDR"] = host
    return result


def _variable_name(name: str) -> str:
    return name.upper().replace("-", "_")


def _in_url(host: str) -> str:
    return f"[{host}]" if isinstance(ip_address(host), IPv6Address) else host
