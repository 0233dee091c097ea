"""What is to be done once a container has ended, by whoever notices first. Twice is fine."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from podling.cni.types import CNIError
from podling.linux import mounts, netns
from podling.runtime.byhand import hosts, network
from podling.runtime.byhand.hand import NAMES, UNKNOWN_EXIT_CODE, Hand, Held
from podling.runtime.conmon import read_exit
from podling.runtime.core import in_thread
from podling.runtime.state import ContainerPhase

OOM = "OOMKilled"


async def settle(hand: Hand, held: Held) -> bool:
    """The caller holds the container's lock. False while it runs."""
    record = held.record
    if record.phase not in (ContainerPhase.RUNNING, ContainerPhase.STARTING):
        return True
    if held.alive:
        return False
    exit_file = hand.paths.exit_file(record.id)
    code, ended = read_exit(exit_file) or (UNKNOWN_EXIT_CODE, 0)
    record.exit_code, record.finished_at = code, ended
    marked = (hand.paths.bundle(record.id) / "oom").exists()
    oom = code != 0 and (marked or hand.core.cgroups.oom_kills(record.cgroup) > 0)
    record.reason = OOM if oom else "Completed" if code == 0 else "Error"
    # A crash between conmon's start and its record leaves a created container that only crun can end.
    await hand.core.forget(record.id, record.cgroup, ended=record.process is not None)
    await release(hand, held)
    record.phase = ContainerPhase.EXITED
    record.process = record.conmon = None
    hand.save(held)
    async with hand.lock(NAMES):
        await in_thread(hosts.refresh, hand, held.settings.network)
    exit_file.unlink(missing_ok=True)
    held.container.ended.set()
    return True


async def release(hand: Hand, held: Held) -> None:
    """Take the network down: who still shares the namespace keeps it, without eth0. And /dev/shm."""
    settings = held.settings
    if settings.netns:
        cni = network.cni_of(hand, settings.network)
        place = settings.netns if netns.is_netns(settings.netns) else None  # gone after a reboot
        await asyncio.to_thread(network.ensure_plugins, hand)
        with suppress(CNIError):  # a network configuration that is gone has left nothing to undo
            await cni.delete(held.id, place)
        await in_thread(netns.remove_netns, settings.netns)
        settings.netns, settings.ips = "", []
    await in_thread(mounts.unmount, hand.paths.shm(held.id))
