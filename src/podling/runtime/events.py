"""GetContainerEvents: a stream for each kubelet that listens.

An event says what happened and how the pod looks now. It is a wake-up call, not a record: a listener that
does not keep up loses the oldest ones and should list again, as it has to after a reconnect anyway.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator

from podling.runtime.cri import messages as cri

log = logging.getLogger(__name__)

KEPT = 10_000
"""Per listener; containerd keeps as many."""


class Events:
    def __init__(self) -> None:
        self._listeners: set[_Listener] = set()

    @property
    def heard(self) -> bool:
        """Whether anyone listens: without, nobody need compute the pod's state."""
        return bool(self._listeners)

    def publish(self, event: cri.ContainerEventResponse) -> None:
        for listener in self._listeners:
            listener.put(event)

    def listen(self) -> AsyncIterator[cri.ContainerEventResponse]:
        """Every event from this call on (not from the first `async for` on)."""
        listener = _Listener()
        self._listeners.add(listener)
        return self._drain(listener)

    async def _drain(self, listener: _Listener) -> AsyncIterator[cri.ContainerEventResponse]:
        try:
            while (event := await listener.get()) is not None:
                yield event
        finally:
            self._listeners.discard(listener)

    def close(self) -> None:
        """End every stream."""
        for listener in self._listeners:
            listener.close()


class _Listener:
    def __init__(self) -> None:
        self._events: deque[cri.ContainerEventResponse] = deque(maxlen=KEPT)
        self._some = asyncio.Event()
        self._closed = False

    def put(self, event: cri.ContainerEventResponse) -> None:
        if len(self._events) == KEPT:
            log.warning("a listener to container events is %d behind: the oldest is dropped", KEPT)
        self._events.append(event)
        self._some.set()

    async def get(self) -> cri.ContainerEventResponse | None:
        while not self._events:
            if self._closed:
                return None
            self._some.clear()
            await self._some.wait()
        return self._events.popleft()

    def close(self) -> None:
        self._closed = True
        self._some.set()
