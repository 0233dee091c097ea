"""The API server as a component: open the store, make what every cluster has, listen.

One a process, in the event loop that calls `start`. Components in the same process use
`local_transport`, which works as soon as `start` has returned.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Sequence

from podling.apiserver import authn, bootstraptokens, errors, serviceaccounts
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
from podling.apiserver.rbac.bindings import Bindings
from podling.apiserver.rbac.bootstrap import ensure_policy
from podling.apiserver.request import User
from podling.apiserver.resources import RESOURCES, VERBS, by_path
from podling.apiserver.tokens import InvalidTokenError, Tokens
from podling.client.transport import Transport
from podling.store.interface import WriteFailedError
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
            bindings=Bindings(self._store),
            tokens=Tokens(config.service_account_key) if config.service_account_key else None,
        )
        self._ready = False
        self._expiry: asyncio.Task[None] | None = None
        self._policy: asyncio.Task[None] | None = None
        self._warming: asyncio.Task[None] | None = None
        metrics = Metrics(lambda: self._store.revision)
        discovery = Discovery(RESOURCES, f"{config.advertise_address}:{config.port}")
        documents = Documents(self._cluster, discovery, metrics, lambda: self._ready)
        self._dispatcher = Dispatcher(self._cluster, VERBS, documents, metrics)
        self._https = HttpsServer(
            self._dispatcher.handle, self._authenticate, lambda: self._cluster.kubelets.ssl_context
        )

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
        # Behind the first answers, as upstream: nodes and components do not need it.
        self._policy = asyncio.create_task(self._ensure_policy(), name="RBAC policy")
        if self._cluster.tokens is not None:
            self._warming = asyncio.create_task(self._load_key(self._cluster.tokens), name="token key")
        self._ready = True
        log.info("serving on https://%s:%d", config.bind_address, self.port)

    async def stop(self) -> None:
        """Close connections, finish writes, close the store; twice is fine."""
        self._ready = False
        for task in (self._expiry, self._policy, self._warming):
            if task is not None:
                task.cancel()
        await self._https.stop()
        await self._cluster.kubelets.close()
        await self._store.close()

    async def _ensure_policy(self) -> None:
        try:
            await ensure_policy(self._cluster)
        except (errors.APIError, WriteFailedError) as err:
            log.error("the default RBAC roles could not be stored: %s", err)

    async def _load_key(self, tokens: Tokens) -> None:
        """Before the first pod asks for a token, and beside everything else."""
        try:
            await asyncio.to_thread(tokens.load)
        except (OSError, ValueError) as err:
            log.error("no service account tokens: %s: %s", self._config.service_account_key, err)

    async def _authenticate(self, token: str) -> User:
        if bootstraptokens.looks_like_one(token):
            user = await bootstraptokens.authenticate(self._cluster, token)
            if user is None:
                raise errors.unauthorized()
            return user
        try:
            return await serviceaccounts.authenticate(self._cluster, token)
        except InvalidTokenError as err:
            log.info("refused a token: %s", err)
            raise errors.unauthorized() from err

    def local_transport(self, user: str, groups: Sequence[str]) -> Transport:
        """A way in for a component of this process, with the rights of `user` and `groups`."""
        return LocalTransport(self._dispatcher.handle, authn.user(user, tuple(groups)))
