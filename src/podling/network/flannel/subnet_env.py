"""/run/flannel/subnet.env: what the flannel CNI plugin is told (flannel's documentation, "running")."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

from podling.network.addresses import IPNetwork

DEFAULT_PATH = Path("/run/flannel/subnet.env")


def render(networks: Iterable[IPNetwork], subnets: Iterable[IPNetwork], *, mtu: int, ip_masq: bool) -> str:
    """Of a subnet the first address is written, which the node's bridge gets."""
    lines = []
    for name, ranges in (("NETWORK", networks), ("SUBNET", subnets)):
        for cidr in ranges:
            family = "" if cidr.version == 4 else "IPV6_"
            first = cidr.network_address + (1 if name == "SUBNET" else 0)
            lines.append(f"FLANNEL_{family}{name}={first}/{cidr.prefixlen}")
    return "\n".join([*lines, f"FLANNEL_MTU={mtu}", f"FLANNEL_IPMASQ={str(ip_masq).lower()}", ""])


def write(path: Path, text: str) -> bool:
    """Whole or not at all; True when it was not already so."""
    try:
        if path.read_text() == text:
            return False
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
    fd, draft = tempfile.mkstemp(dir=path.parent, prefix=".subnet.env.")
    try:
        with open(fd, "w") as file:
            file.write(text)
            os.fchmod(file.fileno(), 0o644)
        os.rename(draft, path)
    except BaseException:
        Path(draft).unlink(missing_ok=True)
        raise
    return True
