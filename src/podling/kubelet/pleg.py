"""The pod lifecycle event generator: tells workers that something in the runtime changed.

It follows the runtime's event stream (CRI, "GetContainerEvents") and says no more than "look at this
pod again". It lists only at the start and whenever the stream was lost, because then it does not know
what it missed. Upstream calls this the evented PLEG. For a runtime without the stream `relist` makes one.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable

from podling.kubelet import names
from podling.kubelet.relist import PERIOD_S, relist_events
from podling.kubelet.runtime_state import list_pod_uids
from podling.runtime.cri import messages as cri
from podling.runtime.cri.errors import Code, CRIError
from podling.runtime.cri.service import RuntimeService

RETRY_MIN_S = 0.05
RETRY_MAX_S = 2.0

log = logging.getLogger(__name__)

Listener = Callable[[cri.ContainerEventResponse], None]


class PLEG:
    """`run()` is a task of the kubelet's group."""

    def __init__(
        self,
        runtime: RuntimeService,
        on_pod_changed: Callable[[names.PodUID], None],
        on_listed: Callable[[], None],
    ) -> None:
        self._runtime = runtime
        self._has_stream = True
        self._on_pod_changed = on_pod_changed
        self._on_listed = on_listed
        self._listeners: set[Listener] = set()
        self._pod_of: dict[str, names.PodUID] = {}
        """Pods of live containers: the event of a removed one may not name its pod any more."""
        self._listed = asyncio.Event()

    def add_listener(self, listener: Listener) -> None:
        """Call `listener` with every event; for those who wait for one container (log followers)."""
        self._listeners.add(listener)

    def remove_listener(self, listener: Listener) -> None:
        self._listeners.discard(listener)

    async def wait_listed(self) -> None:
        """Until the pods that existed at the start have been reported."""
        await self._listed.wait()

    async def run(self) -> None:
        retry_s = RETRY_MIN_S
        while True:
            try:
                await self._follow()
                retry_s = RETRY_MIN_S
            except CRIError as err:
                if err.code is Code.UNIMPLEMENTED and self._has_stream:
                    log.info("the runtime has no event stream: listing every %g s instead", PERIOD_S)
                    self._has_stream = False
                    continue
                log.warning("runtime event stream: %s", err)
            await asyncio.sleep(retry_s)
            retry_s = min(retry_s * 2, RETRY_MAX_S)

    async def _follow(self) -> None:
        events = self._events()
        # Subscribe before listing: what happens in between is reported twice rather than never.
        first = asyncio.ensure_future(_next(events))
        try:
            await asyncio.sleep(0)
            for uid in await list_pod_uids(self._runtime):
                self._on_pod_changed(uid)
            self._on_listed()
            self._listed.set()
            event = await first
            while event is not None:
                self._dispatch(event)
                event = await _next(events)
        finally:
            first.cancel()

    def _events(self) -> AsyncIterator[cri.ContainerEventResponse]:
        if self._has_stream:
            return self._runtime.get_container_events(cri.GetEventsRequest())
        return relist_events(self._runtime)

    def _dispatch(self, event: cri.ContainerEventResponse) -> None:
        uid = self._pod_uid(event)
        if uid:
            self._on_pod_changed(uid)
        for listener in list(self._listeners):
            listener(event)

    def _pod_uid(self, event: cri.ContainerEventResponse) -> names.PodUID | None:
        sandbox = event.pod_sandbox_status
        if sandbox is not None and sandbox.metadata is not None:
            uid = names.PodUID(sandbox.metadata.uid)
            self._pod_of[event.container_id] = uid
        else:
            found = self._pod_of.get(event.container_id)
            if found is None:
                return None
            uid = found
        if event.container_event_type is cri.ContainerEventType.CONTAINER_DELETED_EVENT:
            self._pod_of.pop(event.container_id, None)
        return uid


async def _next(events: AsyncIterator[cri.ContainerEventResponse]) -> cri.ContainerEventResponse | None:
    try:
        return await anext(events)
    except StopAsyncIteration:
        return None
