"""The firewall plugin's rules in iptables' filter table, where the reference plugin puts them.

The table is read with `iptables-save`, what is missing is computed, and added with one `iptables-restore`:
two programs started an address family, whatever there is to do. Our calls take turns by a lock file; against
others the programs' own lock keeps each step whole.
"""

from __future__ import annotations

import fcntl
import os

from podling.cni.types import CHECK_FAILED, INVALID_CONFIG, KERNEL_REFUSED, TRY_AGAIN_LATER, CNIError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from podling.cni.types import IPInterface

FORWARD, STAGE_1, STAGE_2 = "CNI-FORWARD", "CNI-ISOLATION-STAGE-1", "CNI-ISOLATION-STAGE-2"
TO_FORWARD = f'FORWARD -m comment --comment "CNI firewall plugin rules" -j {FORWARD}'
APART = '-m comment --comment "CNI firewall plugin rules (ingressPolicy: same-bridge)"'
LOCK = "/run/cni-firewall.lock"
TIMEOUT_S = 60  # the programs wait for each other
PROGRAMS = {4: "iptables", 6: "ip6tables"}
DIRECTORIES = ("/usr/sbin", "/sbin", "/usr/local/sbin", "/usr/bin")


def available() -> bool:
    return _find("iptables-restore") is not None


def _find(program: str) -> str | None:
    for directory in (*os.environ.get("PATH", "").split(":"), *DIRECTORIES):
        path = os.path.join(directory, program)
        if directory and os.access(path, os.X_OK):
            return path
    return None


def _run(program: str, *arguments: str, text: str = "") -> str:
    import subprocess

    path = _find(program)
    if path is None:
        raise CNIError(
            INVALID_CONFIG,
            f"firewall: {program} is not installed",
            'install the package iptables, or set "backend": "nftables"',
        )
    try:
        done = subprocess.run(
            [path, *arguments], input=text, capture_output=True, text=True, check=False, timeout=TIMEOUT_S
        )
    except subprocess.TimeoutExpired as err:
        raise CNIError(TRY_AGAIN_LATER, f"firewall: {program} does not end in {TIMEOUT_S} s") from err
    if done.returncode:
        words = done.stderr.strip().splitlines() or [f"ended with status {done.returncode}"]
        raise CNIError(KERNEL_REFUSED, f"firewall: {program}: {words[0]}", text)
    return done.stdout


class _Table:
    """The filter table of one family as it is, and what is to be changed. Use inside `_locked`."""

    def __init__(self, version: int) -> None:
        self._program = PROGRAMS[version]
        saved = _run(f"{self._program}-save", "-t", "filter").splitlines()
        self.chains = {line[1:].split()[0] for line in saved if line.startswith(":")}
        self.rules = [line[3:] for line in saved if line.startswith("-A ")]
        self._declared: list[str] = []
        self._changes: list[str] = []

    def ensure_chain(self, chain: str) -> None:
        if chain not in self.chains:
            self.chains.add(chain)
            self._declared.append(f":{chain} - [0:0]")

    def ensure(self, rule: str, *, first: bool = False) -> None:
        """`rule` begins with its chain."""
        if rule not in self.rules:
            self.rules.append(rule)
            chain, words = rule.split(" ", 1)
            self._changes.append(f"-I {chain} 1 {words}" if first else f"-A {rule}")

    def drop(self, rule: str) -> None:
        while rule in self.rules:
            self.rules.remove(rule)
            self._changes.append(f"-D {rule}")

    def commit(self) -> None:
        if self._declared or self._changes:
            lines = ["*filter", *self._declared, *self._changes, "COMMIT", ""]
            _run(f"{self._program}-restore", "--noflush", "-w", "10", text="\n".join(lines))


class _locked:
    def __enter__(self) -> None:
        self._fd = os.open(LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._fd, fcntl.LOCK_EX)

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)


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
    with _locked():
        for version, own in _by_version(addresses).items():
            table = _Table(version)
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
    with _locked():
        for version, own in _by_version(addresses).items():
            table = _Table(version)
            for rule in compute_rules(own):
                table.drop(rule)
            table.commit()


def _stage_1(bridge: str, *, isolated: bool) -> str:
    return f"{STAGE_1} -i {bridge} {'' if isolated else f'! -o {bridge} '}{APART} -j {STAGE_2}"


def keep_apart(bridge: str, versions: set[int], *, isolated: bool) -> None:
    with _locked():
        for version in versions:
            table = _Table(version)
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
        table = _Table(version)
        wanted = [TO_FORWARD, *compute_rules(own)]
        if bridge:
            wanted.append(f"{STAGE_2} -o {bridge} {APART} -j DROP")
        for rule in wanted:
            if rule not in table.rules:
                raise CNIError(CHECK_FAILED, f"{PROGRAMS[version]} rule is gone: {rule}")
