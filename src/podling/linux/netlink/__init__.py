"""rtnetlink, compact and fast: raw sockets and `struct`, no third-party package.

Written here because pyroute2 takes 14 ms to wire one veth pair and far more to import; a pod start has no
room for that. `Netlink` is the entry point; the modules beside it build and read the messages.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from podling.linux.netlink.addresses import Address
    from podling.linux.netlink.client import Netlink
    from podling.linux.netlink.links import Link, LinkStats
    from podling.linux.netlink.neighbours import Neighbour
    from podling.linux.netlink.routes import RTN_BLACKHOLE, RTN_UNICAST, RTN_UNREACHABLE, Route
    from podling.linux.netlink.wire import NetlinkError, Request

__all__ = [
    "RTN_BLACKHOLE",
    "RTN_UNICAST",
    "RTN_UNREACHABLE",
    "Address",
    "Link",
    "LinkStats",
    "Neighbour",
    "Netlink",
    "NetlinkError",
    "Request",
    "Route",
]

_MODULES = {
    "addresses": ("Address",),
    "client": ("Netlink",),
    "links": ("Link", "LinkStats"),
    "neighbours": ("Neighbour",),
    "routes": ("RTN_BLACKHOLE", "RTN_UNICAST", "RTN_UNREACHABLE", "Route"),
    "wire": ("NetlinkError", "Request"),
}


def __getattr__(name: str) -> object:
    """Import what is asked for, and no more: a CNI plugin lives ten milliseconds."""
    for module, names in _MODULES.items():
        if name in names:
            found = globals()[name] = getattr(__import__(f"{__name__}.{module}", fromlist=names), name)
            return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
