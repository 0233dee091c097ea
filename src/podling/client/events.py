"""Events: the notes that `kubectl describe` shows below an object.

`EventRecorder.event` only queues, so that it may be called anywhere on a hot path; the task `run()`
writes, one request at a time, after a short linger in which the work the event is about gets the
processor first. An event that repeats is one object whose `count` and `lastTimestamp` move. When the API
server is away the newest events wait in a bounded queue and older ones are dropped with a log line:
events are help for people, not state.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from msgspec import structs

from podling.api.core_v1 import Event, EventSource, ObjectReference
from podling.api.meta_v1 import ObjectMeta
from podling.api.resources import Object
from podling.api.times import now_rfc3339
from podling.client.client import Client
from podling.client.errors import (
    ClientError,
    NotFoundError,
    ServerError,
    TooManyRequestsError,
    TransportError,
)

LINGER_S = 0.1
"""A pod starts in about this time; its events should not compete with it for the processor."""
QUEUE_LIMIT = 1000
KNOWN_LIMIT = 1024
"""How many different events are remembered to recognise repeats."""
RETRY_MIN_S = 0.5
RETRY_MAX_S = 10.0

log = logging.getLogger(__name__)


class _Key(NamedTuple):
    """Events with the same key are one event that repeats."""

    namespace: str
    kind: str
    name: str
    uid: str
    field_path: str
    type: str
    reason: str
    message: str


@dataclass(slots=True, kw_only=True)
class _Record:
    """An event as last written, and how often it has happened."""

    reference: ObjectReference
    first: str
    last: str
    count: int = 1
    name: str = ""
    """Of the Event object; empty before it is written."""
    queued: bool = False


class EventRecorder:
    """`run()` must be a task of the owner; `component` and `host` become the event's source."""

    def __init__(
        self,
        client: Client,
        component: str,
        host: str = "",
        *,
        linger_s: float = LINGER_S,
        now: Callable[[], str] = now_rfc3339,
    ) -> None:
        self._client = client
        self._component = component
        self._host = host
        self._linger_s = linger_s
        self._now = now
        self._known: OrderedDict[_Key, _Record] = OrderedDict()
        self._pending: deque[_Key] = deque()
        self._wakeup = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._dropped = 0

    def event(
        self,
        obj: Object | ObjectReference,
        type_: str,
        reason: str,
        message: str,
        *,
        field_path: str | None = None,
    ) -> None:
        """Note that something happened to `obj`; `type_` is Normal or Warning. Never blocks or fails.

        `field_path` names the part concerned, as kubelets do: `spec.containers{nginx}`.
        """
        reference = _reference(obj, field_path)
        key = _Key(
            namespace=reference.namespace or "default",
            kind=reference.kind or "",
            name=reference.name or "",
            uid=reference.uid or "",
            field_path=reference.field_path or "",
            type=type_,
            reason=reason,
            message=message,
        )
        record = self._known.get(key)
        if record is None:
            now = self._now()
            self._known[key] = record = _Record(reference=reference, first=now, last=now)
            self._forget_oldest()
        else:
            self._known.move_to_end(key)
            record.count += 1
            record.last = self._now()
        if not record.queued:
            record.queued = True
            self._pending.append(key)
            self._idle.clear()
            self._wakeup.set()
        if len(self._pending) > QUEUE_LIMIT:
            self._known.pop(self._pending.popleft(), None)
            self._dropped += 1

    async def run(self) -> None:
        """Write events until cancelled."""
        while True:
            await self._wakeup.wait()
            await asyncio.sleep(self._linger_s)
            self._wakeup.clear()
            retry_s = RETRY_MIN_S
            while self._pending:
                key = self._pending.popleft()
                record = self._known[key]
                record.queued = False
                try:
                    await self._write(key, record)
                except (TransportError, ServerError, TooManyRequestsError) as err:
                    log.debug("event %s of %s %s waits: %s", key.reason, key.kind, key.name, err)
                    if not record.queued:
                        record.queued = True
                        self._pending.appendleft(key)
                    await asyncio.sleep(retry_s)
                    retry_s = min(retry_s * 2, RETRY_MAX_S)
                    continue
                except ClientError as err:
                    # For instance its namespace is being deleted: it will not get better.
                    log.debug("event %s of %s %s dropped: %s", key.reason, key.kind, key.name, err)
                    if not record.queued:
                        self._known.pop(key, None)
                retry_s = RETRY_MIN_S
            self._idle.set()
            if self._dropped:
                log.warning("%d events dropped: the API server was away for too long", self._dropped)
                self._dropped = 0

    async def flush(self, timeout_s: float) -> None:
        """Wait until everything noted so far is written, at most `timeout_s`. For an orderly exit."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._idle.wait()
        except TimeoutError:
            log.warning("%d events were not written", len(self._pending))

    async def _write(self, key: _Key, record: _Record) -> None:
        if record.name:
            repeat = {"count": record.count, "lastTimestamp": record.last}
            try:
                await self._client.patch(Event, record.name, repeat, key.namespace)
                return
            except NotFoundError:
                record.first, record.count = record.last, 1  # it expired; this is a new one
        # The name upstream gives: nobody else's clock and object coincide to the nanosecond.
        name = f"{key.name}.{time.time_ns():x}"
        await self._client.create(self._build(key, record, name), key.namespace)
        record.name = name

    def _build(self, key: _Key, record: _Record, name: str) -> Event:
        return Event(
            metadata=ObjectMeta(name=name, namespace=key.namespace),
            involved_object=record.reference,
            type=key.type,
            reason=key.reason,
            message=key.message,
            first_timestamp=record.first,
            last_timestamp=record.last,
            count=record.count,
            source=EventSource(component=self._component, host=self._host or None),
            reporting_component=self._component,
            reporting_instance=self._host,
        )

    def _forget_oldest(self) -> None:
        while len(self._known) > KNOWN_LIMIT:
            key, record = next(iter(self._known.items()))
            if record.queued or not record.name:
                return  # still to be written: QUEUE_LIMIT bounds these
            del self._known[key]


def _reference(obj: Object | ObjectReference, field_path: str | None) -> ObjectReference:
    if isinstance(obj, ObjectReference):
        reference = obj
    else:
        meta = obj.metadata
        reference = ObjectReference(
            api_version=obj.api_version,
            kind=obj.kind,
            name=meta.name,
            namespace=meta.namespace,
            uid=meta.uid,
            resource_version=meta.resource_version,
        )
    return reference if field_path is None else structs.replace(reference, field_path=field_path)
