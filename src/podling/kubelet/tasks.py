"""Background tasks that cannot die silently, nor take the kubelet with them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

log = logging.getLogger(__name__)


async def guarded(work: Coroutine[Any, Any, None], what: str) -> None:
    """Run `work`; an unexpected exception is logged with its trace and ends here.

    For per-pod work in the kubelet's task group: one pod's bad luck is not the other pods'.
    """
    try:
        await work
    except Exception:
        log.exception("%s failed", what)


async def cancel_and_wait(tasks: list[asyncio.Task[None]]) -> None:
    """End tasks and wait until they have; their exceptions are the owner's business no more."""
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)
    for task in tasks:
        if not task.cancelled():
            task.exception()
