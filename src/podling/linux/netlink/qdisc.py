"""Traffic control: queueing disciplines, classes and filters (`<linux/pkt_sched.h>`, `man 8 tc`).

Only what limiting a container's bandwidth takes: token buckets (tbf), htb for those of which some traffic is
exempt, the ingress hook, u32 filters that match addresses or everything, and the action that redirects.
Rates are in bytes a second, sizes in bytes, as in the kernel.
"""

from __future__ import annotations

import struct

from podling.linux.netlink import links
from podling.linux.netlink.wire import (
    NLM_F_CREATE,
    NLM_F_EXCL,
    Message,
    Request,
    attr,
    attr_str,
    attr_u32,
    nested,
    parse_attrs,
    text_of,
)
from podling.linux.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    import ipaddress

    IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network

RTM_NEWQDISC, RTM_DELQDISC, RTM_GETQDISC, RTM_NEWTCLASS, RTM_NEWTFILTER = 36, 37, 38, 40, 44
TC_H_ROOT, TC_H_INGRESS, INGRESS_HANDLE = 0xFFFFFFFF, 0xFFFFFFF1, 0xFFFF0000
TCA_KIND, TCA_OPTIONS = 1, 2
TCA_TBF_PARMS, TCA_TBF_RATE64 = 1, 4
TCA_HTB_PARMS, TCA_HTB_INIT, TCA_HTB_RATE64, TCA_HTB_CEIL64 = 1, 2, 6, 7
TCA_U32_CLASSID, TCA_U32_SEL, TCA_U32_ACT = 1, 5, 7
TCA_ACT_KIND, TCA_ACT_OPTIONS = 1, 2
TCA_MIRRED_PARMS = 2
TCA_EGRESS_REDIR, TC_ACT_STOLEN, TC_U32_TERMINAL = 1, 4, 1
ETH_P_ALL, ETH_P_IP, ETH_P_IPV6 = 0x0003, 0x0800, 0x86DD
RATE_MAX = 0xFFFFFFFF  # what the old 32-bit field can say
TICK_NS = 64  # of the packet scheduler's clock, PSCHED_SHIFT

_TCMSG = struct.Struct("=BxxxiIII")  # tcmsg: family, index, handle, parent, info
_RATESPEC = struct.Struct("=BBHhHI")  # cell log, link layer, overhead, cell align, mpu, rate
_TBF = struct.Struct("=III")  # after two rate specs: limit, buffer, mtu
_HTB_OPT = struct.Struct("=IIIII")  # after two rate specs: buffer, cbuffer, quantum, level, prio
_U32_KEY = struct.Struct("=4s4sii")  # mask, value, offset, offset mask
_MIRRED = struct.Struct("=IIiiiiI")  # index, capabilities, action, references, bindings, what to do, link


def handle(major: int, minor: int = 0) -> int:
    return major << 16 | minor


@record
class TokenBucket:
    """How a tbf is set, as it is read back."""

    rate: int  # bytes a second
    limit: int  # bytes that may wait
    buffer: int  # ticks the bucket takes to fill


@record
class Qdisc:
    index: int
    kind: str
    parent: int
    handle: int
    bucket: TokenBucket | None = None  # of a tbf


def bucket(rate: int, burst: int, *, latency_s: float) -> TokenBucket:
    """A bucket of `burst` bytes, behind which a packet waits at most `latency_s`."""
    return TokenBucket(rate=rate, limit=int(rate * latency_s) + burst, buffer=_ticks(rate, burst))


def _ticks(rate: int, size: int) -> int:
    return min(size * 1_000_000 // max(rate, 1) * 1000 // TICK_NS, RATE_MAX)


def _rate_spec(rate: int) -> bytes:
    return _RATESPEC.pack(0, 1, 0, 0, 0, min(rate, RATE_MAX))


def _u64(kind: int, value: int) -> bytes:
    return attr(kind, struct.pack("=Q", value))


def _qdisc(index: int, parent: int, own: int, kind: str, options: bytes) -> Request:
    body = _TCMSG.pack(0, index, own, parent, 0) + attr_str(TCA_KIND, kind)
    flags = NLM_F_CREATE | NLM_F_EXCL
    what = f"add {kind} queueing to link {index}"
    return Request(kind=RTM_NEWQDISC, flags=flags, body=body + options, what=what)


def add_tbf(index: int, bucket: TokenBucket) -> Request:
    """A token bucket at the root of a link, `1:`. EEXIST when it has one, ENOENT without the driver."""
    parameters = _rate_spec(bucket.rate) + bytes(_RATESPEC.size)
    parameters += _TBF.pack(bucket.limit, bucket.buffer, 0)
    options = attr(TCA_TBF_PARMS, parameters)
    if bucket.rate > RATE_MAX:
        options += _u64(TCA_TBF_RATE64, bucket.rate)
    return _qdisc(index, TC_H_ROOT, handle(1), "tbf", nested(TCA_OPTIONS, options))


def add_ingress(index: int) -> Request:
    """The hook for what a link receives, `ffff:`."""
    return _qdisc(index, TC_H_INGRESS, INGRESS_HANDLE, "ingress", b"")


def add_htb(index: int, *, default_class: int) -> Request:
    """At the root of a link, `1:`; what no filter sends elsewhere goes into `default_class`."""
    options = attr(TCA_HTB_INIT, struct.pack("=IIIII", 3, 10, default_class, 0, 0))
    return _qdisc(index, TC_H_ROOT, handle(1), "htb", nested(TCA_OPTIONS, options))


def add_htb_class(index: int, minor: int, *, rate: int, burst: int) -> Request:
    parameters = _rate_spec(rate) * 2
    ticks = _ticks(rate, burst)
    parameters += _HTB_OPT.pack(ticks, ticks, 1 << 17, 0, 0)
    options = attr(TCA_HTB_PARMS, parameters)
    if rate > RATE_MAX:
        options += _u64(TCA_HTB_RATE64, rate) + _u64(TCA_HTB_CEIL64, rate)
    body = _TCMSG.pack(0, index, handle(1, minor), handle(1), 0) + attr_str(TCA_KIND, "htb")
    body += nested(TCA_OPTIONS, options)
    flags = NLM_F_CREATE | NLM_F_EXCL
    return Request(kind=RTM_NEWTCLASS, flags=flags, body=body, what=f"add class 1:{minor:x} to link {index}")


def classify(index: int, subnet: IPNetwork, *, source: bool, minor: int, priority: int) -> Request:
    """Send what comes from (or goes to) the subnet into the class `1:minor`."""
    ipv4 = subnet.version == 4
    offset = {(True, True): 12, (True, False): 16, (False, True): 8, (False, False): 24}[ipv4, source]
    mask, value = subnet.netmask.packed, subnet.network_address.packed
    keys = [(mask[i : i + 4], value[i : i + 4], offset + i) for i in range(0, len(mask), 4)]
    # A word of which nothing is compared would only cost time; one key there must be.
    keys = [key for key in keys if any(key[0])] or keys[:1]
    options = attr_u32(TCA_U32_CLASSID, handle(1, minor)) + _selector(keys)
    protocol = ETH_P_IP if ipv4 else ETH_P_IPV6
    return _filter(index, handle(1), protocol, priority, options, f"match {subnet}")


def redirect_all(index: int, target: int) -> Request:
    """Send all that a link receives out through the link `target` instead; needs `add_ingress`."""
    parameters = _MIRRED.pack(0, 0, TC_ACT_STOLEN, 0, 0, TCA_EGRESS_REDIR, target)
    action = attr_str(TCA_ACT_KIND, "mirred")
    action += nested(TCA_ACT_OPTIONS, attr(TCA_MIRRED_PARMS, parameters))
    options = attr_u32(TCA_U32_CLASSID, handle(1, 1)) + _selector([(bytes(4), bytes(4), 0)])
    options += nested(TCA_U32_ACT, nested(1, action))
    return _filter(index, INGRESS_HANDLE, ETH_P_ALL, 1, options, "redirect")


def _selector(keys: list[tuple[bytes, bytes, int]]) -> bytes:
    head = struct.pack("=BBBxHHhhI", TC_U32_TERMINAL, 0, len(keys), 0, 0, 0, 0, 0)
    packed = [_U32_KEY.pack(mask, value, offset, 0) for mask, value, offset in keys]
    return attr(TCA_U32_SEL, head + b"".join(packed))


def _filter(index: int, parent: int, protocol: int, priority: int, options: bytes, words: str) -> Request:
    info = priority << 16 | int.from_bytes(protocol.to_bytes(2, "big"), "little")
    body = _TCMSG.pack(0, index, 0, parent, info) + attr_str(TCA_KIND, "u32")
    flags = NLM_F_CREATE | NLM_F_EXCL
    what = f"add filter ({words}) to link {index}"
    return Request(kind=RTM_NEWTFILTER, flags=flags, body=body + nested(TCA_OPTIONS, options), what=what)


def delete_root(index: int, *, ingress: bool = False) -> Request:
    """ENOENT or EINVAL when there is none."""
    parent = TC_H_INGRESS if ingress else TC_H_ROOT
    body = _TCMSG.pack(0, index, 0, parent, 0)
    return Request(kind=RTM_DELQDISC, flags=0, body=body, what=f"delete queueing of link {index}")


def dump_qdiscs(index: int) -> Request:
    """The kernel answers for all links; `parse_qdisc` says for which."""
    return Request(
        kind=RTM_GETQDISC, flags=0, body=_TCMSG.pack(0, index, 0, 0, 0), what="list queueing disciplines"
    )


def parse_qdisc(message: Message) -> Qdisc:
    _, index, own, parent, _ = _TCMSG.unpack_from(message.body)
    attrs = parse_attrs(message.body, _TCMSG.size)
    kind = text_of(attrs.get(TCA_KIND))
    found: TokenBucket | None = None
    if kind == "tbf":
        options = parse_attrs(attrs.get(TCA_OPTIONS, b""))
        parameters = options.get(TCA_TBF_PARMS, bytes(36))
        limit, buffer, _ = _TBF.unpack_from(parameters, 2 * _RATESPEC.size)
        rate = _RATESPEC.unpack_from(parameters)[5]
        if TCA_TBF_RATE64 in options:
            rate = struct.unpack("=Q", options[TCA_TBF_RATE64])[0]
        found = TokenBucket(rate=rate, limit=limit, buffer=buffer)
    return Qdisc(index=index, kind=kind, parent=parent, handle=own, bucket=found)


def add_ifb(name: str, *, mtu: int) -> Request:
    """A link whose only use is to have a queue: what is redirected to it comes back where it came from."""
    flags = links.IFF_UP
    body = struct.pack("=BxHiII", 0, 0, 0, flags, flags) + attr_str(links.IFLA_IFNAME, name)
    body += attr_u32(links.IFLA_MTU, mtu)
    body += nested(links.IFLA_LINKINFO, attr_str(links.IFLA_INFO_KIND, "ifb"))
    return Request(kind=links.RTM_NEWLINK, flags=NLM_F_CREATE | NLM_F_EXCL, body=body, what=f"add ifb {name}")
