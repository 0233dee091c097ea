"""The configuration of the bridge plugin, read and checked; all faults are reported at once."""

from __future__ import annotations

from podling.cni.plugins.main import ip_masq
from podling.cni.plugins.options import Options
from podling.cni.plugins.skel import NAME_CHARACTERS
from podling.cni.types import DNS, Args
from podling.linux.record import record

DEFAULT_BRIDGE = "cni0"
VLAN_MAX = 4094  # IEEE 802.1Q


@record
class BridgeConf:
    """Options of the reference plugin's documentation ("bridge plugin", "Network configuration")."""

    bridge: str = DEFAULT_BRIDGE
    is_gateway: bool = False  # the bridge holds the gateway address and the node forwards
    is_default_gateway: bool = False  # and the container's default route goes there
    force_address: bool = False  # replace another gateway address on the bridge instead of refusing
    ip_masq: bool = False
    mtu: int = 0  # bytes; 0 is the kernel's default
    hairpin: bool = False  # a container reaches itself through the bridge
    promisc: bool = False  # of the bridge
    port_isolation: bool = False  # containers reach the gateway but not each other
    vlan: int = 0  # the one the container is in, unaware of it; 0 is none
    vlan_trunk: tuple[int, ...] = ()  # those it may send and receive with their tags
    preserve_default_vlan: bool = True  # beside either
    mac_spoof_check: bool = False  # drop what has another sender than the container's MAC address
    enable_dad: bool = False  # look for others with the container's IPv6 addresses
    container_interface_up: bool = True
    ipam: str = ""  # the IPAM plugin's type; empty: layer 2 only
    mac: str = ""
    dns: DNS = DNS()


def parse(args: Args) -> BridgeConf:
    """`ConfigError` with everything that is wrong."""
    options = Options(args)
    get = options.get
    is_default_gateway = get("isDefaultGateway", bool, False)
    conf = BridgeConf(
        bridge=get("bridge", str, "") or DEFAULT_BRIDGE,
        is_gateway=get("isGateway", bool, False) or is_default_gateway,
        is_default_gateway=is_default_gateway,
        force_address=get("forceAddress", bool, False),
        ip_masq=ip_masq.parse(options),
        mtu=get("mtu", int, 0),
        hairpin=get("hairpinMode", bool, False),
        promisc=get("promiscMode", bool, False),
        port_isolation=get("portIsolation", bool, False),
        vlan=get("vlan", int, 0),
        vlan_trunk=_trunk(options),
        preserve_default_vlan=get("preserveDefaultVlan", bool, True),
        mac_spoof_check=get("macspoofchk", bool, False),
        enable_dad=get("enabledad", bool, False),
        container_interface_up=not get("disableContainerInterface", bool, False),
        ipam=options.ipam,
        mac=options.mac,
        dns=options.dns,
    )
    for wrong, text in _faults(conf):
        options.refuse(wrong, text)
    if conf.mac_spoof_check:
        options.refuse(
            bool(args.ifname.strip(NAME_CHARACTERS)),
            f"macspoofchk: {args.ifname!r} cannot be part of the name of a chain",
        )
    options.end("bridge")
    return conf


def _faults(conf: BridgeConf) -> tuple[tuple[object, str], ...]:
    return (
        (not 0 <= conf.vlan <= VLAN_MAX, f"invalid VLAN ID {conf.vlan} (must be between 0 and {VLAN_MAX})"),
        (conf.mtu < 0, f"invalid MTU {conf.mtu}"),
        (
            conf.hairpin and conf.promisc,
            "cannot set hairpin mode and promiscuous mode at the same time",
        ),
        (
            bool(conf.ipam) and not conf.container_interface_up,
            "cannot use IPAM when disableContainerInterface is set",
        ),
        (
            len(conf.bridge.encode()) > 15 or "/" in conf.bridge,
            f"bridge: {conf.bridge!r} is no interface name",
        ),
        (
            bool(conf.vlan and conf.vlan_trunk),
            "cannot set vlan and vlanTrunk at the same time",
        ),
        (
            bool(conf.vlan) and conf.is_gateway and len(vlan_gateway_name(conf).encode()) > 15,
            f"bridge: {vlan_gateway_name(conf)!r}, the gateway's link, is too long for an interface name",
        ),
    )


def vlan_gateway_name(conf: BridgeConf) -> str:
    """The link that holds the gateway addresses of a VLAN."""
    return f"{conf.bridge}.{conf.vlan}"


def _trunk(options: Options) -> tuple[int, ...]:
    """`vlanTrunk`: a list of `{"id": 5}` and `{"minID": 10, "maxID": 20}`."""
    found: set[int] = set()
    for item in options.get("vlanTrunk", list, []):
        if not isinstance(item, dict):
            options.refuse(True, f"vlanTrunk: must be objects, not {item!r}")
            continue
        low, high, one = (item.get(key) for key in ("minID", "maxID", "id"))
        if (low is None) != (high is None):
            missing = "minID" if low is None else "maxID"
            options.refuse(True, f"minID and maxID should be configured simultaneously, {missing} is missing")
            continue
        given = {"minID": low, "maxID": high, "id": one}
        wrong = [key for key, vid in given.items() if vid is not None and not _is_vlan(vid)]
        for key in wrong:
            options.refuse(True, f"incorrect trunk {key} parameter")
        if wrong:
            continue
        options.refuse(low is not None and low > high, "minID is greater than maxID in trunk parameter")
        found |= set(range(low, high + 1)) if low is not None and high is not None else set()
        found |= {one} if one is not None else set()
    return tuple(sorted(found))


def _is_vlan(vid: object) -> bool:
    return isinstance(vid, int) and not isinstance(vid, bool) and 0 < vid <= VLAN_MAX
