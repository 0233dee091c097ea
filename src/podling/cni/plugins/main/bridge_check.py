"""CHECK of the bridge plugin: does the kernel still hold what ADD reported? Changes nothing.

CNI spec, "CHECK: Check container's networking is as expected".
"""

from __future__ import annotations

import os

from podling.cni.plugins import container, skel
from podling.cni.plugins.main.bridge_conf import BridgeConf
from podling.cni.types import CHECK_FAILED, Args, CNIError
from podling.linux.netlink import Netlink, links


def check(args: Args, conf: BridgeConf) -> None:
    """`CNIError` CHECK_FAILED names the first difference."""
    previous = container.previous_result(args)
    netns = skel.open_sandbox(args)
    try:
        with Netlink(netns) as inside:
            link = container.check(args, previous, inside, kind="veth")
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
        if conf.promisc and not bridge.flags & links.IFF_PROMISC:
            raise CNIError(CHECK_FAILED, f"bridge {conf.bridge} is not in promiscuous mode")
        if conf.vlan or conf.vlan_trunk:
            from podling.cni.plugins.main import bridge_vlan

            bridge_vlan.check(host, conf, port)
    if conf.mac_spoof_check:
        from podling.cni.plugins.main import spoof_check

        spoof_check.check(args, port.name, link.mac)
