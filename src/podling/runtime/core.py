"""What the verbs share: the settings, the mechanisms, and every sandbox and container by id.

Each verb of the CRI is a module with one coroutine that takes the `Core` first. Memory is rebuilt from
records and kernel by `recovery`; a verb changes memory and record together, under the object's lock. Locks
are taken sandbox first, then container, and never two of a kind.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any, TypeVar

from podling.cni.library import CNI
from podling.linux.cbuild import BuildError
from podling.linux.cgroups import Cgroups
from podling.linux.pidfd import Process
from podling.pause.build import launch_path, pause_path
from podling.runtime import host
from podling.runtime.config import RuntimeConfig
from podling.runtime.conmon import Conmon
from podling.runtime.cri.errors import Code, CRIError
from podling.runtime.crun import Crun, OCIError, find_program
from podling.runtime.events import Events
from podling.runtime.images.store import Hold, ImageStore
from podling.runtime.oci import Host
from podling.runtime.spawn import Runner
from podling.runtime.state import (
    ContainerPhase,
    ContainerRecord,
    Paths,
    Records,
    SandboxPhase,
    SandboxRecord,
)
from podling.runtime.timings import Timings

log = logging.getLogger(__name__)

T = TypeVar("T")

REMOVE_TRIES = 500
REMOVE_PAUSE_S = 0.002
"""Together a second; nearly always the first try does it."""


class CpuMeter:
    """From a counter of time used to how much of a core is used now: between one look and the next."""

    __slots__ = ("_last",)

    def __init__(self) -> None:
        self._last: tuple[int, int] | None = None

    def rate(self, used_ns: int | None, now_ns: int) -> int | None:
        """Nanoseconds of processor time a second; None at the first look."""
        last, self._last = self._last, (used_ns, now_ns) if used_ns is not None else None
        if last is None or used_ns is None or now_ns <= last[1]:
            return None
        return max(0, used_ns - last[0]) * 1_000_000_000 // (now_ns - last[1])


class Sandbox:
    """A sandbox in memory."""

    __slots__ = ("cpu", "lock", "pause", "record")

    def __init__(self, record: SandboxRecord) -> None:
        self.record = record
        self.lock = asyncio.Lock()
        self.pause: Process | None = None
        self.cpu = CpuMeter()

    @property
    def id(self) -> str:
        return self.record.id

    @property
    def ready(self) -> bool:
        """Believe the kernel: a sandbox is ready while its pause lives."""
        alive = self.pause is not None and not self.pause.over
        return alive and self.record.phase is SandboxPhase.READY


class Container:
    """A container in memory."""

    __slots__ = ("conmon", "cpu", "ended", "hold", "lock", "process", "record", "volume_holds")

    def __init__(self, record: ContainerRecord) -> None:
        self.record = record
        self.lock = asyncio.Lock()
        self.process: Process | None = None
        self.conmon: Process | None = None
        self.ended = asyncio.Event()
        """Set once the exit is known."""
        self.hold: Hold | None = None
        """Keeps the image while the container is there."""
        self.cpu = CpuMeter()
        self.volume_holds: list[Hold] = []
        """Keep the images of its image volumes."""
        if record.phase is ContainerPhase.EXITED:
            self.ended.set()

    @property
    def id(self) -> str:
        return self.record.id

    @property
    def running(self) -> bool:
        return self.record.phase is ContainerPhase.RUNNING

    @property
    def holds(self) -> list[Hold]:
        """On every image it uses."""
        return [*([self.hold] if self.hold else []), *self.volume_holds]

    def release(self) -> None:
        """Let go of descriptors; the record stays."""
        for process in (self.process, self.conmon):
            if process is not None:
                process.close()
        self.process = self.conmon = None
        if self.hold is not None:
            self.hold.release()
            self.hold = None
        for hold in self.volume_holds:
            hold.release()
        self.volume_holds = []


class Core:
    def __init__(self, config: RuntimeConfig) -> None:
        """Raises `MissingProgramError`, `CgroupError`. Reads, but makes nothing yet."""
        self.config = config
        self.paths = Paths(config)
        self.records = Records(self.paths)
        self.timings = Timings()
        self.runner = Runner(config.max_parallel_starts)
        self.launch = _launch()
        """Makes system calls from a list; None: crun starts every pause."""
        self.crun = Crun(find_program(config.crun, "crun"), self.paths.crun, self.runner)
        self.conmon = Conmon(find_program(config.conmon, "conmon"), self.crun)
        self.cgroups = Cgroups()
        self.host: Host = host.read_host(self.cgroups)
        self.images = ImageStore(config.image_dir)
        self.cni = CNI(config.cni_conf_dir, config.cni_bin_dirs, config.cni_cache_dir)
        self.events = Events()
        self._expecting = threading.Lock()
        self.sandboxes: dict[str, Sandbox] = {}
        self.containers: dict[str, Container] = {}

    @property
    def pause_program(self) -> Path:
        return self.config.pause or pause_path()

    def sandbox(self, sandbox_id: str) -> Sandbox:
        """By id or unambiguous prefix. Raises `CRIError` NOT_FOUND."""
        return _find(self.sandboxes, sandbox_id, "sandbox")

    def container(self, container_id: str) -> Container:
        return _find(self.containers, container_id, "container")

    def containers_of(self, sandbox_id: str) -> list[Container]:
        return [c for c in self.containers.values() if c.record.sandbox_id == sandbox_id]

    def expect_start(self) -> None:
        """A container will be started soon: let crun find its way into a cgroup free. Returns at once."""
        if self._expecting.acquire(blocking=False):
            threading.Thread(target=self._expect, name="cgroups", daemon=True).start()

    def _expect(self) -> None:
        try:
            self.cgroups.expect_moves()
        finally:
            self._expecting.release()

    async def forget(self, object_id: str, cgroup: str, *, ended: bool = False) -> None:
        """Kill what is left of a container or pause, and remove its OCI state and cgroup. Twice is fine.

        `ended`: its first process is known to be gone, so no process need be started to see to that.
        """
        try:
            await self.crun.delete(object_id, ended=ended)
        except OCIError as err:
            # State that a crash left half-written: crun cannot read it, but there is no more to it than this.
            log.warning("crun delete %s: %s: removing its state by hand", object_id[:12], err)
            await self.crun.delete(object_id, ended=True)
        for _ in range(REMOVE_TRIES):
            if self.cgroups.remove(cgroup):
                return
            # What is killed stays in its cgroup until the kernel is done with it, and v1 has no event for
            # that.
            self.cgroups.kill(cgroup)
            await asyncio.sleep(REMOVE_PAUSE_S)
        raise CRIError(Code.UNKNOWN, f"cgroup {cgroup} cannot be removed: a killed process does not end")

    def check_name_is_free(self, name: str) -> None:
        """Two containers of one name would be one attempt made twice. Raises ALREADY_EXISTS."""
        owners = {s.record.name: s.id for s in self.sandboxes.values()}
        owners |= {c.record.name: c.id for c in self.containers.values()}
        if name in owners:
            raise CRIError(Code.ALREADY_EXISTS, f"name {name!r} is reserved for {owners[name]!r}")


def _launch() -> Path | None:
    try:
        return launch_path()
    except BuildError as err:
        log.info("%s: crun starts every pause", err)
        return None


def _find(known: Mapping[str, T], wanted: str, what: str) -> T:
    if (found := known.get(wanted)) is not None:
        return found
    fitting = [key for key in known if wanted and key.startswith(wanted)]
    if len(fitting) == 1:
        return known[fitting[0]]
    problem = "is ambiguous" if fitting else "not found"
    raise CRIError(Code.NOT_FOUND, f"{what} {wanted!r}: {problem}")


async def in_thread(function: Callable[..., T], *arguments: object) -> T:
    """Run what may stall (mounts, trees of files) off the loop, and to its end even if we are cancelled.

    A thread cannot be stopped half-way: an undo that starts while the work goes on would race with it.
    """
    return await to_the_end(asyncio.to_thread(function, *arguments))


async def to_the_end(work: Coroutine[Any, Any, T]) -> T:
    """Await `work`; when cancelled meanwhile, let it finish first: undoing needs a clear state."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise
