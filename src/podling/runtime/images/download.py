"""Fetch the blobs of one image: several at once, shared with whoever wants the same, resumed after faults."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import ParamSpec

from podling.runtime.images import partial
from podling.runtime.images.layout import Layout
from podling.runtime.images.oci import Descriptor
from podling.runtime.images.partial import PartialBlob
from podling.runtime.images.registry.client import PullSettings, RegistryClient
from podling.runtime.images.registry.errors import RegistryFault, UnreachableFault

_WRITE_BYTES = 1 << 20
_PROGRESS_BYTES = 1 << 18  # in one response; less may go on for ever
_CLAIM_POLL_S = 0.1  # a flock cannot be awaited, and a thread that waits for one cannot be cancelled


class Phase(StrEnum):
    """What happens to a blob; Docker's words."""

    EXISTS = "Already exists"
    WAITING = "Waiting"
    DOWNLOADING = "Downloading"
    RETRYING = "Retrying"
    DOWNLOADED = "Download complete"
    EXTRACTING = "Extracting"
    DONE = "Pull complete"


@dataclass(frozen=True, slots=True, kw_only=True)
class PullProgress:
    """`digest` is a blob's; of `size_bytes`, `done_bytes` are here."""

    phase: Phase
    digest: str
    done_bytes: int = 0
    size_bytes: int = 0


P = ParamSpec("P")
Report = Callable[[PullProgress], None]


class Downloader:
    def __init__(
        self, layout: Layout, client: RegistryClient, settings: PullSettings, report: Report
    ) -> None:
        self._layout = layout
        self._client = client
        self._settings = settings
        self._report = report
        self._slots = asyncio.Semaphore(settings.parallel)

    async def fetch_all(self, blobs: Sequence[Descriptor]) -> None:
        """Raises `RegistryFault`, OSError; what was fetched until then stays for the next try."""
        distinct = {blob.digest: blob for blob in blobs}
        tasks = [
            asyncio.create_task(self._fetch(blob), name=f"blob {blob.digest}") for blob in distinct.values()
        ]
        try:
            # Not a TaskGroup: the first fault is the answer, not a group that holds it.
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _fetch(self, blob: Descriptor) -> None:
        if await asyncio.to_thread(self._layout.has_blob, blob):
            self._tell(Phase.EXISTS, blob, blob.size)
            return
        self._tell(Phase.WAITING, blob, 0)
        async with self._slots, self._claimed(blob) as file:
            if file is not None:
                await self._download(blob, file)
        self._tell(Phase.DOWNLOADED, blob, blob.size)

    @asynccontextmanager
    async def _claimed(self, blob: Descriptor) -> AsyncIterator[PartialBlob | None]:
        """The blob's file; None when another pull has finished it meanwhile."""
        while True:
            claim = asyncio.ensure_future(asyncio.to_thread(partial.claim, self._layout.downloads, blob))
            try:
                file = await asyncio.shield(claim)
            except asyncio.CancelledError:
                if (late := await claim) is not None:
                    late.close()
                raise
            if file is not None:
                break
            self._tell(Phase.WAITING, blob, 0)
            await asyncio.sleep(_CLAIM_POLL_S)
        try:
            if await asyncio.to_thread(self._layout.has_blob, blob):
                await _to_the_end(file.discard)
                yield None
            else:
                yield file
        finally:
            file.close()

    async def _download(self, blob: Descriptor, file: PartialBlob) -> None:
        resumed = file.size_bytes > 0
        try:
            await self._fill(blob, file)
            if file.digest != blob.digest and resumed:
                # What an earlier pull left was not this blob's beginning.
                await _to_the_end(file.restart)
                await self._fill(blob, file)
        except OSError as err:
            if err.errno in (errno.ENOSPC, errno.EDQUOT):
                await _to_the_end(file.discard)  # room for others matters more than going on here
            raise
        if file.digest != blob.digest:
            await _to_the_end(file.discard)
            raise RegistryFault(
                f"unexpected commit digest {file.digest}, expected {blob.digest}: failed precondition"
            )
        await _to_the_end(file.commit, self._layout.blob_path(blob.digest))

    async def _fill(self, blob: Descriptor, file: PartialBlob) -> None:
        """Until the file has the blob's size; goes on after passing faults."""
        failures = 0
        while file.size_bytes < blob.size:
            before = file.size_bytes
            try:
                await self._stream(blob, file)
            except RegistryFault as err:
                progressed = file.size_bytes - before >= _PROGRESS_BYTES
                failures = 1 if progressed else failures + 1
                passing = err.passing or isinstance(err, UnreachableFault)
                if not passing or failures >= self._settings.attempts:
                    raise
                self._tell(Phase.RETRYING, blob, file.size_bytes)
                await asyncio.sleep(max(err.wait_s, self._settings.backoff_s * 2 ** (failures - 1)))

    async def _stream(self, blob: Descriptor, file: PartialBlob) -> None:
        """Take one response, in portions worth a thread's while; what came before a fault is kept."""
        async with self._client.blob(blob.digest, file.size_bytes) as body:
            if body.offset != file.size_bytes:
                if body.offset:
                    raise RegistryFault(f"blob {blob.digest}: the registry answered with another range")
                await _to_the_end(file.restart)
            pending = bytearray()
            try:
                async for chunk in body.chunks():
                    pending += chunk
                    if file.size_bytes + len(pending) > blob.size:
                        raise RegistryFault(
                            f"unexpected commit size: blob {blob.digest} is longer than its {blob.size} bytes"
                        )
                    if len(pending) >= _WRITE_BYTES:
                        await self._append(file, pending)
                        self._tell(Phase.DOWNLOADING, blob, file.size_bytes)
            finally:
                if file.size_bytes + len(pending) <= blob.size:
                    await self._append(file, pending)
        if file.size_bytes < blob.size:
            raise RegistryFault(
                f"unexpected commit size: blob {blob.digest} ended after {file.size_bytes} bytes, "
                f"not {blob.size}",
                passing=True,
            )

    @staticmethod
    async def _append(file: PartialBlob, pending: bytearray) -> None:
        if not pending:
            return
        data = bytes(pending)
        pending.clear()
        await _to_the_end(file.append, data)

    def _tell(self, phase: Phase, blob: Descriptor, done: int) -> None:
        self._report(PullProgress(phase=phase, digest=blob.digest, done_bytes=done, size_bytes=blob.size))


async def _to_the_end(work: Callable[P, None], /, *args: P.args, **kwargs: P.kwargs) -> None:
    """In a thread, and not left before it is done: the file must not be closed under it."""
    working = asyncio.ensure_future(asyncio.to_thread(work, *args, **kwargs))
    try:
        await asyncio.shield(working)
    except asyncio.CancelledError:
        await asyncio.wait([working])
        raise


def check_room(place: Path, blobs: Sequence[Descriptor], *, min_free_bytes: int) -> None:
    """Raises OSError before a download that cannot end well is begun."""
    space = os.statvfs(place)
    wanted = sum(blob.size for blob in blobs)
    if space.f_bavail * space.f_frsize - wanted < min_free_bytes:
        raise OSError(errno.ENOSPC, f"no space left on device for {wanted} bytes of layers")
