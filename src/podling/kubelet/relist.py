"""Container events for runtimes that have none (containerd before 1.7): list, compare, list again.

Upstream calls this the generic PLEG. It costs two lists a second and up to a second of delay, so it is only
used when GetContainerEvents is not implemented.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from podling.runtime.cri import messages as cri
from podling.runtime.cri.service import RuntimeService

PERIOD_S = 1.0
"""Upstream's."""

_Seen = dict[str, tuple[cri.ContainerEventType, cri.PodSandboxStatus]]
"""By id, of sandboxes and containers: the event that its present state would be, and its pod."""

_Event = cri.ContainerEventType
_OF_CONTAINER = {
    cri.ContainerState.CONTAINER_CREATED: _Event.CONTAINER_CREATED_EVENT,
    cri.ContainerState.CONTAINER_RUNNING: _Event.CONTAINER_STARTED_EVENT,
}
_OF_SANDBOX = {cri.PodSandboxState.SANDBOX_READY: _Event.CONTAINER_STARTED_EVENT}


async def relist_events(runtime: RuntimeService) -> AsyncIterator[cri.ContainerEventResponse]:
    """Changes from the first list on, for ever. What came and went between two lists is not seen."""
    before = await _look(runtime)
    while True:
        await asyncio.sleep(PERIOD_S)
        now = await _look(runtime)
        for event in changes(before, now):
            yield event
        before = now


def changes(before: _Seen, now: _Seen) -> list[cri.ContainerEventResponse]:
    found = [
        _event(name, kind, pod)
        for name, (kind, pod) in now.items()
        if name not in before or before[name][0] is not kind
    ]
    gone = [
        _event(name, _Event.CONTAINER_DELETED_EVENT, pod)
        for name, (_, pod) in before.items()
        if name not in now
    ]
    return found + gone


def _event(name: str, kind: cri.ContainerEventType, pod: cri.PodSandboxStatus) -> cri.ContainerEventResponse:
    return cri.ContainerEventResponse(
        container_id=name, container_event_type=kind, pod_sandbox_status=pod if pod.metadata else None
    )


async def _look(runtime: RuntimeService) -> _Seen:
    sandboxes, containers = await asyncio.gather(
        runtime.list_pod_sandbox(cri.ListPodSandboxRequest()),
        runtime.list_containers(cri.ListContainersRequest()),
    )
    pods = {
        item.id: cri.PodSandboxStatus(id=item.id, metadata=item.metadata, labels=item.labels)
        for item in sandboxes.items
    }
    seen: _Seen = {
        item.id: (_OF_SANDBOX.get(item.state, _Event.CONTAINER_STOPPED_EVENT), pods[item.id])
        for item in sandboxes.items
    }
    for container in containers.containers:
        kind = _OF_CONTAINER.get(container.state, _Event.CONTAINER_STOPPED_EVENT)
        seen[container.id] = kind, pods.get(container.pod_sandbox_id, cri.PodSandboxStatus())
    return seen
