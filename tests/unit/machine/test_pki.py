from __future__ import annotations

import socket
import ssl
import stat
import threading
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from podling.machine import pki


def test_keys_are_readable_by_their_owner_only(tmp_path: Path) -> None:
    _, key = pki.make_ca().write(tmp_path, "ca")
    assert stat.S_IMODE(key.stat().st_mode) == 0o600


def test_a_secret_written_over_a_readable_file_is_no_longer_readable(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text("old")
    path.chmod(0o644)
    pki.write_secret(path, b"new")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.read_bytes() == b"new"


def test_both_sides_of_a_tls_connection_trust_what_the_ca_issued(tmp_path: Path) -> None:
    ca = pki.make_ca()
    ca_cert, _ = ca.write(tmp_path, "ca")
    server_files = pki.issue(ca, "kube-apiserver", addresses=[IPv4Address("127.0.0.1")]).write(
        tmp_path, "server"
    )
    client_files = pki.issue(ca, "system:node:n", organizations=["system:nodes"]).write(tmp_path, "client")
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=ca_cert)
    server.verify_mode = ssl.CERT_REQUIRED
    server.load_cert_chain(*server_files)
    client = ssl.create_default_context(cafile=ca_cert)
    client.load_cert_chain(*client_files)
    ours, theirs = socket.socketpair()
    seen: dict[str, object] = {}

    def serve() -> None:
        with server.wrap_socket(theirs, server_side=True) as connection:
            seen.update(connection.getpeercert() or {})
            connection.sendall(b"hello")

    thread = threading.Thread(target=serve)
    thread.start()
    with client.wrap_socket(ours, server_hostname="127.0.0.1") as connection:
        assert connection.recv(5) == b"hello"
    thread.join()
    assert seen["subject"] == ((("organizationName", "system:nodes"),), (("commonName", "system:node:n"),))


def test_a_certificate_of_another_ca_is_refused(tmp_path: Path) -> None:
    ca_cert, _ = pki.make_ca().write(tmp_path, "ca")
    stranger = pki.issue(pki.make_ca(), "x", addresses=[IPv4Address("127.0.0.1")]).write(tmp_path, "x")
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(*stranger)
    client = ssl.create_default_context(cafile=ca_cert)
    ours, theirs = socket.socketpair()

    def serve() -> None:
        with theirs, pytest.raises(ssl.SSLError):
            server.wrap_socket(theirs, server_side=True)

    thread = threading.Thread(target=serve)
    thread.start()
    with ours, pytest.raises(ssl.SSLCertVerificationError):
        client.wrap_socket(ours, server_hostname="127.0.0.1")
    thread.join()
