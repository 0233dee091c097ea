"""Masquerading where traffic leaves the pod network: flannel's own nftables tables and rules.

Between pods nothing is rewritten. What a pod sends to anything else, other nodes included, carries the node's
address, as nobody else knows a way back to a pod; so does what is not from a pod and goes to a pod of another
node, so that its answers come back by this node.
"""

from __future__ import annotations

import logging
from collections.abc import Collection

from podling.linux import nft
from podling.network.addresses import IPNetwork

TABLES = {4: "flannel-ipv4", 6: "flannel-ipv6"}
FAMILIES = {4: "ip", 6: "ip6"}
_MULTICAST = {4: "224.0.0.0/4", 6: "ff00::/8"}

log = logging.getLogger(__name__)


def render(network: IPNetwork, subnet: IPNetwork) -> str:
    """The table of one family, in place of whatever there is, as one transaction."""
    family, table = FAMILIES[network.version], TABLES[network.version]
    return f"""{forget(network.version)}
        table {family} {table} {{
            chain postrtg {{
                type nat hook postrouting priority srcnat; policy accept;
                meta mark & 0x4000 == 0x4000 return
                {family} saddr {subnet} {family} daddr {network} return
                {family} saddr {network} {family} daddr != {{ {network}, {_MULTICAST[network.version]} }} \
masquerade fully-random
                {family} saddr != {network} {family} daddr {subnet} return
                {family} saddr != {network} {family} daddr {network} masquerade fully-random
            }}
        }}
        """


def forget(version: int) -> str:
    family, table = FAMILIES[version], TABLES[version]
    # "add" first: deleting a table that is not there would be an error.
    return f"add table {family} {table}; delete table {family} {table}"


class Masquerade:
    """The tables of this node. `dirty`: somebody may have touched them."""

    def __init__(self, *, enabled: bool) -> None:
        self._enabled = enabled
        self._texts: dict[int, str] = {}
        self._listings: dict[int, str] = {}
        self.dirty = True

    def sync(self, families: Collection[tuple[IPNetwork, IPNetwork]]) -> None:
        """Have the tables for these (network, subnet) and no others of ours. Raises `nft.NFTError`."""
        wanted: dict[int, str] = {
            network.version: render(network, subnet) for network, subnet in families if self._enabled
        }
        dirty, self.dirty = self.dirty, False
        for version in FAMILIES:
            try:
                self._sync(version, wanted.get(version, ""), dirty=dirty)
            except nft.NFTError:
                self.dirty = True
                raise

    def _sync(self, version: int, text: str, *, dirty: bool) -> None:
        if text == self._texts.get(version, "") and not dirty:
            return
        listing = nft.list_table(FAMILIES[version], TABLES[version])
        if text == self._texts.get(version, "") and listing == self._listings.get(version, ""):
            return
        if version in self._listings and text:
            log.warning("flannel: somebody changed the table %s; writing it again", TABLES[version])
        if text or listing:
            nft.run(text or forget(version))
        self._texts[version] = text
        self._listings[version] = nft.list_table(FAMILIES[version], TABLES[version]) if text else ""
