"""What plugins that keep nftables rules have in common: rules known by their comment, and lost races.

The kernel knows a rule only by its handle, so a plugin marks its rules with a comment, lists the table, and
deletes by handle what bears its mark. Between list and delete another call may have deleted the same rule;
then the transaction fails as a whole and is computed anew.
"""

from __future__ import annotations

from podling.cni.types import KERNEL_REFUSED, CNIError
from podling.linux import nft
from podling.linux.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

ATTEMPTS = 5  # each lost one means that another ADD or DEL got through


@record
class ChainRule:
    """A rule with the chain it is in, as a deletion wants to have it."""

    chain: str
    handle: int
    text: str
    comment: str


def chain_rules(listing: str) -> list[ChainRule]:
    """All rules of a table, from its listing with handles."""
    found: list[ChainRule] = []
    chain = ""
    for line in listing.splitlines():
        words = line.split()
        if words[:1] == ["chain"]:
            chain = words[1]
        found += [
            ChainRule(chain=chain, handle=rule.handle, text=rule.text, comment=rule.comment)
            for rule in nft.parse_rules(line)
        ]
    return found


def listed(family: str, table: str) -> str:
    """The table's listing, empty when there is none; `CNIError` where there is no nftables."""
    try:
        return nft.list_table(family, table)
    except nft.NFTError as err:
        raise CNIError(KERNEL_REFUSED, err.message, err.remedy) from err


def deletions(family: str, table: str, rules: Iterable[ChainRule]) -> str:
    return "".join(f"delete rule {family} {table} {r.chain} handle {r.handle}\n" for r in rules)


def retrying(what: str, attempt: Callable[[], None]) -> None:
    """Call `attempt` until nothing it has listed is gone; every other refusal is a `CNIError`."""
    for _ in range(ATTEMPTS):
        try:
            return attempt()
        except nft.NFTNotFound as err:
            failure: nft.NFTError = err
        except nft.NFTError as err:
            failure = err
            break
    raise CNIError(KERNEL_REFUSED, f"{what}: {failure.message}", failure.remedy) from failure
