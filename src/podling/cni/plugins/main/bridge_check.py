"""CHECK of the bridge plugin: does the kernel still hold what ADD reported? Changes nothing.

CNI spec, "CHECK: Check container's networking is as expected".
"""

from __future__ import annotations

import os

from podling.cni.plugins import skel
from podling.cni.plugins.main.bridge_conf import BridgeConf
from podling.cni.types import CHECK_FAILED, INVALID_CONFIG, Args, CNIError, Interface, Result
from podling.linux.netlink import Netlink

TYPE_CHECKING = False
if TYPE_CHECKING:
    from podling.linux.netlink import Link


def check(args: Args, conf: BridgeConf) -> None:
    """`CNIError` CHECK_FAILED names the first difference."""
    previous = args.prev_result()
    if previous is None:
        raise CNIError(INVALID_CONFIG, "Required prevResult missing")
    container = next(
        (i for i in previous.interfaces if i.name == args.ifname and i.sandbox == args.netns), None
    )
    if container is None:
        raise CNIError(CHECK_FAILED, f"prevResult has no interface {args.ifname} in {args.netns}")
    netns = skel.open_sandbox(args)
    try:
        with Netlink(netns) as inside:
            link = _expect(inside, container, "veth")
            _check_addresses(inside, link, previous)
            _check_routes(inside, previous)
    finally:
        os.close(netns)
    with Netlink() as host:
        bridge = host.link_find(conf.bridge)
        if bridge is None or bridge.kind != "bridge":
            raise CNIError(CHECK_FAILED, f"bridge {conf.bridge} is gone")
        port = host.link_find(link.peer_index)
        if port is None or port.kind != "veth" or port.peer_index != link.index:
            raise CNIError(CHECK_FAILED, f"the host end of {args.ifname} is gone")
        if port.master != bridge.index:
            raise CNIError(CHECK_FAILED, f"{port.name} is no port of bridge {conf.bridge}")


def _expect(nl: Netlink, wanted: Interface, kind: str) -> Link:
    link = nl.link_find(wanted.name)
    where = f"{wanted.name} in {wanted.sandbox}"
    if link is None or link.kind != kind:
        raise CNIError(CHECK_FAILED, f"{kind} {where} is gone")
    if wanted.mac and link.mac != wanted.mac.lower():
        raise CNIError(CHECK_FAILED, f"{where} has MAC address {link.mac}, not {wanted.mac}")
    return link


def _check_addresses(nl: Netlink, link: Link, previous: Result) -> None:
    present = {address.interface for address in nl.addr_list(link.index)}
    for ip in previous.ips:
        on_link = ip.interface is None or previous.interfaces[ip.interface].name == link.name
        if on_link and ip.address not in present:
            raise CNIError(CHECK_FAILED, f"address {ip.address} is gone from {link.name}")


def _check_routes(nl: Netlink, previous: Result) -> None:
    present = {(route.dst, route.table) for route in nl.route_list(table=None)}
    for route in previous.routes:
        if (route.dst, route.table or 254) not in present:
            raise CNIError(CHECK_FAILED, f"route to {route.dst} is gone")
