"""The runtime for containers run by hand: what its commands share.

There is no daemon. Each command works in its own process on records below directories of its own, so that a
node agent beside it neither sees nor collects these containers, and takes locks (`flock`) against other
commands: one for names and networks, one for each container. conmon watches each container as it does for the
agent, and when the container ends conmon runs `after`, which takes its network down, starts it again if a
policy says so, or removes it. Whoever comes first does that work (`settle`); for all others it is done.

A container is its own first process in network, IPC, UTS and PID namespaces of its own; no pause holds them.

Not used: the verbs of the CRI, which know containers in sandboxes only. All below them is: the OCI
specification, conmon, crun, CNI, images, exec and attach.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

from podling.linux.cgroups import CgroupError, Cgroups, Layout
from podling.linux.inotify import IN_CLOSE_WRITE, IN_CREATE, IN_DELETE, IN_MOVED_TO, Inotify
from podling.linux.pidfd import Process
from podling.linux.processes import ProcessRef
from podling.runtime.byhand import hybrid
from podling.runtime.byhand.config import by_hand_config
from podling.runtime.byhand.errors import HandError, NoSuchContainerError
from podling.runtime.byhand.settings import FILE, Settings, read_settings
from podling.runtime.config import RuntimeConfig
from podling.runtime.conmon import read_exit
from podling.runtime.core import Container, Core
from podling.runtime.crun import MissingProgramError, find_program
from podling.runtime.state import ContainerPhase, ContainerRecord, encode_json, write_whole
from podling.runtime.view import Seen, State, View

NAMES = "names"
"""The lock under which names are given and networks made."""
CLIENT = ".client"
UNKNOWN_EXIT_CODE = 255


@dataclass(slots=True)
class Held:
    """A container of ours with its settings, read anew from disk."""

    container: Container
    settings: Settings

    @property
    def id(self) -> str:
        return self.container.id

    @property
    def record(self) -> ContainerRecord:
        return self.container.record

    @property
    def alive(self) -> bool:
        return self.record.process is not None and self.record.process.alive


class Hand:
    """`close` when done. Containers live on."""

    def __init__(self, config: RuntimeConfig | None = None) -> None:
        """Raises `HandError` when the machine cannot run containers."""
        logging.getLogger("podling").setLevel(logging.ERROR)  # what is missing here is told when it matters
        config = config or by_hand_config()
        self.config = config
        try:
            if Cgroups().layout is Layout.HYBRID:
                crun = hybrid.write_wrapper(config.run_dir, find_program(config.crun, "crun"))
                config = replace(config, crun=str(crun))
            self.core = Core(config)
        except (MissingProgramError, CgroupError) as err:
            raise HandError(str(err)) from err
        self.paths = self.core.paths
        self.view = View(config)
        self.paths.ensure()
        self._locks = self.paths.run / "locks"
        self._locks.mkdir(mode=0o700, exist_ok=True)
        self.make_lock(NAMES)

    def close(self) -> None:
        for container in self.core.containers.values():
            container.release()
        self.core.crun.close()

    # locks

    @asynccontextmanager
    async def lock(self, name: str, *, shared: bool = False) -> AsyncIterator[None]:
        """Ends with the process that holds it, however that ends. Raises `NoSuchContainerError`."""
        fd = self._open_lock(name)
        try:
            await asyncio.to_thread(fcntl.flock, fd, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)

    def _open_lock(self, name: str) -> int:
        path, record = self._locks / name, self.paths.container_record(name.removesuffix(CLIENT))
        # After a reboot the container is there and its locks, below /run, are not.
        flags = os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if record.exists() else 0)
        try:
            fd = os.open(path, flags, 0o600)
        except FileNotFoundError:
            raise NoSuchContainerError(name) from None
        if flags & os.O_CREAT and not record.exists():  # removed meanwhile, with the lock we have made again
            path.unlink(missing_ok=True)
        return fd

    def is_locked(self, name: str) -> bool:
        """Whether somebody is at work on it."""
        try:
            fd = os.open(self._locks / name, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(fd)
        return False

    def locks(self) -> set[str]:
        """IDs of the containers that have one."""
        return {path.name.removesuffix(CLIENT) for path in self._locks.iterdir()} - {NAMES}

    def make_lock(self, name: str) -> None:
        (self._locks / name).touch(mode=0o600)

    def drop_locks(self, container_id: str) -> None:
        """Whoever waits for one gets it, and then finds no container."""
        for name in (container_id, client_lock(container_id)):
            (self._locks / name).unlink(missing_ok=True)

    # containers

    def find(self, wanted: str) -> Seen:
        """By id, name or unambiguous id prefix."""
        found = self.view.find(wanted)
        if not found:
            raise NoSuchContainerError(wanted)
        if len(found) > 1:
            raise HandError(f"Multiple IDs found with provided prefix: {wanted}")
        return found[0]

    def load(self, container_id: str) -> Held:
        """As it is on disk now: call it under the container's lock. Raises `NoSuchContainerError`."""
        record = next((r for r in self.core.records.containers() if r.id == container_id), None)
        settings = read_settings(self.paths.layer(container_id))
        if record is None or settings is None:
            raise NoSuchContainerError(container_id)
        if (old := self.core.containers.pop(container_id, None)) is not None:
            old.release()
        container = Container(record)
        container.process = _open(record.process)
        container.conmon = _open(record.conmon)
        self.core.containers[container_id] = container
        return Held(container, settings)

    def save(self, held: Held) -> None:
        write_whole(self.paths.layer(held.id) / FILE, encode_json(held.settings))
        self.core.records.save_container(held.record)

    def running(self, wanted: str, doing: str) -> Seen:
        """The container, which must run for what is wanted of it."""
        seen = self.find(wanted)
        if seen.state is not State.RUNNING:
            raise HandError(f"{doing}: container {seen.id} is not running")
        return seen

    async def exit_code(self, container_id: str, *, timeout_s: float | None = None) -> int | None:
        """Wait for the end; None when the container is removed meanwhile. Raises TimeoutError.

        conmon's exit file comes first. Whoever settles the container takes it away, and has then written the
        code into the record.
        """
        with Inotify(self.paths.exits, IN_CREATE | IN_CLOSE_WRITE | IN_MOVED_TO | IN_DELETE) as changes:
            async with asyncio.timeout(timeout_s):
                while True:
                    if (ended := read_exit(self.paths.exit_file(container_id))) is not None:
                        return ended[0]
                    record = next((r for r in self.core.records.containers() if r.id == container_id), None)
                    if record is None:
                        return None
                    if record.phase is ContainerPhase.EXITED:
                        return record.exit_code
                    monitor = _open(record.conmon)
                    if monitor is None:
                        return UNKNOWN_EXIT_CODE  # somebody killed conmon: the code is lost
                    await _first(changes.changed(), monitor.ended())
                    monitor.close()


async def _first(*events: Coroutine[Any, Any, None]) -> None:
    tasks = [asyncio.ensure_future(event) for event in events]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


def client_lock(container_id: str) -> str:
    """Shared by clients that still want to read the exit code of a container run with `--rm`."""
    return container_id + CLIENT


def _open(ref: ProcessRef | None) -> Process | None:
    return Process.open(ref.pid, ref.start_time) if ref is not None and ref.alive else None
