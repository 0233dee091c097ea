"""The API server as a component: open the store, make what every cluster has, listen.

One a process, in the event loop that calls `start`. Components in the same process use
`local_transport`, which works as soon as `start` has returned.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Sequence

from podling.apiserver import authn
from podling.apiserver.bootstrap import bootstrap
from podling.apiserver.cluster import Cluster
from podling.apiserver.clusterip import ServiceAllocator
from podling.apiserver.config import APIServerConfig
from podling.apiserver.discovery import Discovery
from podling.apiserver.dispatch import Dispatcher
from podling.apiserver.documents import Documents
from podling.apiserver.expiry import EventExpiry
from podling.apiserver.http import HttpsServer, server_context
from podling.apiserver.kubelets import Kubelets
from podling.apiserver.local import LocalTransport
from podling.apiserver.metrics import Metrics
from podling.apiserver.resources import RESOURCES, VERBS, by_path
from podling.client.transport import Transport
from podling.store.sqlite import SqliteStore

log = logging.getLogger(__name__)


class APIServer:
    def __init__(self, config: APIServerConfig, listener: socket.socket | None = None) -> None:
        """`listener`: a listening socket to serve on instead of opening `bind_address` and `port`."""
        self._config = config
        self._listener = listener
        self._store = SqliteStore(config.store_path)
        self._cluster = Cluster(
            config=config,
            store=self._store,
            resources=by_path(),
            services=ServiceAllocator(config.service_cidr),
            kubelets=Kubelets(config),
        )
        self._ready = False
        self._expiry: asyncio.Task[None] | None = None
        metrics = Metrics(lambda: self._store.revision)
        discovery = Discovery(RESOURCES, f"{config.advertise_address}:{config.port}")
        documents = Documents(discovery, metrics, lambda: self._ready)
        self._dispatcher = Dispatcher(self._cluster, VERBS, documents, metrics)
        self._https = HttpsServer(self._dispatcher.handle, lambda: self._cluster.kubelets.ssl_context)

    @property
    def port(self) -> int:
        """Where it listens, once started."""
        return self._https.port

    async def start(self) -> None:
        """Returns when requests are answered.

        Raises StoreOpenError, OSError (address in use, unreadable certificate) or ssl.SSLError; nothing
        stays open then.
        """
        config = self._config
        context = server_context(str(config.tls_cert), str(config.tls_key), str(config.client_ca))
        await self._store.open()
        try:
            self._https.bind(config.bind_address, config.port, self._listener)
            await bootstrap(self._cluster, self.port)
            await self._https.start(context)
        except BaseException:
            await self.stop()
            raise
        self._expiry = asyncio.create_task(EventExpiry(self._cluster).run(), name="event expiry")
        self._ready = True
        log.info("serving on https://%s:%d", config.bind_address, self.port)

    async def stop(self) -> None:
        """Close connections, finish writes, close the store; twice is fine."""
        self._ready = False
        if self._expiry is not None:
            self._expiry.cancel()
        await self._https.stop()
        await self._cluster.kubelets.close()
        await self._store.close()

    def local_transport(self, user: str, groups: Sequence[str]) -> Transport:
        """A way in for a component of this process, with the rights of `user` and `groups`."""
        return LocalTransport(self._dispatcher.handle, authn.user(user, tuple(groups)))
