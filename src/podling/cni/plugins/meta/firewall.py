"""firewall: lets a container's forwarded traffic through, and keeps bridges (or containers) apart.

A chained plugin. For each address of prevResult answers to the container and everything from it are accepted;
an admin chain in front is for rules of people and never touched. `ingressPolicy` says who may open
connections to the containers of the bridge in front of it in the chain:

    open            everybody (the default)
    same-bridge     not the containers of other bridges that have a policy
    isolated        not those of the same bridge either

`backend` is `iptables` (chains CNI-FORWARD, CNI-ADMIN, CNI-ISOLATION-STAGE-1 and -2 in the filter table, as
the reference plugin makes them; the default where the program is installed) or `nftables` (a table of its
own, `inet cni_firewall`). Only rules in the chain that would drop a packet can save it: where FORWARD has the
policy DROP, as Docker sets it, `iptables` is the one to use.
"""

from __future__ import annotations

import errno

from podling.cni.plugins import skel
from podling.cni.plugins.meta import firewall_iptables, firewall_nftables
from podling.cni.plugins.meta.chained import Keys, chained_result, container_ips
from podling.cni.types import (
    INCOMPATIBLE_VERSION,
    INVALID_CONFIG,
    UNSUPPORTED_FIELD,
    Args,
    CNIError,
    Result,
)
from podling.linux.netlink import Netlink, NetlinkError
from podling.linux.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType

POLICIES = ("open", "same-bridge", "isolated")
BACKENDS: dict[str, ModuleType] = {"iptables": firewall_iptables, "nftables": firewall_nftables}
DEFAULT_ADMIN_CHAIN = "CNI-ADMIN"
OLDEST = "0.4.0"


@record
class FirewallConf:
    """Options of the reference plugin's documentation ("firewall plugin")."""

    backend: str
    admin_chain: str = DEFAULT_ADMIN_CHAIN
    policy: str = "open"


def _parse(args: Args) -> FirewallConf:
    if args.version < OLDEST:
        raise CNIError(
            INCOMPATIBLE_VERSION, "incompatible CNI versions", f"firewall needs {OLDEST}, not {args.version}"
        )
    options = Keys("firewall", args.conf)
    backend = options.get("backend", str, "")
    admin = options.get("iptablesAdminChainName", str, "") or DEFAULT_ADMIN_CHAIN
    policy = options.get("ingressPolicy", str, "") or "open"
    if policy not in POLICIES:
        options.fault(f'unknown ingress policy: "{policy}" (it must be one of {", ".join(POLICIES)})')
    if backend not in ("", "firewalld", *BACKENDS):
        options.fault(f'unknown backend: "{backend}" (it must be one of {", ".join(BACKENDS)})')
    if not admin.replace("-", "").replace("_", "").isalnum() or len(admin) > 28:
        options.fault(f"iptablesAdminChainName: {admin!r} is no name of a chain")
    options.done()
    if backend == "firewalld":
        raise CNIError(
            UNSUPPORTED_FIELD,
            'firewall: backend "firewalld" is not supported',
            'use "iptables" or "nftables"',
        )
    if not backend:
        backend = "iptables" if firewall_iptables.available() else "nftables"
    return FirewallConf(backend=backend, admin_chain=admin, policy=policy)


def _bridge(conf: FirewallConf, previous: Result) -> str:
    """The bridge to keep apart; empty when the policy wants nothing."""
    if conf.policy == "open":
        return ""
    if not previous.interfaces or not previous.interfaces[0].name or previous.interfaces[0].sandbox:
        raise CNIError(
            INVALID_CONFIG,
            f'interface needs to be set for ingress policy "{conf.policy}", '
            'make sure to chain "firewall" plugin with "bridge"',
        )
    return previous.interfaces[0].name


def _add(args: Args) -> Result:
    conf = _parse(args)
    previous = chained_result(args, "missing prevResult from earlier plugin")
    backend = BACKENDS[conf.backend]
    bridge = _bridge(conf, previous)
    addresses = [ip.address for ip in container_ips(previous, args.ifname)]
    try:
        backend.add(args.container_id, addresses, admin_chain=conf.admin_chain)
        if bridge:
            backend.keep_apart(bridge, {a.version for a in addresses}, isolated=conf.policy == "isolated")
        if conf.policy == "isolated":
            _isolate_port(bridge, previous)
    except BaseException:
        _remove(args, conf, previous)
        raise
    return previous


def _isolate_port(bridge: str, previous: Result) -> None:
    """What a bridge switches no forward chain sees: the bridge itself must keep the port apart."""
    with Netlink() as host:
        for interface in previous.interfaces[1:]:
            link = None if interface.sandbox else host.link_find(interface.name)
            if link is None or link.kind != "veth" or link.isolated:
                continue
            try:
                host.link_set_port(link.index, isolated=True)
            except NetlinkError as err:
                if err.errno != errno.EOPNOTSUPP:
                    raise
                raise CNIError(
                    UNSUPPORTED_FIELD,
                    'firewall: ingressPolicy "isolated" is not supported by this kernel',
                    f"{link.name} cannot be an isolated port of {bridge}",
                ) from err


def _remove(args: Args, conf: FirewallConf, previous: Result | None) -> None:
    addresses = [ip.address for ip in previous.ips] if previous else []
    BACKENDS[conf.backend].remove(args.container_id, addresses)


def _delete(args: Args) -> None:
    """The container's rules. What keeps bridges apart stays: others may be behind them."""
    _remove(args, _parse(args), args.prev_result())


def _check(args: Args) -> None:
    conf = _parse(args)
    previous = chained_result(args, "missing prevResult from earlier plugin")
    addresses = [ip.address for ip in container_ips(previous, args.ifname)]
    backend = BACKENDS[conf.backend]
    backend.check(args.container_id, addresses, bridge=_bridge(conf, previous))


PLUGIN = skel.Plugin(name="firewall", add=_add, delete=_delete, check=_check)
