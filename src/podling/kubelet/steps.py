"""A worker's slow steps: tasks by name, one of a name at a time, failed ones held back for a while.

Cancelling a worker's steps must not leave half-made objects behind: what changes the runtime runs
through `uninterrupted`, which finishes even when the step around it is cancelled, and `cancel` waits
for it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

RETRY_MIN_S = 0.25
RETRY_MAX_S = 10.0

T = TypeVar("T")

log = logging.getLogger(__name__)


class Steps:
    """`wake` is called whenever a step has ended, well or badly."""

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._inner: set[asyncio.Task[Any]] = set()
        self._delay_s: dict[str, float] = {}
        self._not_before: dict[str, float] = {}

    @property
    def busy(self) -> bool:
        return bool(self._tasks)

    def active(self, key: str) -> bool:
        return key in self._tasks

    def launch(self, key: str, work: Callable[[], Coroutine[Any, Any, None]], *, name: str) -> float | None:
        """Start `work` unless `key` runs or is held back; then the seconds to wait, if that is known."""
        loop = asyncio.get_running_loop()
        left = self._not_before.get(key, 0.0) - loop.time()
        if key in self._tasks:
            return None
        if left > 0:
            return left
        self._not_before.pop(key, None)
        task = loop.create_task(work(), name=name)
        self._tasks[key] = task
        task.add_done_callback(lambda done: self._ended(key, done))
        return None

    def hold(self, key: str, delay_s: float) -> None:
        """Do not start `key` again for `delay_s`."""
        self._not_before[key] = asyncio.get_running_loop().time() + delay_s

    def failed(self, key: str) -> float:
        """Note a failure of `key`; it is held back for the returned time, doubling from 0.25 s to 10 s."""
        delay_s = min(self._delay_s.get(key, RETRY_MIN_S / 2) * 2, RETRY_MAX_S)
        self._delay_s[key] = delay_s
        self.hold(key, delay_s)
        return delay_s

    async def uninterrupted(self, work: Coroutine[Any, Any, T]) -> T:
        """Run `work` to its end even if the caller is cancelled meanwhile."""
        task = asyncio.ensure_future(work)
        self._inner.add(task)
        task.add_done_callback(self._inner.discard)
        return await asyncio.shield(task)

    async def cancel(self) -> None:
        """End all steps; returns when nothing of them runs any more."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        pending: set[asyncio.Task[Any]] = {*tasks, *self._inner}
        if pending:
            done, _ = await asyncio.wait(pending)
            for task in done:
                if not task.cancelled():
                    task.exception()

    def _ended(self, key: str, task: asyncio.Task[None]) -> None:
        if self._tasks.get(key) is task:
            del self._tasks[key]
        if not task.cancelled():
            error = task.exception()
            if error is None:
                self._delay_s.pop(key, None)
            else:
                log.info("%s: %s", task.get_name(), error)
                self.failed(key)
        self._wake()
