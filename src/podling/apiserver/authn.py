"""Who is asking: the subject of the client certificate.

Kubernetes documentation, "X.509 client certificates".
"""

from __future__ import annotations

from typing import Any

from podling.apiserver.request import ALL_AUTHENTICATED, ANONYMOUS, User

ANONYMOUS_PATHS = frozenset({"/healthz", "/livez", "/readyz", "/version"})
"""Open to everyone: load balancers and people ask them before they have an identity."""


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


def user(name: str, groups: tuple[str, ...]) -> User:
    return User(name, (*groups, ALL_AUTHENTICATED))
