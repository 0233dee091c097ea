"""The container's end of an attachment, whatever link it is: configuring, checking and deleting it.

What IPAM answers becomes addresses and routes of the link. Shared by all plugins that make an interface.
"""

from __future__ import annotations

from podling.cni.plugins.execute import delegate
from podling.cni.types import (
    CHECK_FAILED,
    INVALID_CONFIG,
    IO_FAILURE,
    KERNEL_REFUSED,
    CNIError,
    Result,
)
from podling.linux.netlink import Netlink, Route, addresses, links, routes
from podling.linux.netlink.client import execute_all
from podling.linux.netlink.removal import remove_link
from podling.linux.netlink.usable import UsableAddresses
from podling.linux.netns import run_in_netns
from podling.linux.sysctl import ensure_sysctl

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from podling.cni.types import Args, CNIRoute
    from podling.linux.netlink import Link, Request


DAD_TIMEOUT_S = 10.0  # detection takes 1 to 2 seconds
DAD_STEP_S = 0.05

# --- making


def configure(
    link: Link,
    ipam: Result,
    *,
    inside: Netlink,
    netns: int,
    up: bool = True,
    dad: bool = False,
    afterwards: Sequence[Request] = (),
) -> None:
    """Set the link up and give it the addresses and routes, in one system call, with what is to follow.

    `dad`: look for others who have the IPv6 addresses, which takes 1 to 2 seconds and needs a carrier.
    """
    requests: list[Request] = [links.set_link(link.index, up=True)] if up else []
    requests += [addresses.add_address(link.index, ip.address, nodad=not dad) for ip in ipam.ips]
    requests += [routes.add_route(_kernel_route(route, ipam, link.index)) for route in ipam.routes]
    requests += afterwards
    if dad and any(ip.address.version == 6 for ip in ipam.ips):
        run_in_netns(netns, _allow_ipv6_with_dad, link.name)
        inside.execute(*requests)
        _wait_dad(link, inside)
    elif any(ip.address.version == 6 for ip in ipam.ips):
        run_in_netns(netns, allow_ipv6, "lo", link.name)
        with UsableAddresses(netns) as usable:
            inside.execute(*requests)
            usable.wait(link.index, [ip.address for ip in ipam.ips])
    else:
        execute_all(inside, requests)


def allow_ipv6(*names: str) -> None:
    """For links of this thread's namespace that are about to get IPv6 addresses.

    Some machines disable IPv6 by default. Duplicate address detection would cost 1 to 2 seconds, also that
    of a link-local address: until it ends no neighbour can be asked for.
    """
    for name in names:
        for key, value in (("disable_ipv6", 0), ("accept_dad", 0)):
            if name == "lo" and key == "accept_dad":
                continue  # has no neighbours
            try:
                ensure_sysctl(("net", "ipv6", "conf", name, key), value)
            except OSError as err:
                raise CNIError(
                    IO_FAILURE,
                    f"cannot set net.ipv6.conf.{name}.{key}: {err.strerror}",
                    "IPv6 is not available",
                ) from err


def _allow_ipv6_with_dad(name: str) -> None:
    allow_ipv6("lo", name)
    for key in ("enhanced_dad", "accept_dad"):  # the first tells own questions, come back by a hairpin
        ensure_sysctl(("net", "ipv6", "conf", name, key), 1)


def _wait_dad(link: Link, inside: Netlink) -> None:
    """`CNIError` when somebody else answers for one of the addresses, or it cannot be found out."""
    import time  # reads the time zone when first imported

    deadline = time.monotonic() + DAD_TIMEOUT_S
    while True:
        present = inside.addr_list(link.index, family=addresses.AF_INET6)
        taken = [str(a.interface) for a in present if a.flags & addresses.IFA_F_DADFAILED]
        if taken:
            raise CNIError(
                KERNEL_REFUSED,
                f'link "{link.name}" has address {taken[0]} in dadfailed state',
                "another host of the network has this address",
            )
        if not any(a.tentative for a in present):
            return
        if time.monotonic() > deadline:
            raise CNIError(KERNEL_REFUSED, f'link "{link.name}" still has tentative addresses')
        time.sleep(DAD_STEP_S)


def _kernel_route(route: CNIRoute, ipam: Result, oif: int) -> Route:
    gateway = route.gw or next(
        (ip.gateway for ip in ipam.ips if ip.address.version == route.dst.version), None
    )
    scope = route.scope
    if scope == routes.RT_SCOPE_LINK:
        gateway = None
    return Route(
        dst=route.dst,
        gateway=gateway,
        oif=oif,
        scope=scope,
        table=route.table or routes.RT_TABLE_MAIN,
        priority=route.priority or 0,
        mtu=route.mtu or 0,
        advmss=route.advmss or 0,
        protocol=routes.RTPROT_BOOT,  # what ip(8) and the reference plugins leave, so that it is not shown
    )


def announce_addresses(ifname: str, *, ipv6: bool = True) -> None:
    """Have the kernel tell the segment (gratuitous ARP, NDP) when the link comes up. Best effort.

    An address that IPAM gives out again may be in the caches of others with its former owner's MAC address.
    Runs in the container's namespace.
    """
    for family, key in (("ipv4", "arp_notify"), ("ipv6", "ndisc_notify")):
        if family == "ipv6" and not ipv6:
            continue
        try:
            ensure_sysctl(("net", family, "conf", ifname, key), 1)
        except OSError:
            continue


def require_ips(ipam: Result, kind: str) -> None:
    """An IPAM plugin that answers no address has failed, whatever it says."""
    if not ipam.ips:
        raise CNIError(KERNEL_REFUSED, "IPAM plugin returned missing IP config", f'ipam.type is "{kind}"')


# --- undoing and deleting


def undo(*steps: Callable[[], object]) -> None:
    """Take all steps, whatever fails among them: the error that led here is the one to report."""
    for step in steps:
        try:
            step()
        except (CNIError, OSError):
            continue


def delete_link(args: Args, kind: str) -> None:
    """Delete the container's link. Neither a missing namespace, nor a missing link is an error.

    A link of another kind under that name is somebody else's, in whose way our ADD has been: it stays.
    """
    if not args.netns:
        return
    try:
        with Netlink(args.netns) as inside:
            link = inside.link_find(args.ifname)
            if link is not None and link.kind == kind:
                remove_link(inside, link.index)
    except FileNotFoundError:
        return  # links go with their namespace


def tear_down(args: Args, delete_own_link: Callable[[], None]) -> None:
    """The link first: an address that is free again must not be in use any more.

    Unless the address is given back over the link, as dhcp does it.
    """
    if (args.conf.get("ipam") or {}).get("type") == "dhcp":
        delegate_delete(args)
        delete_own_link()
    else:
        delete_own_link()
        delegate_delete(args)


def delegate_delete(args: Args) -> None:
    """DEL by the IPAM plugin, if one is configured; whatever else is wrong with the configuration."""
    ipam = args.conf.get("ipam") or {}
    if ipam.get("type"):
        delegate(ipam["type"], args, "DEL")


# --- checking


def previous_result(args: Args) -> Result:
    """CHECK cannot do without; `CNIError` when it is missing."""
    previous = args.prev_result()
    if previous is None:
        raise CNIError(INVALID_CONFIG, "Required prevResult missing")
    return previous


def check(args: Args, previous: Result, inside: Netlink, *, kind: str | None) -> Link:
    """Does the kernel still have the link (of that kind, None: any), with what ADD reported?

    CNI spec, "CHECK: Check container's networking is as expected". `CNIError` CHECK_FAILED names the first
    difference. Changes nothing.
    """
    wanted = next((i for i in previous.interfaces if i.name == args.ifname and i.sandbox == args.netns), None)
    if wanted is None:
        raise CNIError(CHECK_FAILED, f"prevResult has no interface {args.ifname} in {args.netns}")
    where = f"{wanted.name} in {wanted.sandbox}"
    link = inside.link_find(wanted.name)
    if link is None or kind not in (None, link.kind):
        raise CNIError(CHECK_FAILED, f"{kind or 'interface'} {where} is gone")
    if wanted.mac and link.mac != wanted.mac.lower():
        raise CNIError(CHECK_FAILED, f"{where} has MAC address {link.mac}, not {wanted.mac}")
    _check_addresses(inside, link, previous)
    _check_routes(inside, previous)
    return link


def _check_addresses(inside: Netlink, link: Link, previous: Result) -> None:
    present = {address.interface for address in inside.addr_list(link.index)}
    for ip in previous.ips:
        if ip.interface is not None and not 0 <= ip.interface < len(previous.interfaces):
            raise CNIError(CHECK_FAILED, f"prevResult has no interface {ip.interface}, of {ip.address}")
        on_link = ip.interface is None or previous.interfaces[ip.interface].name == link.name
        if on_link and ip.address not in present:
            raise CNIError(CHECK_FAILED, f"address {ip.address} is gone from {link.name}")


def _check_routes(inside: Netlink, previous: Result) -> None:
    present = {(route.dst, route.table) for route in inside.route_list(table=None)}
    anywhere = {dst for dst, _ in present}
    for route in previous.routes:
        # Without a table: who came after us in the chain (sbr, vrf) may have moved it from the main one.
        found = (route.dst, route.table) in present if route.table else route.dst in anywhere
        if not found:
            raise CNIError(CHECK_FAILED, f"route to {route.dst} is gone")
