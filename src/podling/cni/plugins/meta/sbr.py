"""sbr, source based routing: what a container sends from an interface's address leaves by that interface.

A chained plugin for containers with several interfaces: with one table of routes the answer to a packet that
came in by `net1` would leave by `eth0`. Each address of the interface gets a table of its own, the first free
one from 100 on, to which a rule "from ADDRESS" leads. The interface's routes move there from the main table;
what follows from its addresses (the kernel's own subnet routes) is moved as well.

Options (the reference plugin's, to its newest):

    table           the rules lead to this table, and no route is moved: an earlier plugin has filled it, such
                    as by routes of IPAM with the same `table`
    gateways        default gateways, at most one of a family, in place of those of prevResult
    addSourceHints  the subnet's route stays in the main table too, with the address as its source, for those
                    who talk to the subnet without having chosen an address

DEL takes the rules away; the routes go with the interface.
"""

from __future__ import annotations

import errno
import fcntl
import ipaddress
import os

from podling.cni.plugins import skel
from podling.cni.plugins.meta.chained import Keys, chained_result, container_ips
from podling.cni.types import CHECK_FAILED, KERNEL_REFUSED, Args, CNIError, ConfigError, Result
from podling.linux.netlink import Netlink, NetlinkError, Route, routes
from podling.linux.netlink.rules import Rule, add_rule, delete_rule, dump_rules, parse_rule
from podling.linux.record import record, replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from podling.cni.types import IPAddress, IPConfig

FIRST_TABLE = 100
RTM_NEWRULE = 32


@record
class SbrConf:
    table: int = 0  # 0: free ones
    gateways: tuple[IPAddress, ...] = ()
    source_hints: bool = False

    def gateway_of(self, ip: IPConfig) -> IPAddress | None:
        own = (gateway for gateway in self.gateways if gateway.version == ip.address.version)
        return next(own, ip.gateway)


def _parse(args: Args) -> SbrConf:
    options = Keys("sbr", args.conf)
    table = options.get("table", int, 0)
    if not 0 <= table <= 0xFFFFFFFF or table in (253, 254, 255):
        options.fault(f"table: {table} is no table of one's own")
    gateways: list[IPAddress] = []
    for text in options.texts("gateways"):
        try:
            gateways.append(ipaddress.ip_address(text))
        except ValueError:
            options.fault(f"gateways: invalid IP address {text!r}")
    if len({gateway.version for gateway in gateways}) < len(gateways):
        options.fault("gateways: only one of each address family")
    conf = SbrConf(
        table=table, gateways=tuple(gateways), source_hints=options.get("addSourceHints", bool, False)
    )
    options.done()
    return conf


def _add(args: Args) -> Result:
    conf = _parse(args)
    previous = chained_result(args, "This plugin must be called as chained plugin")
    ips = container_ips(previous, args.ifname)
    if not ips:
        raise ConfigError(f"No IP addresses supplied on interface: {args.ifname}")
    netns = skel.open_sandbox(args)
    try:
        # Two interfaces of one container must not find the same table free.
        fcntl.flock(netns, fcntl.LOCK_EX)
        with Netlink(netns) as nl:
            try:
                _route_by_source(args, nl, ips, conf)
            except BaseException:
                _remove_rules(nl, {ip.address.ip for ip in ips})
                raise
    finally:
        os.close(netns)
    return previous


def _route_by_source(args: Args, nl: Netlink, ips: list[IPConfig], conf: SbrConf) -> None:
    link = nl.link_find(args.ifname)
    if link is None:
        raise CNIError(KERNEL_REFUSED, f"Cannot find network interface {args.ifname} in {args.netns}")
    taken = {rule.table for rule in _rules(nl)} | {route.table for route in nl.route_list(table=None)}
    own = [r for r in nl.route_list(oif=link.index) if not r.dst.is_link_local and not r.dst.is_multicast]
    for ip in ips:
        table = conf.table or next(n for n in range(FIRST_TABLE, 1 << 31) if n not in taken)
        taken.add(table)
        host = ipaddress.ip_network(ip.address.ip)
        try:
            nl.execute(add_rule(Rule(table=table, src=host, version=ip.address.version)))
        except NetlinkError as err:
            if err.errno != errno.EEXIST:  # an ADD before this one was not undone
                raise
        for route in _routes_of(ip, own, table, link.index, conf) if not conf.table else ():
            nl.route_replace(route)
    if conf.table:
        return
    for route in own:
        # Only now: the gateways of several addresses may be reached by one subnet's route.
        nl.route_del(_as_configured(route, route.table), missing_ok=True)
    for ip in ips if conf.source_hints else ():
        nl.route_replace(Route(dst=ip.address.network, oif=link.index, prefsrc=ip.address.ip))


def _routes_of(ip: IPConfig, own: list[Route], table: int, oif: int, conf: SbrConf) -> list[Route]:
    """The table's routes: subnets first, since gateways must be reachable when theirs are added."""
    found = []
    for route in own:
        if route.dst.version != ip.address.version:
            continue
        near = route.prefsrc or route.gateway
        if near is None or near in ip.address.network:
            found.append(_as_configured(route, table))
    gateway = conf.gateway_of(ip)
    if gateway is not None:
        everywhere = ipaddress.ip_network("0.0.0.0/0" if ip.address.version == 4 else "::/0")
        # Given back by this even if a plugin before us has taken the default route away.
        found = [route for route in found if route.dst != everywhere or not conf.gateways]
        found.append(Route(dst=everywhere, gateway=gateway, oif=oif, table=table))
    found.sort(key=lambda route: route.gateway is not None)
    return found


def _as_configured(route: Route, table: int) -> Route:
    # Flags as read (linkdown, offloaded) are no settings; the kernel would refuse them.
    return replace(route, table=table, flags=0)


def _rules(nl: Netlink) -> list[Rule]:
    messages = [message for message in nl.dump(dump_rules()) if message.kind == RTM_NEWRULE]
    return [rule for rule in map(parse_rule, messages) if rule is not None]


def _remove_rules(nl: Netlink, addresses: set[ipaddress.IPv4Address | ipaddress.IPv6Address]) -> None:
    for rule in _rules(nl):
        host = rule.src is not None and rule.src.prefixlen == rule.src.max_prefixlen
        if rule.src is not None and host and rule.src.network_address in addresses:
            try:
                nl.execute(delete_rule(rule))
            except NetlinkError as err:
                if err.errno != errno.ENOENT:
                    raise


def _delete(args: Args) -> None:
    """By the addresses of the interface and of prevResult: one of them may be gone already."""
    if not args.netns:
        return
    previous = args.prev_result()
    addresses = {ip.address.ip for ip in container_ips(previous, args.ifname)} if previous else set()
    try:
        with Netlink(args.netns) as nl:
            link = nl.link_find(args.ifname)
            if link is not None:
                addresses |= {address.interface.ip for address in nl.addr_list(link.index)}
            _remove_rules(nl, addresses)
    except FileNotFoundError:
        return  # the rules went with the namespace


def _check(args: Args) -> None:
    conf = _parse(args)
    previous = chained_result(args, "This plugin must be called as chained plugin")
    netns = skel.open_sandbox(args)
    try:
        with Netlink(netns) as nl:
            link = nl.link_find(args.ifname)
            if link is None:
                raise CNIError(CHECK_FAILED, f"Cannot find network interface {args.ifname}")
            rules = {rule.src: rule.table for rule in _rules(nl) if rule.src is not None}
            present = [route for route in nl.route_list(table=None) if route.oif == link.index]
            for ip in container_ips(previous, args.ifname):
                _check_address(conf, ip, rules.get(ipaddress.ip_network(ip.address.ip)), present)
    finally:
        os.close(netns)


def _check_address(conf: SbrConf, ip: IPConfig, table: int | None, present: list[Route]) -> None:
    if table is None or table == routes.RT_TABLE_MAIN or conf.table not in (0, table):
        raise CNIError(CHECK_FAILED, f"rule from {ip.address.ip} is gone")
    if conf.table:
        return  # what is in there is another plugin's
    gateway = conf.gateway_of(ip)
    gateways = {route.gateway for route in present if route.table == table and route.dst.prefixlen == 0}
    if gateway is not None and gateway not in gateways:
        raise CNIError(CHECK_FAILED, f"default route via {gateway} is gone from table {table}")


PLUGIN = skel.Plugin(name="sbr", add=_add, delete=_delete, check=_check)
