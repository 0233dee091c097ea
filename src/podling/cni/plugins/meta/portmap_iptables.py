"""The portmap plugin's rules in iptables' nat table, where and as the reference plugin makes them:

    PREROUTING, OUTPUT      to CNI-HOSTPORT-DNAT, for what is addressed to the node itself
    CNI-HOSTPORT-DNAT       by port to the container's own chain; the newest container first
    CNI-DN-xxxxxx           marks what must be masqueraded, and translates
    CNI-HOSTPORT-SETMARK    sets the mark: a bit, 13 unless told otherwise
    CNI-HOSTPORT-MASQ       from POSTROUTING: masquerades what has the mark

The chains shared by all containers stay; DEL removes the container's own by its name, a hash of network and
container.
"""

from __future__ import annotations

from podling.cni.plugins.iptables import Table, chain_name, locked, quoted, usable
from podling.cni.plugins.meta.portmap_rules import HOST_IP_PORTS
from podling.cni.types import CHECK_FAILED, CNIError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from podling.cni.plugins.meta.portmap_rules import PortmapConf
    from podling.cni.types import Args, IPInterface

DNAT, SET_MARK, MASQUERADE = "CNI-HOSTPORT-DNAT", "CNI-HOSTPORT-SETMARK", "CNI-HOSTPORT-MASQ"
DEFAULT_MARK_BIT = 13  # Kubernetes uses 14 and 15
PORTS_MAX = 15  # of one multiport match
COMMENT_MAX = 255  # characters


def add(conf: PortmapConf, args: Args, address: IPInterface) -> None:
    """The mappings to one address of the container, in place of what it had before."""
    chain = chain_name("DN-", args.name, args.container_id)
    with locked():
        nat = Table(address.version, "nat", "portmap")
        if conf.snat and not conf.set_mark_chain:
            _ensure_masquerading(nat, conf)
        nat.ensure_chain(DNAT)
        for rule in _entries():
            nat.ensure(rule)
        nat.drop_jumps(chain)
        nat.empty_chain(chain)
        for rule in compute_rules(conf, args, address):
            nat.add(rule)
        for rule in compute_jumps(conf, args, address.version):
            nat.add(rule, first=True)  # the newest container that wants a port gets it
        nat.commit()


def _entries() -> list[str]:
    return [f"{chain} -m addrtype --dst-type LOCAL -j {DNAT}" for chain in ("PREROUTING", "OUTPUT")]


def _ensure_masquerading(nat: Table, conf: PortmapConf) -> None:
    mark = f"{1 << (DEFAULT_MARK_BIT if conf.mark_bit is None else conf.mark_bit):#x}"
    nat.ensure_chain(SET_MARK)
    nat.ensure_chain(MASQUERADE)
    note = '-m comment --comment "CNI portfwd masquerade mark"'
    nat.ensure(f"{SET_MARK} {note} -j MARK --set-xmark {mark}/{mark}")
    nat.ensure(f"{MASQUERADE} -m mark --mark {mark}/{mark} -j MASQUERADE")
    # Before what bridge and ptp masquerade, which would be decided for the wrong address.
    note = '-m comment --comment "CNI portfwd requiring masquerade"'
    nat.ensure(f"POSTROUTING {note} -j {MASQUERADE}", first=True)


def compute_rules(conf: PortmapConf, args: Args, address: IPInterface) -> list[str]:
    """The rules of the container's own chain."""
    chain = chain_name("DN-", args.name, args.container_id)
    target = str(address.ip) if address.version == 4 else f"[{address.ip}]"
    rules = []
    for mapping in conf.mappings_of(address.version):
        match = f"-p {mapping.protocol} -m {mapping.protocol} --dport {mapping.host_port}"
        if mapping.chain == HOST_IP_PORTS:
            assert mapping.host_ip is not None  # what that chain is for
            match = f"-d {mapping.host_ip}/{mapping.host_ip.max_prefixlen} {match}"
        if conf.snat:
            rules += [
                f"{chain} {source}{match} -j {conf.set_mark_chain or SET_MARK}"
                for source in _sources(conf, address)
            ]
        rules.append(f"{chain} {match} -j DNAT --to-destination {target}:{mapping.container_port}")
    return rules


def _sources(conf: PortmapConf, address: IPInterface) -> list[str]:
    """Whose packets need the node's address: neighbours, who would be answered directly, and localhost."""
    if conf.masq_all:
        return [""]
    return [f"-s {address.network} ", *(["-s 127.0.0.1/32 "] if address.version == 4 else [])]


def compute_jumps(conf: PortmapConf, args: Args, version: int) -> list[str]:
    """The rules that lead to the container's own chain, one for each fifteen ports of a protocol."""
    note = f'dnat name: "{args.name}" id: "{args.container_id}"'
    if len(note) > COMMENT_MAX:
        note = note[: COMMENT_MAX - 2] + "..."
    conditions = "".join(f" {quoted(word)}" for word in conf.conditions_of(version))
    chain = chain_name("DN-", args.name, args.container_id)
    return [
        f"{DNAT} -p {protocol} -m comment --comment {quoted(note)} "
        f"-m multiport --dports {ports}{conditions} -j {chain}"
        for protocol, ports in _ports(conf)
    ]


def _ports(conf: PortmapConf) -> list[tuple[str, str]]:
    """Also those for addresses of the other family, as in the reference's rules; the chain ignores them."""
    found = []
    for protocol in sorted({mapping.protocol for mapping in conf.mappings}):
        ports = [str(mapping.host_port) for mapping in conf.mappings if mapping.protocol == protocol]
        for start in range(0, len(ports), PORTS_MAX):
            found.append((protocol, ",".join(ports[start : start + PORTS_MAX])))
    return found


def remove(args: Args) -> None:
    with locked():
        for nat in usable("nat", "portmap"):
            nat.drop_chain(chain_name("DN-", args.name, args.container_id))
            nat.commit()


def check(conf: PortmapConf, args: Args, address: IPInterface) -> None:
    nat = Table(address.version, "nat", "portmap")
    for rule in (*_entries(), *compute_rules(conf, args, address)):
        if rule not in nat.rules:
            raise CNIError(CHECK_FAILED, f"missing rule in iptables table nat: {rule}")
    chain = chain_name("DN-", args.name, args.container_id)
    jumps = [rule for rule in nat.rules if rule.startswith(f"{DNAT} ") and rule.endswith(f" -j {chain}")]
    # Conditions come back in another order than they were written in.
    for protocol, ports in _ports(conf):
        if not any(f"-p {protocol} " in rule and f"--dports {ports} " in rule for rule in jumps):
            raise CNIError(CHECK_FAILED, f"missing rule in chain {DNAT}: {protocol} ports {ports}")
