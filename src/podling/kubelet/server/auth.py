"""Who may talk to the kubelet: holders of a client certificate of the cluster's CA.

The kubelet hands out shells, so there is no anonymous access but `/healthz`. Accepted are the API
server's kubelet client and members of `system:masters` (Kubernetes documentation, "Kubelet
authentication/authorization").
"""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any

from aiohttp import web

ALLOWED_GROUP = "system:masters"
ALLOWED_USER = "kube-apiserver-kubelet-client"
OPEN_PATHS = ("/healthz",)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def server_ssl_context(cert: Path, key: Path, client_ca: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(cert, key)
    context.load_verify_locations(client_ca)
    # Optional, so that who comes without one gets an answer that says what is missing.
    context.verify_mode = ssl.CERT_OPTIONAL
    return context


def subject(certificate: dict[str, Any] | None) -> tuple[str, set[str]] | None:
    """User (CN) and groups (O) of a verified peer certificate, as `getpeercert()` gives it."""
    if not certificate:
        return None
    pairs: Iterable[tuple[str, str]] = (pair for rdn in certificate.get("subject", ()) for pair in rdn)
    user, groups = "", set()
    for name, value in pairs:
        if name == "commonName":
            user = value
        elif name == "organizationName":
            groups.add(value)
    return user, groups


@web.middleware
async def authenticate(request: web.Request, handler: Handler) -> web.StreamResponse:
    if request.path in OPEN_PATHS:
        return await handler(request)
    transport = request.transport
    who = subject(transport.get_extra_info("peercert")) if transport is not None else None
    if who is None:
        raise web.HTTPUnauthorized(text="Unauthorized")
    user, groups = who
    if user != ALLOWED_USER and ALLOWED_GROUP not in groups:
        verb = "get" if request.method == "GET" else "create"
        raise web.HTTPForbidden(
            text=f"Forbidden (user={user}, verb={verb}, resource=nodes, subresource(s)=[proxy])"
        )
    return await handler(request)
