"""What the runtime remembers, on disk and as types.

    root_dir/sandboxes/ID.json                    SandboxRecord
    root_dir/containers/ID/record.json            ContainerRecord
    root_dir/containers/ID/{upper,work,rootfs}    writable layer, overlay's work, the mount point
    root_dir/containers/ID/mounts/N               mounts whose owners are mapped (`container_mounts`)
    run_dir/sandboxes/ID/                         pause's bundle, shm, hostname, resolv.conf
    run_dir/containers/ID/                        bundle; conmon's attach socket and control fifo
    run_dir/{crun,exits,persist}/                 crun's root; conmon's exit files by ID, oom marks

A record is written whole (temporary file, rename) when what it describes is complete; a directory without a
record is half-made, and is removed by the next start. So one write makes a sandbox, and three a container
with its start and end. Records are not synced: all that they describe ends with the machine. The kernel is
believed over the record: `podling ps` and recovery look at the processes.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from podling.linux.processes import ProcessRef
from podling.runtime import userns
from podling.runtime.config import RuntimeConfig
from podling.runtime.cri import messages as cri
from podling.runtime.names import NETNS_PREFIX
from podling.runtime.oci import namespace_options

T = TypeVar("T")


class SandboxPhase(StrEnum):
    CREATING = "creating"
    READY = "ready"
    """Pause was started and the network is there; whether pause still lives, the kernel says."""
    STOPPED = "stopped"
    """Network and processes are gone."""


class ContainerPhase(StrEnum):
    CREATING = "creating"
    CREATED = "created"
    """Root file system and specification are ready; there is no process before StartContainer."""
    STARTING = "starting"
    RUNNING = "running"
    EXITED = "exited"


@dataclass(slots=True, kw_only=True)
class SandboxRecord:
    id: str
    name: str
    config: cri.PodSandboxConfig
    runtime_handler: str = ""
    created_at: int
    """Nanoseconds since 1970, as all times here."""
    phase: SandboxPhase = SandboxPhase.CREATING
    netns: str = ""
    """Path of the pinned namespace; empty with the host's network."""
    ips: list[str] = field(default_factory=list)
    cgroup: str = ""
    pause: ProcessRef | None = None

    @property
    def metadata(self) -> cri.PodSandboxMetadata:
        return self.config.metadata or cri.PodSandboxMetadata()

    @property
    def namespaces(self) -> cri.NamespaceOption:
        return namespace_options(self.config.linux)

    @property
    def user_namespace(self) -> cri.UserNamespace | None:
        return userns.of(self.namespaces)


@dataclass(slots=True, kw_only=True)
class ContainerRecord:
    id: str
    sandbox_id: str
    name: str
    config: cri.ContainerConfig
    image_id: str
    image_name: str
    """What `podling ps` shows: the name the user gave."""
    image_ref: str = ""
    """Where it was pulled from, by digest; empty for one that was not."""
    command: list[str] = field(default_factory=list)
    """Entrypoint and arguments as they are run."""
    user: cri.LinuxContainerUser = field(default_factory=cri.LinuxContainerUser)
    volume_images: list[str] = field(default_factory=list)
    """Images that are mounted besides, by ID."""
    hooks: bool = False
    """Whether the specification has hooks: then crun must start and delete it, which else we do ourselves."""
    stop_signal: int = 15
    log_path: str = ""
    """Absolute; empty when nothing is logged."""
    cgroup: str = ""
    created_at: int
    started_at: int = 0
    finished_at: int = 0
    exit_code: int = 0
    reason: str = ""
    message: str = ""
    phase: ContainerPhase = ContainerPhase.CREATING
    process: ProcessRef | None = None
    conmon: ProcessRef | None = None

    @property
    def metadata(self) -> cri.ContainerMetadata:
        return self.config.metadata or cri.ContainerMetadata()


class Paths:
    """Every file of the runtime, by sandbox or container."""

    def __init__(self, config: RuntimeConfig) -> None:
        self.root = config.root_dir
        self.netns_dir = config.netns_dir
        self.run = config.run_dir
        self.sandboxes = self.root / "sandboxes"
        self.containers = self.root / "containers"
        self.crun = self.run / "crun"
        self.exits = self.run / "exits"
        self.persist = self.run / "persist"
        self.pause_rootfs = self.run / "pause"
        self.run_sandboxes = self.run / "sandboxes"
        self.run_containers = self.run / "containers"

    def ensure(self) -> None:
        for folder in (
            self.sandboxes,
            self.containers,
            self.crun,
            self.exits,
            self.persist,
            self.run_sandboxes,
            self.run_containers,
        ):
            folder.mkdir(mode=0o711, parents=True, exist_ok=True)

    def netns(self, sandbox_id: str) -> Path:
        """Short, so that it fits into `ip netns list`, and known from the id alone."""
        return self.netns_dir / f"{NETNS_PREFIX}{sandbox_id[:13]}"

    def sandbox(self, sandbox_id: str) -> Path:
        return self.run_sandboxes / sandbox_id

    def shm(self, sandbox_id: str) -> Path:
        return self.sandbox(sandbox_id) / "shm"

    def layer(self, container_id: str) -> Path:
        return self.containers / container_id

    def rootfs(self, container_id: str) -> Path:
        return self.layer(container_id) / "rootfs"

    def mapped_mounts(self, container_id: str) -> Path:
        return self.layer(container_id) / "mounts"

    def bundle(self, container_id: str) -> Path:
        return self.run_containers / container_id

    def sandbox_record(self, sandbox_id: str) -> Path:
        return self.sandboxes / f"{sandbox_id}.json"

    def container_record(self, container_id: str) -> Path:
        return self.layer(container_id) / "record.json"

    def exit_file(self, container_id: str) -> Path:
        return self.exits / container_id


class Records:
    """The records on disk. Each call is one small file; fine on an event loop."""

    def __init__(self, paths: Paths) -> None:
        self.paths = paths

    def save_sandbox(self, record: SandboxRecord) -> None:
        write_whole(self.paths.sandbox_record(record.id), msgspec.json.encode(record))

    def save_container(self, record: ContainerRecord) -> None:
        write_whole(self.paths.container_record(record.id), msgspec.json.encode(record))

    def drop_sandbox(self, sandbox_id: str) -> None:
        self.paths.sandbox_record(sandbox_id).unlink(missing_ok=True)

    def drop_container(self, container_id: str) -> None:
        self.paths.container_record(container_id).unlink(missing_ok=True)

    def sandboxes(self) -> Iterator[SandboxRecord]:
        for path in _listed(self.paths.sandboxes, "*.json"):
            if (record := _read(path, SandboxRecord)) is not None:
                yield record

    def containers(self) -> Iterator[ContainerRecord]:
        for path in _listed(self.paths.containers, "*/record.json"):
            if (record := _read(path, ContainerRecord)) is not None:
                yield record


def write_whole(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Write beside and rename: readers see the old file or the new one. A full disk keeps no half."""
    beside = path.with_name(f".{path.name}.new")
    fd = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(data)
        os.rename(beside, path)
    except OSError as err:
        beside.unlink(missing_ok=True)
        raise OSError(err.errno, os.strerror(err.errno or 0), str(path)) from err  # `write` names no file


def remove_tree(path: Path) -> None:
    """Absent is success. Callers unmount first: a mount inside makes this fail with EBUSY."""
    try:
        shutil.rmtree(path)
    except FileNotFoundError:
        return


def _listed(folder: Path, pattern: str) -> list[Path]:
    return sorted(path for path in folder.glob(pattern) if not path.name.startswith("."))


def _read(path: Path, kind: type[T]) -> T | None:
    """None for a record that went meanwhile, or that a power cut left unreadable: recovery removes it."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (FileNotFoundError, msgspec.MsgspecError):
        return None


def encode_json(value: Any) -> bytes:
    return msgspec.json.encode(value)
