"""Kernel parameters under /proc/sys, named as sysctl(8) names them or by path components.

`net.*` parameters belong to the network namespace of the calling thread: use `run_in_netns` for another one.
"""

from __future__ import annotations

import os


def _path(name: str | tuple[str, ...]) -> str:
    # A tuple is for names that hold dots themselves, such as a VLAN interface eth0.100.
    return "/proc/sys/" + "/".join(name.split(".") if isinstance(name, str) else name)


def read_sysctl(name: str | tuple[str, ...]) -> str:
    """The value without its newline. `FileNotFoundError` when the kernel does not have the parameter."""
    fd = os.open(_path(name), os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, 4096).decode().strip()
    finally:
        os.close(fd)


def write_sysctl(name: str | tuple[str, ...], value: str | int) -> None:
    """Set it. `FileNotFoundError` when the kernel lacks it, `OSError` EROFS when /proc/sys is read-only."""
    fd = os.open(_path(name), os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, str(value).encode())
    finally:
        os.close(fd)


def ensure_sysctl(name: str | tuple[str, ...], value: str | int) -> bool:
    """Set it unless it has that value, so that a read-only /proc/sys that agrees will do. True: changed."""
    if read_sysctl(name) == str(value):
        return False
    write_sysctl(name, value)
    return True


def ensure_forwarding(versions: set[int]) -> None:
    """Let the kernel pass packets of these IP versions on between links."""
    if 4 in versions:
        ensure_sysctl("net.ipv4.ip_forward", 1)
    if 6 in versions:
        ensure_sysctl("net.ipv6.conf.all.forwarding", 1)
