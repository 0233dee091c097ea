"""The machine's own firewall, where it stands between the nodes: noticed and named, never changed."""

from __future__ import annotations

import re
from contextlib import suppress

from podling.linux import nft
from podling.linux.sysctl import read_sysctl
from podling.machine.config import ClusterConfig

_DROPS_FORWARDED = re.compile(r"hook forward priority [^;]*; policy drop;")


def obstacle(config: ClusterConfig) -> str:
    """Why nodes may not hear each other, with what to do about it; empty when the firewall lets them.

    With br_netfilter on, frames between two ports of a bridge pass the rules for forwarded packets too, and
    Docker, among others, drops there what it does not know.
    """
    with suppress(OSError, nft.NFTError):
        if read_sysctl("net.bridge.bridge-nf-call-iptables") == "1" and drops_forwarded(
            nft.run("list chains ip\n") + nft.run("list chains inet\n")
        ):
            return (
                "this machine's firewall drops forwarded packets, and (net.bridge.bridge-nf-call-iptables=1) "
                "also those from node to node: "
                f"`iptables -I FORWARD -i {config.switch_name} -j ACCEPT` lets them pass"
            )
    return ""


def drops_forwarded(chains: str) -> bool:
    """Whether a chain in nft's listing drops forwarded packets unless a rule says otherwise."""
    return _DROPS_FORWARDED.search(chains) is not None
