"""Waiting until IPv6 addresses that were just added can be used.

Even without duplicate address detection the kernel finishes an IPv6 address later, on a worker: only then
does it join the group in which neighbours ask for the address, and take packets for it. Who sends one
before waits a second for the next try. The route to oneself that it adds at the end is announced, so nothing
has to be polled:

    with UsableAddresses(netns) as usable:
        nl.addr_add(index, address)
        usable.wait(index, [address])
"""

from __future__ import annotations

from podling.linux.netlink.routes import RTM_NEWROUTE, RTN_LOCAL, parse_route
from podling.linux.netlink.socket import NetlinkSocket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from podling.linux.netlink.addresses import IPInterface
    from podling.linux.netns import NetNS

RTNLGRP_IPV6_ROUTE = 11  # <linux/rtnetlink.h>
WAIT_S = 1.0  # it takes about one millisecond; longer means that nothing more is going to come


class UsableAddresses(NetlinkSocket):
    """Listens from the moment it is made, in the calling thread's namespace or in `netns`."""

    def __init__(self, netns: NetNS | None = None) -> None:
        super().__init__(netns, groups=(RTNLGRP_IPV6_ROUTE,))
        self._socket.settimeout(WAIT_S)

    def wait(self, index: int, addresses: Iterable[IPInterface]) -> bool:
        """Whether all the IPv6 addresses among these became usable on the link; IPv4 ones are at once."""
        missing = {address.ip for address in addresses if address.version == 6}
        try:
            while missing:
                for message in self.receive():
                    route = parse_route(message) if message.kind == RTM_NEWROUTE else None
                    if route is not None and route.kind == RTN_LOCAL and route.oif == index:
                        missing.discard(route.dst.network_address)
        except OSError:  # silence, or more news than the socket holds: they are as usable as they get
            return False
        return True
