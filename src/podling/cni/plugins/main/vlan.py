"""vlan: puts the container into a VLAN (IEEE 802.1Q) of a network of the node.

The container's link sends its frames through the parent with the VLAN's tag, and gets the frames so tagged.
A parent has each VLAN once: every container needs a pair of parent and VLAN of its own.

Options (the reference plugin's documentation, "vlan plugin"):

    master           the parent; required
    vlanId           0 to 4094; required (0, a tag with a priority and no VLAN, is its default)
    mtu              bytes, at most the parent's; 0 (default) is the kernel's choice
    linkInContainer  true: the parent is in the container's namespace, not in the node's
    ipam             required
    dns              returned in the result
"""

from __future__ import annotations

from podling.cni.plugins import own_link, skel
from podling.cni.plugins.options import Options
from podling.cni.types import CHECK_FAILED, DNS, Args, CNIError, Result
from podling.linux.netlink import kinds
from podling.linux.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from podling.cni.plugins.own_link import Ends
    from podling.linux.netlink import Link

KIND = "vlan"
VLAN_MAX = 4094  # IEEE 802.1Q: 4095 is reserved


@record
class _Conf:
    master: str
    vlan_id: int
    mtu: int
    in_container: bool
    ipam: str
    dns: DNS


def _parse(args: Args) -> _Conf:
    options = Options(args)
    get = options.get
    conf = _Conf(
        master=get("master", str, ""),
        vlan_id=get("vlanId", int, 0),
        mtu=get("mtu", int, 0),
        in_container=get("linkInContainer", bool, False),
        ipam=options.ipam,
        dns=options.dns,
    )
    options.refuse(
        not conf.master,
        '"master" field is required. It specifies the host interface name to create the VLAN for',
    )
    options.refuse(
        not 0 <= conf.vlan_id <= VLAN_MAX,
        f"invalid VLAN ID {conf.vlan_id} (must be between 0 and {VLAN_MAX} inclusive)",
    )
    options.refuse(conf.mtu < 0, f"invalid MTU {conf.mtu}")
    options.refuse(not conf.ipam, "ipam: is required")
    options.end(KIND)
    return conf


def _add(args: Args) -> Result:
    conf = _parse(args)
    return own_link.add(args, lambda ends: _make(args, conf, ends), ipam=conf.ipam, dns=conf.dns)


def _make(args: Args, conf: _Conf, ends: Ends) -> Link:
    master = own_link.find_master(ends, conf.master, in_container=conf.in_container)
    own_link.check_mtu(conf.mtu, master)
    return own_link.make_link(
        args,
        ends,
        KIND,
        lambda name: kinds.add_vlan(
            name, parent=master.index, vlan_id=conf.vlan_id, netns_fd=ends.netns, mtu=conf.mtu or None
        ),
        creator=ends.inside if conf.in_container else ends.host,
    )


def _delete(args: Args) -> None:
    own_link.delete(args, KIND)


def _check(args: Args) -> None:
    conf = _parse(args)

    def look(ends: Ends, link: Link) -> None:
        own_link.find_master(ends, conf.master, in_container=conf.in_container)
        found = kinds.vlan_id(link)
        if found != conf.vlan_id:
            raise CNIError(CHECK_FAILED, f"{link.name} is in VLAN {found}, not {conf.vlan_id}")
        if conf.mtu and link.mtu != conf.mtu:
            raise CNIError(CHECK_FAILED, f"{link.name} has MTU {link.mtu}, not {conf.mtu}")

    own_link.check(args, KIND, look)


def _status(args: Args) -> None:
    own_link.status(args, KIND)


PLUGIN = skel.Plugin(
    name=KIND, add=_add, delete=_delete, check=_check, status=_status, gc=own_link.delegate_gc
)
