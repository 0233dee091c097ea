"""`Netlink`: rtnetlink with one typed method per thing one does to links, addresses, routes and neighbours.

Methods send one request and wait for its acknowledgement. Whoever does several things at once builds the
requests with the functions of `links`, `addresses`, `routes` and `neighbours` and passes them to `execute`,
which sends them in one system call.
"""

from __future__ import annotations

import errno

from podling.linux.netlink import addresses, links, neighbours, routes
from podling.linux.netlink.socket import NetlinkSocket
from podling.linux.netlink.wire import NetlinkError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from podling.linux.netlink.addresses import Address, IPInterface
    from podling.linux.netlink.links import Link
    from podling.linux.netlink.neighbours import Neighbour
    from podling.linux.netlink.routes import Route
    from podling.linux.netlink.wire import Request


class Netlink(NetlinkSocket):
    """A context manager: `with Netlink("/run/netns/x") as nl: nl.link_set("lo", up=True)`.

    All methods raise `NetlinkError`, whose `errno` is the kernel's. Links are named by name or ifindex.
    """

    # --- links

    def link_get(self, link: str | int) -> Link:
        """ENODEV when there is none."""
        return links.parse_link(self.get(links.get_link(link)))

    def link_find(self, link: str | int) -> Link | None:
        try:
            return self.link_get(link)
        except NetlinkError as err:
            if err.errno != errno.ENODEV:
                raise
            return None

    def link_list(
        self, *, master: int | None = None, kind: str | None = None, stats: bool = False
    ) -> list[Link]:
        found = self.dump(links.dump_links(master=master, kind=kind, stats=stats))
        return [links.parse_link(message) for message in found if message.kind == links.RTM_NEWLINK]

    def link_add_bridge(
        self,
        name: str,
        *,
        mtu: int | None = None,
        mac: str | None = None,
        up: bool = True,
        vlan_filtering: bool = False,
    ) -> None:
        """EEXIST when the name is taken."""
        self.execute(links.add_bridge(name, mtu=mtu, mac=mac, up=up, vlan_filtering=vlan_filtering))

    def link_add_veth(
        self,
        name: str,
        peer: str,
        *,
        peer_netns_fd: int | None = None,
        mtu: int | None = None,
        mac: str | None = None,
        peer_mac: str | None = None,
        master: str | int | None = None,
        up: bool = False,
    ) -> None:
        """Make a pair in one message, the peer straight in its own namespace. EEXIST when a name is taken."""
        self.execute(
            links.add_veth(
                name,
                peer,
                peer_netns_fd=peer_netns_fd,
                mtu=mtu,
                mac=mac,
                peer_mac=peer_mac,
                master=self._index(master),
                up=up,
            )
        )

    def link_set(
        self,
        link: str | int,
        *,
        up: bool | None = None,
        name: str | None = None,
        master: str | int | None = None,
        netns_fd: int | None = None,
        mtu: int | None = None,
        mac: str | None = None,
        promisc: bool | None = None,
        alias: str | None = None,
    ) -> None:
        """Change what is given; `master=0` releases a port, `netns_fd` moves the link."""
        self.execute(
            links.set_link(
                self.link_get(link).index if name is not None and isinstance(link, str) else link,
                up=up,
                name=name,
                master=self._index(master),
                netns_fd=netns_fd,
                mtu=mtu,
                mac=mac,
                promisc=promisc,
                alias=alias,
            )
        )

    def link_set_port(
        self,
        link: str | int,
        *,
        hairpin: bool | None = None,
        isolated: bool | None = None,
        learning: bool | None = None,
        flood: bool | None = None,
    ) -> None:
        """Settings of a bridge port."""
        self.execute(links.set_port(link, hairpin=hairpin, isolated=isolated, learning=learning, flood=flood))

    def link_del(self, link: str | int, *, missing_ok: bool = False) -> None:
        try:
            self.execute(links.delete_link(link))
        except NetlinkError as err:
            if not (missing_ok and err.errno == errno.ENODEV):
                raise

    def link_kind_known(self, kind: str) -> bool:
        """Whether the kernel can make links of this kind. Changes nothing, but may load a module."""
        from podling.linux.netlink.kinds import probe  # only asked when something has failed

        try:
            self.execute(probe(kind))
        except NetlinkError as err:
            return err.errno != errno.EOPNOTSUPP
        return True

    def _index(self, link: str | int | None) -> int | None:
        return self.link_get(link).index if isinstance(link, str) else link

    # --- addresses

    def addr_add(
        self, link: str | int, interface: IPInterface, *, nodad: bool = True, exist_ok: bool = False
    ) -> None:
        index = self._index(link) or 0
        try:
            self.execute(addresses.add_address(index, interface, nodad=nodad))
        except NetlinkError as err:
            if not (exist_ok and err.errno == errno.EEXIST):
                raise

    def addr_list(self, link: str | int | None = None, *, family: int = 0) -> list[Address]:
        index = self._index(link) or 0
        found = self.dump(addresses.dump_addresses(index=index, family=family))
        parsed = [
            addresses.parse_address(message) for message in found if message.kind == addresses.RTM_NEWADDR
        ]
        return [address for address in parsed if index in (0, address.index)]

    def addr_del(self, link: str | int, interface: IPInterface, *, missing_ok: bool = False) -> None:
        try:
            self.execute(addresses.delete_address(self._index(link) or 0, interface))
        except NetlinkError as err:
            if not (missing_ok and err.errno == errno.EADDRNOTAVAIL):
                raise

    # --- routes

    def route_add(self, route: Route) -> None:
        """EEXIST when its destination is taken, ENETUNREACH when its gateway cannot be reached."""
        self.execute(routes.add_route(route))

    def route_replace(self, route: Route) -> None:
        self.execute(routes.replace_route(route))

    def route_del(self, route: Route, *, missing_ok: bool = False) -> None:
        try:
            self.execute(routes.delete_route(route))
        except NetlinkError as err:
            if not (missing_ok and err.errno == errno.ESRCH):
                raise

    def route_list(
        self, *, family: int = 0, table: int | None = routes.RT_TABLE_MAIN, protocol: int = 0, oif: int = 0
    ) -> list[Route]:
        """Routes of a table (None: of all), filtered by the kernel and, for what it does not filter, here."""
        found = self.dump(routes.dump_routes(family=family, table=table, protocol=protocol, oif=oif))
        parsed = [routes.parse_route(message) for message in found if message.kind == routes.RTM_NEWROUTE]
        return [
            route
            for route in parsed
            if route is not None
            and table in (None, route.table)
            and protocol in (0, route.protocol)
            and oif in (0, route.oif)
        ]

    # --- neighbours and bridge forwarding tables

    def neigh_list(self, link: str | int | None = None) -> list[Neighbour]:
        found = self.dump(neighbours.dump_neighbours(index=self._index(link) or 0))
        return [neighbours.parse_neighbour(m) for m in found if m.kind == neighbours.RTM_NEWNEIGH]

    def fdb_list(self, bridge: str | int | None = None, *, port: int = 0) -> list[Neighbour]:
        """Forwarding entries of one bridge, or of all; or those of one link, a VXLAN's own among them."""
        found = self.dump(neighbours.dump_fdb(bridge=self._index(bridge) or 0, port=port))
        return [neighbours.parse_neighbour(m) for m in found if m.kind == neighbours.RTM_NEWNEIGH]

    def neigh_replace(self, entry: Neighbour) -> None:
        self.execute(neighbours.replace_neighbour(entry))

    def neigh_del(self, entry: Neighbour, *, missing_ok: bool = False) -> None:
        try:
            self.execute(neighbours.delete_neighbour(entry))
        except NetlinkError as err:
            if not (missing_ok and err.errno == errno.ENOENT):
                raise


def execute_all(nl: NetlinkSocket, requests: list[Request]) -> None:
    """`nl.execute` for a computed list; an empty one is nothing to do."""
    if requests:
        nl.execute(*requests)
