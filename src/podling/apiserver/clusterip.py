"""Cluster IPs and node ports of services: which are taken, and a free one on request.

Held in memory and rebuilt from the services at start: the store stays the only truth. Callers take an
address within the same step of the event loop that proposes the service, and give it back when the
service is gone or could not be stored.
"""

from __future__ import annotations

import random
from ipaddress import AddressValueError, IPv4Address, IPv4Network

NODE_PORTS = range(30000, 32768)


class AllocationError(Exception):
    """Why this address or port cannot be had, in upstream's words."""


class ServiceAllocator:
    def __init__(self, service_cidr: IPv4Network) -> None:
        self._network = service_cidr
        self._first = int(service_cidr.network_address) + 1
        self._size = service_cidr.num_addresses - 2
        # The lower band is for addresses people choose (DNS is .10): KEP-3070, "ServiceIPStaticSubrange".
        self._static = min(max(16, self._size // 16), 256, self._size)
        self._taken: set[int] = set()
        self._ports: set[int] = set()

    @property
    def kubernetes_ip(self) -> IPv4Address:
        """Of the `kubernetes` service."""
        return IPv4Address(self._first)

    def take_address(self, text: str) -> None:
        """Raises AllocationError."""
        try:
            address = IPv4Address(text)
        except AddressValueError:
            raise AllocationError(f"failed to allocate IP {text}: provided IP is not valid") from None
        if not 0 <= int(address) - self._first < self._size:
            raise AllocationError(
                f"failed to allocate IP {text}: the provided IP ({text}) is not in the valid range. "
                f"The range of valid IPs is {self._network}"
            )
        if int(address) in self._taken:
            raise AllocationError(f"failed to allocate IP {text}: provided IP is already allocated")
        self._taken.add(int(address))

    def new_address(self) -> str:
        """A random free address, from the upper band while that has one. Raises AllocationError."""
        bands = ((self._static, self._size - self._static), (0, self._static))
        for offset, size in bands:
            start = random.randrange(size) if size else 0
            for step in range(size):
                number = self._first + offset + (start + step) % size
                if number not in self._taken:
                    self._taken.add(number)
                    return str(IPv4Address(number))
        raise AllocationError("failed to allocate a serviceIP: range is full")

    def release_address(self, text: str) -> None:
        self._taken.discard(int(IPv4Address(text)))

    def take_port(self, port: int) -> None:
        """Raises AllocationError."""
        if port not in NODE_PORTS:
            raise AllocationError(
                "provided port is not in the valid range. "
                f"The range of valid ports is {NODE_PORTS.start}-{NODE_PORTS.stop - 1}"
            )
        if port in self._ports:
            raise AllocationError("provided port is already allocated")
        self._ports.add(port)

    def new_port(self) -> int:
        """Raises AllocationError."""
        start = random.randrange(len(NODE_PORTS))
        for step in range(len(NODE_PORTS)):
            port = NODE_PORTS[(start + step) % len(NODE_PORTS)]
            if port not in self._ports:
                self._ports.add(port)
                return port
        raise AllocationError("failed to allocate a nodePort: range is full")

    def release_port(self, port: int) -> None:
        self._ports.discard(port)
