"""The switch between the nodes: a bridge on the machine, one port a node, and the routes around it.

    node eth0 (veth) ---- podlingIxN --+
    node eth0 (veth) ---- podlingIxN --+-- podlingI  10.192.I.1/24  (the machine itself)

While a cluster is up the machine has `unreachable` routes for its pod and service ranges: a packet for
them that is not on the switch ends here instead of leaving by the default route.
"""

from __future__ import annotations

import os
import subprocess
from contextlib import suppress
from ipaddress import IPv4Network
from pathlib import Path

from podling.linux.netlink import RTN_UNREACHABLE, Netlink, Route
from podling.linux.sysctl import ensure_sysctl
from podling.machine import egress, features
from podling.machine.config import ClusterConfig, ConfigError, NodeConfig
from podling.network.flannel.underlay import conflicting

IP_FORWARD = Path("/proc/sys/net/ipv4/ip_forward")
BRIDGE_FILTERS = tuple(f"net.bridge.bridge-nf-call-{tables}tables" for tables in ("ip", "ip6", "arp"))
MODPROBE_TIMEOUT_S = 10.0


def make(config: ClusterConfig) -> None:
    """Make the bridge, the machine's address on it and the routes."""
    load_bridge_filter()
    with Netlink() as netlink:
        # One that is there belongs to no cluster, or this one would not have got its index.
        netlink.link_del(config.switch_name, missing_ok=True)
        with features.link_kind("bridge", "CONFIG_BRIDGE"):
            netlink.link_add_bridge(config.switch_name)
        netlink.addr_add(config.switch_name, config.switch_address)
        for route in _unreachable(config):
            netlink.route_replace(route)
    if config.egress:
        egress.allow(config)


def load_bridge_filter() -> None:
    """Load br_netfilter where it is a module that nobody loaded yet; nothing in the kernel asks for it.

    Without it an answer from one pod to another on the same bridge passes the service translation by. On the
    machine itself it is switched off again at once: its firewall was not made with bridged packets in mind.
    Nodes have settings of their own. A machine without the module has services all the same, less those
    answers; the nodes' logs then say so.
    """
    if Path("/proc/sys/net/bridge").is_dir():
        return
    with suppress(OSError, subprocess.TimeoutExpired):
        # -b: an administrator's blacklist holds.
        subprocess.run(
            ["modprobe", "-q", "-b", "br_netfilter"],
            stdin=subprocess.DEVNULL,
            check=False,
            timeout=MODPROBE_TIMEOUT_S,
        )
    for name in BRIDGE_FILTERS:
        with suppress(OSError):
            ensure_sysctl(name, 0)


def plug_in(config: ClusterConfig, node: NodeConfig, pid: int) -> None:
    """Give the network namespace of `pid` its eth0 on the switch, with address and default route."""
    netns = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        with Netlink() as machine, Netlink(netns) as inside:
            port = port_name(config, node)
            with features.link_kind("veth", "CONFIG_VETH"):
                # Of a node that was here before: its namespace may not have ended yet.
                machine.link_del(port, missing_ok=True)
                machine.link_add_veth(
                    *(port, "eth0"),
                    peer_netns_fd=netns,
                    peer_mac=mac_of(node),
                    master=config.switch_name,
                    up=True,
                )
            inside.link_set("lo", up=True)
            inside.addr_add("eth0", node.interface)
            inside.link_set("eth0", up=True)
            if config.egress:
                inside.route_add(Route(dst=IPv4Network("0.0.0.0/0"), gateway=config.switch_address.ip))
    finally:
        os.close(netns)


def mac_of(node: NodeConfig) -> str:
    """Of the node's eth0, by its address: a node that was down is known to its neighbours at once."""
    return f"02:50:{node.address.packed.hex(':')}"


def check_ranges(config: ClusterConfig) -> None:
    """Raises `ConfigError` when this machine already goes somewhere for addresses the cluster would take."""
    ranges = {"pods": config.pod_network, "services": config.service_network, "nodes": config.switch_network}
    with Netlink() as netlink:
        links = {link.index: link.name for link in netlink.link_list()}
        routes = [r for r in netlink.route_list() if not links.get(r.oif, "").startswith("podling")]
    for what, network in ranges.items():
        found = conflicting(routes, network, ())
        if found is not None:
            raise ConfigError(
                f"this machine's route {found.dst} dev {links.get(found.oif, '?')} is within {network}, the "
                f"range for {what} of this cluster: remove the route, or whoever made it"
            )


def port_name(config: ClusterConfig, node: NodeConfig) -> str:
    """The machine's end of the node's cable: `podling0x2` for kube-master of the first cluster."""
    return f"{config.switch_name}x{node.number}"


def remove(config: ClusterConfig, *, ip_forward_was: str) -> None:
    """Remove all that `make` and `plug_in` left on the machine. Absent is success."""
    with Netlink() as netlink:
        for link in netlink.link_list(kind="veth"):
            if link.name.startswith(f"{config.switch_name}x"):
                netlink.link_del(link.index, missing_ok=True)
        netlink.link_del(config.switch_name, missing_ok=True)
        for route in _unreachable(config):
            netlink.route_del(route, missing_ok=True)
    if config.egress:
        egress.forbid(config)
    if ip_forward_was:
        IP_FORWARD.write_text(ip_forward_was)


def forwarding_to_restore(config: ClusterConfig) -> str:
    """The value of ip_forward that `down` must put back; empty when `up` will not change it."""
    was = IP_FORWARD.read_text().strip()
    return was if config.egress and was == "0" else ""


def _unreachable(config: ClusterConfig) -> list[Route]:
    return [Route(dst=net, kind=RTN_UNREACHABLE) for net in (config.pod_network, config.service_network)]
