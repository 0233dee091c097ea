"""The portmap plugin's nftables rules put to use: known by the container ID in their comments."""

from __future__ import annotations

from podling.cni.plugins import nft_rules
from podling.cni.plugins.meta import portmap_rules
from podling.cni.plugins.meta.portmap_rules import MASQUERADING, TABLE
from podling.cni.types import CHECK_FAILED, CNIError
from podling.linux import nft

TYPE_CHECKING = False
if TYPE_CHECKING:
    from podling.cni.plugins.meta.portmap_rules import PortmapConf
    from podling.cni.types import Args, IPInterface


def add(conf: PortmapConf, args: Args, address: IPInterface) -> None:
    """The mappings to one address of the container, in place of what it had before."""
    family = portmap_rules.family_of(address.version)
    wanted = "".join(
        f'add rule {family} {TABLE} {chain} {text} comment "{args.container_id}"\n'
        for chain, text in portmap_rules.compute_rules(conf, address)
    )

    def attempt() -> None:
        listing = nft.list_table(family, TABLE)
        present = nft_rules.chain_rules(listing)
        own = [r for r in present if r.comment == args.container_id and str(address.ip) in r.text]
        base = "" if portmap_rules.has_base(listing, present) else portmap_rules.base(family)
        nft.run(base + nft_rules.deletions(family, TABLE, own) + wanted)

    nft_rules.retrying("unable to set up nftables rules for port mappings", attempt)


def remove(args: Args) -> None:
    """By the rules' comment alone: neither prevResult nor the ports need to be known any more."""
    for family in ("ip", "ip6"):

        def attempt(family: str = family) -> None:
            present = nft_rules.chain_rules(nft.list_table(family, TABLE))
            own = [rule for rule in present if rule.comment == args.container_id]
            if own:
                nft.run(nft_rules.deletions(family, TABLE, own))

        nft_rules.retrying("error deleting nftables rules", attempt)


def check(conf: PortmapConf, args: Args, address: IPInterface) -> None:
    listing = nft_rules.listed(portmap_rules.family_of(address.version), TABLE)
    present = nft_rules.chain_rules(listing)
    if not portmap_rules.has_base(listing, present):
        raise CNIError(CHECK_FAILED, f"nftables table {TABLE} is gone or incomplete")
    own = [rule for rule in present if rule.comment == args.container_id and str(address.ip) in rule.text]
    target = str(address.ip) if address.version == 4 else f"[{address.ip}]"
    for mapping in conf.mappings_of(address.version):
        parts = (
            f"{mapping.protocol} dport {mapping.host_port} ",
            f"dnat to {target}:{mapping.container_port}",
        )
        if not any(rule.chain == mapping.chain and all(p in rule.text for p in parts) for rule in own):
            raise CNIError(
                CHECK_FAILED, f'missing hostport rules in "{mapping.chain}" chain: {" ".join(parts)}'
            )
    count = sum(1 for chain, _ in portmap_rules.compute_rules(conf, address) if chain == MASQUERADING)
    if sum(1 for rule in own if rule.chain == MASQUERADING) < count:
        raise CNIError(CHECK_FAILED, f'missing hostport rules in "{MASQUERADING}" chain')
