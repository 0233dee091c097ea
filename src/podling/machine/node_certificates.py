"""A node's certificates from the cluster itself: TLS bootstrap, and renewal before they end.

With `--bootstrap-kubeconfig` a node that has no kubeconfig yet asks for its first client certificate with
what that file shows (a bootstrap token), and writes the kubeconfig. With `--rotate-certificates` it asks for
the next one in time, with `--rotate-server-certificates` for that of port 10250 too. Files and names are
upstream's: `kubelet-client-DATE.pem` holds certificate and key, `kubelet-client-current.pem` leads to it.
Kubernetes documentation, "TLS bootstrapping".
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import logging
import os
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from ipaddress import ip_address
from pathlib import Path

import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from podling.api.certificates_v1 import CertificateSigningRequest, CertificateSigningRequestSpec
from podling.api.meta_v1 import ObjectMeta
from podling.client.client import Client
from podling.client.errors import AlreadyExistsError, ClientError, NotFoundError
from podling.client.http import HttpTransport
from podling.client.kubeconfig import client_config, load
from podling.machine.pki import write_secret

CLIENT_SIGNER = "kubernetes.io/kube-apiserver-client-kubelet"
SERVING_SIGNER = "kubernetes.io/kubelet-serving"
CLIENT_PAIR = "kubelet-client"
SERVING_PAIR = "kubelet-server"
POLL_S = 0.5
RETRY_MAX_S = 30.0
ROTATE_AT = (0.7, 0.9)
"""Of a certificate's life, as upstream: somewhere in this range, so that nodes do not all ask at once."""

log = logging.getLogger(__name__)


class CertificateRefusedError(Exception):
    """The request was denied or could not be signed."""


class CertificatePair:
    """Certificate and key in one file below `directory`, and the link that leads to the newest."""

    def __init__(self, directory: Path, name: str) -> None:
        self._directory = directory
        self._name = name

    @property
    def current(self) -> Path:
        return self._directory / f"{self._name}-current.pem"

    @property
    def pending_key(self) -> Path:
        """Of a request under way: a restarted agent asks again with the same key, and so for the same."""
        return self._directory / f"{self._name}.key.tmp"

    def load(self) -> x509.Certificate | None:
        try:
            return x509.load_pem_x509_certificate(self.current.read_bytes())
        except (OSError, ValueError):
            return None

    def store(self, certificate: bytes, key: bytes) -> None:
        """Make this the current pair: written whole, then the link is replaced."""
        stamp = datetime.now(UTC).strftime("%Y-%m-%d-%H-%M-%S")
        path = self._directory / f"{self._name}-{stamp}.pem"
        write_secret(path, certificate + key)
        link = self._directory / f".{self._name}.new"
        link.unlink(missing_ok=True)
        link.symlink_to(path.name)
        link.rename(self.current)
        self.pending_key.unlink(missing_ok=True)

    def next_key(self) -> ec.EllipticCurvePrivateKey:
        with suppress(OSError, ValueError):
            key = serialization.load_pem_private_key(self.pending_key.read_bytes(), None)
            if isinstance(key, ec.EllipticCurvePrivateKey):
                return key
        key = ec.generate_private_key(ec.SECP256R1())
        self._directory.mkdir(mode=0o755, parents=True, exist_ok=True)
        write_secret(self.pending_key, key_pem(key))
        return key


def key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def make_request(node: str, key: ec.EllipticCurvePrivateKey, addresses: Sequence[str] = ()) -> bytes:
    """PEM of a request in the node's name; `addresses`: what a serving certificate names."""
    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "system:nodes"),
            x509.NameAttribute(NameOID.COMMON_NAME, f"system:node:{node}"),
        ]
    )
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject)
    if addresses:
        names = x509.SubjectAlternativeName([_general_name(address) for address in addresses])
        builder = builder.add_extension(names, critical=False)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def _general_name(address: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(address))
    except ValueError:
        return x509.DNSName(address)


async def ask_for(
    client: Client, pair: CertificatePair, node: str, signer: str, addresses: Sequence[str] = ()
) -> None:
    """Request, wait for and store a certificate. Raises ClientError, CertificateRefusedError."""
    key = pair.next_key()
    request = make_request(node, key, addresses)
    usage = "client auth" if signer == CLIENT_SIGNER else "server auth"
    public = key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    # By the key: the same request made again finds its predecessor.
    name = f"node-csr-{hashlib.sha256(public + signer.encode()).hexdigest()[:40]}"
    csr = CertificateSigningRequest(
        metadata=ObjectMeta(name=name),
        spec=CertificateSigningRequestSpec(
            request=base64.b64encode(request).decode(),
            signer_name=signer,
            usages=["digital signature", usage],
        ),
    )
    try:
        await client.create(csr)
    except AlreadyExistsError:
        log.info("signing request %s is there already", name)
    certificate = await _wait_issued(client, name, pair)
    pair.store(certificate, key_pem(key))
    log.info("certificate of %s issued: %s", signer, pair.current)


async def _wait_issued(client: Client, name: str, pair: CertificatePair) -> bytes:
    while True:
        try:
            csr = await client.get(CertificateSigningRequest, name)
        except NotFoundError:
            pair.pending_key.unlink(missing_ok=True)
            raise CertificateRefusedError(f"signing request {name} was deleted") from None
        status = csr.status
        for condition in status.conditions if status else []:
            if condition.type in ("Denied", "Failed"):
                pair.pending_key.unlink(missing_ok=True)
                why = condition.message or condition.reason
                raise CertificateRefusedError(f"signing request {name}: {condition.type}: {why}")
        if status is not None and status.certificate:
            return base64.b64decode(status.certificate)
        await asyncio.sleep(POLL_S)


async def bootstrap(bootstrap_kubeconfig: Path, kubeconfig: Path, directory: Path, node: str) -> None:
    """Get the first client certificate and write `kubeconfig`. Goes on until it works or is cancelled."""
    pair = CertificatePair(directory, CLIENT_PAIR)
    transport = HttpTransport(client_config(bootstrap_kubeconfig))
    retry_s = POLL_S
    try:
        while True:
            try:
                await ask_for(Client(transport), pair, node, CLIENT_SIGNER)
            except (ClientError, CertificateRefusedError) as err:
                log.error("TLS bootstrap: %s", err)
                await asyncio.sleep(retry_s)
                retry_s = min(2 * retry_s, RETRY_MAX_S)
            else:
                break
    finally:
        await transport.close()
    write_kubeconfig(bootstrap_kubeconfig, kubeconfig, pair)


def write_kubeconfig(bootstrap_kubeconfig: Path, kubeconfig: Path, pair: CertificatePair) -> None:
    """The bootstrap's cluster, with the certificate as user."""
    document = load(bootstrap_kubeconfig)
    current = document.get("current-context")
    context = next(c["context"] for c in document["contexts"] if c["name"] == current)
    cluster = next(c["cluster"] for c in document["clusters"] if c["name"] == context["cluster"])
    if isinstance(cluster.get("certificate-authority"), str):
        cluster["certificate-authority"] = str(bootstrap_kubeconfig.parent / cluster["certificate-authority"])
    files = {"client-certificate": str(pair.current), "client-key": str(pair.current)}
    made = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "default-cluster", "cluster": cluster}],
        "users": [{"name": "default-auth", "user": files}],
        "contexts": [
            {
                "name": "default-context",
                "context": {"cluster": "default-cluster", "user": "default-auth", "namespace": "default"},
            }
        ],
        "current-context": "default-context",
    }
    temporary = kubeconfig.with_name(f".{kubeconfig.name}.new")
    kubeconfig.parent.mkdir(parents=True, exist_ok=True)
    write_secret(temporary, yaml.safe_dump(made).encode())
    os.replace(temporary, kubeconfig)


class Rotation:
    """Keeps one pair fresh; `run()` is a task of the agent."""

    def __init__(
        self,
        client: Client,
        pair: CertificatePair,
        node: str,
        signer: str,
        *,
        addresses: Sequence[str] = (),
        renewed: Callable[[], Awaitable[None]] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`renewed` is called when the pair has changed."""
        self._client = client
        self._pair = pair
        self._node = node
        self._signer = signer
        self._addresses = addresses
        self._renewed = renewed
        self._clock = clock

    async def run(self) -> None:
        retry_s = POLL_S
        while True:
            certificate = self._pair.load()
            if certificate is not None:
                await asyncio.sleep(max(0.0, due_at(certificate) - self._clock()))
            try:
                await ask_for(self._client, self._pair, self._node, self._signer, self._addresses)
            except (ClientError, CertificateRefusedError) as err:
                log.error("certificate of %s: %s", self._signer, err)
                await asyncio.sleep(retry_s)
                retry_s = min(2 * retry_s, RETRY_MAX_S)
            else:
                retry_s = POLL_S
                if self._renewed is not None:
                    await self._renewed()


def due_at(certificate: x509.Certificate) -> float:
    """When to ask for the next one, in seconds since the epoch."""
    begin, end = certificate.not_valid_before_utc.timestamp(), certificate.not_valid_after_utc.timestamp()
    return begin + (end - begin) * random.uniform(*ROTATE_AT)
