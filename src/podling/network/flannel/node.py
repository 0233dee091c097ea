"""This node's side of the network in the kernel: one `sync` makes everything as it should be.

Pure in what it wants, level-triggered in what it does: whatever was changed behind its back, by whomever, is
found by looking and put right. Entries are added before the routes that need them, and removed after.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from podling.linux.netlink import Netlink
from podling.linux.sysctl import ensure_forwarding
from podling.network.addresses import IPAddress, IPNetwork
from podling.network.flannel import subnet_env, underlay
from podling.network.flannel.backend import ALIAS, Backend, Built, Family, drop_entries, put_entries
from podling.network.flannel.host_gw import HostGwBackend
from podling.network.flannel.lease import Lease, Remote
from podling.network.flannel.masquerade import Masquerade
from podling.network.flannel.net_conf import BackendType, NetConf
from podling.network.flannel.udp import UdpBackend
from podling.network.flannel.underlay import FlannelError, Underlay
from podling.network.flannel.vxlan import VxlanBackend
from podling.network.route_table import RouteTable

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class FlannelConfig:
    """How flannel runs on a node: flanneld's options."""

    net_conf: NetConf
    iface: str | None = None
    """The external interface; None: the one with an address of `addresses`, else the default route's."""
    addresses: tuple[IPAddress, ...] = ()
    """Of this node: the external interface is found by them, and they are preferred of those it has."""
    public_ips: tuple[IPAddress, ...] = ()
    """What others are told instead of the external interface's address, where something translates it."""
    ip_masq: bool = True
    subnet_file: Path = subnet_env.DEFAULT_PATH


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """What the API says, as far as this node's network goes."""

    subnets: tuple[IPNetwork, ...]
    """Of this node."""
    remotes: Mapping[int, tuple[Remote, ...]] = field(default_factory=dict)
    """The other nodes, by IP version."""
    macs: Mapping[int, str] = field(default_factory=dict)
    """The device's hardware addresses as told before."""
    overwritten: Mapping[int, IPAddress] = field(default_factory=dict)
    """The public address somebody has set for this node."""

    def subnet(self, version: int) -> IPNetwork | None:
        return next((cidr for cidr in self.subnets if cidr.version == version), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Synced:
    leases: tuple[Lease, ...]
    devices: frozenset[int]
    """ifindexes of our links."""
    external: int
    """ifindex of the external interface."""
    addresses: frozenset[object]
    """Those it has."""
    links: frozenset[int] | None
    """Those the routes and the tunnels use; None: a node is out of reach, so any may help."""


def make_backend(conf: NetConf) -> Backend:
    kind = conf.backend.type
    if kind is BackendType.VXLAN:
        return VxlanBackend(conf.backend)
    return UdpBackend(conf.backend) if kind is BackendType.UDP else HostGwBackend()


class FlannelNode:
    """Used by one thread at a time, always in the node's network namespace."""

    def __init__(self, config: FlannelConfig) -> None:
        self._config = config
        self._backend = make_backend(config.net_conf)
        self._routes = RouteTable()
        self._iface = config.iface
        self._accepted = False
        self.masquerade = Masquerade(enabled=config.ip_masq)

    def close(self) -> None:
        self._backend.close()

    def sync(self, view: View) -> Synced:
        """Raises `FlannelError`, in words, and `OSError` or `NFTError` for what the kernel refuses."""
        families = {version: view.subnet(version) for version in (4, 6)}
        networks = {version: self._config.net_conf.network_of(version) for version in families}
        used = [(networks[v], families[v]) for v in families]
        pairs = [(network, subnet) for network, subnet in used if network and subnet]
        self._check_subnets(view)
        with Netlink() as nl:
            external = self._find_underlay(nl)
            if not self._accepted and not self._wrote(pairs):
                underlay.check_overlap(nl, self._config.net_conf.networks, view.subnets, external)
            ensure_forwarding({network.version for network, _ in pairs})
            built = [self._build(nl, view, external, network, subnet) for network, subnet in pairs]
            self._remove_others(nl, built)
            for each in built:
                put_entries(nl, each.wanted)
            links = self._routes.sync(nl, [route for each in built for route in each.wanted.routes])
            for each in built:
                drop_entries(nl, each.wanted)
        self._accepted = True
        self.masquerade.sync(pairs)
        # Last: who reads it may count on the rest.
        mtu = min(each.mtu for each in built)
        text = subnet_env.render(
            [network for network, _ in pairs],
            [subnet for _, subnet in pairs],
            mtu=mtu,
            ip_masq=self._config.ip_masq,
        )
        if subnet_env.write(self._config.subnet_file, text):
            log.info("wrote %s: %s", self._config.subnet_file, text.replace("\n", " "))
        return Synced(
            leases=tuple(self._announced(view, each.lease) for each in built),
            devices=frozenset(each.wanted.device for each in built if each.wanted.device),
            external=external.index,
            addresses=frozenset(external.addresses),
            links=None if links is None else links | {external.index},
        )

    def _check_subnets(self, view: View) -> None:
        for network in self._config.net_conf.networks:
            subnet = view.subnet(network.version)
            if subnet is None:
                raise FlannelError(
                    f"this node has no IPv{network.version} subnet: its spec.podCIDRs has none"
                )
            if not subnet.subnet_of(network):  # type: ignore[arg-type]  # of one version
                raise FlannelError(f"this node's subnet {subnet} is not within the pod network {network}")

    def _find_underlay(self, nl: Netlink) -> Underlay:
        """Once found it stays, whatever addresses come and go on it."""
        if self._iface is not None and self._config.iface is None and nl.link_find(self._iface) is None:
            self._iface = None
        found = underlay.find_underlay(nl, self._iface, self._config.addresses)
        self._iface = found.name
        return found

    def _wrote(self, pairs: list[tuple[IPNetwork, IPNetwork]]) -> bool:
        """An agent before us has set this network up since the machine's start."""
        try:
            text = self._config.subnet_file.read_text()
        except OSError:
            return False
        return all(str(network) in text for network, _ in pairs)

    def _build(
        self, nl: Netlink, view: View, external: Underlay, network: IPNetwork, subnet: IPNetwork
    ) -> Built:
        version = network.version
        family = Family(
            network=network,
            subnet=subnet,
            local=external.address(version, self._config.addresses),
            underlay=external,
            remotes=tuple(view.remotes.get(version, ())),
            mac=view.macs.get(version, ""),
        )
        return self._backend.build(nl, family)

    def _announced(self, view: View, lease: Lease) -> Lease:
        version = lease.subnet.version
        chosen = [ip for ip in self._config.public_ips if ip.version == version]
        public_ip = view.overwritten.get(version) or next(iter(chosen), lease.public_ip)
        return Lease(
            subnet=lease.subnet, public_ip=public_ip, backend=lease.backend, vni=lease.vni, mac=lease.mac
        )

    def _remove_others(self, nl: Netlink, built: list[Built]) -> None:
        """Links we made for another backend, VNI or family."""
        names = frozenset[str]().union(*(each.device_names for each in built))
        for link in nl.link_list():
            if link.alias == ALIAS and link.name not in names:
                log.info("removing %s, which is of another configuration", link.name)
                nl.link_del(link.index, missing_ok=True)
