"""Keys that want work: each at most once in the queue, and never with two workers at a time.

What client-go's workqueue promises: a key added while it waits is one piece of work; a key added while a
worker has it comes back after `done`. Keys, not objects, so that the worker reads the newest state
(level-triggered). `run_workers` is the loop every controller has: take a key, reconcile, back off on
errors.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

from podling.client.errors import ClientError

K = TypeVar("K", bound=Hashable)

RETRY_MIN_S = 0.005
RETRY_MAX_S = 60.0
"""client-go's range is 5 ms to 1000 s; nobody at a terminal waits a quarter of an hour."""

log = logging.getLogger(__name__)


class WorkQueue(Generic[K]):
    """Not thread-safe: use it on the loop that consumes it."""

    def __init__(self, *, retry_min_s: float = RETRY_MIN_S, retry_max_s: float = RETRY_MAX_S) -> None:
        self._retry_min_s = retry_min_s
        self._retry_max_s = retry_max_s
        self._ready: deque[K] = deque()
        self._dirty: set[K] = set()
        self._processing: set[K] = set()
        self._failures: dict[K, int] = {}
        self._timers: dict[K, asyncio.TimerHandle] = {}
        self._waiters: deque[asyncio.Future[None]] = deque()

    def __len__(self) -> int:
        """Keys ready for a worker; those with one, or delayed, do not count."""
        return len(self._ready)

    @property
    def idle(self) -> bool:
        """Nothing ready and nothing in a worker's hands (delayed keys may be left)."""
        return not self._ready and not self._processing

    def add(self, key: K) -> None:
        if key in self._dirty:
            return
        self._dirty.add(key)
        if key not in self._processing:
            self._push(key)

    def add_after(self, key: K, delay_s: float) -> None:
        """Add after a delay; of several delays for one key the one that ends first counts."""
        if delay_s <= 0:
            self.add(key)
            return
        loop = asyncio.get_running_loop()
        timer = self._timers.get(key)
        if timer is not None:
            if timer.when() <= loop.time() + delay_s:
                return
            timer.cancel()
        self._timers[key] = loop.call_later(delay_s, self._fire, key)

    def add_rate_limited(self, key: K) -> None:
        """Add after a delay that doubles with each call until `forget`."""
        failures = self._failures.get(key, 0)
        self._failures[key] = failures + 1
        # The exponent is bounded before it is used: 2**1024 is no float.
        self.add_after(key, min(self._retry_min_s * 2 ** min(failures, 32), self._retry_max_s))

    def failures(self, key: K) -> int:
        return self._failures.get(key, 0)

    def forget(self, key: K) -> None:
        """The key succeeded, or is no more: its next failure waits the shortest time again."""
        self._failures.pop(key, None)

    def cancel(self, key: K) -> None:
        """Drop a delayed addition of `key`, if there is one."""
        timer = self._timers.pop(key, None)
        if timer is not None:
            timer.cancel()

    async def get(self) -> K:
        """The next key; the caller must call `done` with it."""
        while not self._ready:
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            try:
                await waiter
            except asyncio.CancelledError:
                if waiter in self._waiters:
                    self._waiters.remove(waiter)
                elif self._ready:
                    self._wake()  # we were woken and cannot take the key: somebody else should
                raise
        key = self._ready.popleft()
        self._dirty.discard(key)
        self._processing.add(key)
        return key

    def done(self, key: K) -> None:
        self._processing.discard(key)
        if key in self._dirty:
            self._push(key)

    def close(self) -> None:
        """Cancel the timers of delayed keys, which would otherwise outlive the queue's owner."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()

    def _push(self, key: K) -> None:
        self._ready.append(key)
        self._wake()

    def _wake(self) -> None:
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return

    def _fire(self, key: K) -> None:
        self._timers.pop(key, None)
        self.add(key)


async def run_workers(
    queue: WorkQueue[K],
    reconcile: Callable[[K], Awaitable[None]],
    *,
    name: str,
    workers: int = 1,
) -> None:
    """Reconcile keys of `queue` until cancelled, `workers` at a time.

    A ClientError is expected (conflicts, an API server that restarts): logged and tried again with
    back-off. So is any other Exception, with its traceback: a bug with one object must not stop the rest.
    """

    async def work() -> None:
        while True:
            key = await queue.get()
            try:
                await reconcile(key)
            except ClientError as err:
                log.info("%s: %s: %s", name, key, err)
                queue.add_rate_limited(key)
            except Exception:
                log.exception("%s: %s", name, key)
                queue.add_rate_limited(key)
            else:
                queue.forget(key)
            finally:
                queue.done(key)

    try:
        async with asyncio.TaskGroup() as tasks:
            for number in range(workers):
                tasks.create_task(work(), name=f"{name}-{number}")
    finally:
        queue.close()
