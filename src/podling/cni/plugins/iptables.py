"""What plugins that keep iptables rules have in common: a table read once, its changes applied in one step.

    with locked():
        nat = Table(4, "nat", "portmap")
        nat.ensure_chain("CNI-HOSTPORT-DNAT")
        nat.ensure("PREROUTING -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT")
        nat.commit()

That is two programs started for an address family, whatever there is to do: `iptables-save` and
`iptables-restore`. Rules are texts as `iptables-save` prints them, beginning with their chain; so they must
be written in its order (-s, -d, -i, -o, -p, matches, -j) to be found again. Our calls take turns by a lock
file; against others the programs' own lock keeps each step whole. Either kind of iptables will do.
"""

from __future__ import annotations

import fcntl
import os

from podling.cni.types import INVALID_CONFIG, KERNEL_REFUSED, TRY_AGAIN_LATER, CNIError

LOCK = "/run/cni-iptables.lock"
TIMEOUT_S = 60  # the programs wait for each other
PROGRAMS = {4: "iptables", 6: "ip6tables"}
DIRECTORIES = ("/usr/sbin", "/sbin", "/usr/local/sbin", "/usr/bin")
REMEDY = 'install the package iptables, or choose the "nftables" backend'


def available(version: int = 4) -> bool:
    return _find(f"{PROGRAMS[version]}-restore") is not None


class Table:
    """A table of one family as it is, and what is to be changed. Use inside `locked`.

    `CNIError` when there is no such program or it refuses; `plugin` is named in the error.
    """

    def __init__(self, version: int, table: str, plugin: str) -> None:
        self._program, self._table, self._plugin = PROGRAMS[version], table, plugin
        saved = _run(plugin, f"{self._program}-save", "-t", table).splitlines()
        self.chains = {line[1:].split()[0] for line in saved if line.startswith(":")}
        self.rules = [line[3:] for line in saved if line.startswith("-A ")]
        self._declared: list[str] = []
        self._changes: list[str] = []

    def ensure_chain(self, chain: str) -> None:
        if chain not in self.chains:
            self.chains.add(chain)
            self._declared.append(f":{chain} - [0:0]")

    def empty_chain(self, chain: str) -> None:
        """Make the chain, or empty it."""
        self.chains.add(chain)
        self.rules = [rule for rule in self.rules if not rule.startswith(f"{chain} ")]
        self._declared.append(f":{chain} - [0:0]")

    def ensure(self, rule: str, *, first: bool = False) -> None:
        """Add the rule unless it is there."""
        if rule not in self.rules:
            self.add(rule, first=first)

    def add(self, rule: str, *, first: bool = False) -> None:
        self.rules.append(rule)
        chain, words = rule.split(" ", 1)
        self._changes.append(f"-I {chain} 1 {words}" if first else f"-A {rule}")

    def drop(self, rule: str) -> None:
        while rule in self.rules:
            self.rules.remove(rule)
            self._changes.append(f"-D {rule}")

    def drop_jumps(self, chain: str) -> None:
        """All rules that lead to the chain."""
        for rule in [rule for rule in self.rules if rule.endswith(f" -j {chain}")]:
            self.drop(rule)

    def drop_chain(self, chain: str) -> None:
        """The chain with its rules and all that lead there; none is fine."""
        if chain in self.chains:
            self.drop_jumps(chain)
            self.chains.discard(chain)
            self.rules = [rule for rule in self.rules if not rule.startswith(f"{chain} ")]
            self._changes += [f"-F {chain}", f"-X {chain}"]

    def commit(self) -> None:
        if self._declared or self._changes:
            lines = [f"*{self._table}", *self._declared, *self._changes, "COMMIT", ""]
            _run(self._plugin, f"{self._program}-restore", "--noflush", "-w", "10", text="\n".join(lines))
            self._declared, self._changes = [], []


def usable(table: str, plugin: str) -> list[Table]:
    """The table of each family that has one: for removals, which must do without."""
    found = []
    for version in PROGRAMS:
        if available(version):
            try:
                found.append(Table(version, table, plugin))
            except CNIError:
                continue  # the kernel has no such table
    return found


class locked:
    def __enter__(self) -> None:
        self._fd = os.open(LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._fd, fcntl.LOCK_EX)

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)


def quoted(word: str) -> str:
    """A word of a rule as these programs read and write it."""
    if word and not any(c in word for c in " \t\"'\\"):
        return word
    return '"' + word.replace("\\", "\\\\").replace('"', '\\"') + '"'


def chain_name(prefix: str, network: str, container_id: str) -> str:
    """The reference plugins' name for a container's own chain: 28 characters, most of them a hash."""
    from hashlib import sha512  # 7 ms that only these plugins pay

    return f"CNI-{prefix}{sha512((network + container_id).encode()).hexdigest()}"[:28]


def _find(program: str) -> str | None:
    for directory in (*os.environ.get("PATH", "").split(":"), *DIRECTORIES):
        path = os.path.join(directory, program)
        if directory and os.access(path, os.X_OK):
            return path
    return None


def _run(plugin: str, program: str, *arguments: str, text: str = "") -> str:
    import subprocess

    path = _find(program)
    if path is None:
        raise CNIError(INVALID_CONFIG, f"{plugin}: {program} is not installed", REMEDY)
    try:
        done = subprocess.run(
            [path, *arguments], input=text, capture_output=True, text=True, check=False, timeout=TIMEOUT_S
        )
    except subprocess.TimeoutExpired as err:
        raise CNIError(TRY_AGAIN_LATER, f"{plugin}: {program} does not end in {TIMEOUT_S} s") from err
    if done.returncode:
        words = done.stderr.strip().splitlines() or [f"ended with status {done.returncode}"]
        raise CNIError(KERNEL_REFUSED, f"{plugin}: {program}: {words[0]}", text)
    return done.stdout
