"""GET /containerLogs/NAMESPACE/POD/CONTAINER: what `kubectl logs` reads."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from aiohttp import web

from podling.api.pods import find_container
from podling.api.times import parse_time
from podling.kubelet import names
from podling.kubelet.logs import LogOptions, read_log
from podling.kubelet.pleg import PLEG
from podling.kubelet.runtime_state import ContainerRecord
from podling.kubelet.server.lookup import Found, Lookup
from podling.runtime.cri import messages as cri


class LogsHandler:
    def __init__(self, lookup: Lookup, pleg: PLEG, clock: Callable[[], float]) -> None:
        self._lookup = lookup
        self._pleg = pleg
        self._clock = clock

    async def handle(self, request: web.Request) -> web.StreamResponse:
        options = parse_options(request, now=self._clock())
        found = await self._lookup.pod(request)
        container = request.match_info["container"]
        record = find_log(found, container, previous=_flag(request, "previous"))
        response = web.StreamResponse(headers={"Content-Type": "text/plain"})
        response.enable_chunked_encoding()
        await response.prepare(request)
        with suppress(ConnectionResetError):  # the client has seen enough
            await self._send(response, record, options)
            await response.write_eof()
        return response

    async def _send(self, response: web.StreamResponse, record: ContainerRecord, options: LogOptions) -> None:
        ended = asyncio.Event()
        alive = record.running

        def note(event: cri.ContainerEventResponse) -> None:
            nonlocal alive
            if event.container_id == record.id and event.container_event_type in (
                cri.ContainerEventType.CONTAINER_STOPPED_EVENT,
                cri.ContainerEventType.CONTAINER_DELETED_EVENT,
            ):
                alive = False
                ended.set()

        self._pleg.add_listener(note)
        try:
            path = Path(record.status.log_path)
            async for chunk in read_log(path, options, running=lambda: alive, stopped=ended):
                await response.write(chunk)
        finally:
            self._pleg.remove_listener(note)


def find_log(found: Found, container: str, *, previous: bool) -> ContainerRecord:
    """The container whose log is meant. Raises HTTPBadRequest in upstream's words."""
    pod = found.pod.metadata.name
    if find_container(found.pod, container) is None:
        full = f"{pod}_{names.pod_namespace(found.pod)}"
        raise web.HTTPNotFound(text=f'container "{container}" not found in pod "{full}"')
    history = found.runtime.history(container)
    if previous:
        dead = [record for record in history[1:] if record.exited] or [
            record for record in history[:1] if record.exited and _is_waiting(found, container)
        ]
        if not dead:
            raise web.HTTPBadRequest(
                text=f'previous terminated container "{container}" in pod "{pod}" not found'
            )
        return dead[0]
    if not history or not (history[0].running or history[0].exited):
        reason = _waiting_reason(found, container)
        raise web.HTTPBadRequest(text=f'container "{container}" in pod "{pod}" is waiting to start: {reason}')
    return history[0]


def _is_waiting(found: Found, container: str) -> bool:
    """In back-off the newest dead container is the previous one."""
    return _waiting_reason(found, container, default="") != ""


def _waiting_reason(found: Found, container: str, default: str = "ContainerCreating") -> str:
    status = found.pod.status
    statuses = [*status.init_container_statuses, *status.container_statuses] if status else []
    for item in statuses:
        if item.name == container and item.state and item.state.waiting:
            waiting = item.state.waiting
            return waiting.message or waiting.reason or default
    return default


def parse_options(request: web.Request, *, now: float) -> LogOptions:
    """Raises HTTPUnprocessableEntity for a value that makes no sense."""
    query = request.query
    since = None
    try:
        if "sinceSeconds" in query:
            since = now - _number(query["sinceSeconds"], minimum=1)
        elif query.get("sinceTime"):
            since = parse_time(query["sinceTime"]).timestamp()
        return LogOptions(
            follow=_flag(request, "follow"),
            tail_lines=_number(query["tailLines"], minimum=0) if "tailLines" in query else None,
            since_s=since,
            timestamps=_flag(request, "timestamps"),
            limit_bytes=_number(query["limitBytes"], minimum=1) if "limitBytes" in query else None,
            stream={"Stdout": "stdout", "Stderr": "stderr"}.get(query.get("stream", "All")),
        )
    except ValueError as err:
        raise web.HTTPUnprocessableEntity(text=f"Unable to decode query: {err}") from err


def _number(text: str, *, minimum: int) -> int:
    value = int(text)
    if value < minimum:
        raise ValueError(f"{value} must be at least {minimum}")
    return value


def _flag(request: web.Request, name: str) -> bool:
    return request.query.get(name, "false").lower() in ("true", "1")
