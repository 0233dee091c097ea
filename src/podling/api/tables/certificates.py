"""The table of certificate signing requests."""

from __future__ import annotations

from datetime import datetime
from typing import Final

from podling.api.tables.columns import AGE, NAME, NONE, Cells, Object, Table, age, column, name
from podling.api.times import human_duration


def _cells(csr: Object, now: datetime) -> Cells:
    spec = csr.get("spec") or {}
    seconds = spec.get("expirationSeconds")
    return [
        name(csr),
        age(csr, now),
        spec.get("signerName") or NONE,
        spec.get("username", ""),
        NONE if seconds is None else human_duration(seconds),
        _condition(csr),
    ]


def _condition(csr: Object) -> str:
    status = csr.get("status") or {}
    kinds = {condition.get("type") for condition in status.get("conditions") or ()}
    words = next((word for word in ("Denied", "Approved") if word in kinds), "Pending")
    if "Failed" in kinds:
        words += ",Failed"
    return f"{words},Issued" if status.get("certificate") else words


SIGNING_REQUESTS: Final = Table(
    columns=(
        NAME,
        AGE,
        column("SignerName", "signerName indicates the requested signer."),
        column("Requestor", "username contains the name of the user that created the request."),
        column("RequestedDuration", "requested duration of validity of the issued certificate."),
        column("Condition", "whether it was approved, denied or failed, and issued."),
    ),
    cells=_cells,
)
