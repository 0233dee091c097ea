"""A small DHCP client: gets, renews and gives back one lease of one interface (RFC 2131, section 4.4).

Packets go through a packet socket inside the interface's namespace, opened for each exchange: before the
lease the interface has no address, and a socket that stays open would read all of the container's traffic.
Blocks; the daemon gives each exchange a thread.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import time

from podling.cni.plugins.ipam import dhcp_packet as packet
from podling.cni.plugins.ipam.dhcp_packet import DHCPMessage
from podling.linux.netlink import Netlink
from podling.linux.netns import run_in_netns
from podling.linux.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

ETH_P_IP = 0x0800
BROADCAST_MAC = b"\xff" * 6
BROADCAST, NOBODY = ipaddress.IPv4Address("255.255.255.255"), ipaddress.IPv4Address(0)
INFINITE_S = 0xFFFFFFFF
FIRST_RESEND_S = (
    1.0  # doubled each time. RFC 2131 has 4 s; a bridge in the same machine loses nothing that long
)
LEASE_DEFAULT_S = 3600


class DHCPError(Exception):
    """No lease: nobody answers, or the server refuses."""


@record
class Settings:
    """Of the daemon, for every exchange."""

    timeout_s: float = 10.0  # for one exchange
    resend_max_s: float = 62.0  # between two sendings
    broadcast: bool = False  # ask servers to answer by broadcast


@record
class Interface:
    netns: str
    name: str


@record
class Lease:
    """What a server has given. Times are wall-clock seconds since 1970, so that they outlive the daemon."""

    address: ipaddress.IPv4Address
    options: Mapping[int, bytes]
    server: ipaddress.IPv4Address
    server_mac: bytes
    obtained: float

    @property
    def duration_s(self) -> int:
        return packet.number(self.options.get(packet.LEASE_TIME), LEASE_DEFAULT_S)

    @property
    def renew_at(self) -> float:
        """T1: from here on its server is asked; half of the lease unless it says otherwise."""
        return self._at(packet.RENEWAL_TIME, 0.5)

    @property
    def rebind_at(self) -> float:
        """T2: from here on any server is asked."""
        return self._at(packet.REBINDING_TIME, 0.875)

    @property
    def expires_at(self) -> float:
        return self._at(packet.LEASE_TIME, 1.0)

    def _at(self, option: int, share: float) -> float:
        if self.duration_s == INFINITE_S:
            return float("inf")
        return self.obtained + packet.number(self.options.get(option), int(self.duration_s * share))


class Exchange:
    """A transaction on an interface. A context manager; the link is brought up if it is down."""

    def __init__(self, interface: Interface, settings: Settings) -> None:
        self._settings = settings
        self._name = interface.name
        with Netlink(interface.netns) as nl:
            link = nl.link_get(interface.name)
            if not link.up:
                nl.link_set(link.index, up=True)
        self._mac = bytes.fromhex(link.mac.replace(":", ""))
        self._socket = run_in_netns(interface.netns, self._open)
        self._xid = int.from_bytes(os.urandom(4), "big")

    def _open(self) -> socket.socket:
        opened = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ETH_P_IP))
        opened.bind((self._name, ETH_P_IP))
        return opened

    def __enter__(self) -> Exchange:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def acquire(self, options: Mapping[int, bytes]) -> Lease:
        """DISCOVER, and REQUEST of the first offer. `DHCPError` when nobody offers anything in time."""
        deadline = time.monotonic() + self._settings.timeout_s
        offer, _ = self._ask(packet.DISCOVER, options, {packet.OFFER}, deadline)
        server = packet.addresses(offer.options.get(packet.SERVER_ID, b""))
        wanted = {packet.REQUESTED_IP: offer.yours.packed}
        if server:
            wanted[packet.SERVER_ID] = server[0].packed
        return self._lease(
            *self._ask(packet.REQUEST, {**options, **wanted}, {packet.ACK, packet.NAK}, deadline)
        )

    def renew(self, lease: Lease, options: Mapping[int, bytes], *, rebind: bool = False) -> Lease:
        """REQUEST of the address one has, from its server or (`rebind`) from any."""
        deadline = time.monotonic() + self._settings.timeout_s
        wanted = {packet.ACK, packet.NAK}
        peer = None if rebind else lease
        return self._lease(*self._ask(packet.REQUEST, options, wanted, deadline, own=lease, peer=peer))

    def release(self, lease: Lease, options: Mapping[int, bytes]) -> None:
        """Sent once, as the RFC has it: nobody answers."""
        kept = {key: value for key, value in options.items() if key == packet.CLIENT_ID}
        self._send(packet.RELEASE, {**kept, packet.SERVER_ID: lease.server.packed}, own=lease, peer=lease)

    def _lease(self, answer: DHCPMessage, mac: bytes) -> Lease:
        if answer.kind == packet.NAK:
            words = answer.options.get(packet.ERROR_MESSAGE, b"").decode(errors="replace")
            raise DHCPError("the server refuses the address" + (f": {words}" if words else ""))
        server = packet.addresses(answer.options.get(packet.SERVER_ID, b"")) or [NOBODY]
        return Lease(
            address=answer.yours,
            options=answer.options,
            server=server[0],
            server_mac=mac,
            obtained=time.time(),
        )

    def _ask(
        self,
        kind: int,
        options: Mapping[int, bytes],
        answers: set[int],
        deadline: float,
        *,
        own: Lease | None = None,
        peer: Lease | None = None,
    ) -> tuple[DHCPMessage, bytes]:
        """Send, and again after a while, until one of `answers` comes; and the MAC address it came from."""
        pause = FIRST_RESEND_S
        while (left := deadline - time.monotonic()) > 0:
            self._send(kind, options, own=own, peer=peer)
            found = self._receive(answers, time.monotonic() + min(pause, left))
            if found is not None:
                return found
            pause = min(pause * 2, self._settings.resend_max_s)
        raise DHCPError(f"no DHCP server answers on {self._name} in {self._settings.timeout_s:g} s")

    def _send(
        self, kind: int, options: Mapping[int, bytes], *, own: Lease | None, peer: Lease | None
    ) -> None:
        client = own.address if own else NOBODY
        message = DHCPMessage(kind=kind, xid=self._xid, mac=self._mac, client=client, options=options)
        payload = packet.encode(message, broadcast=self._settings.broadcast and own is None)
        data = packet.wrap(payload, source=client, target=peer.server if peer else BROADCAST)
        mac = peer.server_mac if peer else BROADCAST_MAC
        self._socket.sendto(data, (self._name, ETH_P_IP, 0, 0, mac))

    def _receive(self, answers: set[int], deadline: float) -> tuple[DHCPMessage, bytes] | None:
        while (left := deadline - time.monotonic()) > 0:
            self._socket.settimeout(left)
            try:
                data, source = self._socket.recvfrom(65535)
            except TimeoutError:
                return None
            payload = packet.unwrap(data)
            message = packet.decode(payload) if payload else None
            if message and message.xid == self._xid and message.mac == self._mac and message.kind in answers:
                return message, source[4]
        return None
