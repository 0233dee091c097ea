"""The reservations of host-local on disk, in the reference plugin's own format, so that either may take over.

    DIR/10.244.1.7              "CONTAINER_ID\\r\\nIFNAME": who has the address
    DIR/last_reserved_ip.N      the address given last from range set N
    DIR/lock                    flock'ed by whoever reads or writes here

An empty reservation is nobody's: every writer holds the lock, so it can only be what one that was killed
between creating and writing has left. It is taken for free, which makes a reservation whole or not there.

Nothing is fsynced: a power cut ends the containers together with their reservations.
"""

from __future__ import annotations

import fcntl
import ipaddress
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Container
    from types import TracebackType
    from typing import Self

    from podling.cni.types import IPAddress

LINE_BREAK = "\r\n"
LAST_RESERVED = "last_reserved_ip."

# What was in a directory when it was last left, by its path: contents and the directory's mtime. Reading a
# hundred small files would be most of an ADD's time, and each read a chance to wait for Python's lock. Used
# only when the directory's listing and mtime are still the same.
_remembered: dict[str, tuple[int, dict[str, tuple[str, str]]]] = {}


class Reservations:
    """Use as a context manager: the lock is held, and all reservations are known, inside.

    They are known by the names of their files, which are the addresses as `str` writes them: giving back
    takes no arithmetic, and a program that does only that does not import `ipaddress`.
    """

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._lock = -1
        self._owners: dict[str, tuple[str, str]] = {}

    def __enter__(self) -> Self:
        try:
            self._lock = self._open_lock()
        except FileNotFoundError:
            os.makedirs(self._directory, mode=0o755, exist_ok=True)
            self._lock = self._open_lock()
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        self._owners = self._read_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, err: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            _remembered[self._directory] = (os.stat(self._directory).st_mtime_ns, self._owners)
        finally:
            os.close(self._lock)  # which also lets go of it

    def _open_lock(self) -> int:
        return os.open(self._path("lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def _path(self, name: str) -> str:
        return f"{self._directory}/{name}"

    def _read_all(self) -> dict[str, tuple[str, str]]:
        # Names of addresses begin with a digit or, IPv6, with a to f or a colon; "lock" and "last..." do not.
        names = {name for name in os.listdir(self._directory) if name[0] in "0123456789abcdef:"}
        mtime_ns, owners = _remembered.get(self._directory, (0, {}))
        if mtime_ns == os.stat(self._directory).st_mtime_ns and names == owners.keys():
            return owners
        owners = {}
        for name in names:
            if owner := self._read(name):
                container_id, _, ifname = owner.partition(LINE_BREAK)
                owners[name] = (container_id, ifname)
        return owners

    def _read(self, name: str) -> str:
        try:
            fd = os.open(self._path(name), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return ""
        try:
            return os.read(fd, 4096).decode(errors="replace").strip()
        finally:
            os.close(fd)

    def _write(self, name: str, text: str) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        fd = os.open(self._path(name), flags, 0o600)
        try:
            os.write(fd, text.encode())
        finally:
            os.close(fd)

    @property
    def taken(self) -> Container[str]:
        return self._owners.keys()

    def names_of(self, container_id: str, ifname: str) -> list[str]:
        return [name for name, owner in self._owners.items() if _owns(owner, container_id, ifname)]

    def addresses_of(self, container_id: str, ifname: str) -> list[IPAddress]:
        return [
            ipaddress.ip_address(name) for name in self.names_of(container_id, ifname) if _is_address(name)
        ]

    def last_reserved(self, range_set: int) -> IPAddress | None:
        try:
            return ipaddress.ip_address(self._read(f"{LAST_RESERVED}{range_set}"))
        except ValueError:
            return None

    def reserve(self, address: IPAddress, *, container_id: str, ifname: str, range_set: int) -> bool:
        """Take the address; False when somebody has it."""
        name = str(address)
        if name in self._owners:
            return False
        self._write(name, f"{container_id}{LINE_BREAK}{ifname}")
        self._owners[name] = (container_id, ifname)
        self._write(f"{LAST_RESERVED}{range_set}", name)
        return True

    def release(self, container_id: str, ifname: str) -> None:
        """Free everything the interface of the container has; nothing is fine."""
        for name in self.names_of(container_id, ifname):
            self.free(name)

    def free(self, name: str) -> None:
        """Under the lock nobody else can have removed it since it was read."""
        os.unlink(self._path(name))
        del self._owners[name]

    def release_others(self, valid: set[tuple[str, str]]) -> None:
        """Free what belongs to no attachment of `valid`, pairs of container ID and interface name."""
        for container_id, ifname in set(self._owners.values()) - valid:
            self.release(container_id, ifname)


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _owns(owner: tuple[str, str], container_id: str, ifname: str) -> bool:
    # Very old reservations hold no interface name; the reference takes them for the container's, as we do.
    return owner[0] == container_id and owner[1] in (ifname, "")
