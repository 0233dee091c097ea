"""The way out: pods and nodes reach what the machine reaches, behind the machine's own address.

One nftables table a cluster, `podling_NAME`, in the machine's namespace. It masquerades what comes from
the switch and leaves by another link; inside the cluster nothing is rewritten. A node's pods are
masqueraded behind the node first (`allow_pods`), because the machine knows no way back to a pod.
"""

from __future__ import annotations

from ipaddress import IPv4Network
from pathlib import Path

from podling.linux import nft
from podling.machine.config import ClusterConfig

IP_FORWARD = Path("/proc/sys/net/ipv4/ip_forward")


def table_name(config: ClusterConfig) -> str:
    return f"podling_{config.name.replace('-', '_')}"


def allow(config: ClusterConfig) -> None:
    """Masquerade on the machine, and let it forward. Raises `nft.NFTError`."""
    IP_FORWARD.write_text("1")
    nft.run(
        f"""
        table ip {table_name(config)} {{
            chain postrouting {{
                type nat hook postrouting priority srcnat;
                ip saddr {config.switch_network} oifname != "{config.switch_name}" masquerade
            }}
        }}
        """
    )


def allow_pods(config: ClusterConfig, pods: IPv4Network) -> None:
    """In a node's namespace: what its pods send out of the cluster carries the node's address."""
    inside = f"{config.pod_network}, {config.switch_network}, {config.service_network}"
    nft.run(
        f"""
        table ip podling_egress {{
            chain postrouting {{
                type nat hook postrouting priority srcnat;
                ip saddr {pods} ip daddr != {{ {inside} }} masquerade
            }}
        }}
        """
    )


def forbid(config: ClusterConfig) -> None:
    """Remove the machine's table. Absent is success."""
    # "add" first: deleting a table that is not there would be an error.
    nft.run(f"add table ip {table_name(config)}; delete table ip {table_name(config)}")
