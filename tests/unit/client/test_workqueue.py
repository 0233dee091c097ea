from __future__ import annotations

import asyncio

import pytest

from podling.client.errors import TransportError
from podling.client.workqueue import WorkQueue, run_workers


async def test_a_waiting_key_is_one_piece_of_work() -> None:
    queue: WorkQueue[str] = WorkQueue()
    for key in ("a", "b", "a"):
        queue.add(key)
    assert len(queue) == 2
    assert [await queue.get(), await queue.get()] == ["a", "b"]


async def test_a_key_in_work_comes_back_after_done() -> None:
    queue: WorkQueue[str] = WorkQueue()
    queue.add("a")
    await queue.get()
    queue.add("a")
    assert len(queue) == 0
    queue.done("a")
    assert await queue.get() == "a"
    queue.done("a")
    assert queue.idle


async def test_of_several_delays_the_first_to_end_counts() -> None:
    queue: WorkQueue[str] = WorkQueue()
    queue.add_after("a", 3600)
    queue.add_after("a", 0.01)
    queue.add_after("a", 3600)
    async with asyncio.timeout(5):
        assert await queue.get() == "a"
    queue.close()


async def test_delays_double_until_forgotten() -> None:
    queue: WorkQueue[str] = WorkQueue(retry_min_s=10, retry_max_s=25)
    loop = asyncio.get_running_loop()
    delays = []
    for _ in range(3):
        queue.add_rate_limited("a")
        delays.append(round(queue._timers["a"].when() - loop.time()))
        queue.cancel("a")
    assert delays == [10, 20, 25]
    queue.forget("a")
    queue.add_rate_limited("a")
    assert round(queue._timers["a"].when() - loop.time()) == 10
    queue.close()


async def test_a_cancelled_getter_does_not_swallow_a_key() -> None:
    queue: WorkQueue[str] = WorkQueue()
    first, second = asyncio.create_task(queue.get()), asyncio.create_task(queue.get())
    await asyncio.sleep(0)
    queue.add("a")
    first.cancel()
    async with asyncio.timeout(5):
        assert await second == "a"
    assert first.cancelled()


async def test_workers_retry_what_fails_and_never_share_a_key(caplog: pytest.LogCaptureFixture) -> None:
    queue: WorkQueue[str] = WorkQueue()
    busy: set[str] = set()
    tries = {"transport": 0, "bug": 0, "fine": 0}
    finished = asyncio.Event()

    async def reconcile(key: str) -> None:
        assert key not in busy
        busy.add(key)
        await asyncio.sleep(0)
        queue.add(key) if tries[key] == 0 else None
        busy.remove(key)
        tries[key] += 1
        if tries[key] < 3 and key == "transport":
            raise TransportError("away")
        if tries[key] < 3 and key == "bug":
            raise ValueError("wrong")
        if min(tries["transport"], tries["bug"]) >= 3 and tries["fine"] >= 2:
            finished.set()

    for key in tries:
        queue.add(key)
    task = asyncio.create_task(run_workers(queue, reconcile, name="test", workers=3))
    async with asyncio.timeout(5):
        await finished.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert "ValueError: wrong" in caplog.text
