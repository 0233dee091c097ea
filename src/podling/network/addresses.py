"""Addresses and subnets of nodes as the network's parts read them from Node objects."""

from __future__ import annotations

import ipaddress
from typing import TypeAlias

from podling.api.core_v1 import Node

IPAddress: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
IPNetwork: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network


def overlap(one: IPNetwork, other: IPNetwork) -> bool:
    return one.version == other.version and one.overlaps(other)


def pod_cidrs(node: Node) -> list[IPNetwork]:
    """`spec.podCIDRs`, less what is malformed."""
    if node.spec is None:
        return []
    texts = node.spec.pod_cid_rs or ([node.spec.pod_cidr] if node.spec.pod_cidr else [])
    return [cidr for text in texts if (cidr := _network(text)) is not None]


def internal_ips(node: Node) -> list[IPAddress]:
    """Its InternalIPs, less what is malformed."""
    entries = node.status.addresses if node.status else ()
    found = (address(entry.address) for entry in entries if entry.type == "InternalIP")
    return [ip for ip in found if ip is not None]


def address(text: str) -> IPAddress | None:
    """None for what is no IP address."""
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def _network(text: str) -> IPNetwork | None:
    try:
        return ipaddress.ip_network(text)
    except ValueError:
        return None
