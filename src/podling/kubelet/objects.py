"""Config maps and secrets the node's pods refer to, fetched when a container needs them.

Concurrent requests for one object share one answer: fifty pods of a deployment ask once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from podling.api import core_v1
from podling.client.client import Client
from podling.client.errors import NotFoundError
from podling.kubelet.environment import ObjectKey, Sources

Fetched = core_v1.ConfigMap | core_v1.Secret | None


class ObjectCache:
    """Nothing is kept longer than a request takes: a restarted container sees the newest values."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._pending: dict[tuple[str, ObjectKey], asyncio.Future[Fetched]] = {}

    async def fetch(self, namespace: str, keys: Iterable[ObjectKey]) -> Sources:
        """Every object of `keys`; absent ones are None. Raises ClientError."""
        wanted = list(keys)
        objects = await asyncio.gather(*(self._get(namespace, key) for key in wanted))
        config_maps: dict[str, core_v1.ConfigMap | None] = {}
        secrets: dict[str, core_v1.Secret | None] = {}
        for key, obj in zip(wanted, objects, strict=True):
            if key.kind == "ConfigMap":
                config_maps[key.name] = obj if isinstance(obj, core_v1.ConfigMap) else None
            else:
                secrets[key.name] = obj if isinstance(obj, core_v1.Secret) else None
        return Sources(config_maps=config_maps, secrets=secrets)

    async def _get(self, namespace: str, key: ObjectKey) -> Fetched:
        slot = (namespace, key)
        pending = self._pending.get(slot)
        if pending is None:
            pending = asyncio.ensure_future(self._request(namespace, key))
            self._pending[slot] = pending
            pending.add_done_callback(lambda _: self._pending.pop(slot, None))
        # Shielded: one pod's end must not fail the others that wait for the same object.
        return await asyncio.shield(pending)

    async def _request(self, namespace: str, key: ObjectKey) -> Fetched:
        try:
            if key.kind == "ConfigMap":
                return await self._client.get(core_v1.ConfigMap, key.name, namespace)
            return await self._client.get(core_v1.Secret, key.name, namespace)
        except NotFoundError:
            return None
