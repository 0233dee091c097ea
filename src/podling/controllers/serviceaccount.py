"""Every active namespace has a service account named `default`: pods that name none run as it."""

from __future__ import annotations

from podling.api.core_v1 import Namespace, ServiceAccount
from podling.api.meta_v1 import ObjectMeta
from podling.client.client import Client
from podling.client.errors import AlreadyExistsError
from podling.client.workqueue import WorkQueue, run_workers
from podling.controllers.informers import DEFAULT_SERVICE_ACCOUNT, Informers
from podling.controllers.namespace import is_active


class ServiceAccountController:
    """Keyed by namespace name."""

    def __init__(self, client: Client, informers: Informers) -> None:
        self._client = client
        self._informers = informers
        self._queue: WorkQueue[str] = WorkQueue()

    async def run(self) -> None:
        await self._informers.service_accounts.wait_synced()
        self._informers.namespaces.add_handler(self._on_namespace)
        self._informers.service_accounts.add_handler(self._on_service_account)
        await run_workers(self._queue, self._reconcile, name="serviceaccount")

    def _on_namespace(self, old: Namespace | None, new: Namespace | None) -> None:
        if new is not None:
            self._queue.add(new.metadata.name or "")

    def _on_service_account(self, old: ServiceAccount | None, new: ServiceAccount | None) -> None:
        if new is None and old is not None:
            self._queue.add(old.metadata.namespace or "")

    async def _reconcile(self, namespace: str) -> None:
        if not is_active(self._informers.namespaces.get(namespace)):
            return
        if self._informers.service_accounts.get(DEFAULT_SERVICE_ACCOUNT, namespace) is not None:
            return
        account = ServiceAccount(metadata=ObjectMeta(name=DEFAULT_SERVICE_ACCOUNT, namespace=namespace))
        try:
            await self._client.create(account, namespace)
        except AlreadyExistsError:
            return
