"""forwarder.c: how it is built, and what it is told."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from podling.linux.cbuild import CProgram

FORWARDER = CProgram(
    name="forwarder",
    version="1.0",
    source=Path(__file__).with_name("forwarder.c"),
    flags=("-std=gnu11", "-O2", "-fno-strict-aliasing", "-Wall", "-Wextra", "-static", "-s"),
)

_ROUTE = struct.Struct("!4sB4sH")


def pack_routes(routes: Iterable[tuple[IPv4Network, IPv4Address]], port: int) -> bytes:
    """The control message that gives it its table: subnet to node. Never empty, which would mean the end."""
    packed = [
        _ROUTE.pack(subnet.network_address.packed, subnet.prefixlen, node.packed, port)
        for subnet, node in routes
    ]
    return b"".join(packed) or bytes(_ROUTE.size)
