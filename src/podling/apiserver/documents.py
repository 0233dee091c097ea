"""Paths that are no resources: discovery, OpenAPI, version, health, metrics."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from podling.api import openapi
from podling.apiserver import errors, serviceaccounts
from podling.apiserver.cluster import Cluster
from podling.apiserver.discovery import Discovery
from podling.apiserver.metrics import Metrics
from podling.apiserver.negotiation import accepted
from podling.apiserver.render import json_response
from podling.apiserver.request import Request, Response
from podling.apiserver.version import version_info

CHECKS = ("ping", "log", "store")


class Documents:
    def __init__(
        self, cluster: Cluster, discovery: Discovery, metrics: Metrics, ready: Callable[[], bool]
    ) -> None:
        self._cluster = cluster
        self._discovery = discovery
        self._metrics = metrics
        self._ready = ready

    async def answer(self, request: Request) -> Response:
        """Raises APIError 404, 405."""
        path = request.path.rstrip("/") or "/"
        if request.method not in ("GET", "HEAD"):
            raise errors.method_not_allowed()
        top = path.split("/")[1]
        if top in ("healthz", "livez", "readyz"):
            return self._health(path, request)
        match path:
            case "/":
                return json_response(200, {"paths": sorted(self._paths())})
            case "/version":
                return json_response(200, version_info(), accepted(request.accept))
            case "/metrics":
                return Response(200, self._metrics.text(), "text/plain; version=0.0.4")
            case "/.well-known/openid-configuration":
                return json_response(200, serviceaccounts.discovery(self._cluster))
            case "/openid/v1/jwks" if self._cluster.tokens is not None:
                return json_response(200, self._cluster.tokens.public_keys())
        if top == "openapi":
            return await _openapi(path, request)
        found = self._discovery.answer(request)
        if found is None:
            raise errors.unknown_path()
        return found

    def _paths(self) -> list[str]:
        return [
            *self._discovery.paths(),
            "/.well-known/openid-configuration", "/healthz", "/livez", "/metrics", "/openapi/v2",
            "/openapi/v3", "/openid/v1/jwks", "/readyz", "/version",
        ]  # fmt: skip

    def _health(self, path: str, request: Request) -> Response:
        name, _, check = path.strip("/").partition("/")
        good = name == "livez" or self._ready()
        if check and check not in CHECKS:
            raise errors.unknown_path()
        if good and "verbose" not in request.query:
            return Response(200, b"ok", "text/plain; charset=utf-8")
        lines = [f"[+]{c} ok" if good or c != "store" else f"[-]{c} failed" for c in CHECKS]
        lines.append(f"{name} check {'passed' if good else 'failed'}\n")
        return Response(200 if good else 500, "\n".join(lines).encode(), "text/plain; charset=utf-8")


async def _openapi(path: str, request: Request) -> Response:
    """Raises APIError 404."""
    # Making a document takes tens of milliseconds, the first time.
    found = await asyncio.to_thread(openapi.document, path, request.accept)
    if found is None:
        raise errors.unknown_path()
    body, content_type = found
    return Response(200, body, content_type, {"Vary": "Accept", "Cache-Control": "no-cache, private"})
