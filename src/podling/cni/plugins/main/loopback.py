"""loopback: brings `lo` up in the container (CNI spec, section 5; every runtime calls it before the rest)."""

from __future__ import annotations

import errno
import os

from podling.cni.plugins import skel
from podling.cni.types import CHECK_FAILED, Args, CNIError, Interface, IPConfig, Result
from podling.linux.netlink import Netlink, NetlinkError


def _add(args: Args) -> Result:
    netns = skel.open_sandbox(args)
    try:
        with Netlink(netns) as nl:
            lo = nl.link_get(args.ifname)
            if not lo.up:
                nl.link_set(lo.index, up=True)
            addresses = nl.addr_list(lo.index)
    finally:
        os.close(netns)
    previous = args.prev_result()
    if previous is not None:
        return previous
    return Result(
        interfaces=(Interface(name=args.ifname, mac="00:00:00:00:00:00", sandbox=args.netns),),
        ips=tuple(IPConfig(address=address.interface, interface=0) for address in addresses),
    )


def _delete(args: Args) -> None:
    # As the reference plugin does. `lo` cannot be removed; down is as near as it gets.
    if not args.netns:
        return
    try:
        with Netlink(args.netns) as nl:
            nl.link_set(args.ifname, up=False)
    except FileNotFoundError:
        return
    except NetlinkError as err:
        if err.errno != errno.ENODEV:
            raise


def _check(args: Args) -> None:
    with Netlink(args.netns) as nl:
        if not nl.link_get(args.ifname).up:
            raise CNIError(CHECK_FAILED, f"{args.ifname} in {args.netns} is down")


PLUGIN = skel.Plugin(name="loopback", add=_add, delete=_delete, check=_check)
