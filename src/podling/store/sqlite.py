"""The embedded store: one SQLite file, everything live in memory, group commit.

The file holds a log: a row per write (`value` NULL for a deletion), deleted again once nothing refers to
it, so that opening means reading it in order. A write is checked and given its revision on the event
loop against the newest proposed state, queued, and written by one thread: all writes that wait while a
transaction is on its way share the next one, and so its fsync. Only what is durable becomes visible to
reads and watches (WAL with synchronous=FULL: `sqlite.org/wal.html`, "Performance Considerations"), hence
every acknowledged or observed write survives kill -9 and power loss.

The file is locked for the life of the process: a second server on it gets `StoreOpenError`.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from podling.store.interface import (
    Entry,
    Event,
    Page,
    RevisionConflictError,
    StoreOpenError,
    Wants,
    WriteFailedError,
)
from podling.store.memory import Collections, QueueWatch, superseded

SCHEMA_VERSION = 1
GARBAGE_BATCH = 256
"""Dead rows are deleted this many at a time, together with a write that commits anyway."""

_SCHEMA = """
CREATE TABLE log (revision INTEGER PRIMARY KEY, key TEXT NOT NULL, value BLOB);
CREATE TABLE floor (collection TEXT PRIMARY KEY, revision INTEGER NOT NULL) WITHOUT ROWID;
"""


class _Write:
    """A proposed change: `entry` is None for a deletion."""

    __slots__ = ("done", "entry", "event", "key", "revision")

    def __init__(self, key: str, revision: int, entry: Entry | None, done: asyncio.Future[None]) -> None:
        self.key = key
        self.revision = revision
        self.entry = entry
        self.done = done
        self.event: Event | None = None


class _Batch:
    """Writes that share a commit."""

    __slots__ = ("ended", "writes")

    def __init__(self) -> None:
        self.writes: list[_Write] = []
        self.ended: asyncio.Future[None] | None = None
        """Set when the commit is over, well or badly; made by the first who waits for it."""

    async def wait(self) -> None:
        if self.ended is None:
            self.ended = asyncio.get_running_loop().create_future()
        # Others wait for the same future: one who is cancelled must not take it along.
        await asyncio.shield(self.ended)

    def end(self) -> None:
        if self.ended is not None and not self.ended.done():
            self.ended.set_result(None)


class SqliteStore:
    """`Store` in one file. Construct anywhere; `open` inside the loop that will use it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._collections = Collections()
        self._log: sqlite3.Connection | None = None
        self._executor: ThreadPoolExecutor | None = None
        self._next_revision = 2
        self._proposed: dict[str, _Write] = {}
        self._queue = _Batch()
        self._committing: _Batch | None = None
        self._garbage: list[int] = []

    @property
    def revision(self) -> int:
        return self._collections.revision

    async def open(self) -> None:
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="store")
        try:
            await asyncio.get_running_loop().run_in_executor(self._executor, self._load)
        except sqlite3.Error as err:
            self._executor.shutdown(wait=False)
            raise _open_error(self._path, err) from err

    async def close(self) -> None:
        if self._executor is None:
            return
        while self._committing is not None:
            await self.settle()
        executor, self._executor = self._executor, None
        log, self._log = self._log, None
        if log is not None:
            await asyncio.get_running_loop().run_in_executor(executor, log.close)
        executor.shutdown(wait=False)

    async def get(self, key: str) -> Entry | None:
        return self._collections.of(key).get(key)

    async def newest(self, key: str) -> Entry | None:
        return self._newest(key)

    async def put(self, key: str, value: bytes, *, expected: int) -> Entry:
        self._check(key, expected)
        entry = Entry(key, value, self._next_revision)
        await self._propose(key, entry).done
        return entry

    async def delete(self, key: str, *, expected: int) -> Event:
        self._check(key, expected)
        write = self._propose(key, None)
        await write.done
        assert write.event is not None
        return write.event

    async def settle(self) -> None:
        # The queue's commit comes after the one under way.
        batch = self._queue if self._queue.writes else self._committing
        if batch is not None:
            await batch.wait()

    async def list(self, prefix: str, *, after: str = "", limit: int = 0, revision: int = 0) -> Page:
        collection = self._collections.of(prefix)
        return collection.page(prefix, after=after, limit=limit, revision=revision, current=self.revision)

    def watch(self, prefix: str, *, after: int, wants: Wants | None = None) -> QueueWatch:
        return self._collections.watch(prefix, after=after, wants=wants)

    async def compact(self, revision: int) -> None:
        for collection in self._collections:
            self._garbage += collection.trim(min(revision, self.revision))

    # --- on the event loop -----------------------------------------------------------------------

    def _newest(self, key: str) -> Entry | None:
        write = self._proposed.get(key)
        return write.entry if write is not None else self._collections.of(key).get(key)

    def _check(self, key: str, expected: int) -> None:
        current = self._newest(key)
        actual = current.revision if current is not None else 0
        if actual != expected:
            raise RevisionConflictError(key, expected, actual)

    def _propose(self, key: str, entry: Entry | None) -> _Write:
        if self._executor is None:
            raise WriteFailedError(f"{key}: the store is closed")
        write = _Write(key, self._next_revision, entry, asyncio.get_running_loop().create_future())
        self._next_revision += 1
        self._proposed[key] = write
        self._queue.writes.append(write)
        if self._committing is None:
            self._start_commit()
        return write

    def _start_commit(self) -> None:
        assert self._executor is not None
        self._committing, self._queue = self._queue, _Batch()
        rows = [(w.revision, w.key, w.entry.value if w.entry else None) for w in self._committing.writes]
        garbage: list[int] = []
        floors: list[tuple[str, int]] = []
        if len(self._garbage) >= GARBAGE_BATCH:
            garbage, self._garbage = self._garbage, []
            floors = [(c.name, c.floor) for c in self._collections]
        loop = asyncio.get_running_loop()
        commit = loop.run_in_executor(self._executor, self._commit, rows, garbage, floors)
        commit.add_done_callback(self._committed)

    def _committed(self, commit: asyncio.Future[None]) -> None:
        batch, self._committing = self._committing, None
        assert batch is not None
        error = commit.exception()
        if error is None:
            for write in batch.writes:
                self._make_visible(write)
        else:
            self._fail(batch, error)
            # What is queued was computed from what has just failed: none of it may happen.
            self._fail(self._queue, error)
            self._queue = _Batch()
        batch.end()
        if self._queue.writes:
            self._start_commit()

    def _fail(self, batch: _Batch, error: BaseException) -> None:
        for write in batch.writes:
            self._proposed.pop(write.key, None)
            if not write.done.done():
                write.done.set_exception(WriteFailedError(f"{write.key}: {error}"))
        batch.end()

    def _make_visible(self, write: _Write) -> None:
        collection = self._collections.of(write.key)
        self._collections.revision = write.revision
        if self._proposed.get(write.key) is write:
            del self._proposed[write.key]
        write.event = collection.apply(write.key, write.entry, write.revision)
        self._garbage += collection.trim()
        # The request may have been cancelled meanwhile; the write happened all the same.
        if not write.done.done():
            write.done.set_result(None)

    # --- on the writer thread --------------------------------------------------------------------

    def _load(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        log = sqlite3.connect(self._path, timeout=1, isolation_level=None, check_same_thread=False)
        try:
            # Exclusive before WAL: then there is no shared memory file, and no other process gets in.
            log.execute("PRAGMA locking_mode = EXCLUSIVE")
            log.execute("PRAGMA journal_mode = WAL")
            log.execute("PRAGMA synchronous = FULL")
            log.execute("PRAGMA journal_size_limit = 16777216")
            log.execute("BEGIN IMMEDIATE")
            (version,) = log.execute("PRAGMA user_version").fetchone()
            if version == 0:
                for statement in filter(str.strip, _SCHEMA.split(";")):
                    log.execute(statement)
                log.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
            elif version != SCHEMA_VERSION:
                raise StoreOpenError(
                    f"{self._path}: has schema {version}, this version knows {SCHEMA_VERSION}",
                    remedy="start with an empty store, or with the version that wrote it",
                )
            log.execute("COMMIT")
            self._replay(log)
        except BaseException:
            log.close()
            raise
        self._log = log

    def _replay(self, log: sqlite3.Connection) -> None:
        collections = self._collections
        for name, floor in log.execute("SELECT collection, revision FROM floor"):
            collections.of(f"{name}/").floor = floor
            # The newest write may be a deletion whose row is gone already: its revision stays used.
            collections.revision = max(collections.revision, floor)
        for revision, key, value in log.execute("SELECT revision, key, value FROM log ORDER BY revision"):
            collection = collections.of(key)
            entry = Entry(key, value, revision) if value is not None else None
            event = collection.load(key, entry, revision)
            collections.revision = max(collections.revision, revision)
            if revision <= collection.floor:
                self._garbage += superseded(event)
        for collection in collections:
            self._garbage += collection.trim()
        self._next_revision = collections.revision + 1

    def _commit(
        self,
        rows: Sequence[tuple[int, str, bytes | None]],
        garbage: Sequence[int],
        floors: Sequence[tuple[str, int]],
    ) -> None:
        log = self._log
        assert log is not None
        log.execute("BEGIN IMMEDIATE")
        try:
            log.executemany("INSERT INTO log VALUES (?, ?, ?)", rows)
            if garbage:
                log.executemany("DELETE FROM log WHERE revision = ?", ((r,) for r in garbage))
                log.executemany("INSERT OR REPLACE INTO floor VALUES (?, ?)", floors)
            log.execute("COMMIT")
        except BaseException:
            if log.in_transaction:
                log.execute("ROLLBACK")
            raise


def _open_error(path: Path, err: sqlite3.Error) -> StoreOpenError:
    if "locked" in str(err):
        return StoreOpenError(
            f"{path}: another process has this store open", remedy="stop the other API server first"
        )
    if isinstance(err, sqlite3.DatabaseError) and ("malformed" in str(err) or "not a database" in str(err)):
        return StoreOpenError(f"{path}: {err}", remedy="restore a copy, or remove the file to start empty")
    return StoreOpenError(f"{path}: {err}")
