"""vrf: puts a container's interface into a virtual routing domain of the container.

A chained plugin. The VRF link `vrfname` is made in the container's namespace when it is missing, with the
routing table `table` or the lowest free one, and the interface becomes its port; addresses and routes the
interface had are given back in the VRF's table. DEL releases the interface, and removes the VRF with its last
port. The kernel needs the `vrf` driver; without it the error says so.
"""

from __future__ import annotations

import errno
import os

from podling.cni.plugins import skel
from podling.cni.plugins.meta.chained import Keys, chained_result, unsupported_kernel
from podling.cni.types import CHECK_FAILED, KERNEL_REFUSED, Args, CNIError, Result
from podling.linux.netlink import Netlink, NetlinkError, vrf
from podling.linux.record import record, replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from podling.linux.netlink import Link, Route

KIND = "vrf"
IFNAME_MAX = 15


@record
class VrfConf:
    """Options of the reference plugin's documentation ("vrf plugin")."""

    name: str
    table: int = 0  # 0: the lowest free one


def _parse(args: Args) -> VrfConf:
    options = Keys("vrf", args.conf)
    conf = VrfConf(name=options.get("vrfname", str, ""), table=options.get("table", int, 0))
    if not conf.name:
        options.fault("configuration is expected to have a valid vrf name")
    elif len(conf.name.encode()) > IFNAME_MAX or "/" in conf.name:
        options.fault(f"vrfname: {conf.name!r} is no interface name")
    if not 0 <= conf.table <= 0xFFFFFFFF:
        options.fault(f"table: {conf.table} is no routing table")
    options.done()
    return conf


def _add(args: Args) -> Result:
    conf = _parse(args)
    previous = chained_result(args, "missing prevResult from earlier plugin")
    netns = skel.open_sandbox(args)
    try:
        with Netlink(netns) as nl:
            port = nl.link_find(args.ifname)
            if port is None:
                raise CNIError(KERNEL_REFUSED, f"could not get link {args.ifname}")
            domain = _ensure_domain(nl, conf)
            try:
                _enslave(nl, port, domain, _table_of(nl, domain))
            except BaseException:
                _release(nl, conf, args.ifname)
                raise
    finally:
        os.close(netns)
    return previous


def _ensure_domain(nl: Netlink, conf: VrfConf) -> Link:
    found = nl.link_find(conf.name)
    if found is None:
        table = conf.table or _free_table(nl)
        try:
            nl.execute(vrf.add_vrf(conf.name, table=table))
        except NetlinkError as err:
            if err.errno == errno.EOPNOTSUPP:
                raise unsupported_kernel("vrf", "virtual routing domains", "CONFIG_NET_VRF") from err
            if err.errno != errno.EEXIST:
                raise
        found = nl.link_get(conf.name)
    if found.kind != KIND:
        raise CNIError(KERNEL_REFUSED, f'"{conf.name}" already exists but is not a VRF')
    if conf.table and _table_of(nl, found) != conf.table:
        raise CNIError(
            KERNEL_REFUSED,
            f"VRF {conf.name} already exist with different routing table {_table_of(nl, found)}",
        )
    if not found.up:
        nl.link_set(found.index, up=True)
    return found


def _table_of(nl: Netlink, domain: Link) -> int:
    return vrf.table_of(nl, domain.index)


def _free_table(nl: Netlink) -> int:
    taken = {_table_of(nl, link) for link in nl.link_list(kind=KIND)}
    taken |= {route.table for route in nl.route_list(table=None)}
    return next(table for table in range(1, 1 << 31) if table not in taken | {253, 254, 255})


def _enslave(nl: Netlink, port: Link, domain: Link, table: int) -> None:
    if port.master == domain.index:
        return
    if port.master:
        raise CNIError(KERNEL_REFUSED, f"interface {port.name} has already a master set: {port.master}")
    addresses = [address.interface for address in nl.addr_list(port.index)]
    routes = [route for route in nl.route_list(oif=port.index) if route.gateway is not None]
    nl.link_set(port.index, master=domain.index)
    # The kernel flushes global IPv6 addresses, and routes with a gateway, of a link that changes its domain.
    for address in addresses:
        if not address.is_link_local:
            nl.addr_add(port.index, address, exist_ok=True)
    for route in routes:
        nl.route_replace(_in_table(route, table))


def _in_table(route: Route, table: int) -> Route:
    return replace(route, table=table, flags=0)


def _release(nl: Netlink, conf: VrfConf, ifname: str) -> None:
    domain = nl.link_find(conf.name)
    if domain is None or domain.kind != KIND:
        return
    port = nl.link_find(ifname)
    if port is not None and port.master == domain.index:
        nl.link_set(port.index, master=0)
    if not nl.link_list(master=domain.index):
        nl.link_del(domain.index, missing_ok=True)


def _delete(args: Args) -> None:
    conf = _parse(args)
    if not args.netns:
        return
    try:
        with Netlink(args.netns) as nl:
            _release(nl, conf, args.ifname)
    except FileNotFoundError:
        return  # all of it went with the namespace


def _check(args: Args) -> None:
    conf = _parse(args)
    netns = skel.open_sandbox(args)
    try:
        with Netlink(netns) as nl:
            domain, port = nl.link_find(conf.name), nl.link_find(args.ifname)
            if domain is None or domain.kind != KIND:
                raise CNIError(CHECK_FAILED, f"VRF {conf.name} is gone")
            if port is None or port.master != domain.index:
                raise CNIError(CHECK_FAILED, f"interface {args.ifname} is not enslaved to VRF {conf.name}")
            if conf.table and _table_of(nl, domain) != conf.table:
                raise CNIError(CHECK_FAILED, f"VRF {conf.name} has another routing table")
    finally:
        os.close(netns)


PLUGIN = skel.Plugin(name="vrf", add=_add, delete=_delete, check=_check)
