"""ipvlan: gives the container a link with IP addresses of its own on a network of the node.

Like macvlan, but all links share the parent's MAC address: the kernel sorts packets by their IP address. It
suits segments that allow one MAC address a port (wireless, clouds). The container does not reach the node
through its parent; and a parent carries either macvlan or ipvlan links.

Options (the reference plugin's documentation, "ipvlan plugin"):

    master           the parent; default: the only interface of prevResult when chained, else the link of the
                     default route
    mode             l2 (default): the container is on the parent's segment; l3: the parent routes for it,
                     without broadcasts; l3s: as l3, through the node's netfilter hooks
    mtu              bytes; 0 (default) is the kernel's choice
    linkInContainer  true: the parent is in the container's namespace, not in the node's
    ipam             may be left out when chained: then the addresses and routes of prevResult are taken
    dns              returned in the result
"""

from __future__ import annotations

from podling.cni.plugins import container, own_link, skel
from podling.cni.plugins.options import Options
from podling.cni.types import CHECK_FAILED, DNS, Args, CNIError, ConfigError, Result
from podling.linux.netlink import kinds
from podling.linux.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from podling.cni.plugins.own_link import Ends
    from podling.linux.netlink import Link

KIND = "ipvlan"
DEFAULT_MODE = "l2"


@record
class _Conf:
    master: str
    mode: str
    mtu: int
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
        in_container=get("linkInContainer", bool, False),
        ipam=options.ipam,
        dns=options.dns,
    )
    options.refuse(conf.mode not in kinds.IPVLAN_MODES, f'unknown ipvlan mode: "{conf.mode}"')
    options.refuse(conf.mtu < 0, f"invalid MTU {conf.mtu}")
    options.end(KIND)
    return conf


def _add(args: Args) -> Result:
    conf = _parse(args)
    previous = args.prev_result()
    if not conf.ipam and not (previous and previous.ips):
        raise ConfigError(
            "ipvlan: no ipam, and no prevResult with addresses",
            'configure "ipam", or chain it after a plugin that gives addresses',
        )
    return own_link.add(
        args,
        lambda ends: _make(args, conf, previous, ends),
        ipam=conf.ipam,
        dns=conf.dns,
        given=previous,
        before_up=container.announce_addresses,
    )


def _make(args: Args, conf: _Conf, previous: Result | None, ends: Ends) -> Link:
    name = conf.master or _chained_master(previous)
    master = own_link.find_master(ends, name, in_container=conf.in_container)
    return own_link.make_link(
        args,
        ends,
        KIND,
        lambda name: kinds.add_ipvlan(
            name, parent=master.index, mode=conf.mode, netns_fd=ends.netns, mtu=conf.mtu or None
        ),
        creator=ends.inside if conf.in_container else ends.host,
    )


def _chained_master(previous: Result | None) -> str:
    if previous is None:
        return ""
    if len(previous.interfaces) != 1 or not previous.interfaces[0].name:
        raise ConfigError("chained master failure. PrevResult lacks a single named interface")
    return previous.interfaces[0].name


def _delete(args: Args) -> None:
    own_link.delete(args, KIND)


def _check(args: Args) -> None:
    conf = _parse(args)

    def look(ends: Ends, link: Link) -> None:
        if conf.master:  # a chained one is no longer in prevResult, whose interface is ours by now
            own_link.find_master(ends, conf.master, in_container=conf.in_container)
        mode = kinds.ipvlan_mode(link)
        if mode != conf.mode:
            raise CNIError(CHECK_FAILED, f"{link.name} has ipvlan mode {mode}, not {conf.mode}")

    own_link.check(args, KIND, look)


def _status(args: Args) -> None:
    own_link.status(args, KIND)


PLUGIN = skel.Plugin(
    name=KIND, add=_add, delete=_delete, check=_check, status=_status, gc=own_link.delegate_gc
)
