"""From a question to the bytes that answer it: the cluster's names, else the cache, else another server.

Answers from the cluster's domain are kept until anything changes; then all are forgotten, so that no answer
is older than the watch event that made it false.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace
from typing import NamedTuple

from podling.network.dns.forward import Forwarder
from podling.network.dns.message import Answer, Code, Query, encode, make_query
from podling.network.dns.records import Zone
from podling.network.dns.upstream import UpstreamError

CACHE_SIZE = 4096
SHORT_NAME_WAIT_S = 0.5
"""How long a name that could be a service's is waited for upstream: clients give up after a few seconds."""


class Response(NamedTuple):
    message: bytes
    plugin: str
    """Where it is from, in CoreDNS' words: `kubernetes`, `cache` or `forward`."""
    fixed: bool = False
    """The same for everyone who asks the same, until something of the cluster changes."""


class Resolver:
    def __init__(self, zone: Zone, forwarder: Forwarder) -> None:
        self._zone = zone
        self._forwarder = forwarder
        self._known: dict[tuple[str, int], Answer] = {}

    def forget(self) -> None:
        """Something of the cluster has changed."""
        self._known.clear()

    def now(self, query: Query, *, limit: int) -> Response | None:
        """What needs no other server. `ValueError` for a service whose external name is no name."""
        found = self._cluster(query)
        if found is not None:
            if self._zone.outside(query, found) is not None:
                return None
            if len(found.answers) > 1 and len({r.type for r in found.answers}) == 1:
                # Clients take the first address. A CNAME stays before what it leads to.
                found = replace(found, answers=random.sample(found.answers, len(found.answers)))
            return Response(encode(query, found, limit=limit), "kubernetes", len(found.answers) < 2)
        hit = self._forwarder.known(query)
        if hit is None or (hit.reply.code == Code.NXDOMAIN and self._zone.short_answer(query)):
            return None
        return Response(hit.encode(query, limit=limit), "cache")

    async def later(self, query: Query, *, limit: int) -> Response:
        """The rest."""
        found = self._cluster(query)
        if found is not None:
            return Response(encode(query, await self._followed(query, found), limit=limit), "kubernetes")
        short = self._zone.short_answer(query)
        hit = None
        try:
            async with asyncio.timeout(SHORT_NAME_WAIT_S if short else None):
                hit = await self._forwarder.ask(query)
        except (UpstreamError, TimeoutError):
            if short is None:
                return Response(encode(query, Answer(code=Code.SERVFAIL), limit=limit), "forward")
        if short is not None and (hit is None or hit.reply.code in (Code.NXDOMAIN, Code.SERVFAIL)):
            return Response(encode(query, short, limit=limit), "kubernetes")
        assert hit is not None
        return Response(hit.encode(query, limit=limit), "forward")

    def _cluster(self, query: Query) -> Answer | None:
        slot = (query.name, query.type)
        found = self._known.get(slot)
        if found is None:
            found = self._zone.answer(query)
            if found is None:
                return None
            if len(self._known) >= CACHE_SIZE:
                self._known.clear()
            self._known[slot] = found
        return found

    async def _followed(self, query: Query, found: Answer) -> Answer:
        """With the addresses of the external name; without, when nobody tells: the CNAME is true alone."""
        target = self._zone.outside(query, found)
        if target is None:
            return found
        asked = make_query(target, query.type)
        try:
            hit = self._forwarder.known(asked) or await self._forwarder.ask(asked)
            records = hit.reply.addresses(hit.age_s)
        except (UpstreamError, ValueError):
            return found
        code = Code.NXDOMAIN if hit.reply.code == Code.NXDOMAIN else Code.NOERROR
        return Answer(code=code, answers=[*found.answers, *records])
