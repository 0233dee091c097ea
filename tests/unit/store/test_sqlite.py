"""The embedded store: revisions, compare-and-swap, group commit, watches, history, crashes."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from podling.store import memory
from podling.store.interface import (
    CompactedError,
    FutureRevisionError,
    RevisionConflictError,
    StoreOpenError,
    WriteFailedError,
)
from podling.store.sqlite import SqliteStore


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    store = SqliteStore(tmp_path / "store.db")
    await store.open()
    yield store
    await store.close()


async def reopened(store: SqliteStore) -> SqliteStore:
    await store.close()
    again = SqliteStore(store._path)
    await again.open()
    return again


async def test_each_write_takes_the_next_revision(store):
    first = await store.put("pods/d/a", b"1", expected=0)
    second = await store.put("nodes/n", b"2", expected=0)
    third = await store.put("pods/d/a", b"3", expected=first.revision)
    assert [first.revision, second.revision, third.revision] == [2, 3, 4]
    assert store.revision == 4
    assert (await store.get("pods/d/a")).value == b"3"


async def test_a_write_on_an_old_revision_is_refused(store):
    first = await store.put("pods/d/a", b"1", expected=0)
    with pytest.raises(RevisionConflictError):
        await store.put("pods/d/a", b"2", expected=0)
    second = await store.put("pods/d/a", b"2", expected=first.revision)
    with pytest.raises(RevisionConflictError) as refused:
        await store.delete("pods/d/a", expected=first.revision)
    assert refused.value.actual == second.revision
    with pytest.raises(RevisionConflictError):
        await store.delete("pods/d/absent", expected=1)


async def test_writes_that_wait_share_a_commit(store):
    commits = 0
    commit = store._commit

    def counting(*args):
        nonlocal commits
        commits += 1
        commit(*args)

    store._commit = counting
    await asyncio.gather(*(store.put(f"pods/d/{i}", b"x", expected=0) for i in range(200)))
    # The first goes alone, everything behind it together.
    assert commits == 2
    assert len((await store.list("pods/")).entries) == 200


async def test_nothing_is_visible_before_it_is_durable(store):
    write = asyncio.create_task(store.put("pods/d/a", b"1", expected=0))
    await asyncio.sleep(0)
    assert await store.get("pods/d/a") is None
    assert (await store.newest("pods/d/a")).value == b"1"
    with pytest.raises(RevisionConflictError):
        await store.put("pods/d/a", b"2", expected=0)
    await write
    assert (await store.get("pods/d/a")).value == b"1"


async def test_settling_waits_for_what_was_begun_and_not_for_what_comes_later(store):
    stop = False

    async def write_on(worker: int) -> None:
        number = 0
        while not stop:
            await store.put(f"pods/d/{worker}-{number}", b"x", expected=0)
            number += 1

    writers = [asyncio.create_task(write_on(worker)) for worker in range(4)]
    await asyncio.sleep(0)
    async with asyncio.timeout(5):
        for _ in range(20):
            await store.settle()
    assert len((await store.list("pods/")).entries) >= 20
    stop = True
    await asyncio.gather(*writers)
    await store.settle()


async def test_a_cancelled_writer_does_not_stop_its_write(store):
    write = asyncio.create_task(store.put("pods/d/a", b"1", expected=0))
    await asyncio.sleep(0)
    write.cancel()
    await store.settle()
    assert (await store.get("pods/d/a")).value == b"1"


async def test_what_builds_on_a_failed_write_fails_too(store):
    commit, failures = store._commit, 1

    def failing(*args):
        nonlocal failures
        if failures:
            failures -= 1
            raise sqlite3.OperationalError("database or disk is full")
        commit(*args)

    store._commit = failing
    first = asyncio.create_task(store.put("pods/d/a", b"1", expected=0))
    await asyncio.sleep(0)
    on_top = asyncio.create_task(store.put("pods/d/a", b"2", expected=store._newest("pods/d/a").revision))
    results = await asyncio.gather(first, on_top, return_exceptions=True)
    assert all(isinstance(result, WriteFailedError) for result in results)
    assert "disk is full" in str(results[0])
    assert await store.newest("pods/d/a") is None
    await store.put("pods/d/a", b"3", expected=0)


async def test_lists_are_sorted_paged_and_bounded_by_their_prefix(store):
    for key in ("pods/b/1", "pods/a/2", "pods/a/1", "pods/a-b/1", "podsx/a/1"):
        await store.put(key, b"x", expected=0)
    page = await store.list("pods/", limit=2)
    assert [e.key for e in page.entries] == ["pods/a-b/1", "pods/a/1"]
    assert page.remaining == 2
    rest = await store.list("pods/", after="pods/a/1")
    assert [e.key for e in rest.entries] == ["pods/a/2", "pods/b/1"]
    assert [e.key for e in (await store.list("pods/a/")).entries] == ["pods/a/1", "pods/a/2"]


async def test_a_list_at_an_older_revision_shows_what_was_there(store):
    a = await store.put("pods/d/a", b"1", expected=0)
    b = await store.put("pods/d/b", b"1", expected=0)
    at = store.revision
    await store.put("pods/d/a", b"2", expected=a.revision)
    await store.delete("pods/d/b", expected=b.revision)
    await store.put("pods/d/c", b"1", expected=0)
    page = await store.list("pods/", revision=at)
    assert [(e.key, e.value) for e in page.entries] == [("pods/d/a", b"1"), ("pods/d/b", b"1")]
    assert page.revision == at
    with pytest.raises(FutureRevisionError):
        await store.list("pods/", revision=store.revision + 1)


async def test_a_watch_sees_every_change_after_its_revision_in_order(store):
    a = await store.put("pods/d/a", b"1", expected=0)
    watch = store.watch("pods/", after=a.revision)
    b = await store.put("pods/d/b", b"1", expected=0)
    await store.put("nodes/n", b"1", expected=0)
    gone = await store.delete("pods/d/a", expected=a.revision)
    events = await watch.batch()
    assert [(e.key, e.revision, e.entry is None) for e in events] == [
        ("pods/d/b", b.revision, False),
        ("pods/d/a", gone.revision, True),
    ]
    assert events[1].previous.value == b"1"
    watch.close()


async def test_a_watch_can_start_in_the_past(store):
    await store.put("pods/d/a", b"1", expected=0)
    await store.put("pods/e/b", b"1", expected=0)
    watch = store.watch("pods/e/", after=1)
    assert [e.key for e in await watch.batch()] == ["pods/e/b"]
    watch.close()


async def test_a_watch_waits_for_what_it_wants(store):
    watch = store.watch("pods/", after=store.revision, wants=lambda e: e.key.endswith("wanted"))
    waiting = asyncio.create_task(watch.batch())
    await store.put("pods/d/other", b"1", expected=0)
    assert not waiting.done()
    await store.put("pods/d/wanted", b"1", expected=0)
    assert [e.key for e in await waiting] == ["pods/d/wanted"]
    watch.close()


async def test_a_slow_watch_is_cut_off_and_the_others_go_on(store, monkeypatch):
    monkeypatch.setattr(memory, "MAX_PENDING", 10)
    slow = store.watch("pods/", after=store.revision)
    quick = store.watch("pods/", after=store.revision)
    seen = 0
    for number in range(20):
        await store.put(f"pods/d/{number}", b"x", expected=0)
        seen += len(await quick.batch())
    assert seen == 20
    with pytest.raises(CompactedError):
        await slow.batch()
    quick.close()


async def test_compacted_history_is_refused(store):
    for number in range(5):
        await store.put(f"pods/d/{number}", b"x", expected=0)
    await store.compact(4)
    with pytest.raises(CompactedError):
        store.watch("pods/", after=3)
    with pytest.raises(CompactedError):
        await store.list("pods/", revision=3)
    store.watch("pods/", after=4).close()
    with pytest.raises(FutureRevisionError):
        store.watch("pods/", after=store.revision + 1)


async def test_history_is_bounded_for_each_collection_alone(store, monkeypatch):
    monkeypatch.setattr(memory, "MAX_EVENTS", 10)
    await store.put("pods/d/a", b"x", expected=0)
    entry = await store.put("leases/d/l", b"0", expected=0)
    for number in range(50):
        entry = await store.put("leases/d/l", b"%d" % number, expected=entry.revision)
    with pytest.raises(CompactedError):
        store.watch("leases/", after=3)
    store.watch("pods/", after=1).close()


async def test_objects_history_and_revision_survive_a_restart(store):
    a = await store.put("pods/d/a", b"1", expected=0)
    a = await store.put("pods/d/a", b"2", expected=a.revision)
    b = await store.put("pods/d/b", b"1", expected=0)
    await store.delete("pods/d/b", expected=b.revision)
    revision = store.revision
    again = await reopened(store)
    assert again.revision == revision
    assert [(e.key, e.value, e.revision) for e in (await again.list("pods/")).entries] == [
        ("pods/d/a", b"2", a.revision)
    ]
    watch = again.watch("pods/", after=a.revision - 1)
    assert [e.entry is None for e in await watch.batch()] == [False, False, True]
    watch.close()
    assert (await again.put("pods/d/c", b"1", expected=0)).revision == revision + 1
    await again.close()


async def test_the_file_forgets_what_history_has_forgotten(store, monkeypatch):
    monkeypatch.setattr(memory, "MAX_EVENTS", 10)
    monkeypatch.setattr("podling.store.sqlite.GARBAGE_BATCH", 20)
    entry = await store.put("leases/d/l", b"0", expected=0)
    for number in range(100):
        entry = await store.put("leases/d/l", b"%d" % number, expected=entry.revision)
    again = await reopened(store)
    (rows,) = again._log.execute("SELECT count(*) FROM log").fetchone()
    assert rows < 50
    assert (await again.get("leases/d/l")).value == b"99"
    with pytest.raises(CompactedError):
        again.watch("leases/", after=5)
    await again.close()


async def test_a_revision_is_never_used_twice(store, monkeypatch):
    monkeypatch.setattr("podling.store.sqlite.GARBAGE_BATCH", 1)
    entry = await store.put("pods/d/a", b"1", expected=0)
    await store.delete("pods/d/a", expected=entry.revision)
    await store.compact(store.revision)
    # Takes the rows of the compacted history along, so that the newest rows are gone.
    last = await store.put("nodes/n", b"1", expected=0)
    await store.delete("nodes/n", expected=last.revision)
    await store.compact(store.revision)
    revision = store.revision
    await store.put("pods/d/x", b"1", expected=0)
    again = await reopened(store)
    assert again.revision == revision + 1
    await again.close()


async def test_a_second_server_on_the_same_file_is_refused(store):
    second = SqliteStore(store._path)
    with pytest.raises(StoreOpenError, match="another process has this store open") as refused:
        await second.open()
    assert refused.value.remedy


async def test_a_file_that_is_no_store_is_refused(tmp_path):
    path = tmp_path / "store.db"
    path.write_bytes(b"not a database" * 100)
    with pytest.raises(StoreOpenError, match="not a database"):
        await SqliteStore(path).open()
    assert path.read_bytes().startswith(b"not a database")


async def test_a_closed_store_takes_no_writes(store):
    await store.close()
    with pytest.raises(WriteFailedError, match="closed"):
        await store.put("pods/d/a", b"1", expected=0)


_WRITER = """
import asyncio, sys
from pathlib import Path
from podling.store.sqlite import SqliteStore

async def write(store, worker):
    number = 0
    while True:
        key = f"pods/d/{worker}-{number}"
        await store.put(key, b"x" * 500, expected=0)
        sys.stdout.write(key + "\\n")
        sys.stdout.flush()
        number += 1

async def main():
    store = SqliteStore(Path(sys.argv[1]))
    await store.open()
    await asyncio.gather(*(write(store, worker) for worker in range(8)))

asyncio.run(main())
"""


def write_until_killed(path: Path) -> set[str]:
    """Keys whose writes were acknowledged by a process that was killed in the middle of its work."""
    acknowledged: list[str] = []
    with subprocess.Popen(
        [sys.executable, "-c", _WRITER, str(path)], stdout=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdout is not None
        while len(acknowledged) < 500:
            acknowledged.append(writer.stdout.readline().strip())
        os.kill(writer.pid, signal.SIGKILL)
        # What is still in the pipe was acknowledged as well; the last line may be cut.
        acknowledged += [line.strip() for line in writer.stdout if line.endswith("\n")]
    return set(acknowledged)


async def test_every_acknowledged_write_survives_kill_9(tmp_path):
    path = tmp_path / "store.db"
    acknowledged = await asyncio.to_thread(write_until_killed, path)
    store = SqliteStore(path)
    await store.open()
    kept = {entry.key for entry in (await store.list("pods/")).entries}
    assert acknowledged <= kept
    assert store.revision >= len(acknowledged)
    await store.close()
