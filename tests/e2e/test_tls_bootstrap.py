"""A machine joins with a bootstrap token, gets its certificates from the cluster, and renews them."""

from __future__ import annotations

import base64
import datetime
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from e2e.bare_node import KUBECONFIG, BareNode
from e2e.shorthand import ready
from podling.machine import node_certificates, pki, record
from podling.machine.paths import ClusterPaths
from podling.testing.cluster import PodlingCluster, busybox, eventually, pod

NAME = "kube-joins"
TOKEN = "abcdef.0123456789abcdef"
CONFIG = """\
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication: {x509: {clientCAFile: /etc/kubernetes/pki/ca.crt}}
failSwapOn: false
rotateCertificates: true
serverTLSBootstrap: true
"""


@pytest.fixture
def token(cluster: PodlingCluster) -> Iterator[str]:
    identifier, _, secret = TOKEN.partition(".")
    made = {
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "bootstrap.kubernetes.io/token",
        "metadata": {"name": f"bootstrap-token-{identifier}", "namespace": "kube-system"},
        "stringData": {
            "token-id": identifier,
            "token-secret": secret,
            "usage-bootstrap-authentication": "true",
            "auth-extra-groups": "system:bootstrappers:e2e",
        },
    }
    cluster.apply(made)
    yield TOKEN
    cluster.delete("secret", "-n", "kube-system", f"bootstrap-token-{identifier}")


def bootstrap_kubeconfig(cluster: PodlingCluster, token: str) -> str:
    ca = base64.b64encode((ClusterPaths.of(cluster.name).pki / "ca.crt").read_bytes()).decode()
    server = record.require(cluster.name).config.server
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": {"server": server, "certificate-authority-data": ca}}],
        "users": [{"name": "u", "user": {"token": token}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    }
    return yaml.safe_dump(document)


@pytest.fixture
def node(cluster: PodlingCluster) -> Iterator[BareNode]:
    with BareNode(cluster, NAME, 203) as made:
        made.paths.pki.mkdir(parents=True)
        authority = (ClusterPaths.of(cluster.name).pki / "ca.crt").read_bytes()
        (made.paths.pki / "ca.crt").write_bytes(authority)
        (made.paths.bind("kubelet") / "config.yaml").write_text(CONFIG)
        yield made
    cluster.kubectl("delete", "csr", "--all")


FLAGS = (
    f"--kubeconfig={KUBECONFIG}",
    "--bootstrap-kubeconfig=/etc/kubernetes/bootstrap-kubelet.conf",
    "--config=/var/lib/kubelet/config.yaml",
    f"--hostname-override={NAME}",
)


def requests(cluster: PodlingCluster) -> dict[tuple[str, str], str]:
    """What `kubectl get csr` shows: condition by requestor and signer."""
    lines = cluster.kubectl("get", "csr", "--no-headers").splitlines()
    return {(f[3], f[2]): f[5] for f in (line.split() for line in lines)}


def test_a_machine_joins_with_a_token(
    cluster: PodlingCluster, node: BareNode, token: str, namespace: str
) -> None:
    (node.paths.root / "etc-kubernetes" / "bootstrap-kubelet.conf").write_text(
        bootstrap_kubeconfig(cluster, token)
    )
    with node.agent(*FLAGS):
        node.wait_ready()
        shown = requests(cluster)
        requestor = f"system:bootstrap:{token.partition('.')[0]}"
        assert shown[requestor, "kubernetes.io/kube-apiserver-client-kubelet"] == "Approved,Issued"
        assert oct((node.paths.kubeconfig("kubelet")).stat().st_mode & 0o777) == "0o600"
        assert "kubelet-client-current.pem" in node.paths.kubeconfig("kubelet").read_text()

        def serving() -> None:
            own = f"system:node:{NAME}", "kubernetes.io/kubelet-serving"
            assert requests(cluster).get(own) == "Approved,Issued"

        eventually(serving)
        # The API server believes the node's new certificate: logs and exec come through.
        cluster.apply(
            [pod("there", busybox(command="echo hello; sleep 3600"), namespace=namespace, nodeName=NAME)]
        )
        ready(cluster, namespace, "there")

        def logged() -> None:
            done = cluster.kubectl_run("logs", "-n", namespace, "there")
            assert done.stdout == "hello\n", done.stderr

        eventually(logged, timeout_s=30)
        assert served(cluster, node) == f"system:node:{NAME}"


def served(cluster: PodlingCluster, node: BareNode) -> str:
    """Whom the certificate of port 10250 names; openssl checks it against the cluster's CA."""
    ca = ClusterPaths.of(cluster.name).pki / "ca.crt"
    argv = ["openssl", "s_client", "-connect", f"{node.config.address}:10250", "-CAfile", str(ca)]
    argv += ["-verify_return_error", "-verify_ip", str(node.config.address)]
    done = subprocess.run(argv, input=b"", capture_output=True, timeout=30, check=True)
    begin = done.stdout.index(b"-----BEGIN CERTIFICATE")
    certificate = x509.load_pem_x509_certificate(done.stdout[begin:])
    return str(certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value)


def test_a_certificate_about_to_end_is_renewed(cluster: PodlingCluster, node: BareNode) -> None:
    directory = node.paths.bind("kubelet") / "pki"
    directory.mkdir(parents=True, exist_ok=True)
    pair = node_certificates.CertificatePair(directory, node_certificates.CLIENT_PAIR)
    certificate, key = old_pair(cluster)
    pair.store(certificate, key)
    first = pair.load()
    assert first is not None
    bootstrap = node.paths.root / "etc-kubernetes" / "bootstrap-kubelet.conf"
    bootstrap.write_text(bootstrap_kubeconfig(cluster, "unused"))
    seen_by_node = node_certificates.CertificatePair(
        Path("/var/lib/kubelet/pki"), node_certificates.CLIENT_PAIR
    )
    node_certificates.write_kubeconfig(bootstrap, node.paths.kubeconfig("kubelet"), seen_by_node)
    with node.agent(*FLAGS):
        node.wait_ready()

        def renewed() -> None:
            now = pair.load()
            assert now is not None
            assert now.serial_number != first.serial_number
            assert now.not_valid_after_utc > first.not_valid_after_utc + datetime.timedelta(days=100)

        eventually(renewed, timeout_s=40)
        own = f"system:node:{NAME}", "kubernetes.io/kube-apiserver-client-kubelet"
        assert requests(cluster)[own] == "Approved,Issued"
        # It goes on with the new one.
        cluster.kubectl("label", "node", NAME, "still=here")
        node.wait_ready()


def old_pair(cluster: PodlingCluster) -> tuple[bytes, bytes]:
    """Of a node; nearly all of its life is over."""
    ca = pki.load(ClusterPaths.of(cluster.name).pki, "ca")
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.datetime.now(datetime.UTC)
    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "system:nodes"),
            x509.NameAttribute(NameOID.COMMON_NAME, f"system:node:{NAME}"),
        ]
    )
    issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(ca.key.public_key())
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(ca.cert.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=10))
        .not_valid_after(now + datetime.timedelta(minutes=30))
        .add_extension(issuer, critical=False)
        .sign(ca.key, hashes.SHA256())
    )
    return pki.KeyPair(key, certificate).cert_pem, node_certificates.key_pem(key)


def test_a_wrong_token_gets_nothing(cluster: PodlingCluster, node: BareNode, token: str) -> None:
    wrong = token[:-1] + "0"
    (node.paths.root / "etc-kubernetes" / "bootstrap-kubelet.conf").write_text(
        bootstrap_kubeconfig(cluster, wrong)
    )
    with node.agent(*FLAGS):
        eventually(lambda: _assert_in("TLS bootstrap: Unauthorized", node.log))
    assert not node.paths.kubeconfig("kubelet").exists()
    assert cluster.kubectl("get", "csr", "-o", "name") == ""


def _assert_in(words: str, text: str) -> None:
    assert words in text
