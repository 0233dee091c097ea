"""The nftables rules of portmap, computed from a configuration. Pure; no kernel.

Table and chains are those of the reference plugin, `cni_hostport` in the families ip and ip6, and the comment
of a rule is the container's ID, so that either side removes what the other has added:

    prerouting, output      to the two below, for what is addressed to the node itself
    hostip_hostports        mappings bound to one address of the node
    hostports               mappings of all its addresses
    masquerading            postrouting: whose answers would else not come back through the node
"""

from __future__ import annotations

from podling.cni.plugins.nft_rules import ChainRule
from podling.cni.types import UNSUPPORTED_FIELD, CNIError, ConfigError
from podling.linux.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from podling.cni.types import IPAddress, IPInterface

TABLE = "cni_hostport"
HOST_PORTS, HOST_IP_PORTS, MASQUERADING = "hostports", "hostip_hostports", "masquerading"
PROTOCOLS = ("tcp", "udp", "sctp")


@record
class PortMapping:
    """One entry of the capability argument `portMappings`."""

    host_port: int
    container_port: int
    protocol: str = "tcp"
    host_ip: IPAddress | None = None  # None: every address of the node

    def applies_to(self, version: int) -> bool:
        return self.host_ip is None or self.host_ip.version == version

    @property
    def chain(self) -> str:
        # An unspecified address cannot be the destination of a packet: it means all of them.
        return HOST_IP_PORTS if self.host_ip is not None and not self.host_ip.is_unspecified else HOST_PORTS


@record
class PortmapConf:
    """Options of the reference plugin's documentation ("portmap plugin")."""

    mappings: tuple[PortMapping, ...] = ()
    snat: bool = True
    masq_all: bool = False  # masquerade all mapped traffic, not only that of the node and the own subnet
    mark_bit: int | None = None  # masquerade by this bit of the packet mark instead of by address
    set_mark_chain: str = ""  # or by this chain of somebody else's; iptables only
    conditions_v4: tuple[str, ...] = ()
    conditions_v6: tuple[str, ...] = ()
    backend: str = ""

    def mappings_of(self, version: int) -> list[PortMapping]:
        return [mapping for mapping in self.mappings if mapping.applies_to(version)]

    def conditions_of(self, version: int) -> tuple[str, ...]:
        return self.conditions_v4 if version == 4 else self.conditions_v6


def family_of(version: int) -> str:
    return "ip" if version == 4 else "ip6"


def base(family: str) -> str:
    """The table without any container; may be applied again."""
    lines = [f"add table {family} {TABLE}"]
    lines += [f"add chain {family} {TABLE} {chain}" for chain in (HOST_PORTS, HOST_IP_PORTS)]
    for hook in ("prerouting", "output"):
        lines += [
            f"add chain {family} {TABLE} {hook} {{ type nat hook {hook} priority -100; }}",
            f"flush chain {family} {TABLE} {hook}",
            f"add rule {family} {TABLE} {hook} jump {HOST_IP_PORTS}",
            # Without this a packet the node only forwards would be caught by its port number.
            f"add rule {family} {TABLE} {hook} fib daddr type local jump {HOST_PORTS}",
        ]
    chain = f"add chain {family} {TABLE} {MASQUERADING}"
    lines.append(chain + " { type nat hook postrouting priority 100; }")
    return "\n".join(lines) + "\n"


def has_base(listing: str, rules: Iterable[ChainRule]) -> bool:
    """Whether a listing holds all of `base`: declaring hooked chains again would cost 10 ms each."""
    jumps = {(rule.chain, rule.text) for rule in rules}
    wanted = {
        (hook, text)
        for hook in ("prerouting", "output")
        for text in (f"jump {HOST_IP_PORTS}", f"fib daddr type local jump {HOST_PORTS}")
    }
    hooks = ("hook prerouting", "hook output", "hook postrouting", f"chain {HOST_PORTS} ")
    return wanted <= jumps and all(words in listing for words in hooks)


def compute_rules(conf: PortmapConf, address: IPInterface) -> list[tuple[str, str]]:
    """(chain, rule without its comment) for everything one address of the container needs."""
    rules: list[tuple[str, str]] = []
    ip = family_of(address.version)
    target = str(address.ip) if address.version == 4 else f"[{address.ip}]"
    conditions = translate_conditions(conf.conditions_of(address.version), address.version)
    for mapping in conf.mappings_of(address.version):
        match = f"{ip} daddr {mapping.host_ip} " if mapping.chain == HOST_IP_PORTS else ""
        match += f"{mapping.protocol} dport {mapping.host_port} "
        if conf.snat and conf.mark_bit is not None:
            bit = f"{1 << conf.mark_bit:#x}"
            rules += [
                (mapping.chain, f"{conditions}{source}{match}meta mark set meta mark or {bit}")
                for source in _sources(conf, ip, address)
            ]
        dnat = f"dnat to {target}:{mapping.container_port}"
        rules.append((mapping.chain, f"{conditions}{match}{dnat}"))
    if conf.snat:
        rules += _masquerading(conf, ip, address)
    return rules


def _sources(conf: PortmapConf, ip: str, address: IPInterface) -> list[str]:
    """Whose packets need the node's address: neighbours, who would be answered directly, and localhost."""
    if conf.masq_all:
        return [""]
    sources = [f"{ip} saddr {address.network} "]
    return [*sources, "ip saddr 127.0.0.0/8 "] if address.version == 4 else sources


def _masquerading(conf: PortmapConf, ip: str, address: IPInterface) -> list[tuple[str, str]]:
    if conf.mark_bit is not None:
        bit = f"{1 << conf.mark_bit:#x}"
        return [(MASQUERADING, f"{ip} daddr {address.ip} meta mark and {bit} == {bit} masquerade")]
    # Only what came through this very mapping: neighbours that talk to the container directly are left alone.
    return [
        (
            MASQUERADING,
            f"{source}{ip} daddr {address.ip} {mapping.protocol} dport {mapping.container_port} "
            f"ct status dnat ct original proto-dst {mapping.host_port} masquerade",
        )
        for mapping in conf.mappings_of(address.version)
        for source in _sources(conf, ip, address)
    ]


# --- conditions, which people have written in the words of iptables for years

_IPTABLES = {
    "-d": "daddr",
    "--destination": "daddr",
    "--dst": "daddr",
    "-s": "saddr",
    "--source": "saddr",
    "--src": "saddr",
    "-i": "iifname",
    "--in-interface": "iifname",
}


def translate_conditions(words: Sequence[str], version: int) -> str:
    """Match expressions in front of a rule: nftables' own as they are, and the usual ones of iptables."""
    if not words:
        return ""
    if words[0] != "!" and not words[0].startswith("-"):
        _refuse_statements(words)
        return " ".join(words) + " "
    text, left = "", list(words)
    while left:
        negated = left[0] == "!"
        del left[: int(negated)]
        key = left.pop(0) if left else "!"
        match = _IPTABLES.get(key)
        if match is None:
            raise CNIError(
                UNSUPPORTED_FIELD,
                f"portmap: condition {key!r} is not supported",
                "write nftables expressions, or -s, -d and -i with an optional ! in front",
            )
        if not left:
            raise ConfigError(f"portmap: condition {key} needs a value")
        value = left.pop(0)
        _refuse_statements([value])
        text += f"{match} " if match == "iifname" else f"{family_of(version)} {match} "
        text += f"{'!= ' if negated else ''}{_quoted(value) if match == 'iifname' else value} "
    return text


def _quoted(interface: str) -> str:
    return f'"{interface.removesuffix("+")}{"*" if interface.endswith("+") else ""}"'


def _refuse_statements(words: Iterable[str]) -> None:
    # A condition may narrow the rule it stands in; it must not end it and begin another one.
    if any(c in word for word in words for c in ";\n#"):
        raise ConfigError("portmap: a condition must not contain ';', '#' or a line break")
