"""Certificate signing requests (certificates.k8s.io/v1)."""

from __future__ import annotations

import base64
import binascii
import re
from typing import Any, Final

from podling.api import names
from podling.api.validation.faults import Faults, Object, duplicate, forbidden, invalid, required
from podling.api.validation.meta import check_metadata, check_metadata_update

_MIN_SECONDS: Final = 600
_SIGNER: Final = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?/[A-Za-z0-9]([-A-Za-z0-9_./:]*[A-Za-z0-9])?")
_PEM: Final = "CERTIFICATE REQUEST"
_DECIDED: Final = ("Approved", "Denied", "Failed")


def check_csr(obj: Object, faults: Faults) -> None:
    check_metadata(obj.get("metadata", {}), names.check_subdomain, faults, namespaced=False)
    spec = obj.get("spec") or {}
    _check_request(spec.get("request", ""), faults)
    usages = spec.get("usages") or []
    if not usages:
        faults.append(required("spec.usages", "usages must be provided"))
    for index, usage in enumerate(usages):
        if usage in usages[:index]:
            faults.append(duplicate(f"spec.usages[{index}]", usage))
    signer = spec.get("signerName", "")
    if not signer:
        faults.append(required("spec.signerName"))
    elif not _SIGNER.fullmatch(signer):
        detail = "must be a fully qualified domain and path of the form 'example.com/signer-name'"
        faults.append(invalid("spec.signerName", signer, detail))
    seconds = spec.get("expirationSeconds")
    if seconds is not None and seconds < _MIN_SECONDS:
        detail = "may not specify a duration less than 600 seconds (10 minutes)"
        faults.append(invalid("spec.expirationSeconds", seconds, detail))


def _check_request(text: str, faults: Faults) -> None:
    try:
        parse_request(text)
    except ValueError as err:
        faults.append(invalid("spec.request", text[:40], str(err)))


def parse_request(text: str) -> Any:
    """The `cryptography` request of a `spec.request`, whose signature is right. Raises ValueError."""
    from cryptography import x509
    from cryptography.exceptions import UnsupportedAlgorithm

    try:
        pem = base64.b64decode(text, validate=True)
    except binascii.Error as err:
        raise ValueError(f"illegal base64 data: {err}") from err
    if f"-----BEGIN {_PEM}-----".encode() not in pem:
        raise ValueError(f"PEM block type must be {_PEM}")
    try:
        request = x509.load_pem_x509_csr(pem)
        right = request.is_signature_valid
    except (ValueError, UnsupportedAlgorithm) as err:
        raise ValueError(f"x509: {err}") from err
    if not right:
        raise ValueError("x509: the signature of the request is wrong")
    return request


def check_csr_update(new: Object, old: Object, faults: Faults) -> None:
    check_metadata_update(new.get("metadata", {}), old.get("metadata", {}), faults)
    after, before = _conditions(new), _conditions(old)
    for kind in _DECIDED:
        if kind in before and kind not in after:
            detail = f"updates may not remove a condition of type {kind!r}"
            faults.append(forbidden("status.conditions", detail.replace("'", '"')))
    if {"Approved", "Denied"} <= after.keys():
        faults.append(
            invalid("status.conditions", "Denied", "Approved and Denied conditions are mutually exclusive")
        )
    certificate, was = (((o.get("status") or {}).get("certificate") or "") for o in (new, old))
    if was and certificate != was:
        faults.append(forbidden("status.certificate", "updates may not modify certificate content"))


def _conditions(obj: Object) -> dict[str, Any]:
    conditions = (obj.get("status") or {}).get("conditions") or []
    return {condition.get("type", ""): condition for condition in conditions}
