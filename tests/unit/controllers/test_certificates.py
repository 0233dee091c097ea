"""Which requests are a kubelet's, and which names a node may ask for."""

from __future__ import annotations

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from podling.api.certificates_v1 import CertificateSigningRequest, CertificateSigningRequestSpec
from podling.api.core_v1 import Node, NodeAddress, NodeStatus
from podling.controllers.certificates import client_fault, names_are_of, serving_fault
from podling.machine.node_certificates import make_request

KEY = ec.generate_private_key(ec.SECP256R1())
CLIENT = ["digital signature", "client auth"]
SERVER = ["digital signature", "server auth"]


def asked(usages: list[str], username: str = "system:node:n1") -> CertificateSigningRequest:
    return CertificateSigningRequest(spec=CertificateSigningRequestSpec(usages=usages, username=username))


def request(node: str = "n1", *addresses: str) -> x509.CertificateSigningRequest:
    return x509.load_pem_x509_csr(make_request(node, KEY, addresses))


@pytest.mark.parametrize(
    ("usages", "addresses", "fault"),
    [
        (CLIENT, (), ""),
        ([*CLIENT, "key encipherment"], (), ""),
        (SERVER, (), "usages are not those of client auth"),
        ([*CLIENT, "server auth"], (), "usages are not those of client auth"),
        (["client auth"], (), "usages are not those of client auth"),
        (CLIENT, ("10.0.0.1",), "subjectAltNames are not allowed"),
    ],
)
def test_client_certificates(usages: list[str], addresses: tuple[str, ...], fault: str) -> None:
    found = client_fault(asked(usages), request("n1", *addresses))
    assert fault in found
    assert bool(fault) == bool(found)


@pytest.mark.parametrize(
    ("usages", "username", "addresses", "fault"),
    [
        (SERVER, "system:node:n1", ("n1", "10.0.0.1"), ""),
        (SERVER, "system:node:n1", (), "subjectAltName is required"),
        (SERVER, "system:node:n2", ("n1",), "the requester is not the node"),
        (CLIENT, "system:node:n1", ("n1",), "usages are not those of server auth"),
    ],
)
def test_serving_certificates(
    usages: list[str], username: str, addresses: tuple[str, ...], fault: str
) -> None:
    found = serving_fault(asked(usages, username), request("n1", *addresses))
    assert fault in found
    assert bool(fault) == bool(found)


def test_a_node_asks_only_for_its_own_names() -> None:
    addresses = [
        NodeAddress(type="InternalIP", address="10.0.0.1"),
        NodeAddress(type="Hostname", address="n1"),
    ]
    node = Node(status=NodeStatus(addresses=addresses))
    assert names_are_of(request("n1", "n1", "10.0.0.1"), node)
    assert not names_are_of(request("n1", "n1", "10.0.0.2"), node)
    assert not names_are_of(request("n1", "kubernetes.default.svc"), node)
    assert not names_are_of(request("n1", "n1"), Node())
