"""Masquerading for one container with iptables: what leaves its subnet takes the address of the node.

Chains, rules and comments are those the reference plugins make with `"ipMasqBackend": "iptables"` (their
default), so that either side removes what the other has added: a chain `CNI-` and a hash of network and
container, entered from POSTROUTING by the container's address.
"""

from __future__ import annotations

from podling.cni.plugins.iptables import Table, chain_name, locked, quoted, usable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Container, Iterable

    from podling.cni.types import IPInterface

PREFIX = "CNI-"
MULTICAST = {4: "224.0.0.0/4", 6: "ff00::/8"}


def add(network: str, container_id: str, addresses: Iterable[IPInterface]) -> None:
    """Masquerade these addresses, in place of what the container had before. `CNIError`."""
    wanted, chain = list(addresses), chain_name("", network, container_id)
    with locked():
        for version in sorted({address.version for address in wanted}):
            table = Table(version, "nat", "ipMasq")
            table.drop_jumps(chain)
            table.empty_chain(chain)
            own = [address for address in wanted if address.version == version]
            for rule in compute_rules(network, container_id, own):
                table.add(rule)
            table.commit()


def compute_rules(network: str, container_id: str, addresses: Iterable[IPInterface]) -> list[str]:
    chain, note = chain_name("", network, container_id), _comment(network, container_id)
    rules = []
    for address in addresses:
        rules += [
            f"{chain} -d {address.network} {note} -j ACCEPT",
            f"{chain} ! -d {MULTICAST[address.version]} {note} -j MASQUERADE",
            f"POSTROUTING -s {address.ip} {note} -j {chain}",
        ]
    return rules


def remove(network: str, container_id: str) -> None:
    """Take the container's rules away; none is fine, and so is a machine without iptables."""
    with locked():
        for table in usable("nat", "ipMasq"):
            table.drop_chain(chain_name("", network, container_id))
            table.commit()


def remove_others(network: str, valid_ids: Container[str]) -> None:
    """Take away the rules of all containers of the network but those with valid IDs."""
    start = _comment(network, "").removesuffix('\\""')
    with locked():
        for table in usable("nat", "ipMasq"):
            for rule in [rule for rule in table.rules if rule.startswith("POSTROUTING ")]:
                _, mine, rest = rule.partition(start)
                if mine and f" -j {PREFIX}" in rest and rest.split('\\"', 1)[0] not in valid_ids:
                    table.drop_chain(rest.rsplit(maxsplit=1)[-1])
            table.commit()


def _comment(network: str, container_id: str) -> str:
    return "-m comment --comment " + quoted(f'name: "{network}" id: "{container_id}"')
