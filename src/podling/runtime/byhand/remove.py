"""Removing containers, and with the last one what all of them shared."""

from __future__ import annotations

import signal
from contextlib import suppress

from podling.linux import mounts, netns
from podling.runtime.byhand.errors import HandError, NoSuchContainerError
from podling.runtime.byhand.hand import NAMES, Hand, client_lock
from podling.runtime.byhand.settle import settle
from podling.runtime.core import in_thread
from podling.runtime.state import ContainerPhase, remove_tree


async def remove_ended(hand: Hand, container_id: str) -> None:
    """`--rm`. Clients that are attached want the exit code first. Raises `NoSuchContainerError`."""
    async with hand.lock(client_lock(container_id)), hand.lock(container_id):
        hand.load(container_id)
        await in_thread(remove_files, hand, container_id)
    await tidy(hand)


async def remove(hand: Hand, container_id: str, *, force: bool = False) -> None:
    """`force` kills it first. Raises `HandError` when it runs, `NoSuchContainerError`."""
    async with hand.lock(container_id):
        held = hand.load(container_id)
        if held.alive and not force:
            raise HandError(
                f"You cannot remove a running container {container_id}. "
                "Stop the container before attempting removal or force remove"
            )
        held.settings.stopped = True
        hand.save(held)
        if held.container.process is not None:
            held.container.process.send(signal.SIGKILL)
        monitor = held.container.conmon
    if monitor is not None:
        await monitor.ended()  # with all it runs after the end: nothing of the container stays
    with suppress(NoSuchContainerError):  # its own `--rm` was faster
        async with hand.lock(container_id):
            held = hand.load(container_id)
            await settle(hand, held)
            await in_thread(remove_files, hand, container_id)
    await tidy(hand)


def remove_files(hand: Hand, container_id: str) -> None:
    """Everything on disk. Twice is fine."""
    paths = hand.paths
    netns.remove_netns(paths.netns(container_id))
    mounts.unmount(paths.shm(container_id))
    remove_tree(paths.sandbox(container_id))
    mounts.unmount(paths.rootfs(container_id))
    remove_tree(paths.bundle(container_id))
    paths.exit_file(container_id).unlink(missing_ok=True)
    hand.core.records.drop_container(container_id)
    remove_tree(paths.layer(container_id))
    hand.core.images.drop_reference(container_id)
    hand.core.containers.pop(container_id, None)
    hand.drop_locks(container_id)


async def tidy(hand: Hand) -> None:
    """Without containers nobody needs their cgroup."""
    async with hand.lock(NAMES):
        if all(record.phase is ContainerPhase.EXITED for record in hand.core.records.containers()):
            hand.core.cgroups.remove(hand.config.cgroup_parent)
