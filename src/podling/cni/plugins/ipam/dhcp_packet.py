"""DHCP messages and the IPv4 and UDP headers around them (RFC 2131, RFC 2132, RFC 3442). Pure; no sockets."""

from __future__ import annotations

import ipaddress
import struct

from podling.cni.types import CNIRoute
from podling.linux.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

SERVER_PORT, CLIENT_PORT = 67, 68
BOOTREQUEST, BOOTREPLY = 1, 2
DISCOVER, OFFER, REQUEST, DECLINE, ACK, NAK, RELEASE = 1, 2, 3, 4, 5, 6, 7
MAGIC = bytes((99, 130, 83, 99))
FLAG_BROADCAST = 0x8000
SIZE_MIN = 300  # bytes: some relays drop what is shorter (RFC 1542, section 2.1)

# Options by the names of RFC 2132, as they are numbered.
PAD, SUBNET_MASK, ROUTER, DNS_SERVER, HOST_NAME, DOMAIN_NAME = 0, 1, 3, 6, 12, 15
STATIC_ROUTE, REQUESTED_IP, LEASE_TIME, MESSAGE_TYPE, SERVER_ID = 33, 50, 51, 53, 54
PARAMETER_LIST, ERROR_MESSAGE, RENEWAL_TIME, REBINDING_TIME = 55, 56, 58, 59
VENDOR_CLASS, CLIENT_ID, USER_CLASS, CLASSLESS_ROUTES, END = 60, 61, 77, 121, 255

_HEADER = struct.Struct("!BBBBIHH4s4s4s4s16s192x")
_IP = struct.Struct("!BBHHHBBH4s4s")
_UDP = struct.Struct("!HHHH")


@record
class DHCPMessage:
    kind: int  # of option 53
    xid: int
    mac: bytes
    client: ipaddress.IPv4Address = ipaddress.IPv4Address(0)  # ciaddr: when it has one already
    yours: ipaddress.IPv4Address = ipaddress.IPv4Address(0)  # yiaddr: what the server gives
    options: Mapping[int, bytes]  # without option 53


def encode(message: DHCPMessage, *, broadcast: bool = False) -> bytes:
    """A client's message."""
    nobody = bytes(4)
    head = _HEADER.pack(
        BOOTREQUEST,
        1,  # Ethernet
        6,
        0,
        message.xid,
        0,
        FLAG_BROADCAST if broadcast else 0,
        message.client.packed,
        nobody,
        nobody,
        nobody,
        message.mac,
    )
    options = bytes((MESSAGE_TYPE, 1, message.kind))
    for code, value in sorted(message.options.items()):
        for start in range(0, max(len(value), 1), 255):  # longer values are split (RFC 3396)
            part = value[start : start + 255]
            options += bytes((code, len(part))) + part
    return (head + MAGIC + options + bytes((END,))).ljust(SIZE_MIN, b"\0")


def decode(data: bytes) -> DHCPMessage | None:
    """A server's message; None for what is none."""
    if len(data) < _HEADER.size + 4 or data[_HEADER.size : _HEADER.size + 4] != MAGIC:
        return None
    operation, _, _, _, xid, _, _, client, yours, _, _, mac = _HEADER.unpack_from(data)
    options: dict[int, bytes] = {}
    place = _HEADER.size + 4
    while place < len(data) and data[place] != END:
        code = data[place]
        if code == PAD:
            place += 1
            continue
        if place + 1 >= len(data):
            return None
        size = data[place + 1]
        options[code] = options.get(code, b"") + data[place + 2 : place + 2 + size]
        place += 2 + size
    kind = options.pop(MESSAGE_TYPE, b"")
    if operation != BOOTREPLY or len(kind) != 1:
        return None
    return DHCPMessage(
        kind=kind[0],
        xid=xid,
        mac=mac[:6],
        client=ipaddress.IPv4Address(client),
        yours=ipaddress.IPv4Address(yours),
        options=options,
    )


# --- the headers, since a client without an address cannot leave them to the kernel


def wrap(payload: bytes, *, source: ipaddress.IPv4Address, target: ipaddress.IPv4Address) -> bytes:
    """The IPv4 packet from the client's port to the server's."""
    udp = _UDP.pack(CLIENT_PORT, SERVER_PORT, _UDP.size + len(payload), 0)
    pseudo = source.packed + target.packed + struct.pack("!BBH", 0, 17, len(udp) + len(payload))
    udp = udp[:6] + struct.pack("!H", _checksum(pseudo + udp + payload) or 0xFFFF)
    size = _IP.size + len(udp) + len(payload)
    head = _IP.pack(0x45, 0xC0, size, 0, 0x4000, 64, 17, 0, source.packed, target.packed)
    head = head[:10] + struct.pack("!H", _checksum(head)) + head[12:]
    return head + udp + payload


def unwrap(packet: bytes) -> bytes | None:
    """The UDP payload of a packet for the client's port.

    Checksums are not looked at: between virtual links they are often left to be filled in by hardware.
    """
    if len(packet) < _IP.size or packet[0] >> 4 != 4 or packet[9] != 17:
        return None
    start = (packet[0] & 15) * 4
    if len(packet) < start + _UDP.size or struct.unpack_from("!H", packet, 6)[0] & 0x3FFF:
        return None  # cut off, or a fragment
    _, port, size, _ = _UDP.unpack_from(packet, start)
    return packet[start + _UDP.size : start + size] if port == CLIENT_PORT else None


def _checksum(data: bytes) -> int:
    total: int = sum(struct.unpack(f"!{(len(data) + 1) // 2}H", data + bytes(len(data) & 1)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


# --- reading options


def addresses(raw: bytes) -> list[ipaddress.IPv4Address]:
    return [ipaddress.IPv4Address(raw[i : i + 4]) for i in range(0, len(raw) - 3, 4)]


def number(raw: bytes | None, default: int) -> int:
    return int.from_bytes(raw, "big") if raw else default


def prefix_length(mask: bytes | None) -> int:
    """Of a subnet mask; without one the address stands alone."""
    return int.from_bytes(mask, "big").bit_count() if mask and len(mask) == 4 else 32


def routes(options: Mapping[int, bytes]) -> tuple[CNIRoute, ...]:
    """Classless routes when there are any, and then only these (RFC 3442), else the old ones and routers."""
    if found := _classless_routes(options.get(CLASSLESS_ROUTES, b"")):
        return tuple(found)
    pairs = addresses(options.get(STATIC_ROUTE, b""))
    old = [
        CNIRoute(dst=ipaddress.ip_network((target, _classful_length(target)), strict=False), gw=gateway)
        for target, gateway in zip(pairs[::2], pairs[1::2], strict=False)
    ]
    everywhere = ipaddress.ip_network("0.0.0.0/0")
    routers = addresses(options.get(ROUTER, b""))[:1]
    return (*old, *(CNIRoute(dst=everywhere, gw=router) for router in routers))


def _classless_routes(raw: bytes) -> list[CNIRoute]:
    found, place = [], 0
    while place < len(raw):
        length = raw[place]
        size = (length + 7) // 8
        if length > 32 or place + 1 + size + 4 > len(raw):
            return []  # a broken list is worth nothing
        target = ipaddress.IPv4Address(raw[place + 1 : place + 1 + size].ljust(4, b"\0"))
        gateway = ipaddress.IPv4Address(raw[place + 1 + size : place + 5 + size])
        place += 5 + size
        direct = gateway.is_unspecified
        found.append(
            CNIRoute(
                dst=ipaddress.ip_network((target, length), strict=False),
                gw=None if direct else gateway,
                scope=253 if direct else None,
            )
        )
    return found


def _classful_length(target: ipaddress.IPv4Address) -> int:
    first = target.packed[0]
    return 8 if first < 128 else 16 if first < 192 else 24
