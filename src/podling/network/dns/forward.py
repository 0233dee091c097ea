"""Names that are not the cluster's: from memory, else from the node's servers, each asked once at a time."""

from __future__ import annotations

import asyncio

from podling.network.dns.cache import Hit, ReplyCache, Slot, slot_of
from podling.network.dns.message import Query
from podling.network.dns.reply import Reply
from podling.network.dns.upstream import Upstream


class Forwarder:
    def __init__(self, upstream: Upstream, cache: ReplyCache | None = None) -> None:
        self.upstream = upstream
        self.cache = cache or ReplyCache()
        self.misses = 0
        self._pending: dict[Slot, asyncio.Task[Reply]] = {}

    def known(self, query: Query) -> Hit | None:
        """What is remembered."""
        hit = self.cache.get(slot_of(query))
        if hit is None:
            self.misses += 1
        return hit

    async def ask(self, query: Query) -> Hit:
        """What an upstream server says now. Who asks what is being asked already waits for the same answer.

        Raises `UpstreamError`. Whoever is cancelled leaves the question to the others.
        """
        slot = slot_of(query)
        task = self._pending.get(slot)
        if task is None:
            task = asyncio.create_task(self._fetch(slot, query), name=f"DNS: {query.name}")
            self._pending[slot] = task
            task.add_done_callback(lambda done: self._done(slot, done))
        return Hit(await asyncio.shield(task), 0)

    async def _fetch(self, slot: Slot, query: Query) -> Reply:
        reply = await self.upstream.ask(query)
        self.cache.put(slot, reply)
        return reply

    def _done(self, slot: Slot, task: asyncio.Task[Reply]) -> None:
        del self._pending[slot]
        if not task.cancelled():
            task.exception()  # everyone who waited may be gone

    def cancel(self) -> None:
        for task in self._pending.values():
            task.cancel()
