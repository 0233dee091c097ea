"""Config maps and secrets the node's pods refer to, fetched when a container needs them.

Concurrent requests for one object share one answer: fifty pods of a deployment ask once.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable

from podling.api import core_v1
from podling.client.client import Client
from podling.client.errors import NotFoundError
from podling.kubelet.environment import ObjectKey, Sources

Fetched = core_v1.ConfigMap | core_v1.Secret | None


class ObjectCache:
    """A container that starts sees the newest values: only who says so is given older ones."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._pending: dict[tuple[str, ObjectKey], asyncio.Future[Fetched]] = {}
        self._kept: dict[tuple[str, ObjectKey], tuple[float, Fetched]] = {}

    async def fetch(self, namespace: str, keys: Iterable[ObjectKey], *, max_age_s: float = 0.0) -> Sources:
        """Every object of `keys`, at most `max_age_s` old; absent ones are None. Raises ClientError.

        The pods of a node look at the same few objects again and again (kube-root-ca.crt is in all of them):
        with an age one request serves them all.
        """
        wanted = list(keys)
        objects = await asyncio.gather(*(self._get(namespace, key, max_age_s) for key in wanted))
        config_maps: dict[str, core_v1.ConfigMap | None] = {}
        secrets: dict[str, core_v1.Secret | None] = {}
        for key, obj in zip(wanted, objects, strict=True):
            if key.kind == "ConfigMap":
                config_maps[key.name] = obj if isinstance(obj, core_v1.ConfigMap) else None
            else:
                secrets[key.name] = obj if isinstance(obj, core_v1.Secret) else None
        return Sources(config_maps=config_maps, secrets=secrets)

    async def _get(self, namespace: str, key: ObjectKey, max_age_s: float) -> Fetched:
        slot = (namespace, key)
        if max_age_s:
            oldest = time.monotonic() - max_age_s
            self._kept = {s: kept for s, kept in self._kept.items() if kept[0] > oldest}
            if slot in self._kept:
                return self._kept[slot][1]
        pending = self._pending.get(slot)
        if pending is None:
            pending = asyncio.ensure_future(self._request(namespace, key))
            self._pending[slot] = pending
            pending.add_done_callback(lambda _: self._pending.pop(slot, None))
        # Shielded: one pod's end must not fail the others that wait for the same object.
        found = await asyncio.shield(pending)
        if max_age_s:
            self._kept[slot] = (time.monotonic(), found)
        return found

    async def _request(self, namespace: str, key: ObjectKey) -> Fetched:
        try:
            if key.kind == "ConfigMap":
                return await self._client.get(core_v1.ConfigMap, key.name, namespace)
            return await self._client.get(core_v1.Secret, key.name, namespace)
        except NotFoundError:
            return None
