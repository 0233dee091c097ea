"""`macspoofchk` of the bridge plugin: a container sends with its own MAC address, or not at all.

Table, chains and comments are those of the reference plugin, so that either side removes what the other has
added: in the table `bridge nat` the chain PREROUTING leads packets from the host end to a chain of the
attachment, and that to one that returns what has the right sender and drops the rest.
"""

from __future__ import annotations

from podling.cni.plugins import nft_rules
from podling.cni.types import CHECK_FAILED, CNIError
from podling.linux import nft
from podling.linux.netlink import Netlink

TYPE_CHECKING = False
if TYPE_CHECKING:
    from podling.cni.plugins.nft_rules import ChainRule
    from podling.cni.types import Args

FAMILY, TABLE, PREROUTING = "bridge", "nat", "PREROUTING"
PREFIX, MARK = "cni-br-iface-", "macspoofchk-"
BASE = f"""\
add table {FAMILY} {TABLE}
add chain {FAMILY} {TABLE} {PREROUTING} {{ type filter hook prerouting priority -300; policy accept; }}
"""


def compute_rules(args: Args, host_end: str, mac: str) -> tuple[tuple[str, str], ...]:
    """(chain, rule without its comment), those that lead there last."""
    chain = _chain(args)
    return (
        (chain, f"jump {chain}-mac"),
        (f"{chain}-mac", f"ether saddr {mac} return"),
        (f"{chain}-mac", "drop"),
        (PREROUTING, f'iifname "{host_end}" jump {chain}'),
    )


def add(args: Args, host_end: str, mac: str) -> None:
    """Let only `mac` through from the link `host_end`, in place of what the attachment had before."""
    chains = (_chain(args), f"{_chain(args)}-mac")
    text = "".join(
        f"{verb} chain {FAMILY} {TABLE} {chain}\n" for verb in ("add", "flush") for chain in chains
    )
    for chain, rule in compute_rules(args, host_end, mac):
        text += f'add rule {FAMILY} {TABLE} {chain} {rule} comment "{_mark(args)}"\n'

    def attempt() -> None:
        listing = nft.list_table(FAMILY, TABLE)
        base = "" if "hook prerouting priority" in listing else BASE
        nft.run(base + nft_rules.deletions(FAMILY, TABLE, _entries(listing, _mark(args))) + text)

    nft_rules.retrying("macspoofchk", attempt)


def remove(args: Args) -> None:
    """Take the attachment's chains away; none is fine."""
    _remove(_mark(args))


def remove_stale() -> None:
    """GC: the chains of all links that are gone; no rule says of which network it is."""
    rules = nft_rules.chain_rules(nft_rules.listed(FAMILY, TABLE))
    with Netlink() as host:  # links after rules: one that is made now has no rule in that list
        present = {link.name for link in host.link_list()}
    for rule in rules:
        ours = rule.chain == PREROUTING and rule.comment.startswith(MARK)
        if ours and rule.text.split('"')[1] not in present:
            _remove(rule.comment)


def check(args: Args, host_end: str, mac: str) -> None:
    """`CNIError` CHECK_FAILED when the container could send with any address."""
    rules = {(rule.chain, rule.text) for rule in nft_rules.chain_rules(nft_rules.listed(FAMILY, TABLE))}
    for chain, text in compute_rules(args, host_end, mac):
        if (chain, text) not in rules:
            raise CNIError(CHECK_FAILED, f"macspoofchk: rule is gone from chain {chain}: {text}")


def _remove(mark: str) -> None:
    chain = PREFIX + mark.removeprefix(MARK)

    def attempt() -> None:
        listing = nft.list_table(FAMILY, TABLE)
        present = [name for name in (chain, f"{chain}-mac") if f"chain {name} {{" in listing]
        text = nft_rules.deletions(FAMILY, TABLE, _entries(listing, mark))
        for verb in ("flush", "delete"):
            text += "".join(f"{verb} chain {FAMILY} {TABLE} {name}\n" for name in present)
        if text:
            nft.run(text)

    nft_rules.retrying("macspoofchk", attempt)


def _entries(listing: str, mark: str) -> list[ChainRule]:
    """The attachment's rules in the chain that all packets pass."""
    return [r for r in nft_rules.chain_rules(listing) if r.chain == PREROUTING and r.comment == mark]


def _mark(args: Args) -> str:
    return f"{MARK}{args.container_id}-{args.ifname}"


def _chain(args: Args) -> str:
    return f"{PREFIX}{args.container_id}-{args.ifname}"
