"""Writes pod statuses to the API and deletes pods that have ended: only what changed, none lost.

`set` replaces what is wanted for a pod; a sender task a pod writes until the API has the newest one.
While a request is under way newer statuses overwrite each other, so a burst costs two requests. A
status may be deferred: "ContainerCreating" is worth a request only if the pod does not run soon.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Any

import msgspec

from podling.api import core_v1
from podling.client.client import Client, PatchType
from podling.client.errors import (
    ClientError,
    ConflictError,
    NotFoundError,
    ServerError,
    TooManyRequestsError,
    TransportError,
)
from podling.kubelet import names

RETRY_MIN_S = 0.1
RETRY_MAX_S = 5.0
PARALLEL_REQUESTS = 4
"""When many pods change at once: more would only open more TLS connections, each dearer than a request."""

log = logging.getLogger(__name__)


def status_to_json(status: core_v1.PodStatus) -> dict[str, Any]:
    """The status with the zeros that clients require present (`ready`, `restartCount`, `exitCode`)."""
    plain: dict[str, Any] = msgspec.to_builtins(status)
    for group in ("initContainerStatuses", "containerStatuses", "ephemeralContainerStatuses"):
        for item in plain.get(group, ()):
            for key, zero in (("ready", False), ("restartCount", 0), ("image", ""), ("imageID", "")):
                item.setdefault(key, zero)
            for which in ("state", "lastState"):
                state = item.setdefault(which, {})
                if "terminated" in state:
                    state["terminated"].setdefault("exitCode", 0)
    return plain


_PASSING = ("PodResizePending", "PodResizeInProgress")
"""Conditions of the kubelet's that are there or not, in place of True and False."""


def compute_patch(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """A strategic merge patch of `status` from one JSON status to another; empty when nothing changed.

    Conditions merge by type in the API, so those of other writers stay; keys that one of ours has lost
    are set to null. Addresses merge by value, so a changed list says that it replaces.
    """
    patch: dict[str, Any] = {}
    for key in new.keys() | old.keys():
        if old.get(key) == new.get(key):
            continue
        if key == "conditions":
            changed = _condition_patches(old.get(key) or [], new.get(key) or [])
            if changed:
                patch[key] = changed
        elif key in ("podIPs", "hostIPs") and old.get(key):
            patch[key] = [{"$patch": "replace"}, *(new.get(key) or [])]
        else:
            patch[key] = new.get(key)
    return patch


def _condition_patches(old: list[dict[str, Any]], new: list[dict[str, Any]]) -> list[dict[str, Any]]:
    known = {condition["type"]: condition for condition in old}
    patches = []
    for condition in new:
        before = known.get(condition["type"], {})
        if before != condition:
            patches.append(condition | {key: None for key in before if key not in condition})
    left = {condition["type"] for condition in new}
    gone = (type_ for type_ in _PASSING if type_ in known and type_ not in left)
    return patches + [{"$patch": "delete", "type": type_} for type_ in gone]


class _Entry:
    """What the API is believed to have, what it should have, and who is on it."""

    def __init__(self, pod: core_v1.Pod) -> None:
        self.uid: str | None = names.pod_uid(pod)
        """Of the object in the API; None while a static pod has no mirror there."""
        self.namespace = names.pod_namespace(pod)
        self.name = pod.metadata.name or ""
        self.known = status_to_json(pod.status) if pod.status else {}
        self.wanted: dict[str, Any] = {}
        self.due = asyncio.Event()
        self.written = asyncio.Event()
        self.timer: asyncio.TimerHandle | None = None
        self.task: asyncio.Task[None] | None = None


class StatusManager:
    """Owned by the kubelet; senders are tasks of its task group."""

    def __init__(self, client: Client, tasks: asyncio.TaskGroup) -> None:
        self._client = client
        self._tasks = tasks
        self._entries: dict[names.PodUID, _Entry] = {}
        self._slots = asyncio.Semaphore(PARALLEL_REQUESTS)

    def set(self, pod: core_v1.Pod, status: core_v1.PodStatus, *, defer_s: float = 0.0) -> None:
        """Want this status; `defer_s` allows it to wait for a newer one that replaces it."""
        uid = names.pod_uid(pod)
        entry = self._entries.get(uid)
        if entry is None:
            entry = self._entries[uid] = _Entry(pod)
        entry.wanted = status_to_json(status)
        if not compute_patch(entry.known, entry.wanted):
            self._cancel_timer(entry)
            entry.written.set()
            return
        if entry.uid is None:
            return
        entry.written.clear()
        if defer_s > 0:
            if entry.timer is None and not entry.due.is_set():
                entry.timer = asyncio.get_running_loop().call_later(defer_s, self._send, uid, entry)
            return
        self._send(uid, entry)

    def await_mirror(self, pod: core_v1.Pod) -> None:
        """A static pod: its statuses wait for the object in the API that mirrors it."""
        entry = _Entry(pod)
        entry.uid = None
        entry.written.set()
        self._entries[names.pod_uid(pod)] = entry

    def set_mirror(self, uid: names.PodUID, mirror: core_v1.Pod | None, *, outdated: bool = False) -> None:
        """The API has this mirror of the static pod `uid`, or none (any more). `outdated`: the status that
        waits for it was made without knowing the mirror's, and the next one is on its way."""
        entry = self._entries.get(uid)
        if entry is None or entry.uid == (mirror.metadata.uid if mirror else None):
            return
        entry.uid = mirror.metadata.uid if mirror else None
        entry.known = status_to_json(mirror.status) if mirror and mirror.status else {}
        if outdated:
            entry.wanted = {}
        if mirror is not None and entry.wanted:
            entry.written.clear()
            self._send(uid, entry)

    async def wait_written(self, uid: names.PodUID) -> None:
        """Until the API has the newest status, or the pod is gone from it."""
        entry = self._entries.get(uid)
        if entry is not None:
            await entry.written.wait()

    async def delete_pod(self, pod: core_v1.Pod) -> None:
        """Say that the pod is gone from its node, after its last status; only this very pod, no namesake.

        Gone already is fine. Raises ClientError worth a retry.
        """
        await self.wait_written(names.pod_uid(pod))
        try:
            async with self._slots:
                await self._client.delete(
                    core_v1.Pod,
                    pod.metadata.name or "",
                    names.pod_namespace(pod),
                    grace_period_s=0,
                    uid=pod.metadata.uid,
                )
        except (NotFoundError, ConflictError):
            log.debug("pod %s was gone from the API already", names.pod_full(pod))

    def forget(self, uid: names.PodUID) -> None:
        """The pod is gone from the API: nothing more to write."""
        entry = self._entries.pop(uid, None)
        if entry is not None:
            self._cancel_timer(entry)
            entry.written.set()
            if entry.task is not None:
                entry.task.cancel()

    def _cancel_timer(self, entry: _Entry) -> None:
        if entry.timer is not None:
            entry.timer.cancel()
            entry.timer = None

    def _send(self, uid: names.PodUID, entry: _Entry) -> None:
        self._cancel_timer(entry)
        entry.due.set()
        if entry.task is None or entry.task.done():
            entry.task = self._tasks.create_task(self._run(uid, entry), name=f"status of {entry.name}")

    async def _run(self, uid: names.PodUID, entry: _Entry) -> None:
        retry_s = RETRY_MIN_S
        while entry.due.is_set():
            entry.due.clear()
            wanted, target = entry.wanted, entry.uid
            if target is None:
                break
            patch = compute_patch(entry.known, wanted)
            try:
                if patch:
                    await self._write(target, entry, patch)
                if entry.uid == target:
                    entry.known = wanted
                retry_s = RETRY_MIN_S
            except (NotFoundError, ConflictError):
                log.debug("pod %s/%s is gone, its status is not written", entry.namespace, entry.name)
                if entry.uid == target:
                    entry.known = wanted
            except (TransportError, ServerError, TooManyRequestsError) as err:
                log.debug("status of pod %s/%s: %s", entry.namespace, entry.name, err)
                entry.due.set()
                await asyncio.sleep(retry_s)
                retry_s = min(retry_s * 2, RETRY_MAX_S)
            except ClientError as err:
                log.error("status of pod %s/%s refused: %s", entry.namespace, entry.name, err)
                entry.known = wanted
        if entry.known is entry.wanted or not compute_patch(entry.known, entry.wanted):
            entry.written.set()

    async def _write(self, uid: str, entry: _Entry, patch: dict[str, Any]) -> None:
        async with self._slots:
            await self._client.patch(
                core_v1.Pod,
                entry.name,
                # The UID makes the API refuse when a namesake has taken the pod's place.
                {"metadata": {"uid": uid}, "status": patch},
                entry.namespace,
                subresource="status",
                patch_type=PatchType.STRATEGIC,
            )
