"""Starting a container: its namespaces, its network, its specification, conmon and crun."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from podling.cni.types import CNIError
from podling.linux import mounts, netns
from podling.linux.processes import reference
from podling.runtime import host, oci, security
from podling.runtime.byhand import hosts, network, settle
from podling.runtime.byhand.create import mount_rootfs
from podling.runtime.byhand.errors import EXIT_REFUSED, HandError, command_error
from podling.runtime.byhand.hand import NAMES, Hand, Held
from podling.runtime.byhand.settings import joined
from podling.runtime.conmon import ConmonOptions
from podling.runtime.container_start import explain
from podling.runtime.core import in_thread, to_the_end
from podling.runtime.crun import OCIError
from podling.runtime.sandbox_files import mounted_files
from podling.runtime.state import ContainerPhase, encode_json
from podling.runtime.view import State

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
        specification = await in_thread(_specification, hand, held)
        (hand.paths.bundle(record.id) / "config.json").write_bytes(encode_json(specification))
        # Before anything runs: conmon may be faster than we are.
        record.phase = ContainerPhase.STARTING
        hand.save(held)
        await to_the_end(_run(hand, held, attach))
    except (OCIError, OSError, TimeoutError, CNIError, HandError) as err:
        raise await _failed(hand, held, err) from err


def _prepare(hand: Hand, held: Held) -> None:
    mount_rootfs(hand, held)
    if not held.settings.ipc:
        shm = hand.paths.shm(held.id)
        shm.mkdir(exist_ok=True)
        if not mounts.is_mount_point(shm):
            mounts.mount_tmpfs(shm, size_bytes=hand.config.shm_bytes)
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
    held.container.hold = hand.core.images.hold(hand.core.images.get(record.image_id))
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
            kept=(held.container.hold.fd,),
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
    problem = explain(hand.paths.bundle(record.id), hand.paths.rootfs(record.id))
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


def _specification(hand: Hand, held: Held) -> dict[str, Any]:
    core, record, settings = hand.core, held.record, held.settings
    config = record.config
    context = oci.security_context(config)
    machine = oci.with_devices(core.host, host.host_devices()) if context.privileged else core.host
    granted = frozenset(oci.capabilities(context, machine.capabilities))
    profile = None if context.privileged else security.resolve_seccomp(context.seccomp, granted)
    image = core.images.get(record.image_id).run_config
    given = [f"{env.key}={env.value.decode(errors='replace')}" for env in config.envs]
    spec = oci.container_spec(
        oci.ContainerInput(
            config=config,
            args=record.command,
            env=[*(image.env or ()), f"HOSTNAME={_hostname(settings.hostname, settings.network)}", *given],
            cwd=config.working_dir or image.working_dir or "/",
            user=record.user,
            rootfs=core.paths.rootfs(record.id),
            namespaces=_namespaces(hand, held),
            cgroup=record.cgroup,
            host=machine,
            shm=_shm(hand, held),
            sandbox_files=_files(hand, held),
            annotations={"io.podling.name": record.name},
            seccomp=profile or oci.Seccomp(),
        )
    )
    if settings.network != "host":
        spec["hostname"] = settings.hostname
    if settings.netns:
        # As in Docker: a container's ports are its own, so port 80 needs no privilege, nor does ping.
        spec["linux"]["sysctl"] = {
            "net.ipv4.ip_unprivileged_port_start": "0",
            "net.ipv4.ping_group_range": "0 2147483647",
        }
    return spec


def _hostname(hostname: str, mode: str) -> str:
    return os.uname().nodename if mode == "host" else hostname


def _namespaces(hand: Hand, held: Held) -> dict[str, str]:
    """Docker's: network, IPC, UTS and PID of its own, unless told otherwise. Empty path: a new one."""
    settings = held.settings
    wanted: dict[str, str] = {}
    if settings.network != "host":
        other = joined(settings.network)
        wanted["network"] = _path(hand, other, "network", "net") if other else settings.netns
        wanted["uts"] = ""
    for kind, mode in (("ipc", settings.ipc), ("pid", settings.pid)):
        if mode != "host":
            wanted[kind] = _path(hand, joined(mode), kind, kind) if joined(mode) else ""
    return wanted


def _path(hand: Hand, container_id: str, what: str, name: str) -> str:
    seen = hand.find(container_id)
    if seen.state is not State.RUNNING:
        raise HandError(f"cannot join {what} of a non running container: {container_id}")
    return f"/proc/{seen.pid}/ns/{name}"


def _shm(hand: Hand, held: Held) -> Path:
    if held.settings.ipc == "host":
        return Path("/dev/shm")
    return hand.paths.shm(joined(held.settings.ipc) or held.id)


def _files(hand: Hand, held: Held) -> dict[str, Path]:
    """hosts, hostname and resolv.conf; those of the container whose network it shares."""
    other = joined(held.settings.network)
    folder = hand.paths.sandbox(other or held.id)
    return {**mounted_files(folder), hosts.HOSTS: folder / "hosts"}


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
