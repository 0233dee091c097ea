"""Starting a container: its namespaces, its network, its specification, conmon and crun."""

from __future__ import annotations

import sys
import time
from collections.abc import Awaitable, Callable

from podling.cni.types import CNIError
from podling.linux import mounts, netns
from podling.linux.processes import reference
from podling.runtime.byhand import hosts, network, settle
from podling.runtime.byhand.create import prepare_to_run
from podling.runtime.byhand.errors import EXIT_REFUSED, HandError, command_error
from podling.runtime.byhand.hand import NAMES, Hand, Held
from podling.runtime.byhand.settings import joined
from podling.runtime.byhand.spec import rootfs_of, specification_of
from podling.runtime.conmon import ConmonOptions
from podling.runtime.container_start import explain
from podling.runtime.core import in_thread, to_the_end
from podling.runtime.crun import OCIError
from podling.runtime.state import ContainerPhase, encode_json

Attach = Callable[[Held], Awaitable[None]]


async def start(hand: Hand, held: Held, *, attach: Attach | None = None) -> None:
    """The caller holds the container's lock; it is created or has ended.

    `attach` is called when conmon listens and the command does not run yet, so that no output is missed.
    Raises `HandError`; the container is then exited with the code that `podling run` should end with.
    """
    record, settings = held.record, held.settings
    hand.paths.exit_file(record.id).unlink(missing_ok=True)
    record.exit_code, record.finished_at, record.reason, record.message = 0, 0, "", ""
    settings.stopped = False
    try:
        await in_thread(_prepare, hand, held)
        await network.attach(hand, held)
        async with hand.lock(NAMES):
            await in_thread(hosts.write, hand, held)
        specification = await in_thread(specification_of, hand, held)
        (hand.paths.bundle(record.id) / "config.json").write_bytes(encode_json(specification))
        # Before anything runs: conmon may be faster than we are.
        record.phase = ContainerPhase.STARTING
        hand.save(held)
        await to_the_end(_run(hand, held, attach))
    except (OCIError, OSError, TimeoutError, CNIError, HandError) as err:
        raise await _failed(hand, held, err) from err


def _prepare(hand: Hand, held: Held) -> None:
    prepare_to_run(hand, held)
    if not held.settings.ipc:
        shm = hand.paths.shm(held.id)
        shm.mkdir(exist_ok=True)
        if not mounts.is_mount_point(shm):
            mounts.mount_tmpfs(shm, size_bytes=held.settings.extras.shm_bytes or hand.config.shm_bytes)
    hand.core.cgroups.create(hand.config.cgroup_parent)
    if held.settings.network not in ("host",) and not joined(held.settings.network):
        pinned = hand.paths.netns(held.id)
        netns.remove_netns(pinned)
        netns.create_netns(pinned)
        held.settings.netns = str(pinned)


async def _run(hand: Hand, held: Held, attach: Attach | None) -> None:
    record, paths, config = held.record, hand.paths, hand.config
    after = ("-I", "-m", "podling.runtime.byhand.after")
    dirs = (str(config.root_dir), str(config.run_dir), str(config.image_dir))
    # Nobody else of ours lives as long as the container: conmon keeps the image from being removed.
    hold = hand.core.images.hold(hand.core.images.get(record.image_id)) if record.image_id else None
    held.container.hold = hold
    started = await hand.core.conmon.create(
        ConmonOptions(
            container_id=record.id,
            name=record.name,
            bundle=paths.bundle(record.id),
            exits=paths.exits,
            log_path=record.log_path,
            terminal=record.config.tty,
            stdin=record.config.stdin,
            stdin_once=record.config.stdin_once,
            exit_command=(sys.executable, *after, *dirs, record.id),
            kept=(hold.fd,) if hold else (),
            log_max_bytes=held.settings.extras.log_max_bytes,
        )
    )
    held.container.conmon = started.conmon
    record.conmon = reference(started.conmon.pid)
    record.process = reference(started.pid)
    if attach is not None:
        await attach(held)
    record.phase = ContainerPhase.RUNNING
    record.started_at = time.time_ns()
    hand.save(held)
    await hand.core.crun.start(record.id)


async def _failed(hand: Hand, held: Held, err: Exception) -> HandError:
    """Clean up; the container stays, exited, to be looked at and removed."""
    record = held.record
    problem = explain(hand.paths.bundle(record.id), rootfs_of(hand, held))
    error = err if isinstance(err, HandError) else command_error(problem) if problem else HandError(str(err))
    await hand.core.forget(record.id, record.cgroup)
    await settle.release(hand, held)
    record.phase = ContainerPhase.EXITED
    record.process = record.conmon = None
    record.started_at = record.started_at or time.time_ns()
    record.finished_at = time.time_ns()
    record.exit_code = error.exit_code if error.exit_code != EXIT_REFUSED else 128
    record.reason, record.message = "StartError", str(error)
    held.settings.stopped = True  # as in Docker: what cannot start is not tried again
    hand.save(held)
    return error


async def start_again(hand: Hand, container_id: str) -> None:
    """Of a container that has ended. Fine when it runs."""
    async with hand.lock(container_id):
        held = hand.load(container_id)
        monitor = held.container.conmon
        if not await settle.settle(hand, held):
            return
        held.settings.restarts = 0
        hand.save(held)
    if monitor is not None:
        await monitor.ended()  # it shares its directory with the next
        monitor.close()
    async with hand.lock(container_id):
        held = hand.load(container_id)
        if await settle.settle(hand, held):
            await start(hand, held)
