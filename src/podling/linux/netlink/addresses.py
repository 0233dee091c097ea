"""Interface addresses: RTM_*ADDR (`<linux/if_addr.h>`)."""

from __future__ import annotations

import ipaddress
import struct

from podling.linux.netlink.wire import (
    NLM_F_CREATE,
    NLM_F_EXCL,
    NLM_F_REPLACE,
    Message,
    Request,
    attr,
    attr_str,
    attr_u32,
    parse_attrs,
    text_of,
)
from podling.linux.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    IPInterface = ipaddress.IPv4Interface | ipaddress.IPv6Interface
    IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22
AF_INET, AF_INET6 = 2, 10
IFA_ADDRESS, IFA_LOCAL, IFA_LABEL, IFA_BROADCAST, IFA_FLAGS = 1, 2, 3, 4, 8
IFA_F_NODAD, IFA_F_DADFAILED, IFA_F_TENTATIVE, IFA_F_PERMANENT = 0x02, 0x08, 0x40, 0x80
RT_SCOPE_UNIVERSE, RT_SCOPE_LINK, RT_SCOPE_HOST = 0, 253, 254

_IFADDR = struct.Struct("=BBBBI")  # ifaddrmsg: family, prefix length, flags, scope, index


@record
class Address:
    """An address on a link, with its prefix length."""

    index: int
    interface: IPInterface
    scope: int = RT_SCOPE_UNIVERSE
    flags: int = IFA_F_PERMANENT
    label: str = ""
    broadcast: IPAddress | None = None

    @property
    def tentative(self) -> bool:
        """IPv6 only: duplicate address detection is under way and the address not yet usable."""
        return bool(self.flags & IFA_F_TENTATIVE)


def _body(index: int, interface: IPInterface, *, scope: int = RT_SCOPE_UNIVERSE) -> bytes:
    ipv4 = interface.version == 4
    family = AF_INET if ipv4 else AF_INET6
    # IFA_FLAGS below carries all flags; the header has room for only the first eight.
    body = _IFADDR.pack(family, interface.network.prefixlen, 0, scope, index)
    return body + attr(IFA_LOCAL, interface.packed) + attr(IFA_ADDRESS, interface.packed)


def add_address(
    index: int,
    interface: IPInterface,
    *,
    nodad: bool = True,
    replace: bool = False,
    scope: int = RT_SCOPE_UNIVERSE,
    broadcast: IPAddress | None = None,
    label: str | None = None,
) -> Request:
    """`nodad` (IPv6 only) makes the address usable at once; detection would hold it back 1 to 2 seconds."""
    body = _body(index, interface, scope=scope)
    if broadcast is not None:
        body += attr(IFA_BROADCAST, broadcast.packed)
    if label is not None:
        body += attr_str(IFA_LABEL, label)
    if nodad and interface.version == 6:
        body += attr_u32(IFA_FLAGS, IFA_F_NODAD)
    flags = NLM_F_CREATE | (NLM_F_REPLACE if replace else NLM_F_EXCL)
    return Request(kind=RTM_NEWADDR, flags=flags, body=body, what=f"add address {interface} to link {index}")


def delete_address(index: int, interface: IPInterface) -> Request:
    return Request(
        kind=RTM_DELADDR,
        flags=0,
        body=_body(index, interface),
        what=f"delete address {interface} from link {index}",
    )


def dump_addresses(*, index: int = 0, family: int = 0) -> Request:
    return Request(
        kind=RTM_GETADDR, flags=0, body=_IFADDR.pack(family, 0, 0, 0, index), what="list addresses"
    )


def parse_address(message: Message) -> Address:
    _, prefixlen, flags, scope, index = _IFADDR.unpack_from(message.body)
    attrs = parse_attrs(message.body, _IFADDR.size)
    # On a point-to-point link IFA_ADDRESS is the peer; IFA_LOCAL, when present, is always ours.
    raw = attrs.get(IFA_LOCAL) or attrs[IFA_ADDRESS]
    if IFA_FLAGS in attrs:
        flags = struct.unpack("=I", attrs[IFA_FLAGS])[0]
    broadcast = attrs.get(IFA_BROADCAST)
    return Address(
        index=index,
        interface=ipaddress.ip_interface((raw, prefixlen)),
        scope=scope,
        flags=flags,
        label=text_of(attrs.get(IFA_LABEL)),
        broadcast=ipaddress.ip_address(broadcast) if broadcast else None,
    )
