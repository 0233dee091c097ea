"""The firewall plugin's rules in iptables' filter table, where the reference plugin puts them.

Rules bear no container's name: the reference knows them by their addresses, and so do we.
"""

from __future__ import annotations

from podling.cni.plugins import iptables
from podling.cni.plugins.iptables import PROGRAMS, Table, locked
from podling.cni.types import CHECK_FAILED, CNIError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from podling.cni.types import IPInterface

FORWARD, STAGE_1, STAGE_2 = "CNI-FORWARD", "CNI-ISOLATION-STAGE-1", "CNI-ISOLATION-STAGE-2"
TO_FORWARD = f'FORWARD -m comment --comment "CNI firewall plugin rules" -j {FORWARD}'
APART = '-m comment --comment "CNI firewall plugin rules (ingressPolicy: same-bridge)"'


def available() -> bool:
    return iptables.available()


def compute_rules(addresses: Iterable[IPInterface]) -> list[str]:
    rules = []
    for address in addresses:
        host = f"{address.ip}/{address.max_prefixlen}"
        rules.append(f"{FORWARD} -d {host} -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT")
        rules.append(f"{FORWARD} -s {host} -j ACCEPT")
    return rules


def _by_version(addresses: Iterable[IPInterface]) -> dict[int, list[IPInterface]]:
    found: dict[int, list[IPInterface]] = {}
    for address in addresses:
        found.setdefault(address.version, []).append(address)
    return found


def add(container_id: str, addresses: Sequence[IPInterface], *, admin_chain: str) -> None:
    with locked():
        for version, own in _by_version(addresses).items():
            table = Table(version, "filter", "firewall")
            for chain in (FORWARD, admin_chain):
                table.ensure_chain(chain)
            table.ensure(TO_FORWARD, first=True)
            overrides = '-m comment --comment "CNI firewall plugin admin overrides"'
            table.ensure(f"{FORWARD} {overrides} -j {admin_chain}", first=True)
            for rule in compute_rules(own):
                table.ensure(rule)
            table.commit()


def remove(container_id: str, addresses: Sequence[IPInterface]) -> None:
    """The rules of these addresses, as the reference plugin knows them: they bear no container's name."""
    if not addresses or not available():
        return
    with locked():
        for version, own in _by_version(addresses).items():
            table = Table(version, "filter", "firewall")
            for rule in compute_rules(own):
                table.drop(rule)
            table.commit()


def _stage_1(bridge: str, *, isolated: bool) -> str:
    return f"{STAGE_1} -i {bridge} {'' if isolated else f'! -o {bridge} '}{APART} -j {STAGE_2}"


def keep_apart(bridge: str, versions: set[int], *, isolated: bool) -> None:
    with locked():
        for version in versions:
            table = Table(version, "filter", "firewall")
            for chain in (STAGE_1, STAGE_2):
                table.ensure_chain(chain)
            table.ensure(f"FORWARD {APART} -j {STAGE_1}", first=True)  # before CNI-FORWARD accepts
            table.drop(_stage_1(bridge, isolated=not isolated))
            table.ensure(_stage_1(bridge, isolated=isolated), first=True)
            table.ensure(f"{STAGE_1} {APART} -j RETURN")
            table.ensure(f"{STAGE_2} -o {bridge} {APART} -j DROP", first=True)
            table.ensure(f"{STAGE_2} {APART} -j RETURN")
            table.commit()


def check(container_id: str, addresses: Sequence[IPInterface], *, bridge: str) -> None:
    for version, own in _by_version(addresses).items():
        table = Table(version, "filter", "firewall")
        wanted = [TO_FORWARD, *compute_rules(own)]
        if bridge:
            wanted.append(f"{STAGE_2} -o {bridge} {APART} -j DROP")
        for rule in wanted:
            if rule not in table.rules:
                raise CNIError(CHECK_FAILED, f"{PROGRAMS[version]} rule is gone: {rule}")
