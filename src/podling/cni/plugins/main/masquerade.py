"""Masquerading for one container with nftables: what leaves its subnet takes the address of the node.

Table, chains, rules and comments are those the reference plugins make with `"ipMasqBackend": "nftables"`, so
that either side removes what the other has added. Each address has a rule of its own whose comment begins
with a hash of network, interface and container: DEL removes exactly that container's rules, even when its
address already belongs to somebody else.
"""

from __future__ import annotations

from podling.cni.types import KERNEL_REFUSED, CNIError
from podling.linux import nft

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import TypeVar

    from podling.cni.types import IPInterface

    R = TypeVar("R")

FAMILY, TABLE, CHAIN = "inet", "cni_plugins_masquerade", "masq_checks"
COMMENT_MAX = 128  # bytes the kernel keeps of a comment

BASE = f"""\
add table {FAMILY} {TABLE}
add chain {FAMILY} {TABLE} {CHAIN}
add chain {FAMILY} {TABLE} postrouting {{ type nat hook postrouting priority srcnat; }}
flush chain {FAMILY} {TABLE} postrouting
add rule {FAMILY} {TABLE} postrouting ip daddr == 224.0.0.0/4 return
add rule {FAMILY} {TABLE} postrouting ip6 daddr == ff00::/8 return
add rule {FAMILY} {TABLE} postrouting goto {CHAIN}
"""


# Rules of `postrouting` as the kernel lists them; with these the table is complete.
_BASE_LISTED = (
    "hook postrouting",
    "ip daddr 224.0.0.0/4 return",
    "ip6 daddr ff00::/8 return",
    f"goto {CHAIN}",
)
ATTEMPTS = 5  # each lost one means that another ADD or DEL got through


def add(network: str, ifname: str, container_id: str, addresses: Iterable[IPInterface]) -> None:
    """Masquerade these addresses, in place of what the container had before. `CNIError`."""
    text = compute_rules(network, ifname, container_id, addresses)

    def attempt() -> None:
        listing = nft.list_table(FAMILY, TABLE)
        # Declaring a hooked chain makes the kernel wait 10 ms for a grace period, even if it is there.
        base = "" if all(words in listing for words in _BASE_LISTED) else BASE
        nft.run(base + _deletions(_own_rules(listing, network, ifname, container_id)) + text)

    _retrying(attempt)


def remove(network: str, ifname: str, container_id: str) -> bool:
    """Take the container's rules away, and say whether there were any."""

    def attempt() -> bool:
        own = _own_rules(nft.list_table(FAMILY, TABLE), network, ifname, container_id)
        if own:
            nft.run(_deletions(own))
        return bool(own)

    return _retrying(attempt)


def remove_others(network: str, valid: Iterable[tuple[str, str]]) -> None:
    """Take away the rules of all attachments of the network but the valid ones, (container ID, ifname)."""
    kept = {_mark(network, ifname, container_id) for container_id, ifname in valid}
    mark = _short(network) + "-"

    def attempt() -> None:
        rules = nft.parse_rules(nft.list_table(FAMILY, TABLE))
        stale = [r for r in rules if r.comment.startswith(mark) and r.comment.split(",")[0] not in kept]
        if stale:
            nft.run(_deletions(stale))

    _retrying(attempt)


def _retrying(attempt: Callable[[], R]) -> R:
    """What was listed may be gone when it is to be deleted: then look again."""
    for _ in range(ATTEMPTS):
        try:
            return attempt()
        except nft.NFTNotFound as err:
            failure: nft.NFTError = err
        except nft.NFTError as err:
            failure = err
            break
    raise CNIError(KERNEL_REFUSED, f"ipMasq: {failure.message}", failure.remedy) from failure


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
    return f"{_short(network)}-{_short(f'{ifname}:{container_id}')}"


def _short(text: str) -> str:
    from hashlib import sha512  # 7 ms that only masquerading pays

    return sha512(text.encode()).hexdigest()[:16]


def _own_rules(listing: str, network: str, ifname: str, container_id: str) -> list[nft.NFTRule]:
    mark = _mark(network, ifname, container_id)
    return [rule for rule in nft.parse_rules(listing) if rule.comment.startswith(mark)]


def _deletions(rules: list[nft.NFTRule]) -> str:
    return "".join(f"delete rule {FAMILY} {TABLE} {CHAIN} handle {rule.handle}\n" for rule in rules)
