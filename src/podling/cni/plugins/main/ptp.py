"""ptp: wires a container to its node with a veth pair and routes, without a bridge.

Each container has a link of its own to the node, and everything it sends goes through the node's routing:

    container eth0  10.1.1.5/24        10.1.1.1 dev eth0, 10.1.1.0/24 via 10.1.1.1
    node vethXXXX   10.1.1.1/32        10.1.1.5 dev vethXXXX

All containers of a subnet have the same gateway address, each at its own end of the node. ADD turns on
forwarding. The order of the result's interfaces is the reference plugin's: host end, container's end.

Options (the reference plugin's documentation, "ptp plugin"):

    ipMasq         hide the container behind the node's address when it leaves its subnet
    ipMasqBackend  nftables (default here) or iptables
    mtu            bytes, of both ends; 0 (default) is the kernel's choice
    ipam           required, and must answer a gateway for each address
    dns            returned in the result; without it, IPAM's settings are
"""

from __future__ import annotations

import ipaddress
import os

from podling.cni.plugins import container, own_link, skel, veth
from podling.cni.plugins.execute import delegate, delegate_add
from podling.cni.plugins.main import ip_masq
from podling.cni.plugins.options import Options
from podling.cni.types import (
    CHECK_FAILED,
    DNS,
    Args,
    CNIError,
    ConfigError,
    Interface,
    Result,
)
from podling.linux.netlink import Netlink, Route, addresses, links, routes
from podling.linux.netlink.usable import UsableAddresses
from podling.linux.netlink.wire import mac_bytes
from podling.linux.record import record, replace
from podling.linux.sysctl import ensure_forwarding

TYPE_CHECKING = False
if TYPE_CHECKING:
    from podling.cni.types import IPAddress, IPConfig, IPInterface, IPNetwork
    from podling.linux.netlink import Link, Request


@record
class _Conf:
    ip_masq: bool
    mtu: int
    ipam: str
    dns: DNS


def _parse(args: Args) -> _Conf:
    options = Options(args)
    conf = _Conf(
        ip_masq=ip_masq.parse(options),
        mtu=options.get("mtu", int, 0),
        ipam=options.ipam,
        dns=options.dns,
    )
    options.refuse(conf.mtu < 0, f"invalid MTU {conf.mtu}")
    options.refuse(not conf.ipam, "ipam: is required")
    options.end("ptp")
    return conf


def _add(args: Args) -> Result:
    conf = _parse(args)
    netns = skel.open_sandbox(args)
    try:
        with Netlink() as host, Netlink(netns) as inside:
            ipam = delegate_add(conf.ipam, args)
            try:
                _require_gateways(conf, ipam)
                ensure_forwarding({ip.address.version for ip in ipam.ips})
                pair = veth.make_pair(args, host=host, inside=inside, netns=netns, mtu=conf.mtu)
                try:
                    return _wire(args, conf, ipam, pair, host=host, inside=inside, netns=netns)
                except BaseException:
                    container.undo(lambda: inside.link_del(pair.container.index, missing_ok=True))
                    raise
            except BaseException:
                container.undo(lambda: delegate(conf.ipam, args, "DEL"), lambda: ip_masq.remove(args))
                raise
    finally:
        os.close(netns)


def _wire(
    args: Args, conf: _Conf, ipam: Result, pair: veth.Pair, *, host: Netlink, inside: Netlink, netns: int
) -> Result:
    """Everything after the pair; the caller undoes it."""
    host_end = host.link_get(pair.host)
    # The container's end first: whoever the node tells of the address must find it there.
    container.configure(
        pair.container,
        ipam,
        inside=inside,
        netns=netns,
        afterwards=[request for ip in ipam.ips for request in _route_by_node(ip, pair.container)],
    )
    _configure_host_end(host, host_end, ipam)
    veth.settle(pair, inside)
    if conf.ip_masq:
        ip_masq.add(args, [ip.address for ip in ipam.ips])
    return Result(
        interfaces=(
            Interface(name=host_end.name, mac=host_end.mac, mtu=host_end.mtu),
            Interface(name=args.ifname, mac=pair.container.mac, sandbox=args.netns, mtu=pair.container.mtu),
        ),
        ips=tuple(replace(ip, interface=1) for ip in ipam.ips),
        routes=ipam.routes,
        dns=conf.dns or ipam.dns,
    )


def _require_gateways(conf: _Conf, ipam: Result) -> None:
    container.require_ips(ipam, conf.ipam)
    for ip in ipam.ips:
        if ip.gateway is None:
            raise ConfigError(
                f"ptp: IPAM answered no gateway for {ip.address}",
                "the node's end of the link needs one: set ipam.gateway",
            )


def _route_by_node(ip: IPConfig, link: Link) -> list[Request]:
    """Make the gateway the only neighbour. The kernel takes the whole subnet to be on the link.

    Last, as upstream does it: until then IPAM's routes may have any gateway of the subnet.
    """
    subnet = ip.address.network
    gateway = _route(_host_network(ip.gateway), link, ip.address.ip, scope=routes.RT_SCOPE_LINK)
    if subnet.num_addresses == 1:
        return [routes.add_route(gateway)]
    return [
        routes.delete_route(Route(dst=subnet, oif=link.index)),
        routes.add_route(gateway),
        routes.add_route(replace(_route(subnet, link, ip.address.ip), gateway=ip.gateway)),
    ]


def _route(dst: IPNetwork, link: Link, source: IPAddress | None, *, scope: int | None = None) -> Route:
    return Route(dst=dst, oif=link.index, prefsrc=source, scope=scope, protocol=routes.RTPROT_BOOT)


def _host_network(address: IPAddress | None) -> IPNetwork:
    """The network of one address."""
    assert address is not None  # _require_gateways
    return ipaddress.ip_network(address)


def _configure_host_end(host: Netlink, host_end: Link, ipam: Result) -> None:
    own = list(dict.fromkeys(_interface(_host_network(ip.gateway)) for ip in ipam.ips))
    requests = [links.set_link(host_end.index, up=True)]
    requests += [addresses.add_address(host_end.index, gateway) for gateway in own]
    # Replaced, not added: an address may still lead to a former owner's pair that is about to go.
    requests += [
        routes.replace_route(
            _route(_host_network(ip.address.ip), host_end, None, scope=addresses.RT_SCOPE_HOST)
        )
        for ip in ipam.ips
    ]
    if all(ip.address.version == 4 for ip in ipam.ips):
        host.execute(*requests)
        return
    # The kernel gives the link this very address, but some time after it is up, and until then cannot ask
    # for the container when it forwards.
    link_local = _link_local(host_end.mac)
    requests.append(addresses.add_address(host_end.index, link_local, replace=True))
    container.allow_ipv6(host_end.name)
    with UsableAddresses() as usable:
        host.execute(*requests)
        usable.wait(host_end.index, [*own, link_local])


def _link_local(mac: str) -> IPInterface:
    """RFC 4291, appendix A: the interface identifier of an EUI-48 address."""
    raw = mac_bytes(mac)
    identifier = bytes([raw[0] ^ 0x02]) + raw[1:3] + b"\xff\xfe" + raw[3:]
    return ipaddress.IPv6Interface((b"\xfe\x80" + bytes(6) + identifier, 64))


def _interface(network: IPNetwork) -> IPInterface:
    return ipaddress.ip_interface((network.network_address, network.prefixlen))


def _delete(args: Args) -> None:
    container.tear_down(args, lambda: veth.delete_pair(args))
    ip_masq.remove(args)


def _check(args: Args) -> None:
    conf = _parse(args)
    delegate(conf.ipam, args, "CHECK")
    previous = container.previous_result(args)
    netns = skel.open_sandbox(args)
    try:
        with Netlink() as host, Netlink(netns) as inside:
            link = container.check(args, previous, inside, kind="veth")
            _check_host_end(host, link, previous)
    finally:
        os.close(netns)


def _check_host_end(host: Netlink, link: Link, previous: Result) -> None:
    """Differs from upstream, which looks at the container's end only."""
    end = host.link_find(link.peer_index)
    if end is None or end.kind != "veth" or end.peer_index != link.index:
        raise CNIError(CHECK_FAILED, f"the host end of {link.name} is gone")
    present = {address.interface for address in host.addr_list(end.index)}
    reached = {route.dst for route in host.route_list(oif=end.index)}
    for ip in previous.ips:
        if ip.gateway and _interface(_host_network(ip.gateway)) not in present:
            raise CNIError(CHECK_FAILED, f"gateway address {ip.gateway} is gone from {end.name}")
        if _host_network(ip.address.ip) not in reached:
            raise CNIError(CHECK_FAILED, f"route to {ip.address.ip} is gone from {end.name}")


def _gc(args: Args) -> None:
    own_link.delegate_gc(args)
    ip_masq.remove_others(args)


PLUGIN = skel.Plugin(
    name="ptp", add=_add, delete=_delete, check=_check, status=own_link.delegate_status, gc=_gc
)
