from __future__ import annotations

import asyncio

import pytest

from podling.scheduler import queue
from podling.scheduler.queue import PodQueue

A, B, C = ("ns", "a"), ("ns", "b"), ("ns", "c")


async def test_priority_first_then_age() -> None:
    pods = PodQueue()
    pods.add(A)
    pods.add(B)
    pods.add(C, priority=10)
    pods.add(A)
    assert [await pods.get() for _ in range(3)] == [C, A, B]


async def test_a_removed_pod_is_not_tried() -> None:
    pods = PodQueue()
    pods.add(A)
    pods.add(B)
    pods.remove(A)
    assert await pods.get() == B


async def test_a_parked_pod_waits_for_add() -> None:
    pods = PodQueue()
    pods.park(A)
    assert pods.parked == {A}
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await pods.get()
    pods.add(A)
    assert await pods.get() == A
    assert not pods.parked


async def test_retries_come_later_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue, "BACKOFF_MIN_S", 10)
    monkeypatch.setattr(queue, "BACKOFF_MAX_S", 15)
    pods = PodQueue()
    loop = asyncio.get_running_loop()
    delays = []
    for _ in range(3):
        pods.retry_later(A)
        delays.append(round(pods._timers[A].when() - loop.time()))
        pods.add(A)
        assert await pods.get() == A
    assert delays == [10, 15, 15]
    pods.remove(A)
    pods.retry_later(A)
    assert round(pods._timers[A].when() - loop.time()) == 10
    pods.close()


async def test_a_retry_brings_the_pod_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue, "BACKOFF_MIN_S", 0.001)
    pods = PodQueue()
    pods.park(A)
    pods.retry_later(A)
    async with asyncio.timeout(5):
        assert await pods.get() == A
