"""The configuration of the bridge plugin, read and checked; all faults are reported at once."""

from __future__ import annotations

from podling.cni.plugins.main import ip_masq
from podling.cni.plugins.options import Options
from podling.cni.types import DNS, UNSUPPORTED_FIELD, Args, CNIError
from podling.linux.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

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
    vlan: int = 0  # 0 is none
    preserve_default_vlan: bool = True
    container_interface_up: bool = True
    ipam: str = ""  # the IPAM plugin's type; empty: layer 2 only
    mac: str = ""
    dns: DNS = DNS()


def parse(args: Args) -> BridgeConf:
    """`CNIError` with INVALID_CONFIG, or UNSUPPORTED_FIELD for options we must not silently ignore."""
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
        preserve_default_vlan=get("preserveDefaultVlan", bool, True),
        container_interface_up=not get("disableContainerInterface", bool, False),
        ipam=options.ipam,
        mac=options.mac,
        dns=options.dns,
    )
    for wrong, text in _faults(conf):
        options.refuse(wrong, text)
    options.end("bridge")
    _refuse_unsupported(args.conf)
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
            bool(conf.vlan) and conf.is_gateway,
            "vlan: a gateway inside a VLAN is not offered; set isGateway false",
        ),
    )


def _refuse_unsupported(raw: Mapping[str, Any]) -> None:
    # Each of these is a promise about security or connectivity that ignoring would break.
    for key in ("macspoofchk", "vlanTrunk", "enabledad"):
        if raw.get(key):
            raise CNIError(
                UNSUPPORTED_FIELD, f"bridge: {key} is not supported", "remove it from the configuration"
            )
