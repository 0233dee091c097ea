"""A local, always nearly current copy of the objects of a kind, and calls when they change.

Lists once, then watches from the list's resourceVersion on; a broken watch resumes where it stopped, and
when the server no longer knows that point (410 Gone) the informer lists again and reports the difference.
So handlers see every object appear, change and disappear, in order, though possibly several changes as
one (Kubernetes API concepts, "Efficient detection of changes").

Handlers are plain functions called on the event loop after `store` has the new state. They must not
block: usually they put a key on a WorkQueue. One that raises is logged and does not stop the others.
The objects in `store` are shared: read, do not change.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Mapping
from contextlib import aclosing
from types import MappingProxyType
from typing import Generic, TypeAlias, TypeVar

from podling.api.resources import Object
from podling.client.client import Client, EventType
from podling.client.errors import ClientError, GoneError, TransportError

T = TypeVar("T", bound=Object)
Key: TypeAlias = tuple[str, str]
"""(namespace, name); the namespace of cluster-scoped objects is empty."""
Handler: TypeAlias = Callable[[T | None, T | None], None]
"""(old, new): added (None, new), changed (old, new), deleted (old, None)."""

BACKOFF_MIN_S = 0.05
BACKOFF_MAX_S = 5.0
"""Upstream waits up to 30 s; a component of ours should follow a restarted API server at once."""
WATCH_TIMEOUT_S = (300, 600)
"""The server ends a watch after a time chosen in this range, so that watches spread over servers."""
SHORT_WATCH_S = 1.0
"""A watch that ends sooner than this counts as a failure, or a confused server would be asked in a loop."""

log = logging.getLogger(__name__)


def object_key(obj: Object) -> Key:
    return (obj.metadata.namespace or "", obj.metadata.name or "")


class Informer(Generic[T]):
    """Run `run()` as a task of the owner's TaskGroup; it ends only by cancellation."""

    def __init__(
        self,
        client: Client,
        kind: type[T],
        namespace: str | None = None,
        *,
        field_selector: str | None = None,
        label_selector: str | None = None,
    ) -> None:
        self._client = client
        self._kind = kind
        self._namespace = namespace
        self._field_selector = field_selector
        self._label_selector = label_selector
        self._objects: dict[Key, T] = {}
        self._handlers: list[Handler[T]] = []
        self._synced = asyncio.Event()
        self._resource_version = ""

    @property
    def kind(self) -> type[T]:
        return self._kind

    @property
    def is_complete(self) -> bool:
        """It holds every object of its kind, not a selection."""
        return not (self._namespace or self._field_selector or self._label_selector)

    @property
    def store(self) -> Mapping[Key, T]:
        return MappingProxyType(self._objects)

    @property
    def synced(self) -> bool:
        return self._synced.is_set()

    def get(self, name: str, namespace: str = "") -> T | None:
        return self._objects.get((namespace, name))

    def has_seen(self, resource_version: str | None) -> bool:
        """Whether `store` is at least as new as a write that was answered with this resourceVersion.

        Versions are numbers that grow over all kinds of a server, so one compares them (Kubernetes API
        concepts, "Resource versions").
        """
        return not resource_version or int(self._resource_version or 0) >= int(resource_version)

    def add_handler(self, handler: Handler[T]) -> None:
        """Call `handler` for every change from now on, and at once for what is in the store already."""
        self._handlers.append(handler)
        for obj in list(self._objects.values()):
            self._call(handler, None, obj)

    async def wait_synced(self) -> None:
        """Until the first list is in `store` and the handlers have seen it."""
        await self._synced.wait()

    async def run(self) -> None:
        backoff_s = BACKOFF_MIN_S
        while True:
            started = time.monotonic()
            try:
                if not self._resource_version:
                    await self._list()
                await self._watch()
                failed = time.monotonic() - started < SHORT_WATCH_S
            except GoneError:
                log.debug("%s: resourceVersion %s is gone, listing", self._what, self._resource_version)
                self._resource_version = ""
                failed = True
            except TransportError as err:
                log.debug("%s: %s", self._what, err)
                failed = True
            except ClientError as err:
                # Not a matter of the connection, so neither is the point we watched from to be trusted.
                log.warning("%s: %s", self._what, err)
                self._resource_version = ""
                failed = True
            if not failed or time.monotonic() - started >= BACKOFF_MAX_S:
                backoff_s = BACKOFF_MIN_S
            if failed:
                await asyncio.sleep(backoff_s * random.uniform(0.5, 1.5))
                backoff_s = min(backoff_s * 2, BACKOFF_MAX_S)

    @property
    def _what(self) -> str:
        return f"informer of {self._kind.__name__}"

    async def _list(self) -> None:
        result = await self._client.list(
            self._kind,
            self._namespace,
            field_selector=self._field_selector,
            label_selector=self._label_selector,
        )
        listed = {object_key(obj): obj for obj in result.items}
        for key in [key for key in self._objects if key not in listed]:
            self._set(key, None)
        for key, obj in listed.items():
            self._set(key, obj)
        self._resource_version = result.resource_version
        self._synced.set()

    async def _watch(self) -> None:
        events = self._client.watch(
            self._kind,
            self._namespace,
            resource_version=self._resource_version,
            field_selector=self._field_selector,
            label_selector=self._label_selector,
            bookmarks=True,
            timeout_s=random.randint(*WATCH_TIMEOUT_S),
        )
        async with aclosing(events):
            async for event in events:
                if event.type is not EventType.BOOKMARK:
                    deleted = event.type is EventType.DELETED
                    self._set(object_key(event.object), None if deleted else event.object)
                self._resource_version = event.object.metadata.resource_version or self._resource_version

    def _set(self, key: Key, new: T | None) -> None:
        """Make `new` the state of `key` and tell the handlers, if it differs from what they know."""
        old = self._objects.get(key)
        if new is None:
            if old is not None:
                del self._objects[key]
                self._notify(old, None)
            return
        if old is not None:
            if old.metadata.uid != new.metadata.uid:
                # A namesake took its place while we did not look: two objects, so two calls.
                del self._objects[key]
                self._notify(old, None)
                old = None
            elif old.metadata.resource_version == new.metadata.resource_version:
                return
        self._objects[key] = new
        self._notify(old, new)

    def _notify(self, old: T | None, new: T | None) -> None:
        for handler in self._handlers:
            self._call(handler, old, new)

    def _call(self, handler: Handler[T], old: T | None, new: T | None) -> None:
        try:
            handler(old, new)
        except Exception:  # whatever a handler got wrong is not the other handlers' loss
            log.exception("%s: handler %r failed", self._what, handler)
