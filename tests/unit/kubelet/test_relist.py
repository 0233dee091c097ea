"""Events made of two lists."""

from __future__ import annotations

from podling.kubelet.relist import changes
from podling.runtime.cri import messages as cri

CREATED = cri.ContainerEventType.CONTAINER_CREATED_EVENT
STARTED = cri.ContainerEventType.CONTAINER_STARTED_EVENT
STOPPED = cri.ContainerEventType.CONTAINER_STOPPED_EVENT
DELETED = cri.ContainerEventType.CONTAINER_DELETED_EVENT
POD = cri.PodSandboxStatus(id="s", metadata=cri.PodSandboxMetadata(name="web", uid="u"))


def test_what_is_new_changed_or_gone_is_an_event() -> None:
    before = {"same": (STARTED, POD), "ends": (STARTED, POD), "goes": (STOPPED, POD)}
    now = {"same": (STARTED, POD), "ends": (STOPPED, POD), "new": (CREATED, POD)}
    found = {event.container_id: event.container_event_type for event in changes(before, now)}
    assert found == {"ends": STOPPED, "new": CREATED, "goes": DELETED}


def test_an_event_names_the_pod_when_it_is_known() -> None:
    now = {"known": (STARTED, POD), "orphan": (STARTED, cri.PodSandboxStatus())}
    assert [event.pod_sandbox_status for event in changes({}, now)] == [POD, None]
