"""The nftables table as requests: what every node has, and the chains that spread over N backends.

    prerouting, output ─▶ services ─▶ by map to cluster-3, node-port-5, ... ─▶ dnat to backends[..., random]
    input, forward, output (filter) ─▶ refused: reject or drop what has no backend
    postrouting ─▶ masquerade what was marked on the way, and what a pod sent to itself

`nft list table ip podling_services` shows it. The mark is one bit, on the first packet of a connection, and
gone when the packet leaves.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Sequence
from dataclasses import replace as replace_fields
from ipaddress import IPv4Network

from podling.linux.netlink import nftables as nft
from podling.linux.netlink.wire import Request
from podling.network.proxy.rules import OUTSIDE, Backend, Chain, Frontend, Kind, Refusal

TABLE = "podling_services"
SERVICES, NODE_PORTS = "services", "node-ports"
BACKENDS, STICKY_BACKENDS, BACKEND_IDS = "backends", "sticky-backends", "backend-ids"
REFUSED, REFUSED_NODE_PORTS = "refused", "refused-node-ports"
AFFINITY, HAIRPIN = "affinity", "hairpin"
MASQUERADE_MARK = 0x4000
"""kube-proxy's."""
AFFINITY_SIZE = 65536
"""Clients remembered; one more is served, but not remembered."""
RTN_LOCAL = 2
LOOPBACK = b"\x7f"

_DST_NAT, _SRC_NAT, _FILTER = -100, 100, 0  # priorities, <linux/netfilter_ipv4.h>
_CT_NEW = 1 << 3  # NF_CT_STATE_BIT(IP_CT_NEW)
_CT_DST_NAT = 1 << 5  # IPS_DST_NAT

# Registers. A frontend is address, protocol, port in _KEY, _KEY+1, _KEY+2, then the backend's number.
_KEY, _NUMBER, _BACKEND, _CLIENT, _ID = 0, 3, 4, 8, 12
_SCRATCH = 15


def base(cluster_cidr: IPv4Network | None, service_cidr: IPv4Network | None) -> list[Request]:
    """The empty table, in place of whatever was there."""
    return [
        nft.add_table(TABLE),
        nft.delete_table(TABLE),
        nft.add_table(TABLE),
        *_maps(),
        *_from_outside(cluster_cidr),
        *_services(),
        *_refusals(service_cidr),
        *_postrouting(),
    ]


def _maps() -> list[Request]:
    frontend = (nft.TYPE_IPV4_ADDR, nft.TYPE_INET_PROTO, nft.TYPE_INET_SERVICE)
    port = frontend[1:]
    backend = (nft.TYPE_IPV4_ADDR, nft.TYPE_INET_SERVICE)
    return [
        nft.add_map(TABLE, SERVICES, frontend, verdicts=True, number=1),
        nft.add_map(TABLE, NODE_PORTS, port, verdicts=True, number=2),
        nft.add_map(TABLE, BACKENDS, (*frontend, nft.TYPE_MARK), backend, number=3),
        nft.add_map(TABLE, REFUSED, frontend, verdicts=True, number=4),
        nft.add_map(TABLE, REFUSED_NODE_PORTS, port, verdicts=True, number=5),
        nft.add_map(
            TABLE,
            AFFINITY,
            (nft.TYPE_IPV4_ADDR, *frontend),
            (nft.TYPE_MARK,),
            number=6,
            timeouts=True,
            size=AFFINITY_SIZE,
        ),
        nft.add_map(TABLE, STICKY_BACKENDS, (*frontend, nft.TYPE_MARK), (nft.TYPE_MARK,), number=8),
        nft.add_map(TABLE, BACKEND_IDS, (nft.TYPE_MARK,), backend, number=9),
        nft.add_map(TABLE, HAIRPIN, (nft.TYPE_IPV4_ADDR, nft.TYPE_IPV4_ADDR), number=7),
    ]


def _from_outside(cluster_cidr: IPv4Network | None) -> list[Request]:
    mark = [nft.load_mark(0), nft.bitwise(0, _u32(~MASQUERADE_MARK), _u32(MASQUERADE_MARK)), nft.set_mark(0)]
    requests = [
        nft.add_chain(TABLE, "mark-masquerade"),
        nft.add_rule(TABLE, "mark-masquerade", *mark),
        nft.add_chain(TABLE, "from-outside"),
    ]
    # Without a pod range nothing tells pods from others; then nothing to a cluster IP is masqueraded.
    if cluster_cidr is not None:
        requests += [
            nft.add_rule(
                TABLE,
                "from-outside",
                nft.load_ip_saddr(0),
                nft.bitwise(0, cluster_cidr.netmask.packed, bytes(4)),
                nft.equal(0, cluster_cidr.network_address.packed),
                nft.decide(nft.NFT_RETURN),
            ),
            nft.add_rule(TABLE, "from-outside", nft.decide(nft.NFT_GOTO, "mark-masquerade")),
        ]
    return requests


def _services() -> list[Request]:
    requests = [
        nft.add_chain(TABLE, "services"),
        nft.add_rule(TABLE, "services", *_load_frontend(_KEY), nft.lookup_verdict(SERVICES, _KEY)),
        nft.add_rule(TABLE, "services", *_to_node_port(), nft.lookup_verdict(NODE_PORTS, _KEY + 1)),
    ]
    hooks = (("prerouting", nft.NF_INET_PRE_ROUTING), ("output", nft.NF_INET_LOCAL_OUT))
    for name, hook in hooks:
        requests += [
            nft.add_base_chain(TABLE, name, kind="nat", hook=hook, priority=_DST_NAT),
            nft.add_rule(TABLE, name, nft.decide(nft.NFT_JUMP, "services")),
        ]
    return requests


def _refusals(service_cidr: IPv4Network | None) -> list[Request]:
    requests = [
        nft.add_chain(TABLE, "reject"),
        nft.add_rule(TABLE, "reject", nft.reject()),
        nft.add_chain(TABLE, "refused"),
        nft.add_rule(TABLE, "refused", *_load_frontend(_KEY), nft.lookup_verdict(REFUSED, _KEY)),
        nft.add_rule(TABLE, "refused", *_to_node_port(), nft.lookup_verdict(REFUSED_NODE_PORTS, _KEY + 1)),
    ]
    if service_cidr is not None:
        # What was not translated by now is for no service: it must not wander off by a default route.
        requests.append(
            nft.add_rule(
                TABLE,
                "refused",
                nft.load_ip_daddr(0),
                nft.bitwise(0, service_cidr.netmask.packed, bytes(4)),
                nft.equal(0, service_cidr.network_address.packed),
                nft.decide(nft.NFT_GOTO, "reject"),
            )
        )
    hooks = (
        ("filter-input", nft.NF_INET_LOCAL_IN),
        ("filter-forward", nft.NF_INET_FORWARD),
        ("filter-output", nft.NF_INET_LOCAL_OUT),
    )
    for name, hook in hooks:
        new = [
            nft.load_ct_state(0),
            nft.bitwise(0, _u32(_CT_NEW), bytes(4)),
            nft.equal(0, bytes(4), negated=True),
        ]
        requests += [
            nft.add_base_chain(TABLE, name, kind="filter", hook=hook, priority=_FILTER),
            nft.add_rule(TABLE, name, *new, nft.decide(nft.NFT_JUMP, "refused")),
        ]
    return requests


def _postrouting() -> list[Request]:
    marked = [
        nft.load_mark(0),
        nft.bitwise(0, _u32(MASQUERADE_MARK), bytes(4)),
        nft.equal(0, bytes(4), negated=True),
    ]
    unmark = [nft.load_mark(0), nft.bitwise(0, _u32(~MASQUERADE_MARK), bytes(4)), nft.set_mark(0)]
    translated = [
        nft.load_ct_status(0),
        nft.bitwise(0, _u32(_CT_DST_NAT), bytes(4)),
        nft.equal(0, bytes(4), negated=True),
    ]
    to_itself = [nft.load_ip_saddr(0), nft.load_ip_daddr(1), nft.lookup(HAIRPIN, 0)]
    return [
        nft.add_base_chain(
            TABLE, "postrouting", kind="nat", hook=nft.NF_INET_POST_ROUTING, priority=_SRC_NAT
        ),
        nft.add_rule(TABLE, "postrouting", *marked, *unmark, nft.masquerade()),
        nft.add_rule(TABLE, "postrouting", *translated, *to_itself, nft.masquerade()),
    ]


# --- chains for N backends


def chain(wanted: Chain) -> list[Request]:
    """The chain and its rules, as one packet goes through them."""
    name, kind = wanted.name, wanted.kind
    rules: list[list[bytes]] = []
    node_port = kind in (Kind.NODE_PORT, Kind.NODE_PORT_LOCAL)
    first: list[Request] = []
    match kind:
        case Kind.CLUSTER:
            rules.append([nft.decide(nft.NFT_JUMP, "from-outside")])
        case Kind.EXTERNAL | Kind.NODE_PORT:
            rules.append([nft.decide(nft.NFT_JUMP, "mark-masquerade")])
        case _:
            # Pods and this node's processes may use any backend; they are told by where the packet is from.
            inside = f"{name}-inside"
            first = [nft.add_chain(TABLE, inside)]
            first += [nft.add_rule(TABLE, inside, *rule) for rule in _spread(wanted, node_port=node_port)]
            rules += _inside_first(inside)
    if kind in (Kind.EXTERNAL_LOCAL, Kind.NODE_PORT_LOCAL):
        if wanted.local:
            rules += _spread(replace_fields(wanted, count=wanted.local), node_port=node_port, offset=OUTSIDE)
        else:
            rules.append([nft.decide(nft.NF_DROP)])
    else:
        rules += _spread(wanted, node_port=node_port)
    return [*first, nft.add_chain(TABLE, name), *(nft.add_rule(TABLE, name, *rule) for rule in rules)]


def _inside_first(chain_name: str) -> list[list[bytes]]:
    """Packets of this node's processes (masqueraded) and of pods go to `chain_name`; others go on."""
    local = [nft.load_fib_type(0, source=True), nft.equal(0, struct.pack("=I", RTN_LOCAL))]
    return [
        [*local, nft.decide(nft.NFT_JUMP, "mark-masquerade")],
        [*local, nft.decide(nft.NFT_GOTO, chain_name)],
        [nft.decide(nft.NFT_JUMP, "from-outside")],
        [
            nft.load_mark(0),
            nft.bitwise(0, _u32(MASQUERADE_MARK), bytes(4)),
            nft.equal(0, bytes(4)),
            nft.decide(nft.NFT_GOTO, chain_name),
        ],
        # Marked above only to be told apart: what comes from outside keeps its address.
        [nft.load_mark(0), nft.bitwise(0, _u32(~MASQUERADE_MARK), bytes(4)), nft.set_mark(0)],
    ]


def _spread(wanted: Chain, *, node_port: bool, offset: int = 0) -> list[list[bytes]]:
    load = _load_node_port if node_port else _load_frontend
    number = [*load(_KEY), nft.load_random(_NUMBER, below=wanted.count, offset=offset)]
    translate = nft.dnat(_BACKEND, _BACKEND + 1)
    if not wanted.sticky_s:
        return [[*number, nft.lookup(BACKENDS, _KEY, _BACKEND), translate]]
    client = [nft.load_ip_saddr(_CLIENT), *load(_CLIENT + 1)]
    # Through the packet's priority: nft 1.0.6 aborts when it is to list a rule that puts straight into
    # one map what another gave, and the program that aborts may be ours. Routing sets the priority anew.
    keep = [nft.set_priority(_ID), nft.load_priority(_ID)]
    remember = nft.update(AFFINITY, _CLIENT, _ID, timeout_s=wanted.sticky_s)
    to_backend = [nft.lookup(BACKEND_IDS, _ID, _BACKEND), translate]
    pick = [*number, nft.lookup(STICKY_BACKENDS, _KEY, _ID), *keep]
    return [
        [*client, nft.lookup(AFFINITY, _CLIENT, _ID), *keep, remember, *to_backend],
        [*pick, *client, remember, *to_backend],
        [*pick, *to_backend],  # no room to remember
    ]


def _load_frontend(register: int) -> list[bytes]:
    return [
        nft.load_ip_daddr(register),
        nft.load_l4proto(register + 1),
        nft.load_dport(register + 2),
    ]


def _load_node_port(register: int) -> list[bytes]:
    return [
        nft.load_immediate(register, bytes(4)),
        nft.load_l4proto(register + 1),
        nft.load_dport(register + 2),
    ]


def _to_node_port() -> list[bytes]:
    """Matches packets to an address of this node other than its loopback; loads protocol and port."""
    return [
        nft.load_l4proto(_KEY + 1),
        nft.load_dport(_KEY + 2),
        nft.load_ip_daddr(_SCRATCH),
        nft.bitwise(_SCRATCH, b"\xff\0\0\0", bytes(4)),
        nft.equal(_SCRATCH, LOOPBACK + bytes(3), negated=True),
        nft.load_fib_type(_SCRATCH, source=False),
        nft.equal(_SCRATCH, struct.pack("=I", RTN_LOCAL)),
    ]


# --- elements


def frontend_element(frontend: Frontend, target: Chain | Refusal) -> tuple[str, bytes, bytes]:
    """Map, key and value."""
    node_port = frontend.address == "0.0.0.0"
    if isinstance(target, Chain):
        name = NODE_PORTS if node_port else SERVICES
        data = nft.verdict(nft.NFT_GOTO, target.name)
    else:
        name = REFUSED_NODE_PORTS if node_port else REFUSED
        data = nft.verdict(nft.NFT_GOTO, "reject") if target is Refusal.REJECT else nft.verdict(nft.NF_DROP)
    key = frontend_key(frontend)
    return name, key[4:] if node_port else key, data


def frontend_key(frontend: Frontend) -> bytes:
    return socket.inet_aton(frontend.address) + struct.pack(">BxxxHxx", frontend.protocol, frontend.port)


def backend_element(frontend: Frontend, number: int, backend: Backend) -> tuple[str, bytes, bytes]:
    return BACKENDS, backend_key(frontend, number), nft.value(backend_value(backend))


def sticky_element(frontend: Frontend, number: int, ident: int) -> tuple[str, bytes, bytes]:
    """Where clients stick, a frontend's numbers lead to the backend's identity: numbers change hands."""
    return STICKY_BACKENDS, backend_key(frontend, number), nft.value(id_key(ident))


def id_key(ident: int) -> bytes:
    return struct.pack("=I", ident)


def backend_key(frontend: Frontend, number: int) -> bytes:
    return frontend_key(frontend) + struct.pack("=I", number)


def backend_value(backend: Backend) -> bytes:
    return socket.inet_aton(backend.address) + struct.pack(">Hxx", backend.port)


def hairpin_key(address: str) -> bytes:
    return socket.inet_aton(address) * 2


def replace(
    name: str, removed: Sequence[bytes], added: Sequence[tuple[bytes, bytes | None]]
) -> list[Request]:
    """Requests that take keys out of a map and put elements in, in this order."""
    return [
        *nft.delete_elements(TABLE, name, [nft.element(key) for key in removed]),
        *nft.add_elements(TABLE, name, [nft.element(key, data) for key, data in added]),
    ]


def _u32(number: int) -> bytes:
    """A number in host byte order, as marks and states are."""
    return struct.pack("=I", number & 0xFFFFFFFF)
