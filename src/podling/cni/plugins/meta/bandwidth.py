"""bandwidth: limits how fast a container receives and sends.

A chained plugin for containers behind a veth. What the container receives leaves the host end of its veth,
where a token bucket (tbf) holds it back. What it sends arrives there, where nothing can be held back; so it
is redirected to an `ifb` link of its own, whose queue has the second bucket.

Rates (`ingressRate`, `egressRate`, bits a second) and bursts (`ingressBurst`, `egressBurst`, bits) come in
pairs, from the configuration or from the capability `bandwidth`; the configuration goes first.
`shapedSubnets` limits only traffic with those peers, `unshapedSubnets` all but that. Names and numbers in the
kernel are the reference plugin's.
"""

from __future__ import annotations

import errno
import ipaddress
import os

from podling.cni.plugins import skel
from podling.cni.plugins.meta.chained import Keys, chained_result, unsupported_kernel
from podling.cni.types import (
    CHECK_FAILED,
    INVALID_CONFIG,
    KERNEL_REFUSED,
    Args,
    CNIError,
    Interface,
    Result,
)
from podling.linux.netlink import Netlink, NetlinkError, qdisc
from podling.linux.record import record, replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from podling.cni.types import IPNetwork
    from podling.linux.netlink import Link, Request

IFB_PREFIX = "bwp"
IFNAME_MAX = 15
LATENCY_S = 0.025  # how long a packet may wait for its tokens before it is dropped
BURST_MAX = 8 * 0xFFFFFFFF  # bits: "4 GB"
RATE_UNLIMITED = 100_000_000_000 // 8  # bytes a second, for the class nothing is held back in
SHAPED, UNSHAPED = 0x30, 0x10  # minor numbers of the htb classes


@record
class Limit:
    """One direction; nothing is limited when it is zero."""

    rate: int = 0  # bits a second
    burst: int = 0  # bits

    def bucket(self) -> qdisc.TokenBucket:
        return qdisc.bucket(self.rate // 8, self.burst // 8, latency_s=LATENCY_S)


@record
class BandwidthConf:
    """Options of the reference plugin's documentation ("bandwidth plugin")."""

    ingress: Limit = Limit()  # what the container receives
    egress: Limit = Limit()  # what it sends
    shaped: tuple[IPNetwork, ...] = ()
    unshaped: tuple[IPNetwork, ...] = ()


_FIELDS = ("ingressRate", "ingressBurst", "egressRate", "egressBurst", "shapedSubnets", "unshapedSubnets")


def _parse(args: Args) -> BandwidthConf:
    options = Keys("bandwidth", args.conf)
    given = options
    if not any(args.conf.get(field) for field in _FIELDS[:4]):
        given = options.part("runtimeConfig").part("bandwidth")
    subnets = options if any(args.conf.get(field) for field in _FIELDS[4:]) else given
    conf = BandwidthConf(
        ingress=_limit(given, "ingress"),
        egress=_limit(given, "egress"),
        shaped=_subnets(subnets, "shapedSubnets"),
        unshaped=_subnets(subnets, "unshapedSubnets"),
    )
    if conf.shaped and conf.unshaped:
        options.fault("unshapedSubnets and shapedSubnets cannot be both specified")
    options.done()
    return conf


def _limit(options: Keys, direction: str) -> Limit:
    rate = options.get(f"{direction}Rate", int, 0)
    burst = options.get(f"{direction}Burst", int, 0)
    for wrong, words in (
        (rate < 0 or burst < 0, "rate and burst must be a positive integer"),
        (rate and not burst, "if rate is set, burst must also be set"),
        (burst and not rate, "if burst is set, rate must also be set"),
        (0 < rate < 8, "a rate below 8 bits a second lets nothing through"),
        (burst >= BURST_MAX, "burst cannot be more than 4GB"),
    ):
        if wrong:
            options.fault(f"{direction}: {words}")
    return Limit(rate=rate, burst=burst)


def _subnets(options: Keys, key: str) -> tuple[IPNetwork, ...]:
    found = []
    for text in options.texts(key):
        try:
            found.append(ipaddress.ip_network(text, strict=False))
        except ValueError:
            options.fault(f"bad subnet {text!r} provided in {key}")
    return tuple(found)


# --- ADD


def _add(args: Args) -> Result:
    conf = _parse(args)
    if not (conf.ingress.rate or conf.egress.rate):
        previous = args.prev_result()
        return Result() if previous is None else previous
    result = chained_result(args)
    with Netlink() as host:
        port = _host_end(args, result, host)
        try:
            if conf.ingress.rate:
                _execute(host, _shaper(port.index, conf.ingress, conf, to_container=True))
            if conf.egress.rate:
                ifb = _redirect(args, conf, host, port)
                made = Interface(name=ifb.name, mac=ifb.mac, mtu=ifb.mtu)
                result = replace(result, interfaces=(*result.interfaces, made))
        except BaseException:
            _undo(args, host, port)
            raise
    return result


def _host_end(args: Args, result: Result, host: Netlink) -> Link:
    """The host's end of the container's veth, which must be an interface of the result."""
    netns = skel.open_sandbox(args)
    try:
        with Netlink(netns) as inside:
            link = inside.link_find(args.ifname)
    finally:
        os.close(netns)
    if link is None or link.kind != "veth" or not link.peer_index:
        raise CNIError(
            KERNEL_REFUSED,
            f"container interface {args.ifname} has no veth peer",
            "only containers behind a veth (bridge, ptp) can be limited",
        )
    port = host.link_find(link.peer_index)
    if port is None or port.kind != "veth" or port.peer_index != link.index:
        raise CNIError(KERNEL_REFUSED, f"veth peer with index {link.peer_index} is not in host ns")
    if not any(i.name == port.name and not i.sandbox for i in result.interfaces):
        raise CNIError(INVALID_CONFIG, "no veth peer of container interface found in host ns")
    return port


def _shaper(index: int, limit: Limit, conf: BandwidthConf, *, to_container: bool) -> list[Request]:
    """The queue of a link: one bucket, or two classes when only some traffic is limited."""
    if not (conf.shaped or conf.unshaped):
        return [qdisc.add_tbf(index, limit.bucket())]
    chosen, others = (SHAPED, UNSHAPED) if conf.shaped else (UNSHAPED, SHAPED)
    requests = [
        qdisc.add_htb(index, default_class=others),
        qdisc.add_htb_class(index, SHAPED, rate=limit.rate // 8, burst=limit.burst // 8),
        qdisc.add_htb_class(index, UNSHAPED, rate=RATE_UNLIMITED, burst=1 << 20),
    ]
    requests += [
        # The peer is the sender of what the container receives. Each family needs a priority of its own.
        qdisc.classify(index, subnet, source=to_container, minor=chosen, priority=subnet.version)
        for subnet in conf.shaped or conf.unshaped
    ]
    return requests


def _redirect(args: Args, conf: BandwidthConf, host: Netlink, port: Link) -> Link:
    name = ifb_name(args.name, args.container_id)
    try:
        host.execute(qdisc.add_ifb(name, mtu=port.mtu))
        # The kernel takes an alias only for a link that exists.
        host.link_set(name, alias=_alias(args.name))
    except NetlinkError as err:
        if err.errno == errno.EOPNOTSUPP:
            raise unsupported_kernel("bandwidth", "ifb links, which limit egress", "CONFIG_IFB") from err
        raise
    ifb = host.link_get(name)
    _execute(host, _shaper(ifb.index, conf.egress, conf, to_container=False))
    _execute(host, [qdisc.add_ingress(port.index), qdisc.redirect_all(port.index, ifb.index)])
    return ifb


def _execute(host: Netlink, requests: list[Request]) -> None:
    try:
        for request in requests:  # one by one: each builds on the one before
            host.execute(request)
    except NetlinkError as err:
        if err.errno in (errno.ENOENT, errno.EOPNOTSUPP):
            needed = "CONFIG_NET_SCH_TBF, _INGRESS and _HTB, CONFIG_NET_CLS_U32, CONFIG_NET_ACT_MIRRED"
            raise unsupported_kernel(
                "bandwidth", f"traffic control for this ({err.strerror})", needed
            ) from err
        raise


def ifb_name(network: str, container_id: str) -> str:
    from hashlib import sha512  # 7 ms that only limited containers pay

    digest = sha512((network + container_id).encode()).hexdigest()
    return (IFB_PREFIX + digest)[:IFNAME_MAX]


def _alias(network: str) -> str:
    """What GC knows a network's ifb links by: their names are hashes."""
    return f"cni:{network}"


def _undo(args: Args, host: Netlink, port: Link) -> None:
    host.link_del(ifb_name(args.name, args.container_id), missing_ok=True)
    for ingress in (False, True):
        try:
            host.execute(qdisc.delete_root(port.index, ingress=ingress))
        except NetlinkError:
            continue  # not made yet


# --- DEL, GC, CHECK


def _delete(args: Args) -> None:
    """The ifb link; buckets go with the host end of the veth, which is another plugin's to delete."""
    with Netlink() as host:
        host.link_del(ifb_name(args.name, args.container_id), missing_ok=True)


def _gc(args: Args) -> None:
    kept = {ifb_name(args.name, container_id) for container_id, _ in args.valid_attachments}
    with Netlink() as host:
        for link in host.link_list(kind="ifb"):
            if link.alias == _alias(args.name) and link.name not in kept:
                host.link_del(link.index, missing_ok=True)


def _check(args: Args) -> None:
    conf = _parse(args)
    if not (conf.ingress.rate or conf.egress.rate):
        return
    result = chained_result(args)
    with Netlink() as host:
        port = _host_end(args, result, host)
        if conf.ingress.rate:
            _check_queue(host, port, conf.ingress, conf)
        if conf.egress.rate:
            name = ifb_name(args.name, args.container_id)
            ifb = host.link_find(name)
            if ifb is None:
                raise CNIError(CHECK_FAILED, f"ifb link {name} is gone")
            _check_queue(host, ifb, conf.egress, conf)
            if not any(q.kind == "ingress" for q in _queues(host, port)):
                raise CNIError(CHECK_FAILED, f"nothing is redirected from {port.name} to {name}")


def _queues(host: Netlink, link: Link) -> list[qdisc.Qdisc]:
    found = [qdisc.parse_qdisc(message) for message in host.dump(qdisc.dump_qdiscs(link.index))]
    return [one for one in found if one.index == link.index]


def _check_queue(host: Netlink, link: Link, limit: Limit, conf: BandwidthConf) -> None:
    root = next((q for q in _queues(host, link) if q.parent == qdisc.TC_H_ROOT), None)
    kind = "htb" if conf.shaped or conf.unshaped else "tbf"
    if root is None or root.kind != kind:
        raise CNIError(CHECK_FAILED, f"Failed to find qdisc {kind} on {link.name}")
    if root.bucket is None:
        return
    wanted = limit.bucket()
    for what in ("rate", "limit", "buffer"):
        if getattr(root.bucket, what) != getattr(wanted, what):
            raise CNIError(
                CHECK_FAILED,
                f"{what.capitalize()} doesn't match on {link.name}: it is {getattr(root.bucket, what)}, "
                f"not {getattr(wanted, what)}",
            )


PLUGIN = skel.Plugin(name="bandwidth", add=_add, delete=_delete, check=_check, gc=_gc)
