"""The CRI's ImageService over the image store.

`Runtime` serves these methods beside its own. Each answer is computed from the store's index, so an image
loaded by the command line is seen at once, without a word between the processes.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence

import msgspec

from podling.runtime.cri import messages as cri
from podling.runtime.cri.errors import Code, CRIError
from podling.runtime.images.errors import ImageError, InvalidReferenceError
from podling.runtime.images.oci import sha256_digest
from podling.runtime.images.record import ImageRecord
from podling.runtime.images.reference import parse_reference
from podling.runtime.images.registry.credentials import RegistryAuth, decode_auth
from podling.runtime.images.store import ImageStore

ANNOTATION_LAST_USED = "io.podling.image/last-used"
"""On the spec of a listed image: seconds since the epoch. The kubelet's collector reads it where it is."""


class StoreImageService:
    """Implements `podling.runtime.cri.service.ImageService`."""

    def __init__(self, store: ImageStore) -> None:
        self._store = store
        self._pulls: dict[tuple[str, RegistryAuth | None], asyncio.Task[ImageRecord]] = {}

    async def list_images(self, request: cri.ListImagesRequest) -> cri.ListImagesResponse:
        wanted = request.filter.image.image if request.filter and request.filter.image else ""
        if not wanted:
            return cri.ListImagesResponse(images=[self._to_cri(record) for record in self._store.list()])
        record = self._resolve(wanted)
        return cri.ListImagesResponse(images=[self._to_cri(record)] if record else [])

    async def stream_images(
        self, request: cri.StreamImagesRequest
    ) -> AsyncIterator[cri.StreamImagesResponse]:
        yield cri.StreamImagesResponse(images=[self._to_cri(record) for record in self._store.list()])

    async def image_status(self, request: cri.ImageStatusRequest) -> cri.ImageStatusResponse:
        """An absent image is an answer without an image, not an error."""
        record = self._resolve(_named(request.image))
        if record is None:
            return cri.ImageStatusResponse()
        info = {"info": _verbose(record)} if request.verbose else {}
        return cri.ImageStatusResponse(image=self._to_cri(record), info=info)

    async def pull_image(self, request: cri.PullImageRequest) -> cri.PullImageResponse:
        """Pods that want the same image at once share one pull."""
        ref = request.image.image if request.image else ""
        try:
            key = str(parse_reference(ref)), _auth(request.auth)
            task = self._pulls.get(key)
            if task is None:
                task = asyncio.create_task(self._store.pull(*key), name=f"pull {key[0]}")
                self._pulls[key] = task
                task.add_done_callback(lambda done: self._pull_done(key, done))
            record = await asyncio.shield(task)
        except InvalidReferenceError as err:
            raise CRIError(Code.UNKNOWN, err.message) from err  # the code containerd gives
        except ImageError as err:
            raise CRIError(err.code, err.message) from err
        return cri.PullImageResponse(image_ref=record.id)

    def _pull_done(self, key: tuple[str, RegistryAuth | None], task: asyncio.Task[ImageRecord]) -> None:
        self._pulls.pop(key, None)
        if not task.cancelled():
            task.exception()  # whoever still waits gets it; with nobody left it is not worth a warning

    async def remove_image(self, request: cri.RemoveImageRequest) -> cri.RemoveImageResponse:
        """Remove the image with all its names; one that is not there is removed already."""
        record = self._resolve(_named(request.image))
        if record is not None:
            try:
                await asyncio.to_thread(self._store.remove, record.id, force=True)
            except ImageError as err:
                raise CRIError(err.code, err.message) from err
            except OSError as err:
                raise CRIError(Code.UNKNOWN, f"failed to remove image {record.id}: {err}") from err
        return cri.RemoveImageResponse()

    async def image_fs_info(self, request: cri.ImageFsInfoRequest) -> cri.ImageFsInfoResponse:
        """One file system for images and writable layers, as containerd says it of its snapshots."""
        found = await asyncio.to_thread(self._store.usage)
        usage = cri.FilesystemUsage(
            timestamp=time.time_ns(),
            fs_id=cri.FilesystemIdentifier(mountpoint=str(self._store.image_dir)),
            used_bytes=found.disk_bytes,
            inodes_used=found.inodes,
        )
        return cri.ImageFsInfoResponse(image_filesystems=[usage], container_filesystems=[usage])

    def _resolve(self, ref: str) -> ImageRecord | None:
        """What cannot be an image's name is an image that is not there."""
        try:
            return self._store.resolve(ref)
        except InvalidReferenceError:
            return None
        except ImageError as err:
            raise CRIError(err.code, err.message) from err

    def _to_cri(self, record: ImageRecord) -> cri.Image:
        # The store is the machine's: other nodes use its images, too, and a kubelet that chooses what to
        # collect knows only its own pods.
        used = {ANNOTATION_LAST_USED: f"{self._store.last_used_s(record):.3f}"}
        return cri.Image(
            id=record.id,
            repo_tags=list(record.repo_tags),
            repo_digests=list(record.repo_digests),
            size=record.size_bytes,
            uid=record.uid if not record.username else None,
            username=record.username,
            spec=cri.ImageSpec(image=record.id, annotations=used),
            pinned=record.pinned,
        )


def _named(spec: cri.ImageSpec | None) -> str:
    """No name is a prefix of every image's id: containerd's code and text."""
    if spec is None or not spec.image:
        raise CRIError(Code.UNKNOWN, 'can not resolve "" locally: ambiguous digest string')
    return spec.image


def _verbose(record: ImageRecord) -> str:
    """As containerd's, which `crictl inspecti` shows: the chain id and the image's config."""
    document = {"chainID": chain_id(record.config.rootfs.diff_ids), "imageSpec": record.config}
    return msgspec.json.encode(document).decode()


def chain_id(diff_ids: Sequence[str]) -> str:
    """OCI image spec, "Layer ChainID"."""
    chain = ""
    for diff_id in diff_ids:
        chain = sha256_digest(f"{chain} {diff_id}".encode()) if chain else diff_id
    return chain


def _auth(config: cri.AuthConfig | None) -> RegistryAuth | None:
    """CRI v1, `AuthConfig`: user and password, or both as base64 in `auth`, or a token. An empty one is
    nobody in particular."""
    if config is None:
        return None
    username, password = config.username, config.password
    if config.auth and not username and not config.identity_token:
        try:
            username, password = decode_auth(config.auth)
        except ValueError as err:
            raise CRIError(Code.UNKNOWN, f"invalid auth config: {err}") from None
    auth = RegistryAuth(
        username=username,
        password=password,
        identity_token=config.identity_token,
        token=config.registry_token,
        server_address=config.server_address,
    )
    return auth or None
