"""The udp backend: packets to other nodes go through a program, by a TUN device and UDP. For where the kernel
can neither route nor tunnel; slower than the others, and IPv4 only.

`flannel0` has the route to the whole pod network (this node's own subnet is more specific). The program
(`forwarder.c`) is the only one that holds the device, so both end together, by whatever happens: then the
link vanishes, that is noticed as for any other, and both are made again. They end with the daemon, too.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
import subprocess
from contextlib import ExitStack
from ipaddress import IPv4Address, IPv4Network

from podling.linux.cbuild import BuildError
from podling.linux.netlink import Netlink, Route
from podling.linux.sysctl import ensure_sysctl
from podling.linux.tun import open_tun
from podling.network.flannel import net_conf
from podling.network.flannel.backend import Built, Family, Wanted, ensure_address, mend_link
from podling.network.flannel.forwarder import FORWARDER, pack_routes
from podling.network.flannel.lease import Lease
from podling.network.flannel.net_conf import BackendType
from podling.network.flannel.underlay import FlannelError
from podling.network.route_table import RTPROT_PODLING

DEVICE = "flannel0"
OVERHEAD = 28
"""Bytes around a packet: IP 20, UDP 8."""
UDP_SEGMENT, UDP_GRO = 103, 104  # <linux/udp.h>
SO_SNDBUFFORCE, SO_RCVBUFFORCE = 32, 33
IP_MTU_DISCOVER, IP_PMTUDISC_DONT = 10, 0  # <linux/in.h>
BUFFER_BYTES = 4 << 20
END_TIMEOUT_S = 2.0

log = logging.getLogger(__name__)


class UdpBackend:
    def __init__(self, conf: net_conf.Backend) -> None:
        self._conf = conf
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._made_for: tuple[int, object, object] | None = None
        self._sent = b""

    def build(self, nl: Netlink, family: Family) -> Built:
        link = nl.link_find(DEVICE)
        if link is None or self._made_for != (link.index, family.local, family.subnet):
            self.close()
            if link is not None:  # of a daemon before us, or for an address we no longer have
                nl.link_del(link.index, missing_ok=True)
            self._start(family)
            link = nl.link_get(DEVICE)
            self._made_for = (link.index, family.local, family.subnet)
        mtu = (self._conf.mtu or family.underlay.mtu) - OVERHEAD
        mend_link(nl, link, mtu=mtu)
        ensure_address(nl, link, family.subnet)
        # The forwarder's word that there is no node for a packet comes from this node's own address.
        ensure_sysctl(("net", "ipv4", "conf", DEVICE, "accept_local"), 1)
        self._send_routes(family)
        route = Route(dst=family.network, oif=link.index, protocol=RTPROT_PODLING)
        return Built(
            lease=Lease(subnet=family.subnet, public_ip=family.local, backend=BackendType.UDP),
            wanted=Wanted(device=link.index, routes=(route,)),
            mtu=mtu,
            device_names=frozenset({DEVICE}),
        )

    def close(self) -> None:
        """End the program, and with it the device."""
        if self._control is not None:
            self._control.close()
        if self._process is not None:
            try:
                self._process.wait(END_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._process = self._control = self._made_for = None
        self._sent = b""

    def _start(self, family: Family) -> None:
        """Make the device and the socket and hand them to the program; nothing of them stays here."""
        try:
            program = FORWARDER.path()
        except BuildError as err:
            raise FlannelError(f"the udp backend needs its program: {err}") from err
        with ExitStack() as handed:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            handed.enter_context(theirs)
            try:
                udp = handed.enter_context(self._open_udp(family))
                joins = _join_packets(udp)
                tun = open_tun(DEVICE)
                handed.callback(os.close, tun)
                address = str(family.subnet.network_address)
                self._process = subprocess.Popen(
                    [str(program), str(tun), str(udp.fileno()), address, str(int(joins))],
                    stdin=theirs.fileno(),
                    pass_fds=(tun, udp.fileno()),
                    start_new_session=True,
                )
            except BaseException:
                ours.close()
                raise
            self._control = ours
        log.info("made %s and its forwarder, process %d", DEVICE, self._process.pid)

    def _open_udp(self, family: Family) -> socket.socket:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        for option in (SO_SNDBUFFORCE, SO_RCVBUFFORCE):
            sock.setsockopt(socket.SOL_SOCKET, option, BUFFER_BYTES)
        # A packet too large for some link on the way is cut there, as a pod's own would be.
        sock.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DONT)
        try:
            sock.bind((str(family.local), self._conf.port))
        except OSError as err:
            sock.close()
            if err.errno != errno.EADDRINUSE:
                raise
            raise FlannelError(
                f"UDP port {self._conf.port} of {family.local} is taken by another program: "
                "end it, or choose another Backend.Port on all nodes"
            ) from err
        return sock

    def _send_routes(self, family: Family) -> None:
        table = [
            (remote.subnet, remote.public_ip)
            for remote in family.remotes
            if isinstance(remote.subnet, IPv4Network) and isinstance(remote.public_ip, IPv4Address)
        ]
        message = pack_routes(table, self._conf.port)
        if message != self._sent and self._control is not None:
            self._control.send(message)
            self._sent = message


def _join_packets(udp: socket.socket) -> bool:
    """Let the kernel cut and join UDP packets; False for one before 5.0."""
    try:
        udp.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, 0)
        udp.setsockopt(socket.IPPROTO_UDP, UDP_GRO, 1)
    except OSError:
        return False
    return True
