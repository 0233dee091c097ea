"""Watches: a stream of one JSON document a line, from a revision on.

An event costs each watcher whose selection it meets one copy of bytes that were encoded when the object
was written; all others cost a comparison. A watcher that reads too slowly is told 410 and cut off.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable

import msgspec

from podling.apiserver import errors, objects, render, selection, versions
from podling.apiserver.cluster import Cluster
from podling.apiserver.negotiation import Accepted, accepted
from podling.apiserver.objects import Object, encode
from podling.apiserver.request import Answer, Request, Stream
from podling.apiserver.requestinfo import RequestInfo
from podling.apiserver.resource import Resource
from podling.apiserver.selection import Selection
from podling.store.interface import CompactedError, Entry, Event, FutureRevisionError, Watch

BOOKMARK_INTERVAL_S = 60.0
MIN_TIMEOUT_S = 1800
"""Of a watch that names none; upstream chooses at random between this and twice this."""
INITIAL_EVENTS_END = "k8s.io/initial-events-end"

Encode = Callable[[Entry, int], bytes]
"""An object at a revision (0: its own), as this watcher wants to see it."""


async def handle(cluster: Cluster, request: Request, info: RequestInfo, resource: Resource) -> Answer:
    accept = accepted(request.accept)
    chosen = selection.parse(request, info, resource)
    start = _Start(request)
    timeout = request.query.integer("timeoutSeconds") or 0
    timeout_s = timeout if timeout > 0 else random.randint(MIN_TIMEOUT_S, 2 * MIN_TIMEOUT_S)
    prefix = resource.prefix(info.namespace)
    encode_object = _encoder(resource, accept, request)
    initial: list[Entry] = []
    after = start.revision
    if start.send_state:
        page = await cluster.store.list(prefix)
        initial = [e for e in page.entries if chosen.everything or chosen.matches(e)]
    if start.send_state or start.most_recent:
        if start.revision > cluster.store.revision:
            raise errors.future_version(start.revision, cluster.store.revision)
        after = cluster.store.revision
    try:
        watch = cluster.store.watch(
            prefix, after=after, wants=None if chosen.everything else lambda e: bool(chosen.classify(e))
        )
    except (CompactedError, FutureRevisionError) as err:
        return Stream(200, _only(_error_line(err)))
    watcher = _Watcher(cluster, resource, watch, chosen, encode_object, bookmarks=start.bookmarks)
    return Stream(200, watcher.run(initial, timeout_s=timeout_s, initial_end=start.send_initial_events))


class _Start:
    """Where a watch begins (API concepts, "Semantics for watch", and "Streaming lists")."""

    def __init__(self, request: Request) -> None:
        query = request.query
        version = query.get("resourceVersion")
        self.revision = versions.parse(version)
        self.bookmarks = query.flag("allowWatchBookmarks")
        self.send_initial_events = query.flag("sendInitialEvents")
        given = "sendInitialEvents" in query
        match = query.get("resourceVersionMatch")
        if given and match != "NotOlderThan":
            raise _invalid(
                "resourceVersionMatch: Forbidden: sendInitialEvents requires setting resourceVersionMatch "
                "to NotOlderThan"
            )
        if match and not given:
            raise _invalid(
                "resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden for watch unless "
                "sendInitialEvents is provided"
            )
        self.send_state = self.send_initial_events or (not given and version in ("", "0"))
        self.most_recent = given and not self.send_initial_events and version in ("", "0")


def _invalid(text: str) -> errors.APIError:
    return errors.APIError(422, "Invalid", f'ListOptions.meta.k8s.io "" is invalid: {text}')


class _Watcher:
    def __init__(
        self,
        cluster: Cluster,
        resource: Resource,
        watch: Watch,
        chosen: Selection,
        encode_object: Encode,
        *,
        bookmarks: bool,
    ) -> None:
        self._cluster = cluster
        self._resource = resource
        self._watch = watch
        self._chosen = chosen
        self._encode = encode_object
        self._bookmarks = bookmarks

    async def run(self, initial: list[Entry], *, timeout_s: float, initial_end: bool) -> AsyncIterator[bytes]:
        """The lines of the answer, several at a time when several are ready."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        try:
            if initial:
                yield b"".join([_line(b"ADDED", self._encode(entry, 0)) for entry in initial])
            if initial_end and self._bookmarks:
                yield self._bookmark(annotations={INITIAL_EVENTS_END: "true"})
            while True:
                pause_end = loop.time() + BOOKMARK_INTERVAL_S if self._bookmarks else deadline
                try:
                    async with asyncio.timeout_at(min(deadline, pause_end)):
                        events = await self._watch.batch()
                except TimeoutError:
                    if self._bookmarks:
                        yield self._bookmark()
                    if loop.time() >= deadline:
                        return
                    continue
                yield b"".join([self._event(event) for event in events])
        except CompactedError as err:
            yield _error_line(err)
        finally:
            self._watch.close()

    def _event(self, event: Event) -> bytes:
        kind = self._chosen.classify(event)
        if kind == "DELETED":
            assert event.previous is not None
            return _line(b"DELETED", self._encode(event.previous, event.revision))
        assert event.entry is not None
        return _line(kind.encode(), self._encode(event.entry, 0))

    def _bookmark(self, annotations: dict[str, str] | None = None) -> bytes:
        # Nothing is queued here, so everything up to the store's revision has been delivered.
        metadata: Object = {"resourceVersion": str(self._cluster.store.revision)}
        if annotations:
            metadata["annotations"] = annotations
        document = {"kind": self._resource.kind, "apiVersion": self._resource.group_version}
        return _line(b"BOOKMARK", encode({**document, "metadata": metadata}))


def _encoder(resource: Resource, accept: Accepted, request: Request) -> Encode:
    if accept.table:
        return _table_encoder(resource, accept, request)
    if accept.partial:
        return lambda entry, revision: encode(render.partial(_at(entry, revision), accept))
    return lambda entry, revision: objects.wire(resource, entry, revision)


def _table_encoder(resource: Resource, accept: Accepted, request: Request) -> Encode:
    table = render.Table(resource, accept, request)
    headers = True

    def encode_row(entry: Entry, revision: int) -> bytes:
        nonlocal headers
        obj = _at(entry, revision)
        table.tick()
        row = table.row(obj, objects.wire(resource, entry, revision))
        metadata = {"resourceVersion": obj["metadata"]["resourceVersion"]}
        document = table.document([row], metadata, headers=headers)
        headers = False
        return encode(document)

    return encode_row


def _at(entry: Entry, revision: int) -> Object:
    obj = objects.from_entry(entry)
    if revision:
        obj["metadata"]["resourceVersion"] = str(revision)
    return obj


def _line(kind: bytes, obj: bytes | msgspec.Raw) -> bytes:
    return b'{"type":"%b","object":%b}\n' % (kind, obj)


def _error_line(err: CompactedError | FutureRevisionError) -> bytes:
    """An error in the stream: clients expect it there, and list again."""
    if isinstance(err, CompactedError):
        message = errors.TOO_OLD.format(err.requested, err.oldest)
    else:
        # Differs from upstream, which would wait for that revision: here it means that the store was
        # replaced, and the client should find out.
        message = f"unknown resource version: {err.requested}, the newest is {err.current}"
    return _line(b"ERROR", encode(errors.expired(message).status()))


async def _only(line: bytes) -> AsyncIterator[bytes]:
    yield line
