"""dummy: gives the container a link that leads nowhere, to hold addresses.

What is sent to such a link is dropped; what is sent to its addresses stays in the container. It serves
programs that want an address of their own without a network, such as an anycast address announced by BGP.

Options (the reference plugin's documentation, "dummy plugin"):

    ipam   required: a dummy without addresses is of no use
    dns    returned in the result
"""

from __future__ import annotations

from podling.cni.plugins import own_link, skel
from podling.cni.plugins.options import Options
from podling.cni.types import CHECK_FAILED, Args, CNIError, Result
from podling.linux.netlink import kinds

TYPE_CHECKING = False
if TYPE_CHECKING:
    from podling.cni.plugins.own_link import Ends
    from podling.linux.netlink import Link

KIND = "dummy"


def _parse(args: Args) -> Options:
    options = Options(args)
    options.refuse(not options.ipam, "dummy interface requires an IPAM configuration")
    _ = options.dns
    options.end(KIND)
    return options


def _add(args: Args) -> Result:
    options = _parse(args)

    def make(ends: Ends) -> Link:
        return own_link.make_link(
            args, ends, KIND, lambda name: kinds.add_dummy(name, netns_fd=ends.netns), creator=ends.host
        )

    return own_link.add(args, make, ipam=options.ipam, dns=options.dns)


def _delete(args: Args) -> None:
    own_link.delete(args, KIND)


def _check(args: Args) -> None:
    _parse(args)

    def look(ends: Ends, link: Link) -> None:
        if not link.up:
            raise CNIError(CHECK_FAILED, f"{link.name} is down")

    own_link.check(args, KIND, look)


def _status(args: Args) -> None:
    own_link.status(args, KIND)


PLUGIN = skel.Plugin(
    name=KIND, add=_add, delete=_delete, check=_check, status=_status, gc=own_link.delegate_gc
)
