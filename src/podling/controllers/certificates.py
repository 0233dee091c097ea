"""Certificate signing requests of kubelets: approved by rule, signed with the cluster's CA, cleared away.

What upstream's csrapproving, csrsigning and csrcleaner controllers do. A kubelet's client certificate is
approved for who may create `certificatesigningrequests/nodeclient` or `selfnodeclient`. Differs from
upstream: a serving certificate is approved too, when all it names are the node's own addresses.
Kubernetes documentation, "TLS bootstrapping", "Certificates and Certificate Signing Requests".
"""

from __future__ import annotations

import base64
import datetime
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from podling.api.certificates_v1 import CertificateSigningRequest
from podling.api.core_v1 import Node
from podling.api.times import now_rfc3339, parse_time
from podling.api.validation.certificates import parse_request
from podling.client.client import Client
from podling.client.errors import ConflictError, NotFoundError
from podling.client.workqueue import WorkQueue, run_workers
from podling.controllers.informers import Informers

KUBELET_CLIENT = "kubernetes.io/kube-apiserver-client-kubelet"
KUBELET_SERVING = "kubernetes.io/kubelet-serving"
CLIENT = "kubernetes.io/kube-apiserver-client"
SIGNERS = (KUBELET_CLIENT, KUBELET_SERVING, CLIENT)
NODES = "system:nodes"
NODE_PREFIX = "system:node:"
GROUP = "certificates.k8s.io"

YEAR_S = 365 * 24 * 3600
BACKDATE = datetime.timedelta(minutes=5)
"""A clock a few minutes behind must not reject a new certificate."""
NODE_RETRY_S = 2.0
DECIDED_KEPT_S = 3600.0
PENDING_KEPT_S = 24 * 3600.0

_CLIENT_USAGES = {"client auth"}
_SERVER_USAGES = {"server auth"}
_ALWAYS = {"digital signature"}
_MAYBE = {"key encipherment"}

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SigningCA:
    """PEM, of the authority that signs."""

    certificate: bytes
    key: bytes


class CertificateController:
    """Keyed by the request's name."""

    def __init__(
        self,
        client: Client,
        informers: Informers,
        ca: SigningCA,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._client = client
        self._informers = informers
        self._clock = clock
        self._cert = x509.load_pem_x509_certificate(ca.certificate)
        key = serialization.load_pem_private_key(ca.key, None)
        if not isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey):
            raise ValueError("the CA's key is neither RSA nor of an elliptic curve")
        self._key = key
        self._queue: WorkQueue[str] = WorkQueue()

    async def run(self) -> None:
        await self._informers.signing_requests.wait_synced()
        await self._informers.nodes.wait_synced()
        self._informers.signing_requests.add_handler(self._on_request)
        await run_workers(self._queue, self._reconcile, name="certificates")

    def _on_request(
        self, old: CertificateSigningRequest | None, new: CertificateSigningRequest | None
    ) -> None:
        if new is not None:
            self._queue.add(new.metadata.name or "")

    async def _reconcile(self, name: str) -> None:
        csr = self._informers.signing_requests.get(name)
        if csr is None or csr.spec is None:
            return
        try:
            if await self._clear_away(csr):
                return
            kinds = {c.type for c in csr.status.conditions} if csr.status else set()
            if not kinds & {"Approved", "Denied"}:
                await self._approve(csr)
            elif (
                "Approved" in kinds and "Failed" not in kinds and not (csr.status and csr.status.certificate)
            ):
                await self._sign(csr)
        except (NotFoundError, ConflictError) as err:
            log.debug("signing request %s has changed: %s", name, err)

    # Approving

    async def _approve(self, csr: CertificateSigningRequest) -> None:
        assert csr.spec is not None
        try:
            request = parse_request(csr.spec.request)
        except ValueError:
            return
        message = ""
        if csr.spec.signer_name == KUBELET_CLIENT and not client_fault(csr, request):
            own = _common_name(request) == csr.spec.username
            if own and await self._may(csr, "selfnodeclient"):
                message = "Auto approving self kubelet client certificate after SubjectAccessReview."
            elif await self._may(csr, "nodeclient"):
                message = "Auto approving kubelet client certificate after SubjectAccessReview."
        elif csr.spec.signer_name == KUBELET_SERVING and not serving_fault(csr, request):
            node = self._informers.nodes.get(_common_name(request).removeprefix(NODE_PREFIX))
            if node is None or not names_are_of(request, node):
                # A node asks before it has registered, or said its addresses.
                self._queue.add_after(csr.metadata.name or "", NODE_RETRY_S)
            else:
                message = "Auto approving kubelet serving certificate whose names are all the node's."
        if message:
            await self._write(csr, "approval", _condition("Approved", "AutoApproved", message))

    async def _may(self, csr: CertificateSigningRequest, subresource: str) -> bool:
        assert csr.spec is not None
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SubjectAccessReview",
            "spec": {
                "user": csr.spec.username or "",
                "uid": csr.spec.uid or "",
                "groups": csr.spec.groups,
                "extra": csr.spec.extra,
                "resourceAttributes": {
                    "group": GROUP,
                    "resource": "certificatesigningrequests",
                    "verb": "create",
                    "subresource": subresource,
                    "version": "*",
                },
            },
        }
        path = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
        answer = await self._client.raw("POST", path, body=review)
        return bool((answer.get("status") or {}).get("allowed"))

    # Signing

    async def _sign(self, csr: CertificateSigningRequest) -> None:
        assert csr.spec is not None
        if csr.spec.signer_name not in SIGNERS:
            return
        try:
            request = parse_request(csr.spec.request)
            fault = {KUBELET_CLIENT: client_fault, KUBELET_SERVING: serving_fault}.get(
                csr.spec.signer_name, any_client_fault
            )(csr, request)
        except ValueError as err:
            fault = str(err)
        if fault:
            await self._write(csr, "status", _condition("Failed", "SignerValidationFailure", fault))
            return
        pem = self._issue(csr, request)
        patch = {"status": {"certificate": base64.b64encode(pem).decode()}}
        await self._patch(csr, "status", patch)

    def _issue(self, csr: CertificateSigningRequest, request: x509.CertificateSigningRequest) -> bytes:
        assert csr.spec is not None
        now = datetime.datetime.fromtimestamp(self._clock(), datetime.UTC)
        lifetime = datetime.timedelta(seconds=min(csr.spec.expiration_seconds or YEAR_S, YEAR_S))
        until = min(now + lifetime, self._cert.not_valid_after_utc)
        usages = set(csr.spec.usages)
        extended = []
        if "client auth" in usages:
            extended.append(ExtendedKeyUsageOID.CLIENT_AUTH)
        if "server auth" in usages:
            extended.append(ExtendedKeyUsageOID.SERVER_AUTH)
        builder = (
            x509.CertificateBuilder()
            .subject_name(request.subject)
            .issuer_name(self._cert.subject)
            .public_key(request.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - BACKDATE)
            .not_valid_after(until)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage("key encipherment" in usages), critical=True)
            .add_extension(x509.ExtendedKeyUsage(extended), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False
            )
        )
        names = _alternatives(request)
        if names is not None:
            builder = builder.add_extension(names, critical=False)
        return builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    # Writing

    async def _write(
        self, csr: CertificateSigningRequest, subresource: str, condition: dict[str, str]
    ) -> None:
        conditions = csr.status.conditions if csr.status else []
        await self._patch(csr, subresource, {"status": {"conditions": [*conditions, condition]}})

    async def _patch(self, csr: CertificateSigningRequest, subresource: str, patch: dict[str, Any]) -> None:
        await self._client.patch(
            CertificateSigningRequest,
            csr.metadata.name or "",
            # The version makes the API refuse when somebody else has decided meanwhile.
            {"metadata": {"resourceVersion": csr.metadata.resource_version}, **patch},
            subresource=subresource,
        )

    async def _clear_away(self, csr: CertificateSigningRequest) -> bool:
        """Delete what is done with, or was never decided; True when it was due."""
        created = parse_time(csr.metadata.creation_timestamp or now_rfc3339()).timestamp()
        decided = bool(csr.status and csr.status.conditions)
        left_s = created + (DECIDED_KEPT_S if decided else PENDING_KEPT_S) - self._clock()
        if left_s > 0:
            self._queue.add_after(csr.metadata.name or "", left_s)
            return False
        await self._client.delete(CertificateSigningRequest, csr.metadata.name or "", uid=csr.metadata.uid)
        return True


def client_fault(csr: CertificateSigningRequest, request: x509.CertificateSigningRequest) -> str:
    """Why this is no client certificate of a kubelet; empty when it is one."""
    return _node_fault(request) or any_client_fault(csr, request)


def any_client_fault(csr: CertificateSigningRequest, request: x509.CertificateSigningRequest) -> str:
    if _alternatives(request) is not None:
        return "DNS, IP, email and URI subjectAltNames are not allowed"
    return _usage_fault(csr, _CLIENT_USAGES)


def serving_fault(csr: CertificateSigningRequest, request: x509.CertificateSigningRequest) -> str:
    """Why this is no serving certificate of a kubelet; empty when it is one."""
    assert csr.spec is not None
    names = _alternatives(request)
    if names is None or not all(isinstance(n, x509.DNSName | x509.IPAddress) for n in names):
        return "DNS or IP subjectAltName is required, and no other"
    if csr.spec.username != _common_name(request):
        return "the requester is not the node that the certificate names"
    return _node_fault(request) or _usage_fault(csr, _SERVER_USAGES)


def names_are_of(request: x509.CertificateSigningRequest, node: Node) -> bool:
    addresses = {a.address for a in node.status.addresses} if node.status else set()
    names = _alternatives(request)
    return names is not None and all(str(n.value) in addresses for n in names)


def _node_fault(request: x509.CertificateSigningRequest) -> str:
    organizations = [a.value for a in request.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)]
    if organizations != [NODES]:
        return f"subject organization is not {NODES}"
    if not _common_name(request).startswith(NODE_PREFIX):
        return f"subject common name does not begin with {NODE_PREFIX}"
    return ""


def _usage_fault(csr: CertificateSigningRequest, wanted: set[str]) -> str:
    usages = set(csr.spec.usages) if csr.spec else set()
    if usages - _MAYBE - _ALWAYS != wanted or not usages >= _ALWAYS:
        return f"usages are not those of {', '.join(sorted(wanted))}: {sorted(usages)}"
    return ""


def _common_name(request: x509.CertificateSigningRequest) -> str:
    found = request.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(found[0].value) if found else ""


def _alternatives(request: x509.CertificateSigningRequest) -> x509.SubjectAlternativeName | None:
    try:
        return request.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return None


def _key_usage(encipherment: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        key_encipherment=encipherment,
        content_commitment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )


def _condition(kind: str, reason: str, message: str) -> dict[str, str]:
    now = now_rfc3339()
    return {
        "type": kind,
        "status": "True",
        "reason": reason,
        "message": message,
        "lastUpdateTime": now,
        "lastTransitionTime": now,
    }
