"""macvlan: gives the container a link with a MAC address of its own on a network of the node.

The kernel works as a switch on the parent: frames for the container's MAC address go to its link, all others
are the parent's. The container is on the same segment as the node's neighbours (their DHCP server, their
router), but does not reach the node itself through its parent: that is the nature of macvlan.

Options (the reference plugin's documentation, "macvlan plugin"):

    master           the parent; default: the link of the default route
    mode             bridge (default): containers of one parent reach each other; private: they do not;
                     vepa: through an external switch that sends back; passthru: the one container has it all
    mtu              bytes, at most the parent's; 0 (default) is the kernel's choice
    mac              of the container's link; CNI_ARGS MAC wins over it, and the capability "mac" over both
    bcqueuelen       broadcast frames that may wait on the parent; 0 (default) is the kernel's choice
    linkInContainer  true: the parent is in the container's namespace, not in the node's
    ipam             empty: layer 2 only, the link is just set up
    dns              returned in the result
"""

from __future__ import annotations

from podling.cni.plugins import container, own_link, skel
from podling.cni.plugins.options import Options
from podling.cni.types import CHECK_FAILED, DNS, Args, CNIError, Result
from podling.linux.netlink import kinds
from podling.linux.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from podling.cni.plugins.own_link import Ends
    from podling.linux.netlink import Link

KIND = "macvlan"
DEFAULT_MODE = "bridge"


@record
class _Conf:
    master: str
    mode: str
    mtu: int
    mac: str
    bc_queue_len: int
    in_container: bool
    ipam: str
    dns: DNS


def _parse(args: Args) -> _Conf:
    options = Options(args)
    get = options.get
    conf = _Conf(
        master=get("master", str, ""),
        mode=get("mode", str, "") or DEFAULT_MODE,
        mtu=get("mtu", int, 0),
        mac=options.valid_mac(get("mac", str, "")),
        bc_queue_len=get("bcqueuelen", int, 0),
        in_container=get("linkInContainer", bool, False),
        ipam=options.ipam,
        dns=options.dns,
    )
    options.refuse(conf.mode not in kinds.MACVLAN_MODES, f'unknown macvlan mode: "{conf.mode}"')
    options.refuse(conf.mtu < 0, f"invalid MTU {conf.mtu}")
    options.refuse(not 0 <= conf.bc_queue_len < 1 << 32, f"invalid bcqueuelen {conf.bc_queue_len}")
    options.end(KIND)
    return conf


def _add(args: Args) -> Result:
    conf = _parse(args)
    return own_link.add(
        args,
        lambda ends: _make(args, conf, ends),
        ipam=conf.ipam,
        dns=conf.dns,
        before_up=container.announce_addresses if conf.ipam else None,
    )


def _make(args: Args, conf: _Conf, ends: Ends) -> Link:
    master = own_link.find_master(ends, conf.master, in_container=conf.in_container)
    own_link.check_mtu(conf.mtu, master)
    return own_link.make_link(
        args,
        ends,
        KIND,
        lambda name: kinds.add_macvlan(
            name,
            parent=master.index,
            mode=conf.mode,
            netns_fd=ends.netns,
            mtu=conf.mtu or None,
            mac=conf.mac or None,
            bc_queue_len=conf.bc_queue_len or None,
        ),
        creator=ends.inside if conf.in_container else ends.host,
    )


def _delete(args: Args) -> None:
    own_link.delete(args, KIND)


def _check(args: Args) -> None:
    conf = _parse(args)

    def look(ends: Ends, link: Link) -> None:
        own_link.find_master(ends, conf.master, in_container=conf.in_container)
        mode = kinds.macvlan_mode(link)
        if mode != conf.mode:
            raise CNIError(CHECK_FAILED, f"{link.name} has macvlan mode {mode}, not {conf.mode}")

    own_link.check(args, KIND, look)


def _status(args: Args) -> None:
    own_link.status(args, KIND)


PLUGIN = skel.Plugin(
    name=KIND, add=_add, delete=_delete, check=_check, status=_status, gc=own_link.delegate_gc
)
