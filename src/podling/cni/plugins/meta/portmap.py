"""portmap: makes ports of a container reachable on its node, as `docker run -p` does.

A chained plugin: it takes the container's addresses from prevResult and the ports from the capability
`portMappings`, and rewrites the destination of what arrives at those ports of the node, from outside, from
the node itself (localhost too) and from containers. Connections whose answers would not come back through the
node are masqueraded (`snat`).

It reserves nothing: who owns a port is the caller's business. Works with nftables only; a configuration that
says `"backend": "iptables"` gets the same effect on packets from nftables rules.

Differs from upstream: `conditionsV4` and `conditionsV6` hold for the containers of their network only, where
the reference's nftables backend lets the last ADD decide for all; and neighbours on the container's own
subnet are masqueraded like the container itself, as the reference's iptables backend does.
"""

from __future__ import annotations

import ipaddress

from podling.cni.plugins import nft_rules, skel
from podling.cni.plugins.meta import portmap_rules
from podling.cni.plugins.meta.chained import Keys, chained_result, container_ips
from podling.cni.plugins.meta.portmap_rules import TABLE, PortmapConf, PortMapping
from podling.cni.types import CHECK_FAILED, IO_FAILURE, UNSUPPORTED_FIELD, Args, CNIError, ConfigError, Result
from podling.linux import nft
from podling.linux.netlink import Netlink, NetlinkError, conntrack, routes, rules
from podling.linux.sysctl import ensure_sysctl, read_sysctl

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from podling.cni.types import IPAddress, IPInterface

PORT_MAX = 65535


def parse(args: Args) -> PortmapConf:
    options = Keys("portmap", args.conf)
    mark_bit = options.maybe("markMasqBit", int)
    if mark_bit is not None and not 0 <= mark_bit <= 31:
        options.fault("MasqMarkBit must be between 0 and 31")
    chain = options.get("externalSetMarkChain", str, "")
    if chain and mark_bit is not None:
        options.fault("Cannot specify externalSetMarkChain and markMasqBit")
    backend = options.get("backend", str, "") or "nftables"
    if backend not in ("iptables", "nftables"):
        options.fault(f"unrecognized backend {backend!r}: it must be nftables (or iptables, taken for it)")
    snat = options.maybe("snat", bool)
    conf = PortmapConf(
        mappings=tuple(_mappings(options)),
        snat=snat is not False,
        masq_all=options.get("masqAll", bool, False),
        mark_bit=mark_bit,
        conditions_v4=options.texts("conditionsV4"),
        conditions_v6=options.texts("conditionsV6"),
    )
    options.done()
    if chain:
        raise CNIError(
            UNSUPPORTED_FIELD,
            "portmap: externalSetMarkChain is not supported",
            "it names a chain of iptables; use markMasqBit, or leave both away",
        )
    return conf


def _mappings(options: Keys) -> list[PortMapping]:
    found = []
    for raw in options.part("runtimeConfig").get("portMappings", list, []):
        if not isinstance(raw, dict):
            options.fault(f"portMappings: must be objects, not {raw!r}")
            continue
        mapping = _mapping(options, raw)
        if mapping is not None:
            found.append(mapping)
    return found


def _mapping(options: Keys, raw: dict[str, Any]) -> PortMapping | None:
    host, container = raw.get("hostPort"), raw.get("containerPort")
    protocol = str(raw.get("protocol") or "tcp").lower()
    for what, port in (("container", container), ("host", host)):
        if not isinstance(port, int) or isinstance(port, bool) or not 0 < port <= PORT_MAX:
            options.fault(f"Invalid {what} port number: {port}")
            return None
    if protocol not in portmap_rules.PROTOCOLS:
        options.fault(f"Invalid protocol {protocol!r}: must be one of {', '.join(portmap_rules.PROTOCOLS)}")
    host_ip: IPAddress | None = None
    try:
        host_ip = ipaddress.ip_address(raw["hostIP"]) if raw.get("hostIP") else None
    except ValueError:
        options.fault(f"Invalid hostIP {raw['hostIP']!r}")
    assert isinstance(host, int)
    assert isinstance(container, int)
    return PortMapping(host_port=host, container_port=container, protocol=protocol, host_ip=host_ip)


def _addresses(args: Args, previous: Result) -> list[IPInterface]:
    """The container's first address of each family."""
    found: dict[int, IPInterface] = {}
    for ip in container_ips(previous, args.ifname):
        found.setdefault(ip.address.version, ip.address)
    return list(found.values())


def _add(args: Args) -> Result:
    conf = parse(args)
    previous = chained_result(args)
    if not conf.mappings:
        return previous
    try:
        for address in _addresses(args, previous):
            _forward(conf, args.container_id, address)
    except BaseException:
        _remove(args.container_id)
        raise
    return previous


def _forward(conf: PortmapConf, container_id: str, address: IPInterface) -> None:
    if not conf.mappings_of(address.version):
        return
    family = portmap_rules.family_of(address.version)
    wanted = "".join(
        f'add rule {family} {TABLE} {chain} {text} comment "{container_id}"\n'
        for chain, text in portmap_rules.compute_rules(conf, address)
    )

    def attempt() -> None:
        listing = nft.list_table(family, TABLE)
        present = nft_rules.chain_rules(listing)
        own = [rule for rule in present if rule.comment == container_id and str(address.ip) in rule.text]
        base = "" if portmap_rules.has_base(listing, present) else portmap_rules.base(family)
        nft.run(base + nft_rules.deletions(family, TABLE, own) + wanted)

    nft_rules.retrying("unable to set up nftables rules for port mappings", attempt)
    if conf.snat and address.version == 4:
        _route_localnet(address.ip)
    _forget_connections(conf.mappings_of(address.version), address.version)


def _route_localnet(address: IPAddress) -> None:
    """Let packets from 127.0.0.1 out to the container, as the kernel else never does."""
    link = _link_towards(address)
    if link is None:
        return
    try:
        ensure_sysctl(("net", "ipv4", "conf", link, "route_localnet"), 1)
    except OSError as err:
        raise CNIError(
            IO_FAILURE,
            f"unable to set route_localnet on {link}: {err.strerror}",
            "mapped ports cannot be reached on localhost; set snat to false if that will do",
        ) from err


def _link_towards(address: IPAddress) -> str | None:
    with Netlink() as nl:
        try:
            route = routes.parse_route(nl.get(rules.get_route(address)))
        except NetlinkError:  # no way there (yet): nothing to set
            return None
        return nl.link_get(route.oif).name if route and route.oif else None


def _forget_connections(mappings: Sequence[PortMapping], version: int) -> None:
    """UDP has no beginning: a sender that goes on would be sent to the port's last owner for ever."""
    ports = {mapping.host_port for mapping in mappings if mapping.protocol == "udp"}
    if ports:
        conntrack.forget_udp(ports, version=version)


def _delete(args: Args) -> None:
    """By the rules' comment alone: neither prevResult nor the ports need to be known any more."""
    _remove(args.container_id)


def _remove(container_id: str) -> None:
    for family in ("ip", "ip6"):

        def attempt(family: str = family) -> None:
            present = nft_rules.chain_rules(nft.list_table(family, TABLE))
            own = [rule for rule in present if rule.comment == container_id]
            if own:
                nft.run(nft_rules.deletions(family, TABLE, own))

        nft_rules.retrying("error deleting nftables rules", attempt)


def _check(args: Args) -> None:
    conf = parse(args)
    previous = args.prev_result()
    if previous is None:
        raise ConfigError("Required prevResult missing")
    for address in _addresses(args, previous):
        if conf.mappings_of(address.version):
            _check_address(conf, args.container_id, address)


def _check_address(conf: PortmapConf, container_id: str, address: IPInterface) -> None:
    listing = nft_rules.listed(portmap_rules.family_of(address.version), TABLE)
    present = nft_rules.chain_rules(listing)
    if not portmap_rules.has_base(listing, present):
        raise CNIError(CHECK_FAILED, f"nftables table {TABLE} is gone or incomplete")
    own = [rule for rule in present if rule.comment == container_id and str(address.ip) in rule.text]
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
    expected = portmap_rules.compute_rules(conf, address)
    for chain in (portmap_rules.MASQUERADING,):
        count = sum(1 for name, _ in expected if name == chain)
        if sum(1 for rule in own if rule.chain == chain) < count:
            raise CNIError(CHECK_FAILED, f'missing hostport rules in "{chain}" chain')
    if conf.snat and address.version == 4:
        _check_localnet(address.ip)


def _check_localnet(address: IPAddress) -> None:
    link = _link_towards(address)
    if link is not None and read_sysctl(("net", "ipv4", "conf", link, "route_localnet")) != "1":
        raise CNIError(CHECK_FAILED, f"route_localnet of {link} is off: no mapped port on localhost")


PLUGIN = skel.Plugin(name="portmap", add=_add, delete=_delete, check=_check)
