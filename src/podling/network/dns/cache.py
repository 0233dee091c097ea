"""Replies of other servers, kept for as long as they say (RFC 2308 for denials), within bounds."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

from podling.network.dns.message import Query
from podling.network.dns.reply import Reply

MAX_TTL_S = 30
"""As kubeadm's CoreDNS has it (`cache 30`): what moved is found again after half a minute."""
MAX_ENTRIES = 9984
"""Of answers, and as many of denials; CoreDNS' number."""
MAX_BYTES = 8 << 20

Slot: TypeAlias = tuple[str, bytes, bool, bool]


class Hit(NamedTuple):
    reply: Reply
    age_s: int

    def encode(self, query: Query, *, limit: int) -> bytes:
        return self.reply.encode(query, limit=limit, age_s=self.age_s, max_ttl_s=MAX_TTL_S)


class _Entry(NamedTuple):
    reply: Reply
    since: float
    until: float


class _Shelf:
    """Of one kind: the oldest makes room for the newest."""

    def __init__(self, max_entries: int, max_bytes: int) -> None:
        self.entries: dict[Slot, _Entry] = {}
        self.hits = self.evictions = 0
        self._bytes = 0
        self._max_entries, self._max_bytes = max_entries, max_bytes

    def put(self, slot: Slot, entry: _Entry) -> None:
        self.drop(slot)
        self.entries[slot] = entry
        self._bytes += len(entry.reply.message)
        while len(self.entries) > self._max_entries or self._bytes > self._max_bytes:
            self.drop(next(iter(self.entries)))
            self.evictions += 1

    def drop(self, slot: Slot) -> None:
        entry = self.entries.pop(slot, None)
        if entry is not None:
            self._bytes -= len(entry.reply.message)


class ReplyCache:
    def __init__(
        self,
        *,
        max_entries: int = MAX_ENTRIES,
        max_bytes: int = MAX_BYTES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """The bounds are of answers, and once more of denials: neither can drive out the other."""
        self.success = _Shelf(max_entries, max_bytes)
        self.denial = _Shelf(max_entries, max_bytes)
        self._clock = clock

    def get(self, slot: Slot) -> Hit | None:
        now = self._clock()
        for shelf in (self.success, self.denial):
            entry = shelf.entries.get(slot)
            if entry is None:
                continue
            if now < entry.until:
                shelf.hits += 1
                return Hit(entry.reply, int(now - entry.since))
            shelf.drop(slot)
        return None

    def put(self, slot: Slot, reply: Reply) -> None:
        """Nothing is kept of a reply that has no lifetime."""
        lifetime_s = min(reply.lifetime_s(), MAX_TTL_S)
        self.success.drop(slot)
        self.denial.drop(slot)
        if lifetime_s > 0:
            now = self._clock()
            shelf = self.denial if reply.denies else self.success
            shelf.put(slot, _Entry(reply, now, now + lifetime_s))


def slot_of(query: Query) -> Slot:
    """Whoever asks the same may have the same answer, in whatever case and size he asks."""
    return query.name, query.question[-4:], query.dnssec, query.unchecked
