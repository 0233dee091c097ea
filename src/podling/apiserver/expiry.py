"""Events are kept for an hour after they were last written, as upstream's `--event-ttl` has it.

Entries carry no time, but revisions grow with it: every few minutes the newest revision is noted, and an
event whose revision is not above the one noted an hour ago has been left alone for an hour. Nothing is
decoded, and the loop sleeps in between. The notes are lost at a restart; events then live a little longer.
"""

from __future__ import annotations

import asyncio
from collections import deque

from podling.apiserver import errors, registry
from podling.apiserver.cluster import Cluster
from podling.apiserver.registry import DeleteOptions, Target

EVENT_TTL_S = 3600.0
INTERVAL_S = 300.0


class EventExpiry:
    """Run by the server for as long as it serves."""

    def __init__(self, cluster: Cluster, ttl_s: float = EVENT_TTL_S, interval_s: float = INTERVAL_S) -> None:
        self._cluster = cluster
        self._ttl_s = ttl_s
        self._interval_s = interval_s
        self._notes: deque[tuple[float, int]] = deque()

    async def run(self) -> None:
        while True:
            await asyncio.sleep(self._interval_s)
            await self.expire(asyncio.get_running_loop().time())

    async def expire(self, now: float) -> None:
        """Note where the store is at `now` (seconds, monotonic), and delete what is too old by then."""
        self._notes.append((now, self._cluster.store.revision))
        old = 0
        while self._notes and self._notes[0][0] <= now - self._ttl_s:
            old = self._notes.popleft()[1]
        if old:
            await self._delete_up_to(old)

    async def _delete_up_to(self, revision: int) -> None:
        events = self._cluster.find("", "v1", "events")
        assert events is not None
        page = await self._cluster.store.list(events.prefix(""))
        for entry in page.entries:
            if entry.revision > revision:
                continue
            _, namespace, name = entry.key.split("/")
            options = DeleteOptions(resource_version=str(entry.revision))
            try:
                await registry.delete(self._cluster, Target(events, namespace, name), options)
            except errors.APIError:
                # Deleted or written again meanwhile.
                continue
