"""Masquerading for one container with iptables: what leaves its subnet takes the address of the node.

Chains, rules and comments are those the reference plugins make with `"ipMasqBackend": "iptables"` (their
default), so that either side removes what the other has added: a chain `CNI-` and a hash of network and
container, entered from POSTROUTING by the container's address. Each change is one transaction of
iptables-restore, whichever kind of iptables the machine has.
"""

from __future__ import annotations

from podling.cni.types import KERNEL_REFUSED, CNIError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Sequence

    from podling.cni.types import IPInterface

PREFIX = "CNI-"
CHAIN_MAX = 28  # characters of a chain's name
PROGRAMS = {4: "iptables", 6: "ip6tables"}
MULTICAST = {4: "224.0.0.0/4", 6: "ff00::/8"}
WAIT = "-w"  # for the lock of the older kind of iptables


def add(network: str, container_id: str, addresses: Iterable[IPInterface]) -> None:
    """Masquerade these addresses, in place of what the container had before. `CNIError`."""
    wanted = list(addresses)
    for version in sorted({address.version for address in wanted}):
        own = [address for address in wanted if address.version == version]
        entries = _entries(version, _chain(network, container_id))
        _restore(version, compute_rules(network, container_id, own, replaced=entries))


def compute_rules(
    network: str, container_id: str, addresses: Iterable[IPInterface], *, replaced: Iterable[str] = ()
) -> str:
    """The transaction that adds the container's rules, for iptables-restore."""
    chain, note = _chain(network, container_id), _comment(network, container_id)
    lines = [f":{chain} - [0:0]"]  # made, or emptied
    lines += [_deletion(entry) for entry in replaced]
    for address in addresses:
        multicast = MULTICAST[address.version]
        lines += [
            f"-A {chain} -d {address.network} {note} -j ACCEPT",
            f"-A {chain} ! -d {multicast} {note} -j MASQUERADE",
            f"-A POSTROUTING -s {address.ip} {note} -j {chain}",
        ]
    return _transaction(lines)


def remove(network: str, container_id: str) -> None:
    """Take the container's rules away; none is fine, and so is a machine without iptables."""
    _remove_chains({_chain(network, container_id)})


def remove_others(network: str, valid_ids: Container[str]) -> None:
    """Take away the rules of all containers of the network but those with valid IDs."""
    start = _note_start(network)
    stale = set()
    for version in PROGRAMS:
        for entry in _entries(version):
            _, mine, rest = entry.partition(start)
            if mine and rest.split(r"\"", 1)[0] not in valid_ids:
                stale.add(entry.rsplit(maxsplit=1)[-1])
    _remove_chains(stale)


def _remove_chains(chains: set[str]) -> None:
    for version in PROGRAMS:
        listing = _save(version)
        present = [chain for chain in sorted(chains) if f":{chain} " in listing]
        if present:
            entries = [entry for chain in present for entry in _entries_in(listing, chain)]
            lines = [_deletion(entry) for entry in entries]
            lines += [f"-F {chain}" for chain in present] + [f"-X {chain}" for chain in present]
            _restore(version, _transaction(lines))


# --- the text


def _chain(network: str, container_id: str) -> str:
    from hashlib import sha512  # 7 ms that only masquerading pays

    return (PREFIX + sha512(f"{network}{container_id}".encode()).hexdigest())[:CHAIN_MAX]


def _comment(network: str, container_id: str) -> str:
    return f'-m comment --comment {_note_start(network)}{container_id}\\""'


def _note_start(network: str) -> str:
    return rf'"name: \"{network}\" id: \"'


def _transaction(lines: Sequence[str]) -> str:
    return "\n".join(["*nat", *lines, "COMMIT", ""])


def _entries(version: int, chain: str = "") -> list[str]:
    return _entries_in(_save(version), chain)


def _entries_in(listing: str, chain: str) -> list[str]:
    """The rules of POSTROUTING that lead to the chain, or to any of ours."""
    return [
        line
        for line in listing.splitlines()
        if line.startswith("-A POSTROUTING ")
        and (line.endswith(f" -j {chain}") if chain else f" -j {PREFIX}" in line)
    ]


def _deletion(entry: str) -> str:
    return "-D" + entry.removeprefix("-A")


# --- the programs


def _save(version: int) -> str:
    """The nat table; empty where there is no such program, or no such table in the kernel."""
    status, output, _ = _run([f"{PROGRAMS[version]}-save", "-t", "nat"], "")
    return output if status == 0 else ""


def _restore(version: int, text: str) -> None:
    program = f"{PROGRAMS[version]}-restore"
    status, _, errors = _run([program, WAIT, "--noflush"], text)
    if status is None:
        raise CNIError(
            KERNEL_REFUSED,
            f"ipMasq: {program} is not installed",
            'install iptables, or set "ipMasqBackend": "nftables"',
        )
    if status:
        raise CNIError(KERNEL_REFUSED, f"ipMasq: {program}: {errors.strip()}")


def _run(command: list[str], text: str) -> tuple[int | None, str, str]:
    """Exit status (None: there is no such program), output and errors."""
    import subprocess

    try:
        done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None, "", ""
    return done.returncode, done.stdout, done.stderr
