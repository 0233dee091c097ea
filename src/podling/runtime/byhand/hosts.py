"""/etc/hosts of containers: themselves, and on networks people made also their neighbours by name.

Docker answers such names with a DNS server; a file needs none. It is written in place, since it is
bind-mounted: a new file would not be seen inside.
"""

from __future__ import annotations

from pathlib import Path

from podling.runtime.byhand.hand import Hand, Held
from podling.runtime.byhand.settings import DEFAULT_NETWORK, joined
from podling.runtime.view import Seen

HOSTS = "/etc/hosts"
LOCAL = ("127.0.0.1\tlocalhost", "::1\tlocalhost ip6-localhost ip6-loopback")


def write(hand: Hand, held: Held) -> None:
    """When the container has its addresses."""
    settings = held.settings
    if joined(settings.network):
        return
    path = hand.paths.sandbox(held.id) / "hosts"
    if settings.network == "host":
        path.write_bytes(Path(HOSTS).read_bytes() if Path(HOSTS).exists() else b"")
        return
    path.write_text(text([(ip, settings.hostname) for ip in settings.ips]))
    refresh(hand, settings.network)


def refresh(hand: Hand, network: str) -> None:
    """Tell all containers of a network who is in it; call it when one came or went."""
    if network == DEFAULT_NETWORK:
        return
    members = [seen for seen in hand.view.all() if seen.settings and seen.settings.network == network]
    names = [(ip, seen.name) for seen in members for ip in _ips(seen)]
    for seen in members:
        path = hand.paths.sandbox(seen.id) / "hosts"
        if seen.settings and seen.settings.ips and path.exists():
            path.write_text(text([*((ip, seen.settings.hostname) for ip in seen.settings.ips), *names]))


def _ips(seen: Seen) -> list[str]:
    return seen.settings.ips if seen.settings else []


def text(names: list[tuple[str, str]]) -> str:
    return "".join(f"{line}\n" for line in (*LOCAL, *(f"{ip}\t{name}" for ip, name in names)))
