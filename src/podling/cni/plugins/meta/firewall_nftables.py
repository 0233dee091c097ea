"""The firewall plugin's rules as an nftables table of their own; a container's bear its ID as comment."""

from __future__ import annotations

from podling.cni.plugins import nft_rules
from podling.cni.plugins.nft_rules import ChainRule
from podling.cni.types import CHECK_FAILED, CNIError
from podling.linux import nft

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from podling.cni.types import IPInterface

FAMILY, TABLE = "inet", "cni_firewall"
FORWARD, CONTAINERS, STAGE_1, STAGE_2 = "forward", "containers", "isolation_stage_1", "isolation_stage_2"


def compute_base(admin_chain: str) -> str:
    """The table without containers; may be applied again, and leaves the admin chain's rules alone."""
    chains = (STAGE_1, STAGE_2, admin_chain, CONTAINERS)
    text = f"add table {FAMILY} {TABLE}\n"
    text += "".join(f"add chain {FAMILY} {TABLE} {chain}\n" for chain in chains)
    text += f"add chain {FAMILY} {TABLE} {FORWARD} {{ type filter hook forward priority filter; }}\n"
    text += f"flush chain {FAMILY} {TABLE} {FORWARD}\n"
    return text + "".join(
        f"add rule {FAMILY} {TABLE} {FORWARD} jump {chain}\n" for chain in (STAGE_1, admin_chain, CONTAINERS)
    )


def compute_rules(addresses: Iterable[IPInterface]) -> list[str]:
    rules = []
    for address in addresses:
        ip = "ip" if address.version == 4 else "ip6"
        rules.append(f"{ip} daddr {address.ip} ct state established,related accept")
        rules.append(f"{ip} saddr {address.ip} accept")
    return rules


def add(container_id: str, addresses: Sequence[IPInterface], *, admin_chain: str) -> None:
    wanted = "".join(
        f'add rule {FAMILY} {TABLE} {CONTAINERS} {rule} comment "{container_id}"\n'
        for rule in compute_rules(addresses)
    )

    def attempt() -> None:
        listing = nft.list_table(FAMILY, TABLE)
        rules = nft_rules.chain_rules(listing)
        base = "" if _complete(listing, rules, admin_chain) else compute_base(admin_chain)
        own = _own(rules, container_id, addresses)
        nft.run(base + nft_rules.deletions(FAMILY, TABLE, own) + wanted)

    nft_rules.retrying("firewall", attempt)


def _complete(listing: str, rules: list[ChainRule], admin_chain: str) -> bool:
    jumps = [rule.text for rule in rules if rule.chain == FORWARD]
    return "hook forward" in listing and jumps == [
        f"jump {chain}" for chain in (STAGE_1, admin_chain, CONTAINERS)
    ]


def _own(rules: list[ChainRule], container_id: str, addresses: Iterable[IPInterface]) -> list[ChainRule]:
    """The container's rules for these addresses; for all of its addresses when none are known."""
    texts = {f" {address.ip} " for address in addresses}
    return [
        rule
        for rule in rules
        if rule.chain == CONTAINERS
        and rule.comment == container_id
        and (not texts or any(text in rule.text for text in texts))
    ]


def remove(container_id: str, addresses: Sequence[IPInterface]) -> None:
    def attempt() -> None:
        own = _own(nft_rules.chain_rules(nft.list_table(FAMILY, TABLE)), container_id, addresses)
        if own:
            nft.run(nft_rules.deletions(FAMILY, TABLE, own))

    nft_rules.retrying("firewall", attempt)


def _apart(bridge: str, *, isolated: bool) -> list[tuple[str, str]]:
    others = "" if isolated else f' oifname != "{bridge}"'
    return [
        (STAGE_1, f'iifname "{bridge}"{others} jump {STAGE_2}'),
        (STAGE_2, f'oifname "{bridge}" drop'),
    ]


def keep_apart(bridge: str, versions: set[int], *, isolated: bool) -> None:
    """No packet from this bridge to another one of those kept apart; `isolated`: nor back to this one."""

    def attempt() -> None:
        present = nft_rules.chain_rules(nft.list_table(FAMILY, TABLE))
        known = {(rule.chain, rule.text) for rule in present}
        wanted = _apart(bridge, isolated=isolated)
        # A bridge whose policy has changed: the other form of its rule goes.
        other = set(_apart(bridge, isolated=not isolated)) - set(wanted)
        stale = [rule for rule in present if (rule.chain, rule.text) in other]
        text = nft_rules.deletions(FAMILY, TABLE, stale)
        for chain, rule in wanted:
            text += "" if (chain, rule) in known else f"add rule {FAMILY} {TABLE} {chain} {rule}\n"
        if text:
            nft.run(text)

    nft_rules.retrying("firewall", attempt)


def check(container_id: str, addresses: Sequence[IPInterface], *, bridge: str) -> None:
    listing = nft_rules.listed(FAMILY, TABLE)
    rules = nft_rules.chain_rules(listing)
    if "hook forward" not in listing or f"jump {CONTAINERS}" not in [r.text for r in rules]:
        raise CNIError(CHECK_FAILED, f"nftables table {TABLE} is gone or incomplete")
    # nft lists `established,related`, or the other way round, as it likes.
    own = {rule.text.split(" ct ")[0] for rule in _own(rules, container_id, ())}
    for wanted in compute_rules(addresses):
        if wanted.split(" ct ")[0] not in own:
            raise CNIError(CHECK_FAILED, f"firewall rule is gone: {wanted}")
    if bridge and not any(rule.text == f'oifname "{bridge}" drop' for rule in rules):
        raise CNIError(CHECK_FAILED, f"bridge {bridge} is not kept apart any more")
