"""Plugins whose whole work is one link of their own in the container: macvlan, ipvlan, vlan, dummy, tap.

A plugin says how the link is made and what CHECK must look at besides; the rest is the same for all: IPAM,
addresses and routes, the result, undoing an ADD that failed, a DEL that may be repeated.
"""

from __future__ import annotations

import errno
import os

from podling.cni.plugins import container, skel
from podling.cni.plugins.execute import delegate, delegate_add
from podling.cni.types import KERNEL_REFUSED, NOT_AVAILABLE, Args, CNIError, ConfigError, Interface, Result
from podling.linux.netlink import Netlink, NetlinkError, links
from podling.linux.netns import run_in_netns
from podling.linux.record import record, replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from podling.cni.types import DNS
    from podling.linux.netlink import Link, Request

# What a kernel needs for a kind of link: its configuration option and its module.
DRIVERS = {
    "dummy": ("CONFIG_DUMMY", "dummy"),
    "ifb": ("CONFIG_IFB", "ifb"),
    "ipvlan": ("CONFIG_IPVLAN", "ipvlan"),
    "macvlan": ("CONFIG_MACVLAN", "macvlan"),
    "tun": ("CONFIG_TUN", "tun"),
    "veth": ("CONFIG_VETH", "veth"),
    "vlan": ("CONFIG_VLAN_8021Q", "8021q"),
    "vrf": ("CONFIG_NET_VRF", "vrf"),
}


@record
class Ends:
    """Where the kernel is talked to during a call."""

    host: Netlink
    inside: Netlink  # in the container's namespace
    netns: int  # a descriptor of that


def missing_driver(kind: str, code: int = KERNEL_REFUSED) -> CNIError:
    option, module = DRIVERS[kind]
    return CNIError(code, f'kernel has no "{kind}" link type: it needs {option} (modprobe {module})')


# --- ADD


def add(
    args: Args,
    make: Callable[[Ends], Link],
    *,
    ipam: str,
    dns: DNS,
    given: Result | None = None,
    before_up: Callable[[str], None] | None = None,
) -> Result:
    """Make the link, then give it what IPAM answers (no `ipam`: what is `given`, or nothing) and set it up.

    `make` leaves nothing behind when it fails; `before_up` runs in the container with the link's name.

    Differs from upstream: where the configuration has no DNS settings, those of IPAM are kept.
    """
    netns = skel.open_sandbox(args)
    try:
        with Netlink() as host, Netlink(netns) as inside:
            ends = Ends(host=host, inside=inside, netns=netns)
            link = make(ends)
            try:
                answer = delegate_add(ipam, args) if ipam else given or Result()
                if ipam:
                    container.require_ips(answer, ipam)
                if before_up is not None:
                    run_in_netns(netns, before_up, link.name)
                container.configure(link, answer, inside=inside, netns=netns)
            except BaseException:
                container.undo(
                    lambda: inside.link_del(link.index, missing_ok=True),
                    lambda: container.delegate_delete(args),
                )
                raise
    finally:
        os.close(netns)
    return Result(
        interfaces=(Interface(name=link.name, mac=link.mac, sandbox=args.netns, mtu=link.mtu),),
        ips=tuple(replace(ip, interface=0) for ip in answer.ips),
        routes=answer.routes,
        dns=dns or answer.dns,
    )


def make_link(
    args: Args, ends: Ends, kind: str, request: Callable[[str], Request], *, creator: Netlink | None = None
) -> Link:
    """Make a link of `kind` in the container, by a request sent to `creator` (default: the host).

    It is made under a passing name, because the kernel wants the name to be free in the namespace of the
    creator too, where `eth0` hardly ever is.
    """
    name = "cni" + os.urandom(4).hex()
    creator = creator or ends.host
    try:
        creator.execute(request(name))
    except NetlinkError as err:
        # A parent that cannot carry such links is "not supported" as well: ask which of the two it is.
        if err.errno == errno.EOPNOTSUPP and not creator.link_kind_known(kind):
            raise missing_driver(kind) from err
        raise CNIError(KERNEL_REFUSED, f"failed to create {kind}: {err.strerror}") from err
    link = ends.inside.link_get(name)
    try:
        ends.inside.execute(links.set_link(link.index, name=args.ifname))
    except NetlinkError as err:
        container.undo(lambda: ends.inside.link_del(link.index, missing_ok=True))
        if err.errno == errno.EEXIST:
            raise name_taken(args, kind) from err
        raise
    return replace(link, name=args.ifname)


def name_taken(args: Args, kind: str) -> CNIError:
    return CNIError(
        KERNEL_REFUSED,
        f'failed to create {kind} "{args.ifname}": it already exists in {args.netns}',
        "DEL the earlier attachment, or pass another CNI_IFNAME",
    )


# --- parents


def find_master(ends: Ends, name: str, *, in_container: bool) -> Link:
    """The parent link by name, or by default the link of the default route. `ConfigError` without one."""
    where = ends.inside if in_container else ends.host
    link = where.link_find(name) if name else _default_route_link(where)
    if link is None:
        place = "in the container" if in_container else "on the host"
        raise ConfigError(
            f'failed to lookup master "{name}": there is no such link {place}'
            if name
            else f"no default route interface found {place}",
            'name an existing interface with "master"',
        )
    return link


def _default_route_link(nl: Netlink) -> Link | None:
    defaults = (route for route in nl.route_list() if route.dst.prefixlen == 0 and route.oif)
    first = next(defaults, None)
    return nl.link_find(first.oif) if first else None


def check_mtu(mtu: int, master: Link) -> None:
    """Frames of the link travel in those of its parent. `mtu` 0 is left to the kernel."""
    if not 0 <= mtu <= master.mtu:
        raise ConfigError(f"invalid MTU {mtu}, must be [0, master MTU({master.mtu})]")


# --- the other commands


def delete(args: Args, kind: str) -> None:
    container.tear_down(args, lambda: container.delete_link(args, kind))


def check(args: Args, kind: str, look: Callable[[Ends, Link], None] | None = None) -> None:
    """IPAM's CHECK, then link, addresses and routes, then what `look` finds (CNIError CHECK_FAILED)."""
    ipam = _ipam(args)
    if ipam:
        delegate(ipam, args, "CHECK")
    previous = container.previous_result(args)
    netns = skel.open_sandbox(args)
    try:
        with Netlink() as host, Netlink(netns) as inside:
            link = container.check(args, previous, inside, kind=kind)
            if look is not None:
                look(Ends(host=host, inside=inside, netns=netns), link)
    finally:
        os.close(netns)


def status(args: Args, kind: str) -> None:
    """Whether an ADD can work: the kernel must have the driver, and IPAM be ready."""
    with Netlink() as host:
        if not host.link_kind_known(kind):
            raise missing_driver(kind, NOT_AVAILABLE)
    delegate_status(args)


def delegate_status(args: Args) -> None:
    ipam = _ipam(args)
    if ipam:
        delegate(ipam, args, "STATUS")


def delegate_gc(args: Args) -> None:
    """Links go with their namespaces; addresses are IPAM's to find (CNI spec, "GC")."""
    ipam = _ipam(args)
    if ipam:
        delegate(ipam, args, "GC")


def _ipam(args: Args) -> str:
    return str((args.conf.get("ipam") or {}).get("type", ""))
