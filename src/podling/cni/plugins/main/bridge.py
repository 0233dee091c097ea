"""bridge: wires a container to a bridge of its node with a veth pair.

ADD makes what is missing (the bridge, its gateway address, forwarding), then a veth pair whose one end is a
port of the bridge and whose other end is `eth0` (CNI_IFNAME) inside the container, and gives that the
addresses and routes the IPAM plugin answers. All of it takes seven netlink messages in four system calls,
about 2 ms. DEL takes the pair and the addresses away; the bridge stays.

Invariants: a failed ADD leaves nothing; DEL may be repeated and works without the namespace. Interfaces in
the result are the bridge, the host end and the container's end, in the reference plugin's order.
"""

from __future__ import annotations

import errno
import ipaddress
import os

from podling.cni.plugins import container, skel, veth
from podling.cni.plugins.execute import delegate, delegate_add
from podling.cni.plugins.main import bridge_check, bridge_conf, introduce, ip_masq
from podling.cni.types import (
    KERNEL_REFUSED,
    Args,
    CNIError,
    CNIRoute,
    Interface,
    IPConfig,
    Result,
)
from podling.linux.netlink import Netlink, NetlinkError, links
from podling.linux.record import replace
from podling.linux.sysctl import ensure_forwarding, ensure_sysctl

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from podling.cni.plugins.main.bridge_conf import BridgeConf
    from podling.cni.types import IPInterface
    from podling.linux.netlink import Link


# These need no link to answer, and a link is made after them: an exhausted range then costs nothing. Any
# other (dhcp, or what we do not know) may want to talk over it.
BLIND_IPAM = ("host-local", "static")


def _add(args: Args) -> Result:
    conf = bridge_conf.parse(args)
    netns = skel.open_sandbox(args)
    try:
        with Netlink() as host, Netlink(netns) as inside:
            bridge = _ensure_bridge(host, conf)
            undo: list[Callable[[], None]] = [lambda: ip_masq.remove(args)]  # newest first
            pair: veth.Pair | None = None
            try:
                if conf.ipam and conf.ipam not in BLIND_IPAM:
                    pair = _make_pair(args, conf, undo, host=host, inside=inside, netns=netns)
                    inside.link_set(pair.container.index, up=True)
                    _connect(conf, pair, host, bridge)
                ipam = Result()
                if conf.ipam:
                    ipam = delegate_add(conf.ipam, args)
                    undo.insert(0, lambda: delegate(conf.ipam, args, "DEL"))
                ipam = _with_gateways(conf, ipam)
                if pair is None:
                    pair = _make_pair(args, conf, undo, host=host, inside=inside, netns=netns)
                return _wire(args, conf, ipam, pair, host=host, inside=inside, netns=netns, bridge=bridge)
            except BaseException:
                container.undo(*undo)
                raise
    finally:
        os.close(netns)


def _wire(
    args: Args,
    conf: BridgeConf,
    ipam: Result,
    pair: veth.Pair,
    *,
    host: Netlink,
    inside: Netlink,
    netns: int,
    bridge: Link,
) -> Result:
    """Everything after IPAM and the pair; the caller undoes it."""
    blind = conf.ipam in ("", *BLIND_IPAM)  # else it is connected already
    if blind and conf.enable_dad:  # looks for others before the container has its addresses
        _connect(conf, pair, host, bridge)
    container.configure(
        pair.container,
        ipam,
        inside=inside,
        netns=netns,
        up=conf.container_interface_up,
        dad=conf.enable_dad,
    )
    if blind and not conf.enable_dad:
        _connect(conf, pair, host, bridge)
    gateways = [_gateway_of(ip) for ip in ipam.ips] if conf.is_gateway else []
    more = _ensure_gateways(conf, host, bridge, gateways)
    if conf.ip_masq:
        ip_masq.add(args, [ip.address for ip in ipam.ips])
    veth.settle(pair, inside)
    host_end = host.link_get(pair.host)
    if not conf.vlan:  # whose neighbours are not the bridge's
        addresses = [ip.address.ip for ip in ipam.ips]
        introduce.introduce(pair.container, addresses, inside=inside, host=host, bridge=bridge)
    return Result(
        interfaces=(
            Interface(name=bridge.name, mac=bridge.mac, mtu=bridge.mtu),
            Interface(name=host_end.name, mac=host_end.mac, mtu=host_end.mtu),
            Interface(name=args.ifname, mac=pair.container.mac, sandbox=args.netns, mtu=pair.container.mtu),
            *more,
        ),
        ips=tuple(replace(ip, interface=2) for ip in ipam.ips),
        routes=ipam.routes,
        dns=conf.dns or ipam.dns,
    )


# --- the bridge


def _ensure_bridge(host: Netlink, conf: BridgeConf) -> Link:
    bridge = host.link_find(conf.bridge)
    if bridge is None:
        _create_bridge(host, conf)
        bridge = host.link_get(conf.bridge)
    if bridge.kind != "bridge":
        raise CNIError(KERNEL_REFUSED, f'"{conf.bridge}" already exists but is not a bridge')
    if not bridge.up:
        host.link_set(bridge.index, up=True)
    if conf.promisc and not bridge.flags & links.IFF_PROMISC:
        host.link_set(bridge.index, promisc=True)
    if (conf.vlan or conf.vlan_trunk) and not bridge.vlan_filtering:
        from podling.cni.plugins.main import bridge_vlan

        bridge_vlan.enable_filtering(host, bridge)
        bridge = host.link_get(bridge.index)
    return bridge


def _create_bridge(host: Netlink, conf: BridgeConf) -> None:
    try:
        # An address of its own it keeps; else it takes the lowest of its ports', which come and go.
        host.link_add_bridge(conf.bridge, mtu=conf.mtu or None, mac=_random_mac())
    except NetlinkError as err:
        if err.errno != errno.EEXIST:  # another ADD was first
            raise
    try:
        # Routes of this interface are ours to make.
        ensure_sysctl(("net", "ipv6", "conf", conf.bridge, "accept_ra"), 0)
    except OSError:  # no IPv6 in this kernel, or /proc/sys is read-only: then it stays as it is
        return


def _random_mac() -> str:
    raw = bytearray(os.urandom(6))
    raw[0] = raw[0] & 0xFE | 0x02  # unicast, locally administered
    return raw.hex(":")


def _gateway_of(ip: IPConfig) -> IPInterface:
    assert ip.gateway is not None  # _with_gateways has filled it in
    return ipaddress.ip_interface((ip.gateway, ip.address.network.prefixlen))


def _ensure_gateways(
    conf: BridgeConf, host: Netlink, bridge: Link, gateways: list[IPInterface]
) -> tuple[Interface, ...]:
    """Give the bridge its addresses; in a VLAN a link of its own, which the result names after the others."""
    if not gateways:
        return ()
    more: tuple[Interface, ...] = ()
    if conf.vlan:
        from podling.cni.plugins.main import bridge_vlan

        bridge = bridge_vlan.ensure_gateway_link(host, conf, bridge)
        more = (Interface(name=bridge.name, mac=bridge.mac, mtu=bridge.mtu),)
    _set_gateways(conf, host, bridge, gateways)
    ensure_forwarding({gateway.version for gateway in gateways})
    return more


def _set_gateways(conf: BridgeConf, host: Netlink, bridge: Link, gateways: list[IPInterface]) -> None:
    present = [address.interface for address in host.addr_list(bridge.index)]
    for gateway in gateways:
        if gateway in present:
            continue
        for other in present:
            if other.version == gateway.version and (
                other.version == 4 or other.network.overlaps(gateway.network)
            ):
                if not conf.force_address:
                    raise CNIError(
                        KERNEL_REFUSED,
                        f'failed to set bridge addr: "{bridge.name}" already has an IP address '
                        f"different from {gateway}",
                        f"it has {other}; set forceAddress to replace it, or name another bridge",
                    )
                host.addr_del(bridge.index, other, missing_ok=True)
        host.addr_add(bridge.index, gateway, exist_ok=True)


# --- the pair


def _make_pair(
    args: Args,
    conf: BridgeConf,
    undo: list[Callable[[], None]],
    *,
    host: Netlink,
    inside: Netlink,
    netns: int,
) -> veth.Pair:
    pair = veth.make_pair(args, host=host, inside=inside, netns=netns, mtu=conf.mtu, mac=conf.mac)
    undo.insert(0, lambda: inside.link_del(pair.container.index, missing_ok=True))
    if conf.mac_spoof_check:  # before anything can be sent
        from podling.cni.plugins.main import spoof_check

        undo.append(lambda: spoof_check.remove(args))
        spoof_check.add(args, pair.host, pair.container.mac)
    return pair


def _connect(conf: BridgeConf, pair: veth.Pair, host: Netlink, bridge: Link) -> None:
    """Make the host end a port that forwards, at once if the container's end is up: then it has a carrier."""
    requests = [links.set_link(pair.host, master=bridge.index, up=True)]
    if os.path.exists("/proc/sys/net/ipv6"):
        requests.insert(0, links.without_ipv6_link_local(pair.host))
    if conf.hairpin or conf.port_isolation:
        requests.append(links.set_port(pair.host, hairpin=conf.hairpin, isolated=conf.port_isolation))
    host.execute(*requests)
    if conf.vlan or conf.vlan_trunk:
        from podling.cni.plugins.main import bridge_vlan

        bridge_vlan.join(host, conf, bridge, host.link_get(pair.host).index)


# --- what IPAM left open


def _with_gateways(conf: BridgeConf, ipam: Result) -> Result:
    """Fill in the gateways IPAM left open (the first address of the subnet), and the default routes."""
    if conf.ipam:
        container.require_ips(ipam, conf.ipam)
    ips = ipam.ips
    if conf.is_gateway:
        ips = tuple(
            replace(ip, gateway=ip.gateway or ip.address.network.network_address + 1) for ip in ipam.ips
        )
    added = []
    if conf.is_default_gateway:
        for version, everywhere in ((4, "0.0.0.0/0"), (6, "::/0")):
            default = ipaddress.ip_network(everywhere)
            gateway = next((ip.gateway for ip in ips if ip.address.version == version), None)
            if gateway is not None and not any(route.dst == default for route in ipam.routes):
                added.append(CNIRoute(dst=default, gw=gateway))
    return replace(ipam, ips=ips, routes=(*ipam.routes, *added))


# --- DEL, CHECK, STATUS, GC and our own prepare


def _delete(args: Args) -> None:
    container.tear_down(args, lambda: veth.delete_pair(args))
    if args.conf.get("macspoofchk"):
        from podling.cni.plugins.main import spoof_check

        spoof_check.remove(args)
    ip_masq.remove(args)


def _check(args: Args) -> None:
    conf = bridge_conf.parse(args)
    if conf.ipam:
        delegate(conf.ipam, args, "CHECK")
    bridge_check.check(args, conf)


def _status(args: Args) -> None:
    conf = bridge_conf.parse(args)
    if conf.ipam:
        delegate(conf.ipam, args, "STATUS")


def _gc(args: Args) -> None:
    """Addresses and rules of attachments that are none any more; links went with their namespaces."""
    conf = bridge_conf.parse(args)
    if conf.ipam:
        delegate(conf.ipam, args, "GC")
    if conf.mac_spoof_check:
        from podling.cni.plugins.main import spoof_check

        spoof_check.remove_stale()
    ip_masq.remove_others(args)


def _prepare(args: Args) -> None:
    """Make the bridge with its gateway addresses before the first container needs them.

    Differs from upstream: the reference plugin makes both with the first ADD. Here the node's bridge can be
    looked at (NO-CARRIER) and the first pod starts as fast as any other.
    """
    conf = bridge_conf.parse(args)
    ipam = args.conf.get("ipam") or {}
    with Netlink() as host:
        bridge = _ensure_bridge(host, conf)
        if conf.is_gateway and conf.ipam == "host-local":
            from podling.cni.plugins.ipam.ranges import parse_ranges

            firsts = [range_set.ranges[0] for range_set in parse_ranges(ipam)]
            gateways = [ipaddress.ip_interface((r.gateway, r.subnet.prefixlen)) for r in firsts]
            _ensure_gateways(conf, host, bridge, gateways)


PLUGIN = skel.Plugin(
    name="bridge", add=_add, delete=_delete, check=_check, status=_status, gc=_gc, prepare=_prepare
)
