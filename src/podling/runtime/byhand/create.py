"""Making a container: its name, its root file system, and what it remembers. Nothing runs yet.

A record in phase `creating` reserves the name. Its maker holds the container's lock; a record whose lock is
free was left by a crash, and the next creation removes it.
"""

from __future__ import annotations

import os
import re
import secrets
import signal
import time
from dataclasses import dataclass, field

from podling.linux import mounts
from podling.runtime import names, users
from podling.runtime.byhand import remove
from podling.runtime.byhand.errors import HandError
from podling.runtime.byhand.hand import NAMES, Hand, Held, client_lock
from podling.runtime.byhand.settings import JOINED, Port, Restart, Settings, joined
from podling.runtime.container_create import InvalidSignalError, signal_number
from podling.runtime.core import Container, in_thread
from podling.runtime.cri import messages as cri
from podling.runtime.images.errors import ImageError
from podling.runtime.images.record import ImageRecord
from podling.runtime.sandbox_files import write_sandbox_files
from podling.runtime.state import ContainerPhase, ContainerRecord
from podling.runtime.view import State

_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+")
_LEFT = ("brave", "calm", "eager", "fond", "gentle", "happy", "keen", "lucid", "merry", "quiet", "wise")
_RIGHT = ("basin", "bay", "brook", "cove", "delta", "fjord", "lagoon", "pod", "pond", "reef", "shoal")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What `podling run` was asked for. Empty means: as the image, or Docker's default."""

    image: str
    name: str = ""
    entrypoint: str | None = None
    command: list[str] = field(default_factory=list)
    env: list[str] = field(default_factory=list)
    mounts: list[cri.Mount] = field(default_factory=list)
    ports: list[Port] = field(default_factory=list)
    network: str
    pid: str = ""
    ipc: str = ""
    hostname: str = ""
    user: str = ""
    workdir: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    tty: bool = False
    stdin: bool = False
    stdin_once: bool = False
    """End of the client's input is end of the container's."""
    auto_remove: bool = False
    restart: Restart = field(default_factory=Restart)
    context: cri.LinuxContainerSecurityContext = field(default_factory=cri.LinuxContainerSecurityContext)
    resources: cri.LinuxContainerResources = field(default_factory=cri.LinuxContainerResources)


async def create(hand: Hand, wanted: Wanted) -> Held:
    """Raises `HandError`, `ImageError` (no such image)."""
    image = hand.core.images.get(wanted.image)
    container_id = names.new_id()
    for lock in (container_id, client_lock(container_id)):
        hand.make_lock(lock)
    async with hand.lock(container_id):
        try:
            async with hand.lock(NAMES):
                await _remove_half_made(hand)
                container = _container(hand, container_id, image, wanted)
                held = Held(container, _settings(hand, container_id, wanted))
                hand.paths.layer(container_id).mkdir(mode=0o711)
                hand.save(held)
            await in_thread(_prepare, hand, held, image, wanted)
            held.record.phase = ContainerPhase.CREATED
            hand.save(held)
        except BaseException:
            await in_thread(remove.remove_files, hand, container_id)
            raise
    return held


async def _remove_half_made(hand: Hand) -> None:
    for record in list(hand.core.records.containers()):
        if record.phase is ContainerPhase.CREATING and not hand.is_locked(record.id):
            await in_thread(remove.remove_files, hand, record.id)


def _container(hand: Hand, container_id: str, image: ImageRecord, wanted: Wanted) -> Container:
    given, name = image.run_config, _free_name(hand, wanted.name)
    entrypoint = list(given.entrypoint or ())
    command = wanted.command or ([] if wanted.entrypoint is not None else list(given.cmd or ()))
    if wanted.entrypoint is not None:
        entrypoint = [wanted.entrypoint] if wanted.entrypoint else []
    if not [*entrypoint, *command]:
        raise HandError("no command specified")
    try:
        stop_signal = signal_number(given.stop_signal or "SIGTERM")
    except InvalidSignalError:
        stop_signal = int(signal.SIGTERM)
    config = cri.ContainerConfig(
        metadata=cri.ContainerMetadata(name=name),
        image=cri.ImageSpec(image=image.id),
        working_dir=wanted.workdir,
        envs=[cri.KeyValue(key=k, value=v.encode()) for k, _, v in (e.partition("=") for e in wanted.env)],
        mounts=wanted.mounts,
        labels=wanted.labels,
        stdin=wanted.stdin,
        stdin_once=wanted.stdin_once,
        tty=wanted.tty,
        linux=cri.LinuxContainerConfig(resources=wanted.resources, security_context=wanted.context),
    )
    return Container(
        ContainerRecord(
            id=container_id,
            sandbox_id="",
            name=name,
            config=config,
            image_id=image.id,
            image_name=wanted.image,
            command=[*entrypoint, *command],
            stop_signal=stop_signal,
            log_path=str(hand.paths.layer(container_id) / "container.log"),
            cgroup=f"{hand.config.cgroup_parent}/{container_id}",
            created_at=time.time_ns(),
        )
    )


def _free_name(hand: Hand, name: str) -> str:
    taken = {record.name: record.id for record in hand.core.records.containers()}
    while not name:
        made = f"{secrets.choice(_LEFT)}_{secrets.choice(_RIGHT)}{secrets.randbelow(1000)}"
        name = "" if made in taken else made
    if not _NAME.fullmatch(name):
        raise HandError(
            f"Invalid container name ({name}), only {_NAME.pattern.removesuffix('+')} are allowed"
        )
    if name in taken:
        raise HandError(
            f'Conflict. The container name "/{name}" is already in use by container "{taken[name]}". '
            "You have to remove (or rename) that container to be able to reuse that name."
        )
    return name


def _settings(hand: Hand, container_id: str, wanted: Wanted) -> Settings:
    network = _resolved(hand, wanted.network, "network")
    shared = joined(network)
    if wanted.ports and (shared or network in ("host", "none")):
        # Docker drops ports with host and none in silence; then nobody knows why nothing answers.
        raise HandError("conflicting options: port publishing and the container type network mode")
    if wanted.hostname and shared:
        raise HandError("conflicting options: hostname and the network mode")
    return Settings(
        hostname=hand.load(shared).settings.hostname if shared else wanted.hostname or container_id[:12],
        network=network,
        pid=_resolved(hand, wanted.pid, "pid"),
        ipc=_resolved(hand, wanted.ipc, "ipc"),
        ports=wanted.ports,
        restart=wanted.restart,
        auto_remove=wanted.auto_remove,
    )


def _resolved(hand: Hand, mode: str, what: str) -> str:
    """Whom to join, by ID: names may change hands."""
    name = joined(mode)
    if not name:
        return mode
    other = hand.find(name)
    if other.state is not State.RUNNING:
        raise HandError(f"cannot join {what} of a non running container: {other.id}")
    return JOINED + other.id


# on disk, in a thread


def _prepare(hand: Hand, held: Held, image: ImageRecord, wanted: Wanted) -> None:
    core, record, paths = hand.core, held.record, hand.paths
    lower = core.images.rootfs_path(image)
    try:
        user = users.resolve(lower, users.UserRequest(image_user=wanted.user or image.user))
    except users.UnknownUserError as err:
        raise HandError(str(err)) from err
    record.user = cri.LinuxContainerUser(uid=user.uid, gid=user.gid, supplemental_groups=list(user.groups))
    layer = paths.layer(record.id)
    for name in ("upper", "work", "rootfs"):
        (layer / name).mkdir(mode=0o755)
    mount_rootfs(hand, held)
    folder = paths.sandbox(record.id)
    folder.mkdir(mode=0o711)
    write_sandbox_files(folder, cri.PodSandboxConfig(hostname=held.settings.hostname))
    paths.bundle(record.id).mkdir(mode=0o700)
    for mount in record.config.mounts:
        if not os.path.exists(mount.host_path):
            os.makedirs(mount.host_path, exist_ok=True)  # as Docker: what is not there becomes a directory


def mount_rootfs(hand: Hand, held: Held) -> None:
    """Twice is fine: after a reboot the layer is there and the mount is not."""
    layer = hand.paths.layer(held.id)
    if mounts.is_mount_point(layer / "rootfs"):
        return
    try:
        lower = hand.core.images.rootfs_path(hand.core.images.get(held.record.image_id))
    except ImageError as err:
        raise HandError(str(err)) from err
    mounts.mount_overlay(layer / "rootfs", lower=[lower], upper=layer / "upper", work=layer / "work")
