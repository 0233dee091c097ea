"""The server itself: routes, TLS, start and stop."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import msgspec
from aiohttp import web

from podling.kubelet.config import KubeletConfig
from podling.kubelet.pleg import PLEG
from podling.kubelet.pod_manager import PodManager
from podling.kubelet.server.auth import authenticate, server_ssl_context
from podling.kubelet.server.logs_handler import LogsHandler
from podling.kubelet.server.lookup import Lookup
from podling.kubelet.server.streams import StreamHandlers
from podling.kubelet.status_manager import status_to_json
from podling.runtime.cri.service import RuntimeService

SHUTDOWN_TIMEOUT_S = 1.0
"""Streams of kubectl are cut when the kubelet ends; there is nothing to wait for."""


class KubeletServer:
    """Started before anything else, so that logs and exec work as soon as pods do."""

    def __init__(
        self, config: KubeletConfig, runtime: RuntimeService, manager: PodManager, pleg: PLEG
    ) -> None:
        self._config = config
        self._manager = manager
        lookup = Lookup(manager, runtime)
        self._logs = LogsHandler(lookup, pleg, time.time)
        self._streams = StreamHandlers(lookup, runtime)
        self._runner: web.AppRunner | None = None
        self.port = config.port
        """The port it really listens on: differs from the configuration's when that is 0."""

    async def start(self) -> None:
        """Listen; without certificates there is no server. Raises OSError when the port is taken."""
        config = self._config
        if config.tls_cert is None or config.tls_key is None or config.client_ca is None:
            return
        context = server_ssl_context(config.tls_cert, config.tls_key, config.client_ca)
        self._runner = web.AppRunner(
            self._application(),
            access_log=None,
            shutdown_timeout=SHUTDOWN_TIMEOUT_S,
            # A follower of a silent log would otherwise stay long after its client has gone.
            handler_cancellation=True,
        )
        await self._runner.setup()
        site = web.TCPSite(self._runner, config.bind_address, config.port, ssl_context=context)
        await site.start()
        if config.port == 0:
            self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    def _application(self) -> web.Application:
        app = web.Application(middlewares=[authenticate])
        streams = self._streams
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/pods", self._pods)
        app.router.add_get("/runningpods/", self._pods)
        app.router.add_get("/configz", self._configz)
        app.router.add_get("/metrics", self._metrics)
        app.router.add_get("/containerLogs/{namespace}/{pod}/{container}", self._logs.handle)
        for verb, handler in (("exec", streams.exec), ("attach", streams.attach), ("run", streams.run)):
            for path in ("{namespace}/{pod}/{container}", "{namespace}/{pod}/{uid}/{container}"):
                app.router.add_route("GET", f"/{verb}/{path}", handler)
                app.router.add_route("POST", f"/{verb}/{path}", handler)
        for path in ("{namespace}/{pod}", "{namespace}/{pod}/{uid}"):
            app.router.add_route("GET", f"/portForward/{path}", streams.port_forward)
            app.router.add_route("POST", f"/portForward/{path}", streams.port_forward)
        return app

    async def _healthz(self, request: web.Request) -> web.Response:
        return web.Response(text="ok")

    async def _pods(self, request: web.Request) -> web.Response:
        items = []
        for pod in self._manager.pods():
            plain: dict[str, Any] = msgspec.to_builtins(pod)
            if pod.status is not None:
                plain["status"] = status_to_json(pod.status)
            items.append(plain)
        body = {"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items}
        return web.Response(body=msgspec.json.encode(body), content_type="application/json")

    async def _configz(self, request: web.Request) -> web.Response:
        body = {"kubeletconfig": dataclasses.asdict(self._config)}
        return web.Response(body=msgspec.json.encode(body, enc_hook=str), content_type="application/json")

    async def _metrics(self, request: web.Request) -> web.Response:
        counts: dict[str, int] = {}
        for pod in self._manager.pods():
            phase = (pod.status.phase if pod.status else None) or "Pending"
            counts[phase] = counts.get(phase, 0) + 1
        lines = ["# HELP kubelet_pods Pods of this node by phase.", "# TYPE kubelet_pods gauge"]
        lines += [f'kubelet_pods{{phase="{phase}"}} {count}' for phase, count in sorted(counts.items())]
        lines += ["# HELP kubelet_node_name The node's name.", "# TYPE kubelet_node_name gauge"]
        lines += [f'kubelet_node_name{{node="{self._config.node_name}"}} 1', ""]
        return web.Response(text="\n".join(lines), content_type="text/plain")
