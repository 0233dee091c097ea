"""The live objects and the recent history, in memory: what every read and every watch is served from.

A `Collection` holds the entries of one kind sorted by key, a bounded ring of its latest events, and its
watches. History belongs to the collection, so that a busy kind (leases, events) does not push out
another's. The invariant that lists at a revision and watches rest on: the ring has every event with a
revision greater than `floor`, and each event knows the entry it replaced.

Everything here runs on the event loop and never waits.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left, bisect_right, insort
from collections import deque
from collections.abc import Iterator

from podling.store.interface import CompactedError, Entry, Event, FutureRevisionError, Page, Wants

MAX_EVENTS = 2048
"""Events a collection remembers: many times what a client misses while it reconnects."""
MAX_HISTORY_BYTES = 4 << 20
"""Bytes of replaced values a collection's history may hold, whatever their number."""
MAX_PENDING = 4096
MAX_PENDING_BYTES = 16 << 20
"""Events queued for one watch, and bytes of their values; a reader further behind is cut off and has to list
again."""


class QueueWatch:
    """A watch with its own queue, filled as writes become durable: a slow reader delays nobody."""

    __slots__ = ("_collection", "_overflow", "_pending", "_pending_bytes", "_waiter", "prefix", "wants")

    def __init__(self, collection: Collection, prefix: str, wants: Wants | None) -> None:
        self._collection = collection
        self.prefix = prefix
        self.wants = wants
        self._pending: list[Event] = []
        self._pending_bytes = 0
        self._overflow = 0
        self._waiter: asyncio.Future[None] | None = None

    def offer(self, event: Event) -> None:
        if not event.key.startswith(self.prefix) or (self.wants is not None and not self.wants(event)):
            return
        self._pending.append(event)
        if event.entry is not None:
            self._pending_bytes += len(event.entry.value)
        if len(self._pending) > MAX_PENDING or self._pending_bytes > MAX_PENDING_BYTES:
            self._overflow = self._pending[0].revision
            self._pending.clear()
            self.close()
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def batch(self) -> list[Event]:
        while not self._pending:
            if self._overflow:
                raise CompactedError(self._overflow, self._collection.floor + 1)
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        events, self._pending, self._pending_bytes = self._pending, [], 0
        return events

    def close(self) -> None:
        self._collection.watches.discard(self)


class Collection:
    """Entries of one kind with their recent history."""

    def __init__(self, name: str, floor: int) -> None:
        self.name = name
        self.floor = floor
        """Events up to this revision are forgotten."""
        self.watches: set[QueueWatch] = set()
        self._entries: dict[str, Entry] = {}
        self._keys: list[str] = []
        self._ring: deque[Event] = deque()
        self._ring_bytes = 0

    def get(self, key: str) -> Entry | None:
        return self._entries.get(key)

    def load(self, key: str, entry: Entry | None, revision: int) -> Event:
        """Take in one change, in order of revision, without telling anyone."""
        previous = self._entries.get(key)
        if entry is not None:
            self._entries[key] = entry
            if previous is None:
                # Loading and creating mostly append: insort finds the end in a few comparisons.
                insort(self._keys, key)
        elif previous is not None:
            del self._entries[key]
            del self._keys[bisect_left(self._keys, key)]
        event = Event(key, revision, entry, previous)
        if revision > self.floor:
            self._ring.append(event)
            self._ring_bytes += _weight(event)
        return event

    def apply(self, key: str, entry: Entry | None, revision: int) -> Event:
        """Take in one change and offer it to the watches."""
        event = self.load(key, entry, revision)
        for watch in tuple(self.watches):
            watch.offer(event)
        return event

    def trim(self, compact_revision: int = 0) -> list[int]:
        """Forget events beyond the bounds or up to `compact_revision`.

        Returns the revisions nothing refers to any more: their rows in the log can go.
        """
        garbage: list[int] = []
        ring = self._ring
        while ring and (
            len(ring) > MAX_EVENTS
            or self._ring_bytes > MAX_HISTORY_BYTES
            or ring[0].revision <= compact_revision
        ):
            event = ring.popleft()
            self._ring_bytes -= _weight(event)
            self.floor = event.revision
            garbage += superseded(event)
        self.floor = max(self.floor, compact_revision)
        return garbage

    def events_after(self, revision: int) -> list[Event]:
        """Raises CompactedError."""
        if revision < self.floor:
            raise CompactedError(revision, self.floor + 1)
        found: list[Event] = []
        for event in reversed(self._ring):
            if event.revision <= revision:
                break
            found.append(event)
        found.reverse()
        return found

    def page(self, prefix: str, *, after: str, limit: int, revision: int, current: int) -> Page:
        """As `Store.list`; `current` is the store's newest revision."""
        if revision > current:
            raise FutureRevisionError(revision, current)
        if revision == 0 or revision == current:
            entries, keys, at = self._entries, self._keys, current
        else:
            entries, keys, at = *self._as_of(revision), revision
        start = bisect_right(keys, after) if after > prefix else bisect_left(keys, prefix)
        # The character after "/" ends the range of a prefix that ends in "/".
        end = bisect_left(keys, prefix[:-1] + chr(ord(prefix[-1]) + 1), lo=start)
        stop = min(end, start + limit) if limit else end
        return Page([entries[key] for key in keys[start:stop]], at, end - stop)

    def _as_of(self, revision: int) -> tuple[dict[str, Entry], list[str]]:
        """What there was at `revision`: today's entries with the later events undone, newest first."""
        entries = dict(self._entries)
        for event in reversed(self.events_after(revision)):
            if event.previous is None:
                entries.pop(event.key, None)
            else:
                entries[event.key] = event.previous
        return entries, sorted(entries)


class Collections:
    """All collections of a store, by the first part of the key."""

    def __init__(self) -> None:
        self.revision = 1
        self._by_name: dict[str, Collection] = {}

    def __iter__(self) -> Iterator[Collection]:
        return iter(self._by_name.values())

    def of(self, key: str) -> Collection:
        name = key[: key.index("/")]
        collection = self._by_name.get(name)
        if collection is None:
            collection = self._by_name[name] = Collection(name, floor=0)
        return collection

    def watch(self, prefix: str, *, after: int, wants: Wants | None) -> QueueWatch:
        """As `Store.watch`."""
        if after > self.revision:
            raise FutureRevisionError(after, self.revision)
        collection = self.of(prefix)
        missed = collection.events_after(after)
        watch = QueueWatch(collection, prefix, wants)
        for event in missed:
            watch.offer(event)
        collection.watches.add(watch)
        return watch


def superseded(event: Event) -> list[int]:
    """Revisions whose values nobody can ask for once `event` is history that has been forgotten."""
    revisions = [] if event.previous is None else [event.previous.revision]
    return revisions if event.entry is not None else [*revisions, event.revision]


def _weight(event: Event) -> int:
    return len(event.previous.value) if event.previous is not None else 0
