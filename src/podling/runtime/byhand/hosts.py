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
        own = Path(HOSTS).read_text() if Path(HOSTS).exists() else ""
        path.write_text(own + lines(settings.extras.hosts))
        return
    path.write_text(text([*((ip, settings.hostname) for ip in settings.ips), *settings.extras.hosts]))
    refresh(hand, settings.network)


def refresh(hand: Hand, network: str) -> None:
    """Tell all containers of a network who is in it; call it when one came or went."""
    if network == DEFAULT_NETWORK:
        return
    members = [seen for seen in hand.view.all() if seen.settings and seen.settings.network == network]
    names = [(ip, _name(seen)) for seen in members for ip in _ips(seen)]
    for seen in members:
        path = hand.paths.sandbox(seen.id) / "hosts"
        if seen.settings and seen.settings.ips and path.exists():
            own = [(ip, seen.settings.hostname) for ip in seen.settings.ips]
            path.write_text(text([*own, *seen.settings.extras.hosts, *names]))


def _name(seen: Seen) -> str:
    pod = seen.settings.pod_info if seen.settings else None
    return pod.name if pod else seen.name


def _ips(seen: Seen) -> list[str]:
    return seen.settings.ips if seen.settings else []


def text(names: list[tuple[str, str]]) -> str:
    return "".join(f"{line}\n" for line in LOCAL) + lines(names)


def lines(names: list[tuple[str, str]]) -> str:
    return "".join(f"{ip}\t{name}\n" for ip, name in names)
