"""Have a container's image on the node: pull policies, shared pulls, back-off, upstream's words.

Kubernetes documentation, "Images", "Image pull policy" and "ImagePullBackOff"; texts of
`pkg/kubelet/images/image_manager.go`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from pathlib import Path

from podling.api import core_v1
from podling.client.errors import ClientError
from podling.kubelet import names
from podling.kubelet.backoff import Backoff
from podling.kubelet.environment import ObjectKey
from podling.kubelet.events import NORMAL, WARNING, PodEvents
from podling.kubelet.keyring import Credentials, Keyring, KeyringError, read_node_config
from podling.kubelet.objects import ObjectCache
from podling.runtime.cri import messages as cri
from podling.runtime.cri.errors import Code, CRIError
from podling.runtime.cri.service import ImageService
from podling.runtime.images.errors import InvalidReferenceError
from podling.runtime.images.reference import parse_reference

log = logging.getLogger(__name__)

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


class _PullFailedError(Exception):
    """Its text is what the user sees."""


# What a runtime may say at the beginning of its error (cri-api, `pkg/errors`): the container's reason.
_REASONS = {
    "RegistryUnavailable": "because the registry is unavailable",
    "SignatureValidationFailed": "because the signature validation failed",
}


def _judge(image: str, text: str) -> tuple[str, str]:
    """The waiting reason and message for a failed pull, as upstream's `evalCRIPullErr`."""
    for reason, why in _REASONS.items():
        if text.startswith(reason):
            return reason, f"image pull failed for {image} {why}{text.removeprefix(reason)}"
    return "ErrImagePull", text


def grpc_text(err: CRIError) -> str:
    """As Go prints an error that came over gRPC."""
    code = "".join(part.capitalize() for part in err.code.name.split("_"))
    return f"rpc error: code = {'Canceled' if err.code is Code.CANCELLED else code} desc = {err.message}"


def pull_error_text(err: CRIError) -> str:
    """Upstream leaves the code away where it says nothing."""
    return err.message if err.code is Code.UNKNOWN else grpc_text(err)


class ImageManager:
    """One for all pods of the node."""

    def __init__(
        self,
        images: ImageService,
        events: PodEvents,
        objects: ObjectCache,
        *,
        root_dir: Path,
        max_parallel: int,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._images = images
        self._events = events
        self._objects = objects
        self._root_dir = root_dir
        self._clock = clock
        self._backoff = Backoff()
        self._failed_at: dict[tuple[str, ...], float] = {}
        self._errors: dict[tuple[str, ...], str] = {}
        self._slots = asyncio.Semaphore(max_parallel)
        self._pulls: dict[tuple[str, Credentials | None], asyncio.Task[None]] = {}

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
            message = f'Failed to inspect image "{image}": {grpc_text(err)}'
            raise ImageProblem("ImageInspectError", message) from err
        return response.image

    async def _pull(self, pod: core_v1.Pod, container: names.AnyContainer) -> cri.Image:
        image = container.image or ""
        key = (names.pod_uid(pod), image)
        self._check_backoff(pod, container, key)
        self._events.container(pod, container.name, NORMAL, "Pulling", f'Pulling image "{image}"')
        started = time.monotonic()
        try:
            await self._pull_with_each(image, await self._credentials(pod, image))
        except _PullFailedError as err:
            reason, message = _judge(image, str(err))
            self._note_failure(pod, container, key, reason, message)
            raise ImageProblem(reason, message, self._clock() + SHOW_ERROR_S) from err
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
        raise ImageProblem("ImagePullBackOff", f"{message}: {self._errors.get(key, '')}", ready_at)

    def _note_failure(
        self, pod: core_v1.Pod, container: names.AnyContainer, key: tuple[str, ...], reason: str, cause: str
    ) -> None:
        now = self._clock()
        self._backoff.advance(key, now, now)
        self._failed_at[key] = now
        self._errors[key] = f"{reason}: {cause}"
        self._warn(pod, container, "Failed", f'Failed to pull image "{container.image}": {cause}')
        self._warn(pod, container, "Failed", f"Error: {reason}")

    async def _credentials(self, pod: core_v1.Pod, image: str) -> list[Credentials]:
        """What fits the image, from the pod's secrets and the node's own files. Raises _PullFailedError."""
        named = [ref.name for ref in names.pod_spec(pod).image_pull_secrets if ref.name]
        keyring = Keyring()
        try:
            sources = await self._objects.fetch(
                names.pod_namespace(pod), [ObjectKey("Secret", name) for name in named]
            )
            found = [sources.secrets.get(name) for name in named]
            missing = [name for name, secret in zip(named, found, strict=True) if secret is None]
        except ClientError as err:
            log.warning("image pull secrets of %s: %s", pod.metadata.name, err)
            found, missing = [], named
        if missing:
            self._events.pod(
                pod,
                WARNING,
                "FailedToRetrieveImagePullSecret",
                f"Unable to retrieve some image pull secrets ({', '.join(missing)}); attempting to pull the "
                "image may not succeed.",
            )
        try:
            for secret in found:
                if secret is not None:
                    keyring.add_secret(secret)
        except KeyringError as err:
            raise _PullFailedError(str(err)) from err
        await asyncio.to_thread(read_node_config, keyring, self._root_dir)
        return keyring.lookup(parse_reference(image).repository)

    async def _pull_with_each(self, image: str, credentials: list[Credentials]) -> None:
        """Until one is let in; without any, as nobody. Raises _PullFailedError."""
        failed: dict[str, None] = {}
        candidates: list[Credentials | None] = [*credentials] or [None]
        for one in candidates:
            try:
                await self._shared_pull(image, one)
            except CRIError as err:
                failed[pull_error_text(err)] = None
            else:
                return
        texts = list(failed)
        raise _PullFailedError(texts[0] if len(texts) == 1 else f"[{', '.join(texts)}]")

    async def _shared_pull(self, image: str, credentials: Credentials | None) -> None:
        """One pull of an image at a time, whoever asks; a caller's end does not end it for the others. Who
        has other credentials has to show that they are let in, too."""
        key = image, credentials
        task = self._pulls.get(key)
        if task is None:
            task = asyncio.create_task(self._pull_now(image, credentials), name=f"pull {image}")
            self._pulls[key] = task
            task.add_done_callback(lambda done: self._pull_done(key, done))
        await asyncio.shield(task)

    def _pull_done(self, key: tuple[str, Credentials | None], task: asyncio.Task[None]) -> None:
        self._pulls.pop(key, None)
        if not task.cancelled():
            task.exception()  # whoever still waits gets it; with nobody left it is not worth a warning

    async def _pull_now(self, image: str, credentials: Credentials | None) -> None:
        async with self._slots:
            request = cri.PullImageRequest(
                image=cri.ImageSpec(image=image), auth=credentials.to_cri() if credentials else None
            )
            await self._images.pull_image(request)

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
