"""Log rotation: a container that floods its log does not fill the disk.

Every `containerLogMonitorInterval`, and sooner when a log grows so fast that it would pass its size before
that, the logs of running containers are looked at. One larger than `containerLogMaxSize` is renamed, its
runtime told to go on in a new file (CRI, "ReopenContainerLog"), and `containerLogMaxFiles` are kept.
Upstream: `pkg/kubelet/logs/container_log_manager.go`; names of files are the same.

Any step may be repeated after a crash: a compressed file is written beside and renamed, and a log that was
renamed but not reopened is reopened by the next look, since its path is missing.
"""

from __future__ import annotations

import asyncio
import gzip
import logging
import os
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from podling.api.quantity import to_bytes
from podling.kubelet.config import KubeletConfig
from podling.kubelet.log_files import GZ, rotated_files
from podling.runtime.cri import messages as cri
from podling.runtime.cri.errors import Code, CRIError
from podling.runtime.cri.service import RuntimeService

SHORTEST_WAIT_S = 1.0
"""Names of rotated files have seconds."""
COPY_BYTES = 256 * 1024

log = logging.getLogger(__name__)


class LogRotation:
    """`run()` is a task of the kubelet's group."""

    def __init__(
        self, config: KubeletConfig, runtime: RuntimeService, *, clock: Callable[[], float] = time.time
    ) -> None:
        self._runtime = runtime
        self._max_bytes = to_bytes(config.container_log_max_size)
        self._max_files = config.container_log_max_files
        self._interval_s = config.container_log_monitor_interval_s
        self._clock = clock
        self._workers = asyncio.Semaphore(config.container_log_max_workers)
        self._paths: dict[str, Path] = {}
        """Of running containers: asked for once each."""
        self._seen: dict[str, tuple[float, int]] = {}
        """When each was looked at, and its size then."""

    async def run(self) -> None:
        wait_s = self._interval_s
        while True:
            await asyncio.sleep(wait_s)
            wait_s = self._interval_s
            try:
                wait_s = await self.look()
            except CRIError as err:
                log.warning("container logs: cannot list containers: %s", err)

    async def look(self) -> float:
        """Rotate what is too large; returns in how many seconds to look again."""
        running = await self._running()
        self._paths = {cid: path for cid, path in self._paths.items() if cid in running}
        self._seen = {cid: seen for cid, seen in self._seen.items() if cid in running}
        waits = await asyncio.gather(*(self._try(container_id) for container_id in running))
        soonest = min((wait_s for wait_s in waits if wait_s is not None), default=self._interval_s)
        return max(min(soonest, self._interval_s), min(SHORTEST_WAIT_S, self._interval_s))

    async def _try(self, container_id: str) -> float | None:
        try:
            async with self._workers:
                return await self._look_at(container_id)
        except CRIError as err:
            if err.code is not Code.NOT_FOUND:
                log.warning("log of container %s is not rotated: %s", container_id[:12], err)
        except OSError as err:
            log.warning("log of container %s is not rotated: %s", container_id[:12], err)
        return None

    async def _running(self) -> set[str]:
        state = cri.ContainerStateValue(state=cri.ContainerState.CONTAINER_RUNNING)
        request = cri.ListContainersRequest(filter=cri.ContainerFilter(state=state))
        return {container.id for container in (await self._runtime.list_containers(request)).containers}

    async def _look_at(self, container_id: str) -> float | None:
        """Seconds until the log will be too large if it goes on growing like this; None: it does not grow."""
        path = await self._path(container_id)
        if path is None:
            return None
        try:
            size = path.stat().st_size
        except FileNotFoundError:
            # Renamed, and then we were killed or the runtime did not answer.
            await self._reopen(container_id)
            size = 0
        now = asyncio.get_running_loop().time()
        before_s, before = self._seen.get(container_id, (now, size))
        if size >= self._max_bytes:
            await self._rotate(container_id, path)
            size = 0
        self._seen[container_id] = (now, size)
        grown = size - before if size >= before else size
        rate = grown / (now - before_s) if now > before_s else 0.0
        return (self._max_bytes - size) / rate if rate > 0 else None

    async def _path(self, container_id: str) -> Path | None:
        if container_id not in self._paths:
            request = cri.ContainerStatusRequest(container_id=container_id)
            status = (await self._runtime.container_status(request)).status
            if status is None or not status.log_path:
                return None
            self._paths[container_id] = Path(status.log_path)
        return self._paths[container_id]

    async def _rotate(self, container_id: str, path: Path) -> None:
        stamp = time.strftime("%Y%m%d-%H%M%S", time.localtime(self._clock()))
        aside = path.with_name(f"{path.name}.{stamp}")
        if aside.exists() or aside.with_name(aside.name + GZ).exists():
            return  # of this very second
        # Before, so that what is put aside now is the only one that its writer may still have open.
        await asyncio.to_thread(_tidy, path, self._max_files - 2)
        path.rename(aside)
        try:
            await self._reopen(container_id)
        except CRIError:
            if not path.exists():
                aside.rename(path)
            raise

    async def _reopen(self, container_id: str) -> None:
        await self._runtime.reopen_container_log(cri.ReopenContainerLogRequest(container_id=container_id))


def _tidy(path: Path, kept: int) -> None:
    """Keep the newest `kept` of the rotated files, compressed: the two that are not yet come besides."""
    for leftover in path.parent.glob(f"{path.name}.*.tmp"):
        leftover.unlink(missing_ok=True)
    rotated = rotated_files(path)
    excess = len(rotated) - kept
    for old in rotated[: max(0, excess)]:
        old.unlink(missing_ok=True)
    for old in rotated[max(0, excess) :]:
        if not old.name.endswith(GZ):
            _compress(old)


def _compress(path: Path) -> None:
    """In blocks; readers that have it open go on reading what they have."""
    beside = path.with_name(f"{path.name}.tmp")
    with path.open("rb") as source, gzip.open(beside, "wb", compresslevel=1) as target:
        shutil.copyfileobj(source, target, COPY_BYTES)
    os.chmod(beside, path.stat().st_mode & 0o777)
    beside.rename(path.with_name(path.name + GZ))
    with suppress(FileNotFoundError):
        path.unlink()
