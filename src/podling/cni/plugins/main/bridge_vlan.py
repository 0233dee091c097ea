"""VLANs of the bridge plugin: `vlan`, `vlanTrunk`, `preserveDefaultVlan`, and a gateway inside a VLAN.

With any of them the bridge filters VLANs. `vlan` makes the host end an access port: what the container sends
belongs to that VLAN, and gets its tag where it leaves the bridge by a trunk. `vlanTrunk` hands frames of
these VLANs to the container with their tags. An uplink among the ports is its administrator's:
`bridge vlan add vid ID dev LINK`.

A gateway for a `vlan` is not the bridge itself, which has no VLAN, but one end of a veth pair named
BRIDGE.ID, whose other end is an access port as well. It stays, as the bridge does.
"""

from __future__ import annotations

import errno
import os

from podling.cni.plugins import container
from podling.cni.plugins.main.bridge_conf import vlan_gateway_name
from podling.cni.types import CHECK_FAILED, UNSUPPORTED_FIELD, CNIError
from podling.linux.netlink import Netlink, NetlinkError, links

TYPE_CHECKING = False
if TYPE_CHECKING:
    from podling.cni.plugins.main.bridge_conf import BridgeConf
    from podling.linux.netlink import Link, Request


def enable_filtering(host: Netlink, bridge: Link) -> None:
    """`CNIError` UNSUPPORTED_FIELD names what the kernel lacks."""
    try:
        host.execute(links.set_bridge(bridge.index, vlan_filtering=True))
    except NetlinkError as err:
        if err.errno != errno.EOPNOTSUPP:
            raise
        raise CNIError(
            UNSUPPORTED_FIELD,
            "bridge: vlan is not supported by this kernel",
            "its bridge driver has no VLAN filtering (CONFIG_BRIDGE_VLAN_FILTERING)",
        ) from err


def join(host: Netlink, conf: BridgeConf, bridge: Link, port: int) -> None:
    """Put a link, which must be a port of the bridge by now, into the VLANs of the configuration."""
    requests: list[Request] = []
    default = links.default_pvid(bridge)
    if default and not conf.preserve_default_vlan:
        requests.append(links.port_vlan(port, default, remove=True))
    if conf.vlan:
        requests.append(links.port_vlan(port, conf.vlan, pvid=True, untagged=True))
    requests += [links.port_vlan(port, vid) for vid in conf.vlan_trunk]
    host.execute(*requests)


def ensure_gateway_link(host: Netlink, conf: BridgeConf, bridge: Link) -> Link:
    """The link BRIDGE.ID, up and connected."""
    name = vlan_gateway_name(conf)
    found = host.link_find(name)
    if found is None:
        _make_gateway_link(host, conf, bridge, name)
        found = host.link_get(name)
    if not found.up:
        host.link_set(found.index, up=True)
    return found


def _make_gateway_link(host: Netlink, conf: BridgeConf, bridge: Link, name: str) -> None:
    port = "veth" + os.urandom(4).hex()
    try:
        host.link_add_veth(port, name, mtu=bridge.mtu)
    except NetlinkError as err:
        if err.errno == errno.EEXIST and host.link_find(name) is not None:
            return  # another ADD was first
        raise
    try:
        index = host.link_get(port).index
        host.execute(links.set_link(index, master=bridge.index, up=True))
        join(host, conf, bridge, index)
    except BaseException:
        container.undo(lambda: host.link_del(name, missing_ok=True))
        raise


def check(host: Netlink, conf: BridgeConf, port: Link) -> None:
    """`CNIError` CHECK_FAILED for a VLAN the port is not in."""
    present = {vid for message in host.dump(links.dump_vlans()) for vid in links.parse_vlans(message, port)}
    for vid in (*((conf.vlan,) if conf.vlan else ()), *conf.vlan_trunk):
        if vid not in present:
            raise CNIError(CHECK_FAILED, f"{port.name} is not in VLAN {vid}")
