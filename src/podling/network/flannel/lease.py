"""What the nodes tell each other: flannel's annotations of Node objects, written and read.

    flannel.alpha.coreos.com/kube-subnet-manager   "true"
    flannel.alpha.coreos.com/backend-type          "vxlan"
    flannel.alpha.coreos.com/public-ip             "10.192.0.3"       and public-ipv6
    flannel.alpha.coreos.com/backend-data          {"VNI":1,"VtepMAC":"..."}, "null" for other backends;
                                                   and backend-v6-data
    flannel.alpha.coreos.com/public-ip-overwrite   set by people: the address others shall use; and -ipv6-

A node's subnets are `spec.podCIDRs`. Nodes of flannel's own daemon are read as well as ours.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from podling.api.core_v1 import Node
from podling.linux.netlink.wire import mac_bytes, mac_text
from podling.network.addresses import IPAddress, IPNetwork, address, overlap, pod_cidrs
from podling.network.flannel.net_conf import BackendType

PREFIX = "flannel.alpha.coreos.com/"
SUBNET_MANAGER = f"{PREFIX}kube-subnet-manager"
BACKEND_TYPE = f"{PREFIX}backend-type"
BACKEND_DATA = {4: f"{PREFIX}backend-data", 6: f"{PREFIX}backend-v6-data"}
PUBLIC_IP = {4: f"{PREFIX}public-ip", 6: f"{PREFIX}public-ipv6"}
PUBLIC_IP_OVERWRITE = {4: f"{PREFIX}public-ip-overwrite", 6: f"{PREFIX}public-ipv6-overwrite"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """A node's part of the network, of one address family."""

    subnet: IPNetwork
    public_ip: IPAddress
    backend: str
    vni: int = 0
    mac: str = ""
    """vxlan: the hardware address of the node's `flannel.VNI`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Remote(Lease):
    """Another node's."""

    node: str


def compute_annotations(leases: Iterable[Lease]) -> dict[str, str]:
    """What a node with these leases, one a family, says of itself."""
    made = {SUBNET_MANAGER: "true"}
    for lease in leases:
        version = lease.subnet.version
        vxlan = {"VNI": lease.vni, "VtepMAC": lease.mac} if lease.mac else None
        made |= {
            BACKEND_TYPE: lease.backend,
            BACKEND_DATA[version]: json.dumps(vxlan, separators=(",", ":")),
            PUBLIC_IP[version]: str(lease.public_ip),
        }
    return made


def stale_annotations(said: Mapping[str, str], wanted: Mapping[str, str]) -> dict[str, str | None]:
    """The merge patch that makes `said` say `wanted`, and nothing of a family or backend that is gone."""
    ours = {SUBNET_MANAGER, BACKEND_TYPE, *BACKEND_DATA.values(), *PUBLIC_IP.values()}
    patch: dict[str, str | None] = {key: None for key in ours if key in said and key not in wanted}
    return patch | {key: value for key, value in wanted.items() if said.get(key) != value}


def overwritten_ip(node: Node, version: int) -> IPAddress | None:
    """The public address someone has set for this node."""
    return _ip(node.metadata.annotations.get(PUBLIC_IP_OVERWRITE[version], ""), version)


def own_mac(node: Node) -> dict[int, str]:
    """The hardware addresses its vxlan links had, by family: kept, so that nobody has to learn new ones."""
    said = node.metadata.annotations
    return {version: mac for version, key in BACKEND_DATA.items() if (mac := _vxlan(said.get(key, ""))[1])}


def compute_remotes(nodes: Iterable[Node], own: str, version: int, backend: BackendType) -> list[Remote]:
    """The other nodes of the network, by name.

    Of two nodes that claim one subnet the first by name has it, and what overlaps our own is nobody else's.
    """
    ordered = sorted(nodes, key=lambda node: node.metadata.name or "")
    taken = [cidr for node in ordered if node.metadata.name == own for cidr in pod_cidrs(node)]
    found = []
    for node in ordered:
        remote = _remote(node, version) if node.metadata.name != own else None
        if remote is None or remote.backend != backend:
            continue
        if backend is BackendType.VXLAN and not remote.mac:
            continue
        if not any(overlap(remote.subnet, other) for other in taken):
            taken.append(remote.subnet)
            found.append(remote)
    return found


def _remote(node: Node, version: int) -> Remote | None:
    said = node.metadata.annotations
    subnet = next((cidr for cidr in pod_cidrs(node) if cidr.version == version), None)
    public_ip = _ip(said.get(PUBLIC_IP[version], ""), version)
    if subnet is None or public_ip is None or said.get(SUBNET_MANAGER) != "true":
        return None
    vni, mac = _vxlan(said.get(BACKEND_DATA[version], ""))
    return Remote(
        node=node.metadata.name or "",
        subnet=subnet,
        public_ip=public_ip,
        backend=said.get(BACKEND_TYPE, ""),
        vni=vni,
        mac=mac,
    )


def _vxlan(text: str) -> tuple[int, str]:
    """VNI and hardware address; (0, "") for other backends' data and for what is malformed."""
    try:
        data: Any = json.loads(text or "null")
        return int(data.get("VNI", 0)), mac_text(mac_bytes(data["VtepMAC"]))
    except (ValueError, TypeError, KeyError, AttributeError):
        return 0, ""


def _ip(text: str, version: int) -> IPAddress | None:
    found = address(text)
    return found if found is not None and found.version == version else None
