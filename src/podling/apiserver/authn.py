"""Who is asking: the subject of the client certificate, or the one a bearer token stands for.

Kubernetes documentation, "X.509 client certificates", "Putting a bearer token in a request".
"""

from __future__ import annotations

import base64
from typing import Any

from multidict import CIMultiDictProxy

from podling.apiserver import errors
from podling.apiserver.request import ALL_AUTHENTICATED, ANONYMOUS, User

ANONYMOUS_PATHS = frozenset({"/healthz", "/livez", "/readyz", "/version"})
"""Open to everyone: load balancers and people ask them before they have an identity."""

MASTERS = "system:masters"
SERVICE_ACCOUNT_PREFIX = "system:serviceaccount:"
SERVICE_ACCOUNTS = "system:serviceaccounts"
_PROTOCOL_PREFIX = "base64url.bearer.authorization.k8s.io."


def user_of(certificate: dict[str, Any] | None) -> User:
    """The user a verified certificate (as `ssl.SSLSocket.getpeercert` gives it) names."""
    if not certificate:
        return ANONYMOUS
    name, groups = "", []
    for part in certificate.get("subject", ()):
        for key, value in part:
            if key == "commonName":
                name = value
            elif key == "organizationName":
                groups.append(value)
    if not name:
        return ANONYMOUS
    return User(name, (*groups, ALL_AUTHENTICATED))


def bearer_token(headers: CIMultiDictProxy[str]) -> str:
    """The token of `Authorization: Bearer ...`, or of the subprotocol that browsers can send instead
    (`base64url.bearer.authorization.k8s.io.TOKEN`); empty without one."""
    scheme, _, token = headers.get("Authorization", "").strip().partition(" ")
    if scheme.lower() == "bearer":
        return token.strip()
    for protocol in headers.get("Sec-WebSocket-Protocol", "").split(","):
        packed = protocol.strip().removeprefix(_PROTOCOL_PREFIX)
        if packed != protocol.strip():
            try:
                return base64.urlsafe_b64decode(packed + "=" * (-len(packed) % 4)).decode()
            except ValueError:
                return ""
    return ""


def user(name: str, groups: tuple[str, ...]) -> User:
    return User(name, (*groups, ALL_AUTHENTICATED))


def impersonated(asking: User, headers: CIMultiDictProxy[str]) -> User:
    """The user the request is to be judged as: the one of the Impersonate headers, if it carries any.

    Kubernetes documentation, "User impersonation". Only `system:masters` may. Raises APIError 403, or 500
    (as upstream) for groups or extra fields of no user.
    """
    wanted = [name for name in headers if name.lower().startswith("impersonate-")]
    if not wanted:
        return asking
    name = headers.get("Impersonate-User", "")
    if not name:
        raise errors.internal(f"requested {sorted(set(wanted))} without impersonating a user")
    if MASTERS not in asking.groups:
        raise errors.forbidden(
            "users",
            name,
            f'User "{asking.name}" cannot impersonate resource "users" in API group "" at the cluster scope',
        )
    groups = tuple(headers.getall("Impersonate-Group", ()))
    if not groups and name.startswith(SERVICE_ACCOUNT_PREFIX):
        namespace = name.removeprefix(SERVICE_ACCOUNT_PREFIX).partition(":")[0]
        groups = (SERVICE_ACCOUNTS, f"{SERVICE_ACCOUNTS}:{namespace}")
    if name == ANONYMOUS.name:
        return ANONYMOUS
    return user(name, groups)
