"""The server itself: routes, TLS, start and stop."""

from __future__ import annotations

import asyncio
import logging
import ssl
import time
from pathlib import Path

from aiohttp import web

from podling.client.client import Client
from podling.kubelet.config import KubeletConfig
from podling.kubelet.pleg import PLEG
from podling.kubelet.pod_manager import PodManager
from podling.kubelet.probes.counts import ProbeCounts
from podling.kubelet.server.auth import Access, server_ssl_context
from podling.kubelet.server.checkpoint import CheckpointHandler
from podling.kubelet.server.logs_handler import LogsHandler
from podling.kubelet.server.lookup import Lookup
from podling.kubelet.server.pages import Pages
from podling.kubelet.server.streams import StreamHandlers
from podling.runtime.cri.service import ImageService, RuntimeService

SHUTDOWN_TIMEOUT_S = 1.0
"""Streams of kubectl are cut when the kubelet ends; there is nothing to wait for."""
CERTIFICATE_POLL_S = 5.0

log = logging.getLogger(__name__)


async def _disabled(request: web.Request) -> web.StreamResponse:
    raise web.HTTPMethodNotAllowed(request.method, (), text="Debug endpoints are disabled.")


class KubeletServer:
    """Started before anything else, so that logs and exec work as soon as pods do."""

    def __init__(
        self,
        config: KubeletConfig,
        client: Client | None,
        runtime: RuntimeService,
        images: ImageService,
        manager: PodManager,
        pleg: PLEG,
        probe_counts: ProbeCounts,
    ) -> None:
        """`client` is asked who callers are and what they may; None: nobody is."""
        self._config = config
        self._access = Access(config, client, time.monotonic)
        lookup = Lookup(manager, runtime)
        self._logs = LogsHandler(lookup, pleg, time.time)
        self._streams = StreamHandlers(lookup, runtime)
        self._checkpoint = CheckpointHandler(config, lookup, runtime)
        self._pages = Pages(config, runtime, images, manager, probe_counts)
        self._runners: list[web.AppRunner] = []
        self._context: ssl.SSLContext | None = None
        self._following: asyncio.Task[None] | None = None
        self.port = config.port
        """The port it really listens on: differs from the configuration's when that is 0."""

    async def start(self) -> None:
        """Listen on the port with TLS, for which there must be certificates, and those without.

        Raises OSError when the port with TLS is taken; of the others the log tells.
        """
        config = self._config
        if config.tls_cert is not None and config.tls_key is not None:
            if config.tls_cert.exists():
                await self._listen_with_tls(config.tls_cert, config.tls_key)
            follow = self._follow_certificate(config.tls_cert, config.tls_key)
            self._following = asyncio.create_task(follow, name="server certificate")
        for application, address, port, name in (
            (self._read_only(), config.bind_address, config.read_only_port, "read-only"),
            (self._only_health(), config.healthz_bind_address, config.healthz_port, "healthz"),
        ):
            if port:
                try:
                    await self._listen(application, address, port)
                except OSError as err:
                    log.error("the %s server cannot listen: %s", name, err)

    async def _listen_with_tls(self, cert: Path, key: Path) -> None:
        config = self._config
        self._context = server_ssl_context(cert, key, config.client_ca)
        runner = await self._listen(self._application(), config.bind_address, config.port, self._context)
        if config.port == 0:
            self.port = runner.addresses[0][1]

    async def _follow_certificate(self, cert: Path, key: Path) -> None:
        """Certificates are renewed, and a first one may have to be asked for: new connections get the
        newest."""
        loaded = cert.stat().st_mtime_ns if self._context is not None else 0
        while True:
            await asyncio.sleep(CERTIFICATE_POLL_S)
            try:
                changed = cert.stat().st_mtime_ns
                if changed == loaded:
                    continue
                if self._context is None:
                    await self._listen_with_tls(cert, key)
                else:
                    self._context.load_cert_chain(cert, key)
            except FileNotFoundError:
                continue
            except (OSError, ssl.SSLError) as err:
                # The pair may be half written: the next look finds it whole.
                log.warning("the server's certificate %s: %s", cert, err)
                continue
            loaded = changed
            log.info("the server's certificate is %s as it is now", cert)

    async def _listen(
        self, application: web.Application, address: str, port: int, context: ssl.SSLContext | None = None
    ) -> web.AppRunner:
        runner = web.AppRunner(
            application,
            access_log=None,
            shutdown_timeout=SHUTDOWN_TIMEOUT_S,
            # A follower of a silent log would otherwise stay long after its client has gone.
            handler_cancellation=True,
        )
        await runner.setup()
        self._runners.append(runner)
        await web.TCPSite(runner, address, port, ssl_context=context).start()
        return runner

    async def stop(self) -> None:
        if self._following is not None:
            self._following.cancel()
        for runner in self._runners:
            await runner.cleanup()

    def _only_health(self) -> web.Application:
        app = web.Application()
        app.router.add_get("/healthz", self._pages.healthz)
        return app

    def _read_only(self) -> web.Application:
        """What tells and changes nothing."""
        app = web.Application()
        self._add_pages(app)
        return app

    def _add_pages(self, app: web.Application) -> None:
        pages = self._pages
        for path, handler in (
            ("/healthz", pages.healthz),
            ("/pods", pages.pods),
            ("/stats/summary", pages.stats_summary),
            ("/metrics", pages.metrics),
            ("/metrics/resource", pages.metrics_resource),
            ("/metrics/cadvisor", pages.metrics_cadvisor),
            ("/metrics/probes", pages.metrics_probes),
        ):
            app.router.add_get(path, handler)
        app.router.add_get("/pods/", pages.pods)
        app.router.add_get("/stats/summary/", pages.stats_summary)

    def _application(self) -> web.Application:
        app = web.Application(middlewares=[self._access.middleware])
        self._add_pages(app)
        app.router.add_get("/configz", self._pages.configz)
        app.router.add_post("/checkpoint/{namespace}/{pod}/{container}", self._checkpoint.handle)
        if self._config.enable_debugging_handlers:
            self._add_debugging(app)
        else:
            for prefix in ("containerLogs", "exec", "attach", "run", "portForward", "runningpods"):
                app.router.add_route("*", f"/{prefix}/{{rest:.*}}", _disabled)
        return app

    def _add_debugging(self, app: web.Application) -> None:
        streams = self._streams
        app.router.add_get("/runningpods/", self._pages.running_pods)
        app.router.add_get("/runningpods", self._pages.running_pods)
        app.router.add_get("/containerLogs/{namespace}/{pod}/{container}", self._logs.handle)
        for verb, handler in (("exec", streams.exec), ("attach", streams.attach), ("run", streams.run)):
            for path in ("{namespace}/{pod}/{container}", "{namespace}/{pod}/{uid}/{container}"):
                app.router.add_route("GET", f"/{verb}/{path}", handler)
                app.router.add_route("POST", f"/{verb}/{path}", handler)
        for path in ("{namespace}/{pod}", "{namespace}/{pod}/{uid}"):
            app.router.add_route("GET", f"/portForward/{path}", streams.port_forward)
            app.router.add_route("POST", f"/portForward/{path}", streams.port_forward)
