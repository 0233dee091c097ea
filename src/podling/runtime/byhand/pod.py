"""Pods by hand, as podman has them: a container that runs pause holds the namespaces, others join them.

The pod *is* that container: its ID is the pod's, its settings hold the pod's name. So one file makes a pod,
and one removal takes it away, and both after all that belongs to it: whatever a crash leaves is still a pod,
which `remove` removes. Volumes of `podling play` lie below `pods/ID`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from podling.linux import mounts
from podling.runtime.byhand import remove as removal
from podling.runtime.byhand.create import Wanted
from podling.runtime.byhand.create import create as create_container
from podling.runtime.byhand.errors import HandError, NoSuchContainerError
from podling.runtime.byhand.hand import Hand
from podling.runtime.byhand.settings import DEFAULT_NETWORK, JOINED, SHARED, Extras, PodInfo, Port, Settings
from podling.runtime.byhand.start import start as start_container
from podling.runtime.byhand.start import start_again
from podling.runtime.byhand.stop import stop as stop_container
from podling.runtime.core import in_thread
from podling.runtime.cri import messages as cri
from podling.runtime.state import remove_tree
from podling.runtime.view import Seen, State

KINDS = ("ipc", "net", "pid", "uts")
FIRST_WAIT_S, LAST_WAIT_S = 0.1, 60.0
"""Before an init container is tried again: doubled each time."""


class NoSuchPodError(HandError):
    def __init__(self, wanted: str) -> None:
        super().__init__(f"no pod with name or ID {wanted} found: no such pod")


class InitError(HandError):
    """An init container failed, and its policy says that it is not to be tried again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PodWanted:
    """What `podling pod create` was asked for."""

    name: str
    labels: dict[str, str] = field(default_factory=dict)
    share: tuple[str, ...] = SHARED
    network: str = DEFAULT_NETWORK
    ipc: str = ""
    pid: str = ""
    """`host`, or empty."""
    hostname: str = ""
    ports: list[Port] = field(default_factory=list)
    extras: Extras = field(default_factory=Extras)


@dataclass(frozen=True, slots=True)
class Pod:
    """As it is now."""

    infra: Seen
    containers: list[Seen]
    """In the order they were made."""

    @property
    def id(self) -> str:
        return self.infra.id

    @property
    def info(self) -> PodInfo:
        return _settings(self.infra).pod_info or PodInfo(name="")

    @property
    def name(self) -> str:
        return self.info.name

    @property
    def status(self) -> str:
        """podman's words."""
        counted = [one for one in self.containers if not _initialized(self, one)]
        running = [one.state is State.RUNNING for one in (self.infra, *counted)]
        if all(running):
            return "Running"
        if any(running):
            return "Degraded"
        return "Created" if self.infra.state is State.CREATED else "Exited"


def _settings(seen: Seen) -> Settings:
    assert seen.settings is not None  # of a container by hand
    return seen.settings


# finding


def list_pods(hand: Hand) -> list[Pod]:
    """Newest first."""
    seen = hand.view.all()
    return [
        Pod(infra, [one for one in reversed(seen) if _is_member(one, infra.id)])
        for infra in seen
        if infra.settings is not None and infra.settings.pod_info is not None
    ]


def _is_member(seen: Seen, pod_id: str) -> bool:
    return seen.settings is not None and seen.settings.pod == pod_id and seen.id != pod_id


def find(hand: Hand, wanted: str) -> Pod:
    """By name, ID or unambiguous prefix of it. Raises `NoSuchPodError`."""
    pods = list_pods(hand)
    found = [one for one in pods if wanted in (one.name, one.id)]
    found = found or [one for one in pods if wanted and one.id.startswith(wanted)]
    if not found:
        raise NoSuchPodError(wanted)
    if len(found) > 1:
        raise HandError(f"more than one result for pod ID {wanted}")
    return found[0]


async def running(hand: Hand, wanted: str) -> Pod:
    """The pod, whose namespaces are there: a container is about to join them."""
    pod = find(hand, wanted)
    if pod.infra.state is not State.RUNNING:
        await start_again(hand, pod.id)
    return find(hand, pod.id)


# making


async def create(hand: Hand, wanted: PodWanted) -> Pod:
    """With pause running, so that its network is there. Raises `HandError`; then nothing stays."""
    info = PodInfo(name=wanted.name, labels=wanted.labels, share=sorted(wanted.share))
    context = cri.LinuxContainerSecurityContext(
        capabilities=cri.Capability(drop_capabilities=["ALL"]), readonly_rootfs=True, no_new_privs=True
    )
    held = await create_container(
        hand,
        Wanted(
            image="",
            command=["/pause"],
            network=wanted.network,
            ipc=wanted.ipc,
            pid=wanted.pid,
            hostname=wanted.hostname or wanted.name,
            ports=wanted.ports,
            labels=wanted.labels,
            context=context,
            extras=wanted.extras,
            pod_info=info,
        ),
    )
    try:
        async with hand.lock(held.id):
            await start_container(hand, held)
    except HandError:
        await removal.remove(hand, held.id, force=True)
        raise
    return find(hand, held.id)


def member(pod: Pod, wanted: Wanted) -> Wanted:
    """The same container, in the pod. Raises `HandError` for what is the pod's to say."""
    own = {
        "publish": bool(wanted.ports),
        "network": wanted.network != DEFAULT_NETWORK,
        "hostname": bool(wanted.hostname),
        "add-host": bool(wanted.extras.hosts),
        "dns": wanted.extras.dns is not None,
        "ip": bool(wanted.extras.ip),
        "mac-address": bool(wanted.extras.mac),
    }
    share = pod.info.share
    if "net" in share and (clashes := [f"--{name}" for name, given in own.items() if given]):
        raise HandError(f"{', '.join(clashes)} cannot be set on a container in a pod: say it to `pod create`")
    joined = JOINED + pod.id
    infra = _settings(pod.infra)
    return replace(
        wanted,
        pod=pod.id,
        joins=share,
        network=joined if "net" in share else wanted.network,
        # Of the machine, as its pod is: there is nothing to join.
        ipc=wanted.ipc or (infra.ipc or joined if "ipc" in share else ""),
        pid=wanted.pid or (infra.pid or joined if "pid" in share else infra.pid),
    )


# life


async def start(hand: Hand, wanted: str, *, tell: Callable[[str], None] = lambda text: None) -> Pod:
    """Pause, then init containers one after the other, then the others. Those that run stay as they are.

    `tell` hears of an init container that failed and is tried again. Raises `InitError`, `HandError`.
    """
    pod = await running(hand, wanted)
    for one in pod.containers:
        if one.state is not State.RUNNING and not _initialized(pod, one):
            await start_one(hand, one, tell=tell)
    return find(hand, pod.id)


def _initialized(pod: Pod, seen: Seen) -> bool:
    """An init container that succeeded in the present sandbox has done its work."""
    done = seen.state is State.EXITED and seen.exit_code == 0
    return _settings(seen).init and done and seen.finished_at >= pod.infra.started_at


async def start_one(hand: Hand, seen: Seen, *, tell: Callable[[str], None]) -> None:
    """A container of a pod; an init container is run to its end, until it succeeds."""
    if not _settings(seen).init:
        await start_again(hand, seen.id)
        return
    wait_s = FIRST_WAIT_S
    while True:
        await start_again(hand, seen.id)
        code = await hand.exit_code(seen.id)
        if not code:
            return
        text = f"init container {seen.name} exited with code {code}"
        if _settings(seen).restart.policy == "no":
            raise InitError(f"{text}: see `podling logs {seen.name}`")
        tell(f"{text}: trying again in {wait_s:g} s")
        await asyncio.sleep(wait_s)
        wait_s = min(wait_s * 2, LAST_WAIT_S)


async def stop(hand: Hand, wanted: str, *, timeout_s: float | None = None) -> Pod:
    """The containers at once, then pause and with it the network."""
    pod = find(hand, wanted)
    await asyncio.gather(*(_stop(hand, one, timeout_s) for one in pod.containers))
    await _stop(hand, pod.infra, timeout_s)
    return pod


async def _stop(hand: Hand, seen: Seen, timeout_s: float | None) -> None:
    with suppress(NoSuchContainerError):  # --rm
        usual = _settings(seen).stop_timeout_s
        await stop_container(hand, seen, timeout_s=usual if timeout_s is None else timeout_s)


async def remove(hand: Hand, wanted: str, *, force: bool = False) -> Pod:
    """With all its containers and volumes. Raises `HandError` when something of it runs and not `force`."""
    pod = find(hand, wanted)
    if not force and any(one.state is State.RUNNING for one in pod.containers):
        raise HandError(
            f"not all containers could be removed from pod {pod.id}: "
            "You cannot remove a running container. Stop the pod before attempting removal or force remove"
        )
    for one in pod.containers:
        with suppress(NoSuchContainerError):
            await removal.remove(hand, one.id, force=True)
    await in_thread(_remove_volumes, volumes_dir(hand, pod.id))
    await removal.remove(hand, pod.id, force=True)
    return pod


def volumes_dir(hand: Hand, pod_id: str) -> Path:
    """The kubelet's place for a pod's files, below our own root."""
    return hand.paths.root / "pods" / pod_id


def _remove_volumes(folder: Path) -> None:
    mounts.unmount_below(folder)
    remove_tree(folder)
