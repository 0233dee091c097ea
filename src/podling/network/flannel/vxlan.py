"""The vxlan backend: frames between the nodes' `flannel.VNI` links, in UDP.

To reach the subnet 10.244.2.0/24 of another node a packet needs three answers, all given beforehand, so that
nothing is ever flooded, asked or learned:

    route       10.244.2.0/24 via 10.244.2.0 dev flannel.1 onlink
    neighbour   10.244.2.0 is at the hardware address of that node's flannel.1
    forwarding  that hardware address is behind the node's public address

Every node's flannel.1 has the first address of its subnet (10.244.1.0/32), which is also what the node itself
sends from to pods. For IPv6 there is a second link, flannel-v6.VNI. With DirectRouting a node on the same
network is routed to directly, without a frame around the packet.
"""

from __future__ import annotations

import errno
import logging

from podling.linux.netlink import Link, Netlink, NetlinkError, Route
from podling.linux.netlink.vxlan import Vxlan, add_vxlan, parse_vxlan, set_vxlan_local
from podling.network.flannel import net_conf
from podling.network.flannel.backend import Built, Family, Wanted, ensure_address, mend_link
from podling.network.flannel.lease import Lease
from podling.network.flannel.underlay import FlannelError
from podling.network.route_table import RTPROT_PODLING

OVERHEAD = {4: 50, 6: 70}
"""Bytes around a packet: outer IP 20 or 40, UDP 8, VXLAN 8, inner Ethernet 14."""

log = logging.getLogger(__name__)


def device_name(version: int, vni: int) -> str:
    return f"flannel.{vni}" if version == 4 else f"flannel-v6.{vni}"


class VxlanBackend:
    def __init__(self, conf: net_conf.Backend) -> None:
        self._conf = conf

    def build(self, nl: Netlink, family: Family) -> Built:
        name = device_name(family.version, self._conf.vni)
        spec = Vxlan(
            vni=self._conf.vni,
            underlay=family.underlay.index,
            local=family.local,
            port=self._conf.port,
            gbp=self._conf.gbp,
        )
        mtu = (self._conf.mtu or family.underlay.mtu) - OVERHEAD[family.version]
        link = ensure_vxlan(nl, name, spec, mtu=mtu, mac=family.mac)
        ensure_address(nl, link, family.subnet)
        lease = Lease(
            subnet=family.subnet,
            public_ip=family.local,
            backend=net_conf.BackendType.VXLAN,
            vni=spec.vni,
            mac=link.mac,
        )
        wanted = compute_wanted(family, link.index, direct_routing=self._conf.direct_routing)
        return Built(lease=lease, wanted=wanted, mtu=mtu, device_names=frozenset({name}))

    def close(self) -> None:
        """There is nothing of it but what the kernel has."""


def compute_wanted(family: Family, device: int, *, direct_routing: bool) -> Wanted:
    routes, neighbours, forwarding = [], set(), set()
    for remote in family.remotes:
        if direct_routing and family.underlay.is_neighbour(remote.public_ip):
            gateway, oif, onlink = remote.public_ip, family.underlay.index, False
        else:
            gateway, oif, onlink = remote.subnet.network_address, device, True
            neighbours.add((gateway, remote.mac))
            forwarding.add((remote.mac, remote.public_ip))
        routes.append(
            Route(dst=remote.subnet, gateway=gateway, oif=oif, onlink=onlink, protocol=RTPROT_PODLING)
        )
    return Wanted(
        device=device,
        routes=tuple(routes),
        neighbours=frozenset(neighbours),
        forwarding=frozenset(forwarding),
    )


def ensure_vxlan(nl: Netlink, name: str, spec: Vxlan, *, mtu: int, mac: str) -> Link:
    """The link as asked for, and up. Made anew, with its old address, where no change makes it so."""
    link = nl.link_find(name)
    if link is not None and not _changeable(link, spec):
        log.info("making %s anew: it sends otherwise than it should", name)
        nl.link_del(link.index, missing_ok=True)
        mac = link.mac if link.kind == "vxlan" else mac
        link = None
    if link is None:
        try:
            nl.execute(add_vxlan(name, spec, mtu=mtu, mac=mac or None))
        except NetlinkError as err:
            raise _explained(err, name, spec) from err
        link = nl.link_get(name)
        log.info("made %s, VNI %d on %s", name, spec.vni, spec.local)
    elif spec.local is not None and parse_vxlan(link).local != spec.local:
        nl.execute(set_vxlan_local(link.index, spec.local))
    mend_link(nl, link, mtu=mtu)
    return link


def _changeable(link: Link, spec: Vxlan) -> bool:
    if link.kind != "vxlan":
        return False
    found = parse_vxlan(link)
    same = (found.vni, found.underlay, found.port, found.learning, found.gbp)
    wanted = (spec.vni, spec.underlay, spec.port, spec.learning, spec.gbp)
    return (
        same == wanted
        and found.local is not None
        and found.local.version == getattr(spec.local, "version", 0)
    )


def _explained(err: NetlinkError, name: str, spec: Vxlan) -> Exception:
    if err.errno == errno.EOPNOTSUPP:
        return FlannelError(
            'this kernel has no "vxlan" links: it needs CONFIG_VXLAN (try "modprobe vxlan"), '
            "or use the backend host-gw"
        )
    if err.errno == errno.EEXIST:
        return FlannelError(
            f"cannot make {name}: another VXLAN link of this node has VNI {spec.vni} on port {spec.port}"
        )
    return err
