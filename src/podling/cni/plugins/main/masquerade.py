"""Masquerading for one container: what leaves its subnet takes the address of the node.

Table, chains, rules and comments are those the reference plugins make with `"ipMasqBackend": "nftables"`, so
that either side removes what the other has added. Each address has a rule of its own whose comment begins
with a hash of network, interface and container: DEL removes exactly that container's rules, even when its
address already belongs to somebody else.
"""

from __future__ import annotations

from podling.linux import nft

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from podling.cni.types import IPInterface

FAMILY, TABLE, CHAIN = "inet", "cni_plugins_masquerade", "masq_checks"
COMMENT_MAX = 128  # bytes the kernel keeps of a comment

# Written whole every time: cheaper than asking whether it is there, and it repairs what a hand has changed.
BASE = f"""\
add table {FAMILY} {TABLE}
add chain {FAMILY} {TABLE} {CHAIN}
add chain {FAMILY} {TABLE} postrouting {{ type nat hook postrouting priority srcnat; }}
flush chain {FAMILY} {TABLE} postrouting
add rule {FAMILY} {TABLE} postrouting ip daddr == 224.0.0.0/4 return
add rule {FAMILY} {TABLE} postrouting ip6 daddr == ff00::/8 return
add rule {FAMILY} {TABLE} postrouting goto {CHAIN}
"""


def add(network: str, ifname: str, container_id: str, addresses: Iterable[IPInterface]) -> None:
    """Masquerade these addresses, in place of what the container had before. `nft.NFTError`."""
    nft.run(
        BASE
        + _deletions(_own_rules(network, ifname, container_id))
        + compute_rules(network, ifname, container_id, addresses)
    )


def remove(network: str, ifname: str, container_id: str) -> None:
    """Take the container's rules away; none is fine."""
    for _ in range(3):
        own = _own_rules(network, ifname, container_id)
        if not own:
            return
        try:
            nft.run(_deletions(own))
        except nft.NFTNotFound:  # a second DEL was at it at the same time: look again
            continue
        return


def compute_rules(network: str, ifname: str, container_id: str, addresses: Iterable[IPInterface]) -> str:
    note = comment(network, ifname, container_id)
    text = ""
    for address in addresses:
        ip = "ip" if address.version == 4 else "ip6"
        match = f"{ip} saddr == {address.ip} {ip} daddr != {address.network}"
        text += f'add rule {FAMILY} {TABLE} {CHAIN} {match} masquerade comment "{note}"\n'
    return text


def comment(network: str, ifname: str, container_id: str) -> str:
    """Begins with what identifies the rule; the rest is for people and may be cut off."""
    words = f"{_mark(network, ifname, container_id)}, net: {network}, if: {ifname}, id: {container_id}"
    return words.replace('"', "")[: COMMENT_MAX - 1]


def _mark(network: str, ifname: str, container_id: str) -> str:
    from hashlib import sha512

    def short(text: str) -> str:
        return sha512(text.encode()).hexdigest()[:16]

    return f"{short(network)}-{short(f'{ifname}:{container_id}')}"


def _own_rules(network: str, ifname: str, container_id: str) -> list[nft.NFTRule]:
    mark = _mark(network, ifname, container_id)
    return [rule for rule in nft.rules(FAMILY, TABLE, CHAIN) if rule.comment.startswith(mark)]


def _deletions(rules: list[nft.NFTRule]) -> str:
    return "".join(f"delete rule {FAMILY} {TABLE} {CHAIN} handle {rule.handle}\n" for rule in rules)
