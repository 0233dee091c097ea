"""Throwaway network namespaces for tests, and traffic between them."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from podling.linux.netlink import Netlink
from podling.linux.netns import create_netns, remove_netns, run_in_netns


class Namespaces:
    """Makes namespaces below a directory; `node` is one for the host side of a test."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.made: list[Path] = []

    def make(self, name: str) -> Path:
        path = self._directory / name
        create_netns(path)
        self.made.append(path)
        return path

    def remove(self, path: Path) -> None:
        """Before the test's end."""
        self.made.remove(path)
        remove_netns(path)


@pytest.fixture
def namespaces(tmp_path: Path) -> Iterator[Namespaces]:
    made = Namespaces(tmp_path / "netns")
    try:
        yield made
    finally:
        for path in made.made:
            remove_netns(path)


@contextmanager
def echo_server(netns: Path, address: str, port: int = 4000) -> Iterator[None]:
    """A UDP echo inside the namespace. The socket belongs to it; who serves it does not matter."""
    import threading

    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    server = run_in_netns(netns, socket.socket, family, socket.SOCK_DGRAM)
    server.bind((address, port))
    stop = threading.Event()

    def serve() -> None:
        while not stop.is_set():
            with contextlib.suppress(TimeoutError):
                data, peer = server.recvfrom(2000)
                server.sendto(f"{peer[0]} ".encode() + data, peer)

    server.settimeout(0.05)
    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        server.close()


def ask(netns: Path, address: str, port: int = 4000, *, timeout_s: float = 5.0) -> str:
    """Send a datagram from the namespace and return who the server saw, or raise `OSError`.

    Once only: a first packet that is lost is a failure of the wiring.
    """
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with run_in_netns(netns, socket.socket, family, socket.SOCK_DGRAM) as client:
        client.settimeout(timeout_s)
        client.sendto(b"hello", (address, port))
        seen, word = client.recv(2000).split()
        assert word == b"hello"
        return seen.decode()


def link_names(netns: Path | None = None) -> set[str]:
    with Netlink(netns) as nl:
        return {link.name for link in nl.link_list()}
