"""The network of a cluster, as `--network` names it, and what a node needs for it.

bridge             each node's pods on its bridge, plain routes between the nodes
flannel:BACKEND    the same bridges, flannel between the nodes: vxlan, host-gw or udp; `flannel` is vxlan
FILE               a CNI configuration (.conf, .json or .conflist), the same on every node; where it says
                   "usePodCidr" each node's own pod subnet is put. Plain routes between the nodes
"""

from __future__ import annotations

import json
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

import msgspec

from podling.cni import config as cni_config
from podling.cni import types as cni_types
from podling.machine.errors import ConfigError
from podling.network.flannel.net_conf import BackendType, NetConf, net_conf
from podling.network.flannel.node import FlannelConfig

FLANNEL, BRIDGE = "flannel", "bridge"
CHOICES = ", ".join([*(f"{FLANNEL}:{backend}" for backend in BackendType), BRIDGE])
USE_POD_CIDR = "usePodCidr"
"""As Calico's and others' configurations have it in place of a subnet."""


class Network(msgspec.Struct, frozen=True, kw_only=True):
    backend: str = ""
    """Of flannel; empty: another network."""
    file: str = ""
    """The name of the configuration that was given."""
    text: str = ""
    """Its contents."""

    @property
    def is_flannel(self) -> bool:
        return bool(self.backend)

    @property
    def needs_pod_cidr(self) -> bool:
        """Its CNI configuration names the node's subnet."""
        return USE_POD_CIDR in self.text if self.text else not self.is_flannel

    def net_conf(self, pods: IPv4Network) -> NetConf:
        return net_conf(self.backend, (pods,))

    def cni_conf(self, pod_cidr: IPv4Network) -> tuple[str, str]:
        """File name and text of the CNI configuration of a node whose pods have addresses of `pod_cidr`."""
        if self.text:
            return self.file, self.text.replace(USE_POD_CIDR, str(pod_cidr))
        name = "10-flannel.conflist" if self.is_flannel else "10-podling.conflist"
        made = _flannel_conf() if self.is_flannel else _bridge_conf(pod_cidr)
        return name, json.dumps(made, indent=2) + "\n"


def parse_network(value: str) -> Network:
    """Raises `ConfigError` that says what may stand there."""
    kind, colon, backend = value.partition(":")
    if value == BRIDGE:
        return Network()
    if kind == FLANNEL:
        if colon and backend not in list(BackendType):
            raise ConfigError(f'flannel has no backend "{backend}", but {", ".join(BackendType)}')
        return Network(backend=backend or BackendType.VXLAN)
    path = Path(value)
    if not path.is_file():
        raise ConfigError(f"neither {CHOICES} nor a file")
    if path.suffix not in cni_config.SUFFIXES:
        raise ConfigError(f"a CNI configuration ends in {', '.join(cni_config.SUFFIXES)}")
    try:
        cni_config.load_file(path)
        return Network(file=path.name, text=path.read_text())
    except cni_types.CNIError as err:
        raise ConfigError(str(err)) from err


def set_up_network(
    network: Network,
    *,
    conf_dir: Path,
    pod_cidr: IPv4Network | None,
    cluster_cidr: IPv4Network | None,
    node_ip: IPv4Address,
) -> FlannelConfig | None:
    """For an agent on a machine of its own: write the CNI configuration; flannel's, when it is the network.

    Raises `ConfigError` that names the option the network needs.
    """
    if network.is_flannel and cluster_cidr is None:
        raise ConfigError("--network=flannel needs --cluster-cidr, the range of all pods")
    if network.needs_pod_cidr and pod_cidr is None:
        raise ConfigError("--network needs --pod-cidr: its configuration holds the node's own subnet")
    name, text = network.cni_conf(pod_cidr or IPv4Network("0.0.0.0/0"))
    conf_dir.mkdir(parents=True, exist_ok=True)
    (conf_dir / name).write_text(text)
    if not network.is_flannel or cluster_cidr is None:
        return None
    return FlannelConfig(net_conf=network.net_conf(cluster_cidr), addresses=(node_ip,))


def _flannel_conf() -> dict[str, Any]:
    """As kube-flannel's. Version 1.1.0 because of STATUS: a node without a lease is not Ready."""
    delegate = {"hairpinMode": True, "isDefaultGateway": True}
    return {
        "cniVersion": "1.1.0",
        "name": "podling",
        "plugins": [{"type": "flannel", "delegate": delegate}],
    }


def _bridge_conf(pod_cidr: IPv4Network) -> dict[str, Any]:
    return {
        "cniVersion": "1.0.0",
        "name": "podling",
        "plugins": [
            {
                "type": "bridge",
                "bridge": "cni0",
                "isDefaultGateway": True,
                "hairpinMode": True,
                "ipMasq": False,
                "ipam": {
                    "type": "host-local",
                    "ranges": [[{"subnet": str(pod_cidr)}]],
                    "routes": [{"dst": "0.0.0.0/0"}],
                },
            }
        ],
    }
