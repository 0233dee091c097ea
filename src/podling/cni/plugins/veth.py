"""Veth pairs between a container and its node: made with one message, and deleted.

Shared by bridge and ptp, which differ in what they do with the host end.
"""

from __future__ import annotations

import errno
import os

from podling.cni.types import KERNEL_REFUSED, CNIError, ConfigError
from podling.linux.netlink import Netlink, NetlinkError, links
from podling.linux.netlink.removal import remove_link
from podling.linux.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from podling.cni.types import Args, Result
    from podling.linux.netlink import Link

NAME_ATTEMPTS = 10  # for a host end's random name; two in a row taken would already be a wonder


@record
class Pair:
    """A veth pair that has been made."""

    host: str  # names in our requests can mean nothing else once the kernel has given us this one
    container: Link


def make_pair(args: Args, *, host: Netlink, inside: Netlink, netns: int, mtu: int = 0, mac: str = "") -> Pair:
    """Both ends down, the container's named by CNI_IFNAME. `mtu` 0 is the kernel's default."""
    for _ in range(NAME_ATTEMPTS):
        name = "veth" + os.urandom(4).hex()
        try:
            host.link_add_veth(name, args.ifname, peer_netns_fd=netns, mtu=mtu or None, peer_mac=mac or None)
        except ValueError as err:
            raise ConfigError(f"invalid mac: {err}") from err
        except NetlinkError as err:
            if err.errno != errno.EEXIST:
                raise
            if inside.link_find(args.ifname) is not None:
                raise CNIError(
                    KERNEL_REFUSED,
                    f"container veth name ({args.ifname}) already exists in {args.netns}",
                    "DEL the earlier attachment, or pass another CNI_IFNAME",
                ) from err
            continue
        return Pair(host=name, container=inside.link_get(args.ifname))
    raise CNIError(KERNEL_REFUSED, f"no free name for a veth in {NAME_ATTEMPTS} attempts")


def settle(pair: Pair, inside: Netlink) -> None:
    """Once both ends are up: wait until the kernel has handled the carrier of the container's end.

    It was up before its peer, and gets its queue only when a worker of the kernel finds the time; what is
    sent until then is lost, the first ARP request among it, which is repeated after a second. From Linux
    6.15 on asking for a link waits for that.
    """
    inside.get(links.get_link(pair.container.index))


def delete_pair(args: Args) -> None:
    """Delete the container's pair, if it has one; works without the namespace when prevResult is there."""
    try:
        if not args.netns:
            raise FileNotFoundError
        with Netlink(args.netns) as inside:
            container = inside.link_find(args.ifname)
            if container is not None and container.kind == "veth":
                remove_link(inside, container.index)
    except FileNotFoundError:
        # With its namespace the pair goes too, but not before the last process in there has ended.
        _delete_host_end(args.prev_result())


def _delete_host_end(previous: Result | None) -> None:
    """Delete the pair by its host end, if that surely is the result's."""
    hosts = (
        [i for i in previous.interfaces if not i.sandbox and i.name.startswith("veth")] if previous else []
    )
    if hosts:
        with Netlink() as host:
            link = host.link_find(hosts[0].name)
            if link is not None and link.kind == "veth" and link.mac == hosts[0].mac:
                remove_link(host, link.index)
