"""Who asks the kubelet's server, and whether they may.

The kubelet hands out shells. Who asks is told by a client certificate of the cluster's CA or by a bearer
token, which the API server is asked about (TokenReview); whether they may, the API server says too
(SubjectAccessReview on `nodes` and a subresource). Answers are kept for a while, as upstream keeps them.
Kubernetes documentation, "Kubelet authentication/authorization".
"""

from __future__ import annotations

import hashlib
import logging
import ssl
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from aiohttp import web

from podling.client.client import Client
from podling.client.errors import ClientError
from podling.kubelet.config import KubeletConfig

MASTERS = "system:masters"
TOKEN_REVIEWS = "/apis/authentication.k8s.io/v1/tokenreviews"
ACCESS_REVIEWS = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
VERBS = {"POST": "create", "GET": "get", "HEAD": "get", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}
SUBRESOURCES = {"stats": "stats", "metrics": "metrics", "logs": "log", "checkpoint": "checkpoint"}
FINE = {"configz": "configz", "healthz": "healthz", "pods": "pods", "runningpods": "pods"}
"""Paths with a subresource of their own besides `proxy`, which allows them too."""
CACHE_SIZE = 1000

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
T = TypeVar("T")

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Who:
    user: str
    groups: tuple[str, ...]
    uid: str = ""


ANONYMOUS = Who("system:anonymous", ("system:unauthenticated",))


def server_ssl_context(cert: Path, key: Path, client_ca: Path | None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(cert, key)
    if client_ca is not None:
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


def subresources(path: str) -> list[str]:
    """Any of them allows the path; the last one is what upstream has always asked for."""
    first = path.strip("/").partition("/")[0]
    if first in FINE:
        return [FINE[first], "proxy"]
    return [SUBRESOURCES.get(first, "proxy")]


class Access:
    """The server's gate; one a server."""

    def __init__(self, config: KubeletConfig, client: Client | None, clock: Callable[[], float]) -> None:
        """`client`: None for a kubelet on its own: then only the cluster's masters get in."""
        self._config = config
        self._client = client
        self._tokens: _Kept[Who | None] = _Kept(clock)
        self._answers: _Kept[bool] = _Kept(clock)

    @property
    def middleware(self) -> Any:
        @web.middleware
        async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
            who = await self._authenticate(request)
            if who is None:
                raise web.HTTPUnauthorized(text="Unauthorized")
            await self._authorize(who, request)
            return await handler(request)

        return check

    async def _authenticate(self, request: web.Request) -> Who | None:
        transport = request.transport
        found = subject(transport.get_extra_info("peercert")) if transport is not None else None
        if found is not None and found[0]:
            return Who(found[0], (*sorted(found[1]), "system:authenticated"))
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() == "bearer" and token.strip():
            # A token that is no good is refused, also where anonymous requests are allowed.
            return await self._review_token(token.strip())
        return ANONYMOUS if self._config.anonymous_auth else None

    async def _review_token(self, token: str) -> Who | None:
        if self._client is None or not self._config.webhook_authentication:
            return None
        key = hashlib.sha256(token.encode()).digest()
        kept = self._tokens.get(key)
        if kept is not None:
            return kept[0]
        review = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenReview",
            "spec": {"token": token},
        }
        try:
            answer = await self._client.raw("POST", TOKEN_REVIEWS, body=review)
        except ClientError as err:
            log.error("Unable to authenticate the request: %s", err)
            raise web.HTTPUnauthorized(text="Unauthorized") from err
        status = answer.get("status") or {}
        who = None
        if status.get("authenticated"):
            user = status.get("user") or {}
            who = Who(user.get("username", ""), tuple(user.get("groups") or ()), user.get("uid") or "")
        self._tokens.put(key, who, self._config.webhook_cache_ttl_s)
        return who

    async def _authorize(self, who: Who, request: web.Request) -> None:
        # Differs from upstream, which asks the API server about its own masters too: the answer is known, and
        # a shell on a node must be had also while the API server is out of order.
        if self._config.authorization_mode == "AlwaysAllow" or MASTERS in who.groups:
            return
        verb, wanted = VERBS.get(request.method, ""), subresources(request.path)
        about = f"user={who.user}, verb={verb}, resource=nodes, subresource(s)=[{' '.join(wanted)}]"
        try:
            for subresource in wanted:
                if await self._may(who, verb, subresource):
                    return
        except ClientError as err:
            log.error("Authorization error (%s): %s", about, err)
            raise web.HTTPInternalServerError(text=f"Authorization error ({about})") from err
        raise web.HTTPForbidden(text=f"Forbidden ({about})")

    async def _may(self, who: Who, verb: str, subresource: str) -> bool:
        if self._client is None:
            return False
        key = (who, verb, subresource)
        kept = self._answers.get(key)
        if kept is not None:
            return kept[0]
        attributes = {
            "verb": verb,
            "version": "v1",
            "resource": "nodes",
            "subresource": subresource,
            "name": self._config.node_name,
        }
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SubjectAccessReview",
            "spec": {
                "user": who.user,
                "groups": list(who.groups),
                "uid": who.uid,
                "resourceAttributes": attributes,
            },
        }
        answer = await self._client.raw("POST", ACCESS_REVIEWS, body=review)
        allowed = bool((answer.get("status") or {}).get("allowed"))
        config = self._config
        ttl_s = config.webhook_cache_authorized_ttl_s if allowed else config.webhook_cache_unauthorized_ttl_s
        self._answers.put(key, allowed, ttl_s)
        return allowed


class _Kept(Generic[T]):
    """Answers, each for its time; the oldest go when there are too many."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._items: OrderedDict[Hashable, tuple[float, T]] = OrderedDict()

    def get(self, key: Hashable) -> tuple[T] | None:
        """The answer in a tuple, for None is one too; None when there is none."""
        item = self._items.get(key)
        return (item[1],) if item is not None and item[0] > self._clock() else None

    def put(self, key: Hashable, value: T, ttl_s: float) -> None:
        self._items[key] = self._clock() + ttl_s, value
        self._items.move_to_end(key)
        while len(self._items) > CACHE_SIZE:
            self._items.popitem(last=False)
