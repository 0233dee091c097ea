"""Have a container's image on the node: pull policies, shared pulls, back-off, upstream's words.

Kubernetes documentation, "Images", "Image pull policy" and "ImagePullBackOff"; texts of
`pkg/kubelet/images/image_manager.go`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from podling.api import core_v1
from podling.kubelet import names
from podling.kubelet.backoff import Backoff
from podling.kubelet.events import NORMAL, WARNING, PodEvents
from podling.runtime.cri import messages as cri
from podling.runtime.cri.errors import CRIError
from podling.runtime.cri.service import ImageService
from podling.runtime.images.errors import InvalidReferenceError
from podling.runtime.images.reference import parse_reference

SHOW_ERROR_S = 2.0
"""How long ErrImagePull stands before it becomes ImagePullBackOff: enough for people and tools to see it."""


class ImageProblem(Exception):
    """The container cannot start for want of its image: reason and message of its waiting state.

    `retry_at` says when another try makes sense, in seconds since the epoch; None: as after any failure.
    """

    def __init__(self, reason: str, message: str, retry_at: float | None = None) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.retry_at = retry_at


def pull_policy(container: names.AnyContainer) -> str:
    """The API server defaults it; a static pod may lack it."""
    if container.image_pull_policy:
        return container.image_pull_policy
    image = container.image or ""
    tagged = "@" in image or ":" in image.rpartition("/")[2]
    return "IfNotPresent" if tagged and not image.endswith(":latest") else "Always"


def check_image_name(image: str) -> None:
    """Raises ImageProblem InvalidImageName."""
    try:
        parse_reference(image)
    except InvalidReferenceError as err:
        raise ImageProblem(
            "InvalidImageName",
            f'Failed to apply default image tag "{image}": couldn\'t parse image name "{image}": '
            "invalid reference format",
        ) from err


class ImageManager:
    """One for all pods of the node."""

    def __init__(
        self,
        images: ImageService,
        events: PodEvents,
        *,
        max_parallel: int,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._images = images
        self._events = events
        self._clock = clock
        self._backoff = Backoff()
        self._failed_at: dict[tuple[str, ...], float] = {}
        self._errors: dict[tuple[str, ...], str] = {}
        self._slots = asyncio.Semaphore(max_parallel)
        self._pulls: dict[str, asyncio.Task[None]] = {}

    def forget_pod(self, uid: str) -> None:
        self._backoff.forget_pod(uid)
        for table in (self._failed_at, self._errors):
            for key in [key for key in table if key[0] == uid]:
                del table[key]

    async def ensure(self, pod: core_v1.Pod, container: names.AnyContainer) -> cri.Image:
        """The image, pulled if the policy asks for it. Raises ImageProblem after telling it by event."""
        image = container.image or ""
        policy = pull_policy(container)
        try:
            check_image_name(image)
            present = await self._lookup(image)
        except ImageProblem as err:
            self._warn(pod, container, "InspectFailed", err.message)
            self._warn(pod, container, "Failed", f"Error: {err.reason}")
            raise
        # Differs from upstream: an image that was built or loaded here and never came from a registry has
        # no newer version anywhere, so Always (the default of an untagged name) does not ask for one.
        if present is not None and (policy != "Always" or not present.repo_digests):
            self._note_present(pod, container)
            return present
        if policy == "Never":
            message = f'Container image "{image}" is not present with pull policy of Never'
            self._warn(pod, container, "ErrImageNeverPull", message)
            self._warn(pod, container, "Failed", "Error: ErrImageNeverPull")
            raise ImageProblem("ErrImageNeverPull", message)
        return await self._pull(pod, container)

    async def _lookup(self, image: str) -> cri.Image | None:
        try:
            response = await self._images.image_status(
                cri.ImageStatusRequest(image=cri.ImageSpec(image=image, user_specified_image=image))
            )
        except CRIError as err:
            message = f'Failed to inspect image "{image}": {err.message}'
            raise ImageProblem("ImageInspectError", message) from err
        return response.image

    async def _pull(self, pod: core_v1.Pod, container: names.AnyContainer) -> cri.Image:
        image = container.image or ""
        key = (names.pod_uid(pod), image)
        self._check_backoff(pod, container, key)
        self._events.container(pod, container.name, NORMAL, "Pulling", f'Pulling image "{image}"')
        started = time.monotonic()
        try:
            await self._shared_pull(image)
        except CRIError as err:
            self._note_failure(pod, container, key, err.message)
            raise ImageProblem("ErrImagePull", err.message, self._clock() + SHOW_ERROR_S) from err
        self._backoff.reset(key)
        took = f"{time.monotonic() - started:.3f}".rstrip("0").rstrip(".")
        pulled = await self._lookup(image)
        if pulled is None:
            raise ImageProblem("ErrImagePull", f'image "{image}" is not there after it was pulled')
        text = (
            f'Successfully pulled image "{image}" in {took}s ({took}s including waiting). '
            f"Image size: {pulled.size} bytes."
        )
        self._events.container(pod, container.name, NORMAL, "Pulled", text)
        return pulled

    def _check_backoff(self, pod: core_v1.Pod, container: names.AnyContainer, key: tuple[str, ...]) -> None:
        failed_at = self._failed_at.get(key)
        if failed_at is None:
            return
        ready_at = self._backoff.ready_at(key, failed_at)
        if ready_at <= self._clock() or ready_at <= failed_at:
            return
        message = f'Back-off pulling image "{container.image}"'
        self._events.container(pod, container.name, NORMAL, "BackOff", message)
        self._warn(pod, container, "Failed", "Error: ImagePullBackOff")
        cause = self._errors.get(key, "")
        raise ImageProblem("ImagePullBackOff", f"{message}: ErrImagePull: {cause}", ready_at)

    def _note_failure(
        self, pod: core_v1.Pod, container: names.AnyContainer, key: tuple[str, ...], cause: str
    ) -> None:
        now = self._clock()
        self._backoff.advance(key, now, now)
        self._failed_at[key] = now
        self._errors[key] = cause
        self._warn(pod, container, "Failed", f'Failed to pull image "{container.image}": {cause}')
        self._warn(pod, container, "Failed", "Error: ErrImagePull")

    async def _shared_pull(self, image: str) -> None:
        """One pull of an image at a time, whoever asks; a caller's end does not end it for the others."""
        task = self._pulls.get(image)
        if task is None:
            task = asyncio.create_task(self._pull_now(image), name=f"pull {image}")
            self._pulls[image] = task
            task.add_done_callback(lambda done: self._pull_done(image, done))
        await asyncio.shield(task)

    def _pull_done(self, image: str, task: asyncio.Task[None]) -> None:
        self._pulls.pop(image, None)
        if not task.cancelled():
            task.exception()  # whoever still waits gets it; with nobody left it is not worth a warning

    async def _pull_now(self, image: str) -> None:
        async with self._slots:
            await self._images.pull_image(cri.PullImageRequest(image=cri.ImageSpec(image=image)))

    def _note_present(self, pod: core_v1.Pod, container: names.AnyContainer) -> None:
        self._events.container(
            pod,
            container.name,
            NORMAL,
            "Pulled",
            f'Container image "{container.image}" already present on machine',
        )

    def _warn(self, pod: core_v1.Pod, container: names.AnyContainer, reason: str, text: str) -> None:
        self._events.container(pod, container.name, WARNING, reason, text)
