"""What the API server needs of a store: keys with revisions, compare-and-swap, lists, watches.

The model is etcd v3's, so that etcd can stand behind it: one counter of revisions over all keys, each
write takes the next one; a watch from revision R yields every later change in order; history before the
compaction point is gone, and asking for it raises `CompactedError`.

Keys are `collection/rest` (`pods/default/web-0`). A collection is the unit of listing and watching;
prefixes given to `list` and `watch` contain at least its name and slash. Values are opaque bytes.

    StoreError
    ├── StoreOpenError         cannot be opened: damaged, in use, not writable
    ├── WriteFailedError       the write is not durable and did not happen (disk full)
    ├── RevisionConflictError  compare-and-swap found another revision
    ├── CompactedError         that revision is no longer known
    └── FutureRevisionError    that revision is not there yet
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol


class StoreError(Exception):
    """Root of everything `podling.store` raises on purpose."""


class StoreOpenError(StoreError):
    def __init__(self, message: str, *, remedy: str = "") -> None:
        super().__init__(message)
        self.remedy = remedy


class WriteFailedError(StoreError): ...


class RevisionConflictError(StoreError):
    def __init__(self, key: str, expected: int, actual: int) -> None:
        super().__init__(f"{key}: expected revision {expected}, found {actual}")
        self.actual = actual
        """0 when the key does not exist."""


class CompactedError(StoreError):
    def __init__(self, requested: int, oldest: int) -> None:
        super().__init__(f"revision {requested} has been compacted, the oldest known is {oldest}")
        self.requested = requested
        self.oldest = oldest


class FutureRevisionError(StoreError):
    def __init__(self, requested: int, current: int) -> None:
        super().__init__(f"revision {requested} is not there yet, the newest is {current}")
        self.requested = requested
        self.current = current


class Entry:
    """One key's value at one revision. Immutable but for `memo`."""

    __slots__ = ("key", "memo", "revision", "value")

    def __init__(self, key: str, value: bytes, revision: int) -> None:
        self.key = key
        self.value = value
        self.revision = revision
        self.memo: Any = None
        """For the reader: what it worked out of `value` (labels, fields), kept as long as the entry."""


class Event:
    """A change: `entry` is None after a deletion, `previous` is None for a key that did not exist."""

    __slots__ = ("entry", "key", "previous", "revision")

    def __init__(self, key: str, revision: int, entry: Entry | None, previous: Entry | None) -> None:
        self.key = key
        self.revision = revision
        self.entry = entry
        self.previous = previous


@dataclass(frozen=True, slots=True)
class Page:
    """Part of a listing, sorted by key, as everything was at `revision`."""

    entries: list[Entry]
    revision: int
    remaining: int
    """How many more there are after the last of `entries`."""


Wants = Callable[[Event], bool]
"""Which events a watch is woken for. Called once an event and watch: it must be quick and not raise."""


class Watch(Protocol):
    async def batch(self) -> list[Event]:
        """The changes since the last call, at least one; waits for it. Raises CompactedError when the
        reader was so slow that changes were dropped; the watch is over then."""

    def close(self) -> None:
        """Stop; twice is fine."""


class Store(Protocol):
    @property
    def revision(self) -> int:
        """Of the newest durable write; at least 1."""

    async def open(self) -> None:
        """Load what is there. Raises StoreOpenError."""

    async def close(self) -> None:
        """Finish the writes under way and let go of everything; twice is fine."""

    async def get(self, key: str) -> Entry | None:
        """The durable state."""

    async def newest(self, key: str) -> Entry | None:
        """The state the next compare-and-swap will meet: like `get`, but it may still be on its way to
        the disk. Writers compute from it; a write that builds on one that fails, fails too."""

    async def put(self, key: str, value: bytes, *, expected: int) -> Entry:
        """Write if the key is at revision `expected`, 0 for "does not exist"; returns when durable.

        Raises RevisionConflictError, WriteFailedError.
        """

    async def delete(self, key: str, *, expected: int) -> Event:
        """Remove if the key is at revision `expected`; returns when durable. Raises as `put`."""

    async def settle(self) -> None:
        """Return when every write begun so far is durable or has failed."""

    async def list(self, prefix: str, *, after: str = "", limit: int = 0, revision: int = 0) -> Page:
        """Entries whose key starts with `prefix` and sorts behind `after`, as of `revision` (0: newest).

        Raises CompactedError, FutureRevisionError.
        """

    def watch(self, prefix: str, *, after: int, wants: Wants | None = None) -> Watch:
        """Changes with a revision greater than `after`. Raises CompactedError, FutureRevisionError."""

    async def compact(self, revision: int) -> None:
        """Forget the history up to and including `revision`, in every collection."""
