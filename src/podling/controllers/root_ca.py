"""Every active namespace has the config map `kube-root-ca.crt`: how pods know the API server's certificate.

The file is part of the projected volume that carries a service account token; here it is kept whole and
put back when somebody changes it.
"""

from __future__ import annotations

from podling.api.core_v1 import ConfigMap, Namespace
from podling.api.meta_v1 import ObjectMeta
from podling.client.client import Client
from podling.client.errors import AlreadyExistsError, NotFoundError
from podling.client.workqueue import WorkQueue, run_workers
from podling.controllers.informers import ROOT_CA_CONFIG_MAP, Informers
from podling.controllers.namespace import is_active

_DESCRIPTION = {
    "kubernetes.io/description": "Contains a CA bundle that can be used to verify the kube-apiserver when"
    " using internal endpoints such as the internal service IP or kubernetes.default.svc. No other usage is"
    " guaranteed across distributions of Kubernetes clusters."
}


class RootCAController:
    """Keyed by namespace name; `ca` is PEM text."""

    def __init__(self, client: Client, informers: Informers, ca: str) -> None:
        self._client = client
        self._informers = informers
        self._data = {"ca.crt": ca}
        self._queue: WorkQueue[str] = WorkQueue()

    async def run(self) -> None:
        await self._informers.config_maps.wait_synced()
        self._informers.namespaces.add_handler(self._on_namespace)
        self._informers.config_maps.add_handler(self._on_config_map)
        await run_workers(self._queue, self._reconcile, name="root-ca")

    def _on_namespace(self, old: Namespace | None, new: Namespace | None) -> None:
        if new is not None:
            self._queue.add(new.metadata.name or "")

    def _on_config_map(self, old: ConfigMap | None, new: ConfigMap | None) -> None:
        changed = new or old
        if changed is not None and (new is None or new.data != self._data):
            self._queue.add(changed.metadata.namespace or "")

    async def _reconcile(self, namespace: str) -> None:
        if not is_active(self._informers.namespaces.get(namespace)):
            return
        current = self._informers.config_maps.get(ROOT_CA_CONFIG_MAP, namespace)
        if current is None:
            meta = ObjectMeta(name=ROOT_CA_CONFIG_MAP, namespace=namespace, annotations=dict(_DESCRIPTION))
            try:
                await self._client.create(ConfigMap(metadata=meta, data=dict(self._data)), namespace)
            except AlreadyExistsError:
                return
        elif current.data != self._data:
            strangers = dict.fromkeys(current.data.keys() - self._data.keys())
            try:
                await self._client.patch(
                    ConfigMap, ROOT_CA_CONFIG_MAP, {"data": {**strangers, **self._data}}, namespace
                )
            except NotFoundError:
                return  # its deletion is on the way to us
