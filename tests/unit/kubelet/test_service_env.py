"""The variables by which containers find services."""

from __future__ import annotations

from typing import Any

import msgspec

from podling.api import core_v1
from podling.kubelet.service_env import service_environment


def service(name: str, namespace: str, cluster_ip: str, *ports: dict[str, Any]) -> core_v1.Service:
    return msgspec.convert(
        {
            "metadata": {"name": name, "namespace": namespace},
            "spec": {"clusterIP": cluster_ip, "ports": list(ports)},
        },
        core_v1.Service,
    )


KUBERNETES = service("kubernetes", "default", "10.96.0.1", {"name": "https", "port": 443})
REDIS = service(
    "redis-primary", "shop", "10.96.0.11", {"port": 6379}, {"name": "m-x", "port": 53, "protocol": "UDP"}
)
HEADLESS = service("db", "shop", "None", {"port": 5432})
OTHER = service("other", "elsewhere", "10.96.0.12", {"port": 80})
ALL = [KUBERNETES, REDIS, HEADLESS, OTHER]


def test_the_documented_example() -> None:
    env = service_environment(ALL, "shop", links=True)
    assert {name: value for name, value in env.items() if name.startswith("REDIS")} == {
        "REDIS_PRIMARY_SERVICE_HOST": "10.96.0.11",
        "REDIS_PRIMARY_SERVICE_PORT": "6379",
        "REDIS_PRIMARY_SERVICE_PORT_M_X": "53",
        "REDIS_PRIMARY_PORT": "tcp://10.96.0.11:6379",
        "REDIS_PRIMARY_PORT_6379_TCP": "tcp://10.96.0.11:6379",
        "REDIS_PRIMARY_PORT_6379_TCP_PROTO": "tcp",
        "REDIS_PRIMARY_PORT_6379_TCP_PORT": "6379",
        "REDIS_PRIMARY_PORT_6379_TCP_ADDR": "10.96.0.11",
        "REDIS_PRIMARY_PORT_53_UDP": "udp://10.96.0.11:53",
        "REDIS_PRIMARY_PORT_53_UDP_PROTO": "udp",
        "REDIS_PRIMARY_PORT_53_UDP_PORT": "53",
        "REDIS_PRIMARY_PORT_53_UDP_ADDR": "10.96.0.11",
    }


def test_only_services_of_the_namespace_with_an_address_and_the_api_server() -> None:
    env = service_environment(ALL, "shop", links=True)
    assert {name.partition("_")[0] for name in env} == {"KUBERNETES", "REDIS"}
    assert env["KUBERNETES_SERVICE_HOST"] == "10.96.0.1"
    assert env["KUBERNETES_SERVICE_PORT_HTTPS"] == "443"


def test_without_links_only_the_api_server() -> None:
    env = service_environment(ALL, "shop", links=False)
    assert {name.partition("_")[0] for name in env} == {"KUBERNETES"}


def test_an_ipv6_address_is_bracketed_in_urls() -> None:
    env = service_environment([service("web", "shop", "fd00::1", {"port": 80})], "shop", links=True)
    assert env["WEB_PORT"] == "tcp://[fd00::1]:80"
    assert env["WEB_SERVICE_HOST"] == "fd00::1"
