"""Pods waiting for a node: those to try now, by priority and age, and those no node fits.

A pod nothing fits is *parked* until something changes that could help it; the scheduler says which
(`unpark`). A pod is in one place at a time. Delays are loop timers, so nothing polls.
"""

from __future__ import annotations

import asyncio
import heapq
from itertools import count

Key = tuple[str, str]

BACKOFF_MIN_S = 0.5
BACKOFF_MAX_S = 10.0
"""Upstream: 1 s to 10 s."""


class PodQueue:
    def __init__(self) -> None:
        self._heap: list[tuple[int, int, Key]] = []
        self._active: set[Key] = set()
        self._parked: set[Key] = set()
        self._timers: dict[Key, asyncio.TimerHandle] = {}
        self._attempts: dict[Key, int] = {}
        self._sequence = count()
        self._ready = asyncio.Event()

    @property
    def parked(self) -> frozenset[Key]:
        return frozenset(self._parked)

    def add(self, key: Key, priority: int = 0) -> None:
        """Try the pod now."""
        self._cancel_timer(key)
        self._parked.discard(key)
        if key not in self._active:
            self._active.add(key)
            heapq.heappush(self._heap, (-priority, next(self._sequence), key))
            self._ready.set()

    async def get(self) -> Key:
        """The pod to try next; it is in no place of the queue then."""
        while True:
            while self._heap:
                _, _, key = heapq.heappop(self._heap)
                if key in self._active:  # otherwise it was removed
                    self._active.discard(key)
                    return key
            self._ready.clear()
            await self._ready.wait()

    def park(self, key: Key) -> None:
        """No node fits: wait for `add` or `retry_later`."""
        if key not in self._active:
            self._parked.add(key)

    def retry_later(self, key: Key, priority: int = 0) -> None:
        """Try again after a time that doubles with each call; a sooner `add` wins."""
        if key in self._active or key in self._timers:
            return
        attempts = self._attempts.get(key, 0)
        self._attempts[key] = attempts + 1
        delay_s = min(BACKOFF_MIN_S * 2 ** min(attempts, 16), BACKOFF_MAX_S)
        self._timers[key] = asyncio.get_running_loop().call_later(delay_s, self.add, key, priority)

    def remove(self, key: Key) -> None:
        """The pod is gone, or assigned."""
        self._cancel_timer(key)
        self._active.discard(key)
        self._parked.discard(key)
        self._attempts.pop(key, None)

    def close(self) -> None:
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()

    def _cancel_timer(self, key: Key) -> None:
        timer = self._timers.pop(key, None)
        if timer is not None:
            timer.cancel()
