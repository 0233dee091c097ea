"""Telling a network where an IPv4 address is now: gratuitous ARP (RFC 5227, "Announcing an Address").

Neighbours that know another place for the address change their mind; others do not care.
"""

from __future__ import annotations

import socket
import struct
from ipaddress import IPv4Address

ETH_P_ARP = 0x0806
_BROADCAST = b"\xff" * 6
_ETHERNET, _REQUEST = 1, 1


def announce(ifname: str, mac: str, address: IPv4Address) -> None:
    """Send one announcement on a link. Raises OSError (CAP_NET_RAW is needed)."""
    hardware = bytes.fromhex(mac.replace(":", ""))
    frame = _BROADCAST + hardware + struct.pack(">H", ETH_P_ARP)
    frame += struct.pack(">HHBBH", _ETHERNET, 0x0800, 6, 4, _REQUEST)
    frame += hardware + address.packed + bytes(6) + address.packed
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sender:
        sender.bind((ifname, 0))
        sender.send(frame)
