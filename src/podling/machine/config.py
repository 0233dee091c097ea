"""What a cluster on this machine is: its name, its nodes and its address ranges, as plain values.

The first cluster has index 0 and the ranges every text on Kubernetes uses; each further cluster on the
same machine takes the next index and with it ranges of its own:

    index   switch           pods           services
    0       10.192.0.0/24    10.244.0.0/16  10.96.0.0/16
    1       10.192.1.0/24    10.245.0.0/16  10.97.0.0/16
    ...
    11      10.192.11.0/24   10.255.0.0/16  10.107.0.0/16
"""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv4Interface, IPv4Network

import msgspec

from podling.machine.errors import ConfigError
from podling.machine.network import Network

MAX_CLUSTERS = 12
MAX_WORKERS = 200
API_PORT = 6443

__all__ = ["ClusterConfig", "ConfigError", "NodeConfig", "validate_name", "validate_workers"]

_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,38}[a-z0-9])?")


class NodeConfig(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    """As in the texts: kube-master, kube-node-1, kube-node-2, ..."""
    address: IPv4Address
    prefix_length: int
    pod_cidr: IPv4Network
    control_plane: bool = False

    @property
    def interface(self) -> IPv4Interface:
        return IPv4Interface(f"{self.address}/{self.prefix_length}")

    @property
    def number(self) -> int:
        """Last byte of the node's address: 2 for kube-master."""
        return int(self.address) & 0xFF


class ClusterConfig(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    index: int
    workers: int = 2
    egress: bool = True
    """Nodes and pods reach the outside through the machine (masqueraded), as with kind."""
    network: Network = Network()
    verbosity: int = 0
    """Of the daemons' logs, as a kubelet's --v: 4 and more is debug."""

    @property
    def switch_network(self) -> IPv4Network:
        return IPv4Network(f"10.192.{self.index}.0/24")

    @property
    def load_balancer_network(self) -> IPv4Network:
        """The end of the switch's range, behind all nodes: addresses of LoadBalancer services."""
        return list(self.switch_network.subnets(new_prefix=27))[-1]

    @property
    def switch_address(self) -> IPv4Interface:
        """The machine's own address on the switch."""
        return IPv4Interface(f"10.192.{self.index}.1/24")

    @property
    def switch_name(self) -> str:
        return f"podling{self.index}"

    @property
    def pod_network(self) -> IPv4Network:
        return IPv4Network(f"10.{244 + self.index}.0.0/16")

    @property
    def service_network(self) -> IPv4Network:
        return IPv4Network(f"10.{96 + self.index}.0.0/16")

    @property
    def cluster_dns(self) -> IPv4Address:
        return self.service_network.network_address + 10

    @property
    def context(self) -> str:
        """Name of the kubeconfig context."""
        return f"podling-{self.name}"

    @property
    def server(self) -> str:
        return f"https://{self.nodes[0].address}:{API_PORT}"

    @property
    def nodes(self) -> list[NodeConfig]:
        """kube-master first. Pod subnet N belongs to the N-th node, counted from 1."""
        names = ["kube-master", *(f"kube-node-{i}" for i in range(1, self.workers + 1))]
        subnets = list(self.pod_network.subnets(new_prefix=24))
        return [
            NodeConfig(
                name=name,
                address=self.switch_network.network_address + 2 + i,
                prefix_length=self.switch_network.prefixlen,
                pod_cidr=subnets[i + 1],
                control_plane=i == 0,
            )
            for i, name in enumerate(names)
        ]

    def node(self, name: str) -> NodeConfig:
        """Raises `ConfigError` that lists the nodes there are."""
        for node in self.nodes:
            if node.name == name:
                return node
        known = ", ".join(n.name for n in self.nodes)
        raise ConfigError(f'no node "{name}" in cluster "{self.name}": its nodes are {known}')


def validate_name(name: str) -> str:
    """`name`, if it can name a cluster. Raises `ConfigError`."""
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"'{name}' is not a valid cluster name: use at most 40 lower case letters, digits and '-', "
            "beginning and ending with a letter or digit"
        )
    return name


def validate_workers(workers: int) -> int:
    if not 0 <= workers <= MAX_WORKERS:
        raise ConfigError(f"--workers {workers}: must be between 0 and {MAX_WORKERS}")
    return workers
