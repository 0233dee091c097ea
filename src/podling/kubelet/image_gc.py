"""Remove images when the disk fills up, or when nobody used them for long.

Documentation, "Garbage collection of unused containers and images"; texts and order are those of upstream's
`pkg/kubelet/images/image_gc_manager.go`: above the high threshold of the image file system, unused images
go, least recently used first, until the low one is reached. Images in use, pinned ones and those younger
than the minimum age stay.

Several kubelets may share one store (the nodes of one machine do). Each knows its own containers only, so a
runtime may say when an image was last used by anybody (an annotation on the listed image), and may refuse to
remove one (FailedPrecondition), which then counts as in use.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple

from podling.kubelet.events import WARNING, PodEvents
from podling.runtime.cri import messages as cri
from podling.runtime.cri.errors import Code, CRIError
from podling.runtime.cri.service import ImageService, RuntimeService
from podling.runtime.images.service import ANNOTATION_LAST_USED

log = logging.getLogger(__name__)

PERIOD_S = 300.0
"""Upstream's `ImageGCPeriod`, and how often it looks which images are used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageGCPolicy:
    """Percentages of the image file system in use; ages in seconds, a maximum of 0 is none."""

    high_threshold_percent: int = 85
    low_threshold_percent: int = 80
    minimum_age_s: float = 120.0
    maximum_age_s: float = 0.0


class Disk(NamedTuple):
    capacity_bytes: int
    available_bytes: int


def read_disk(path: str) -> Disk:
    found = os.statvfs(path)
    return Disk(found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize)


@dataclass(slots=True)
class _Seen:
    first_detected: float
    last_used: float = 0.0
    """0 when no use of it was ever seen."""
    size_bytes: int = 0
    pinned: bool = False
    dated: bool = False
    """The runtime itself says when it was last used."""


class ImageGCError(Exception):
    pass


class ImageGarbageCollector:
    """One for the node. `run()` until cancelled."""

    def __init__(
        self,
        runtime: RuntimeService,
        images: ImageService,
        events: PodEvents,
        *,
        node_name: str,
        policy: ImageGCPolicy,
        clock: Callable[[], float] = time.time,
        disk: Callable[[str], Disk] = read_disk,
    ) -> None:
        self._runtime = runtime
        self._images = images
        self._events = events
        self._node_name = node_name
        self._policy = policy
        self._clock = clock
        self._disk = disk
        self._began_at = clock()
        self._seen: dict[str, _Seen] = {}
        self._failed_before = False

    async def run(self) -> None:
        while True:
            await self.collect_and_tell()
            await asyncio.sleep(PERIOD_S)

    async def collect_and_tell(self) -> None:
        """One round; an event for what fails twice in a row, since the first may come too early."""
        try:
            await self.collect()
        except (ImageGCError, CRIError, OSError) as err:
            log.warning("image garbage collection failed: %s", err)
            if self._failed_before:
                self._events.node(self._node_name, WARNING, "ImageGCFailed", str(err))
            self._failed_before = True
        else:
            self._failed_before = False

    async def collect(self) -> None:
        """Raises `ImageGCError`, CRIError, OSError."""
        now = self._clock()
        unused = await self._unused(now)
        unused = await self._remove_old(unused, now)
        mountpoint = await self._mountpoint()
        capacity, available = await asyncio.to_thread(self._disk, mountpoint)
        if capacity <= 0:
            text = f"invalid capacity {capacity} on image filesystem"
            self._events.node(self._node_name, WARNING, "InvalidDiskCapacity", text)
            raise ImageGCError(text)
        percent = 100 - available * 100 // capacity
        if percent < self._policy.high_threshold_percent:
            return
        wanted = capacity * (100 - self._policy.low_threshold_percent) // 100 - available
        log.info("image file system is at %d%%: trying to free %d bytes", percent, wanted)
        freed = await self._free(unused, wanted, now, mountpoint)
        if freed < wanted:
            text = (
                f"Insufficient free disk space on the node's image filesystem ({percent}% of "
                f"{format_size(capacity)} used). Failed to free sufficient space by deleting unused images "
                f"(freed {freed} bytes). Investigate disk usage, as it could be used by active images, logs, "
                "volumes, or other data."
            )
            self._events.node(self._node_name, WARNING, "FreeDiskSpaceFailed", text)
            raise ImageGCError(text)

    async def delete_unused(self) -> int:
        """Everything that may go, however full the disk is: for an eviction. Returns the bytes freed."""
        now = self._clock()
        return await self._free(await self._unused(now), 1 << 62, now, await self._mountpoint())

    async def _mountpoint(self) -> str:
        response = await self._images.image_fs_info(cri.ImageFsInfoRequest())
        for usage in response.image_filesystems:
            if usage.fs_id is not None and usage.fs_id.mountpoint:
                return usage.fs_id.mountpoint
        raise ImageGCError("the runtime names no image filesystem")

    async def _unused(self, now: float) -> list[str]:
        """Ids of what could go, least recently used first."""
        listed = (await self._images.list_images(cri.ListImagesRequest())).images
        used = await self._used()
        for image in listed:
            seen = self._seen.setdefault(image.id, _Seen(first_detected=now))
            seen.size_bytes, seen.pinned = image.size, image.pinned
            told = image.spec.annotations.get(ANNOTATION_LAST_USED, "") if image.spec else ""
            with suppress(ValueError):
                seen.last_used, seen.dated = max(seen.last_used, float(told)), True
            if used & {image.id, *image.repo_tags, *image.repo_digests}:
                seen.last_used = now
        present = {image.id for image in listed}
        self._seen = {image_id: seen for image_id, seen in self._seen.items() if image_id in present}
        free = [
            (seen.last_used, seen.first_detected, image_id)
            for image_id, seen in self._seen.items()
            if not seen.pinned and seen.last_used < now
        ]
        return [image_id for _, _, image_id in sorted(free)]

    async def _used(self) -> set[str]:
        """What containers name, also ended ones: they may be started again."""
        listed = await self._runtime.list_containers(cri.ListContainersRequest())
        return {
            name
            for container in listed.containers
            for name in (
                container.image_ref,
                container.image_id,
                container.image.image if container.image else "",
            )
            if name
        }

    async def _remove_old(self, unused: list[str], now: float) -> list[str]:
        """Take out what is older than the maximum age; returns the rest."""
        age_s = self._policy.maximum_age_s
        if not age_s:
            return unused
        rest = []
        for image_id in unused:
            seen = self._seen[image_id]
            # Without the runtime's word the uses before our start are unknown: give them the whole age.
            since = seen.last_used if seen.dated else max(seen.last_used, seen.first_detected, self._began_at)
            if now - since <= age_s or not await self._remove(image_id, now):
                rest.append(image_id)
        return rest

    async def _free(self, unused: list[str], wanted_bytes: int, now: float, mountpoint: str) -> int:
        """Differs from upstream: what the disk says is believed before the sum of the images' sizes, which
        does not know how much of an image is kept compressed beside its unpacked files, or shared."""
        freed = 0
        before = await asyncio.to_thread(self._disk, mountpoint)
        failed: list[str] = []
        for image_id in unused:
            if freed >= wanted_bytes:
                break
            seen = self._seen[image_id]
            if now - seen.first_detected < self._policy.minimum_age_s:
                continue
            try:
                if await self._remove(image_id, now):
                    after = await asyncio.to_thread(self._disk, mountpoint)
                    gained = after.available_bytes - before.available_bytes
                    freed = max(freed + seen.size_bytes, gained)
            except CRIError as err:
                failed.append(err.message)
        if failed:
            raise ImageGCError(
                f"wanted to free {wanted_bytes} bytes, but freed {freed} bytes space with errors in image "
                f"deletion: {', '.join(failed)}"
            )
        return freed

    async def _remove(self, image_id: str, now: float) -> bool:
        """False when somebody else uses it. Raises CRIError."""
        try:
            await self._images.remove_image(cri.RemoveImageRequest(image=cri.ImageSpec(image=image_id)))
        except CRIError as err:
            if err.code is not Code.FAILED_PRECONDITION:
                raise
            self._seen[image_id].last_used = now
            return False
        log.info("removed image %s to free bytes", image_id)
        self._seen.pop(image_id, None)
        return True


def format_size(size_bytes: int) -> str:
    """`26.4 GiB`, as upstream's events have it."""
    value = float(size_bytes)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.1f} {unit}" if unit != "B" else f"{size_bytes} B"
        value /= 1024
    return f"{value:.1f} TiB"
