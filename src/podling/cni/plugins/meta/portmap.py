"""portmap: makes ports of a container reachable on its node, as `docker run -p` does.

A chained plugin: it takes the container's addresses from prevResult and the ports from the capability
`portMappings`, and rewrites the destination of what arrives at those ports of the node, from outside, from
the node itself (localhost too) and from containers. Connections whose answers would not come back through the
node are masqueraded (`snat`).

It reserves nothing: who owns a port is the caller's business.

`backend` is `iptables` (chains CNI-HOSTPORT-*, as the reference plugin makes them; the default where the
program is installed, unless a condition is written for nftables) or `nftables` (table `cni_hostport`). Of
iptables alone is `externalSetMarkChain`, which marks what is to be masqueraded in a chain of somebody else's.

Differs from upstream, in nftables: `conditionsV4` and `conditionsV6` hold for the containers of their network
only, where the reference lets the last ADD decide for all; neighbours on the container's own subnet are
masqueraded like the container itself, as with iptables; the usual conditions of iptables and `markMasqBit`
are understood too.
"""

from __future__ import annotations

import ipaddress

from podling.cni.plugins import iptables, skel
from podling.cni.plugins.meta import portmap_rules
from podling.cni.plugins.meta.chained import Keys, chained_result, container_ips
from podling.cni.plugins.meta.portmap_rules import PortmapConf, PortMapping
from podling.cni.types import CHECK_FAILED, IO_FAILURE, Args, CNIError, ConfigError, Result
from podling.linux.netlink import Netlink, NetlinkError, conntrack, routes, rules
from podling.linux.record import replace
from podling.linux.sysctl import ensure_sysctl, read_sysctl

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType
    from typing import Any

    from podling.cni.types import IPAddress, IPInterface

PORT_MAX = 65535
BACKENDS = ("iptables", "nftables")


def parse(args: Args) -> PortmapConf:
    options = Keys("portmap", args.conf)
    mark_bit = options.maybe("markMasqBit", int)
    if mark_bit is not None and not 0 <= mark_bit <= 31:
        options.fault("MasqMarkBit must be between 0 and 31")
    chain = options.get("externalSetMarkChain", str, "")
    if chain.strip(skel.NAME_CHARACTERS) or len(chain) > 28:
        options.fault(f"externalSetMarkChain: {chain!r} is no name of a chain")
    if chain and mark_bit is not None:
        options.fault("Cannot specify externalSetMarkChain and markMasqBit")
    snat = options.maybe("snat", bool)
    conf = PortmapConf(
        mappings=tuple(_mappings(options)),
        snat=snat is not False,
        masq_all=options.get("masqAll", bool, False),
        mark_bit=mark_bit,
        set_mark_chain=chain,
        conditions_v4=options.texts("conditionsV4"),
        conditions_v6=options.texts("conditionsV6"),
        backend=options.get("backend", str, ""),
    )
    conf = replace(conf, backend=_backend(options, conf))
    options.done()
    return conf


def _backend(options: Keys, conf: PortmapConf) -> str:
    """The one that is named, or else the one that the other options and the machine ask for."""
    # No condition of nftables begins like an option or a negated one.
    conditions = (conf.conditions_v4, conf.conditions_v6)
    for_nftables = any(words and words[0] != "!" and words[0][:1] != "-" for words in conditions)
    chosen = conf.backend
    if not chosen:
        has_iptables = iptables.available() or conf.set_mark_chain
        chosen = "iptables" if has_iptables and not for_nftables else "nftables"
    if chosen not in BACKENDS:
        options.fault(f"unrecognized backend {chosen!r}: it must be one of {', '.join(BACKENDS)}")
    elif chosen == "iptables" and for_nftables:
        options.fault("iptables backend was requested but the conditions are for nftables")
    elif chosen == "nftables" and conf.set_mark_chain:
        options.fault("nftables backend cannot be used with externalSetMarkChain, which is of iptables")
    if chosen == "iptables" and any("\n" in word for words in conditions for word in words):
        options.fault("a condition must not contain a line break")
    return chosen


def _module(backend: str) -> ModuleType:
    # Imported when it is used: the other one need not even be installed.
    if backend == "iptables":
        from podling.cni.plugins.meta import portmap_iptables

        return portmap_iptables
    from podling.cni.plugins.meta import portmap_nftables

    return portmap_nftables


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
            _forward(conf, args, address)
    except BaseException:
        _module(conf.backend).remove(args)
        raise
    return previous


def _forward(conf: PortmapConf, args: Args, address: IPInterface) -> None:
    mappings = conf.mappings_of(address.version)
    if not mappings:
        return
    _module(conf.backend).add(conf, args, address)
    if conf.snat and address.version == 4:
        _route_localnet(address.ip)
    _forget_connections(mappings, address.version)


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
    """By the container ID alone. Where no backend is named, ADD may have chosen the other one.

    Two programs an address family are not started for a container that has no mappings.
    """
    named = str(args.conf.get("backend") or "")
    if named != "iptables":
        _module("nftables").remove(args)
    if named != "nftables" and (args.conf.get("runtimeConfig") or {}).get("portMappings"):
        _module("iptables").remove(args)


def _check(args: Args) -> None:
    conf = parse(args)
    previous = args.prev_result()
    if previous is None:
        raise ConfigError("Required prevResult missing")
    for address in _addresses(args, previous):
        if conf.mappings_of(address.version):
            _module(conf.backend).check(conf, args, address)
            if conf.snat and address.version == 4:
                _check_localnet(address.ip)


def _check_localnet(address: IPAddress) -> None:
    link = _link_towards(address)
    if link is not None and read_sysctl(("net", "ipv4", "conf", link, "route_localnet")) != "1":
        raise CNIError(CHECK_FAILED, f"route_localnet of {link} is off: no mapped port on localhost")


PLUGIN = skel.Plugin(name="portmap", add=_add, delete=_delete, check=_check)
