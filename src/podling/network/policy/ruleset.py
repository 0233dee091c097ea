"""The nftables table as requests: what every packet that a node forwards goes through.

    forward ─▶ established, or the middle of a TCP connection: accept
            ─▶ by map `egress` of the source to its chain: return if allowed, else drop
            ─▶ by map `ingress` of the destination to its chain, likewise

The bridge hands its packets to this hook too (br_netfilter), and services were translated before it. What a
node sends to its own pods, and what they send to it, does not pass here: it is always allowed, as documented.
`nft list table ip podling_policy` shows it.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable, Iterator, Mapping

from podling.linux.netlink import nftables as nft
from podling.linux.netlink.wire import Request
from podling.network.policy.model import MAX_PORT, Allow, Block, Direction, Ports, Rules

TABLE = "podling_policy"
PRIORITY = 10
"""Behind the filter of services: what they refuse is refused with a reason."""
TCP = 6
TCP_FLAGS_OFFSET = 13
TCP_SYN = 0x02
_CT_KNOWN = 1 << 1 | 1 << 2  # NF_CT_STATE_BIT of IP_CT_ESTABLISHED and IP_CT_RELATED, replies included
_KEY, _SCRATCH = 0, 4


def replace_table(rules: Rules) -> list[Request]:
    """The whole table in place of whatever there is."""
    requests = [*remove_table(), nft.add_table(TABLE)]
    for number, name in enumerate(rules.peers, 3):
        requests.append(nft.add_map(TABLE, name, (nft.TYPE_IPV4_ADDR,), number=number))
        requests += nft.add_elements(TABLE, name, [nft.element(_address(ip)) for ip in rules.peers[name]])
    for direction in Direction:
        for name, chain in rules.chains.items():
            if name.startswith(f"{direction}-"):
                requests += _chain(name, direction, chain)
    for number, direction in enumerate(Direction, 1):
        requests.append(nft.add_map(TABLE, direction, (nft.TYPE_IPV4_ADDR,), verdicts=True, number=number))
        requests += _verdicts(direction, rules.isolated.get(direction, {}))
    return [*requests, *_forward()]


def remove_table() -> list[Request]:
    return [nft.add_table(TABLE), nft.delete_table(TABLE)]


def changes(old: Rules, new: Rules) -> list[Request]:
    """From one table to the other: a few elements where the chains stay, else the whole of it."""
    if old.chains != new.chains or old.peers.keys() != new.peers.keys():
        return replace_table(new)
    requests: list[Request] = []
    for name, addresses in new.peers.items():
        before = old.peers[name]
        requests += nft.delete_elements(TABLE, name, [nft.element(_address(ip)) for ip in before - addresses])
        requests += nft.add_elements(TABLE, name, [nft.element(_address(ip)) for ip in addresses - before])
    for direction in Direction:
        was, now = old.isolated.get(direction, {}), new.isolated.get(direction, {})
        gone = [ip for ip, chain in was.items() if now.get(ip) != chain]
        requests += nft.delete_elements(TABLE, direction, [nft.element(_address(ip)) for ip in gone])
        requests += _verdicts(direction, {ip: chain for ip, chain in now.items() if was.get(ip) != chain})
    return requests


def _verdicts(direction: Direction, chains: Mapping[str, str]) -> Iterable[Request]:
    elements = [nft.element(_address(ip), nft.verdict(nft.NFT_JUMP, chain)) for ip, chain in chains.items()]
    return nft.add_elements(TABLE, direction, elements)


def _forward() -> list[Request]:
    known = [
        nft.load_ct_state(_KEY),
        nft.bitwise(_KEY, struct.pack("=I", _CT_KNOWN), bytes(4)),
        nft.equal(_KEY, bytes(4), negated=True),
    ]
    # A connection that was there before its pod had a policy, and so before anybody tracked it, goes on;
    # without a SYN none is made.
    within = [
        nft.load_l4proto(_KEY),
        nft.equal(_KEY, bytes([TCP])),
        nft.load_transport(_KEY, offset=TCP_FLAGS_OFFSET, length=1),
        nft.bitwise(_KEY, bytes([TCP_SYN]), bytes(1)),
        nft.equal(_KEY, bytes(1)),
    ]
    return [
        nft.add_base_chain(TABLE, "forward", kind="filter", hook=nft.NF_INET_FORWARD, priority=PRIORITY),
        nft.add_rule(TABLE, "forward", *known, nft.decide(nft.NF_ACCEPT)),
        nft.add_rule(TABLE, "forward", *within, nft.decide(nft.NF_ACCEPT)),
        nft.add_rule(TABLE, "forward", nft.load_ip_saddr(_KEY), nft.lookup_verdict(Direction.EGRESS, _KEY)),
        nft.add_rule(TABLE, "forward", nft.load_ip_daddr(_KEY), nft.lookup_verdict(Direction.INGRESS, _KEY)),
    ]


def _chain(name: str, direction: Direction, allowed: Iterable[Allow]) -> Iterator[Request]:
    yield nft.add_chain(TABLE, name)
    for allow in allowed:
        peer = _peer(direction, allow)
        for match in map(_port, allow.ports) if allow.ports else [[]]:
            yield nft.add_rule(TABLE, name, *peer, *match, nft.decide(nft.NFT_RETURN))
    yield nft.add_rule(TABLE, name, nft.decide(nft.NF_DROP))


def _peer(direction: Direction, allow: Allow) -> list[bytes]:
    load = nft.load_ip_saddr if direction is Direction.INGRESS else nft.load_ip_daddr
    if allow.peers:
        return [load(_KEY), nft.lookup(allow.peers, _KEY)]
    if allow.block is None:
        return []
    return [expression for part in _in_block(allow.block) for expression in (load(_KEY), *part)]


def _in_block(block: Block) -> Iterator[list[bytes]]:
    for network, negated in ((block.network, False), *((other, True) for other in block.excluded)):
        yield [
            nft.bitwise(_KEY, network.netmask.packed, bytes(4)),
            nft.equal(_KEY, network.network_address.packed, negated=negated),
        ]


def _port(ports: Ports) -> list[bytes]:
    match = [nft.load_l4proto(_SCRATCH), nft.equal(_SCRATCH, bytes([ports.protocol]))]
    if (ports.first, ports.last) == (0, MAX_PORT):
        return match
    match.append(nft.load_dport(_SCRATCH))
    if ports.first == ports.last:
        return [*match, nft.equal(_SCRATCH, struct.pack(">H", ports.first))]
    return [
        *match,
        nft.compare(_SCRATCH, nft.CMP_GTE, struct.pack(">H", ports.first)),
        nft.compare(_SCRATCH, nft.CMP_LTE, struct.pack(">H", ports.last)),
    ]


def _address(ip: str) -> bytes:
    return socket.inet_aton(ip)
