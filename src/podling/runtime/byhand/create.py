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
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

from podling.linux import mounts
from podling.runtime import names, oci, recovery, users
from podling.runtime.byhand import remove
from podling.runtime.byhand.errors import HandError
from podling.runtime.byhand.hand import NAMES, Hand, Held, client_lock
from podling.runtime.byhand.settings import (
    JOINED,
    STOP_TIMEOUT_S,
    Extras,
    PodInfo,
    Port,
    Restart,
    Settings,
    joined,
    read_settings,
)
from podling.runtime.container_create import InvalidSignalError, signal_number, user_request
from podling.runtime.core import Container, in_thread
from podling.runtime.cri import messages as cri
from podling.runtime.images.errors import ImageError
from podling.runtime.images.oci import RunConfig
from podling.runtime.images.record import ImageRecord
from podling.runtime.sandbox_files import write_sandbox_files
from podling.runtime.state import ContainerPhase, ContainerRecord
from podling.runtime.view import PAUSE_IMAGE, State

_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+")
_LEFT = ("brave", "calm", "eager", "fond", "gentle", "happy", "keen", "lucid", "merry", "quiet", "wise")
_RIGHT = ("basin", "bay", "brook", "cove", "delta", "fjord", "lagoon", "pod", "pond", "reef", "shoal")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What `podling run` was asked for. Empty means: as the image, or Docker's default."""

    image: str
    """Empty: pause, which comes with us."""
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
    devices: list[cri.Device] = field(default_factory=list)
    stop_signal: str = ""
    stop_timeout_s: float = STOP_TIMEOUT_S
    extras: Extras = field(default_factory=Extras)
    config: cri.ContainerConfig | None = None
    """As a kubelet would give it; all of the above that it can say is then read from it."""
    pod: str = ""
    """ID of the pod it joins."""
    joins: list[str] = field(default_factory=list)
    pod_info: PodInfo | None = None
    """Makes it the one that holds a pod's namespaces."""
    init: bool = False


async def create(hand: Hand, wanted: Wanted) -> Held:
    """Raises `HandError`, `ImageError` (no such image)."""
    image = hand.core.images.get(wanted.image) if wanted.image else None
    container_id = names.new_id()
    async with AsyncExitStack() as locks:
        try:
            async with hand.lock(NAMES):
                await _remove_half_made(hand)
                for lock in (container_id, client_lock(container_id)):
                    hand.make_lock(lock)
                await locks.enter_async_context(hand.lock(container_id))
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
    """What creations and removals that were killed have left. The caller holds NAMES, under which locks are
    made: who is at work has his."""
    phases = {record.id: record.phase for record in hand.core.records.containers()}
    known = {path.name for path in hand.paths.containers.iterdir()} | hand.locks()
    for container_id in known:
        unfinished = phases.get(container_id, ContainerPhase.CREATING) is ContainerPhase.CREATING
        if unfinished and not hand.is_locked(container_id):
            await in_thread(remove.remove_files, hand, container_id)


def _container(hand: Hand, container_id: str, image: ImageRecord | None, wanted: Wanted) -> Container:
    given = image.run_config if image else RunConfig()
    if wanted.pod_info:
        _check_pod_name(hand, wanted.pod_info.name)
    name = _free_name(hand, f"{container_id[:12]}-infra" if wanted.pod_info else wanted.name)
    command = _kubelet_command(wanted.config, given) if wanted.config else _command(wanted, given)
    if not command:
        raise HandError("no command specified")
    return Container(
        ContainerRecord(
            id=container_id,
            sandbox_id="",
            name=name,
            config=wanted.config or _config(name, image, wanted),
            image_id=image.id if image else "",
            image_name=wanted.image or PAUSE_IMAGE,
            command=command,
            stop_signal=_stop_signal(wanted, given),
            log_path=str(hand.paths.layer(container_id) / "container.log"),
            cgroup=f"{hand.config.cgroup_parent}/{container_id}",
            created_at=time.time_ns(),
        )
    )


def _command(wanted: Wanted, given: RunConfig) -> list[str]:
    """As Docker has it: an entrypoint of one's own drops the image's command too."""
    if wanted.entrypoint is None:
        return [*(given.entrypoint or ()), *(wanted.command or given.cmd or ())]
    return [*([wanted.entrypoint] if wanted.entrypoint else []), *wanted.command]


def _kubelet_command(config: cri.ContainerConfig, given: RunConfig) -> list[str]:
    """As Kubernetes has it: `command` replaces entrypoint and cmd, `args` alone replaces cmd."""
    if config.command:
        return [*config.command, *config.args]
    return [*(given.entrypoint or ()), *(config.args or given.cmd or ())]


def _stop_signal(wanted: Wanted, given: RunConfig) -> int:
    if wanted.stop_signal:
        return signal_number(wanted.stop_signal)  # looked at by the command line
    try:
        return signal_number(given.stop_signal or "SIGTERM")
    except InvalidSignalError:
        return int(signal.SIGTERM)


def _config(name: str, image: ImageRecord | None, wanted: Wanted) -> cri.ContainerConfig:
    return cri.ContainerConfig(
        metadata=cri.ContainerMetadata(name=name),
        image=cri.ImageSpec(image=image.id if image else ""),
        working_dir=wanted.workdir,
        envs=[cri.KeyValue(key=k, value=v.encode()) for k, _, v in (e.partition("=") for e in wanted.env)],
        mounts=wanted.mounts,
        devices=wanted.devices,
        labels=wanted.labels,
        stdin=wanted.stdin,
        stdin_once=wanted.stdin_once,
        tty=wanted.tty,
        linux=cri.LinuxContainerConfig(resources=wanted.resources, security_context=wanted.context),
    )


def _free_name(hand: Hand, name: str) -> str:
    taken = {record.name: record.id for record in hand.core.records.containers()}
    while not name:
        made = f"{secrets.choice(_LEFT)}_{secrets.choice(_RIGHT)}{secrets.randbelow(1000)}"
        name = "" if made in taken else made
    _check_name(name)
    if name in taken:
        raise HandError(
            f'Conflict. The container name "/{name}" is already in use by container "{taken[name]}". '
            "You have to remove (or rename) that container to be able to reuse that name."
        )
    if name in _pod_names(hand):
        raise HandError(f'Conflict. The container name "/{name}" is already in use by a pod.')
    return name


def _check_pod_name(hand: Hand, name: str) -> None:
    _check_name(f"{name}-infra")  # Kubernetes takes a single letter, Docker does not
    if name in _pod_names(hand):
        raise HandError(f'adding pod to state: name "{name}" is in use: pod already exists')
    if any(record.name == name for record in hand.core.records.containers()):
        raise HandError(f'adding pod to state: name "{name}" is in use: container already exists')


def _pod_names(hand: Hand) -> set[str]:
    settings = (read_settings(hand.paths.layer(record.id)) for record in hand.core.records.containers())
    return {one.pod_info.name for one in settings if one is not None and one.pod_info is not None}


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise HandError(
            f"Invalid container name ({name}), only {_NAME.pattern.removesuffix('+')} are allowed"
        )


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
        stop_timeout_s=wanted.stop_timeout_s,
        extras=wanted.extras,
        pod=container_id if wanted.pod_info else wanted.pod,
        joins=wanted.joins,
        pod_info=wanted.pod_info,
        init=wanted.init,
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


def _prepare(hand: Hand, held: Held, image: ImageRecord | None, wanted: Wanted) -> None:
    record, paths = held.record, hand.paths
    if image is not None:
        hand.core.images.add_reference(image, record.id)
        record.user = _user(hand.core.images.rootfs_path(image), record.config, wanted.user or image.user)
    else:
        record.user = cri.LinuxContainerUser(uid=oci.PAUSE_UID, gid=oci.PAUSE_UID)
    layer = paths.layer(record.id)
    for name in ("upper", "work", "rootfs"):
        (layer / name).mkdir(mode=0o755)
    prepare_to_run(hand, held)
    for mount in record.config.mounts:
        if not os.path.exists(mount.host_path):
            os.makedirs(mount.host_path, exist_ok=True)  # as Docker: what is not there becomes a directory


def _user(rootfs: Path, config: cri.ContainerConfig, image_user: str) -> cri.LinuxContainerUser:
    context = oci.security_context(config)
    try:
        user = users.resolve(rootfs, user_request(context, image_user))
    except users.UnknownUserError as err:
        raise HandError(str(err)) from err
    return cri.LinuxContainerUser(uid=user.uid, gid=user.gid, supplemental_groups=list(user.groups))


def prepare_to_run(hand: Hand, held: Held) -> None:
    """All that lies below /run, and the root file system: what a reboot takes away. Twice is fine."""
    paths, settings = hand.paths, held.settings
    if held.record.image_id:
        _mount_rootfs(hand, held)
    else:
        recovery.ensure_pause_rootfs(hand.core)
    folder = paths.sandbox(held.id)
    if not folder.exists():
        folder.mkdir(mode=0o711)
        sandbox = cri.PodSandboxConfig(hostname=settings.hostname, dns_config=settings.extras.dns)
        write_sandbox_files(folder, sandbox)
    paths.bundle(held.id).mkdir(mode=0o700, exist_ok=True)


def _mount_rootfs(hand: Hand, held: Held) -> None:
    layer = hand.paths.layer(held.id)
    if mounts.is_mount_point(layer / "rootfs"):
        return
    try:
        lower = hand.core.images.rootfs_path(hand.core.images.get(held.record.image_id))
    except ImageError as err:
        raise HandError(str(err)) from err
    mounts.mount_overlay(layer / "rootfs", lower=[lower], upper=layer / "upper", work=layer / "work")
