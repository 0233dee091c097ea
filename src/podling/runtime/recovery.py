"""After a start: memory from records and kernel, and away with what was half-made.

The agent may have been killed at any instruction. What has a complete record and a living process is adopted,
and goes on as if nothing had been; what was being made is unmade; what ended meanwhile gets its exit code and
time from conmon's file. A process is ours only if PID, start time and boot agree with the record. Last, files
and namespaces that no record explains are removed: nobody else writes below our directories.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from podling.cni.types import CNIError
from podling.linux import mounts, netns
from podling.linux.pidfd import Process, command_line
from podling.linux.processes import ProcessRef
from podling.runtime import container_create, container_exit, sandbox_events, sandbox_remove, sandbox_stop
from podling.runtime.core import Container, Core, Sandbox, in_thread
from podling.runtime.cri.errors import CRIError
from podling.runtime.crun import OCIError
from podling.runtime.images.errors import ImageError
from podling.runtime.names import NETNS_PREFIX
from podling.runtime.state import ContainerPhase, ContainerRecord, SandboxPhase, SandboxRecord, remove_tree

log = logging.getLogger(__name__)


async def recover(core: Core) -> None:
    """Call once, before any verb."""
    await in_thread(_prepare, core)
    sandboxes = sorted(core.records.sandboxes(), key=lambda r: r.created_at)
    containers = sorted(core.records.containers(), key=lambda r: r.created_at)
    if any(s.phase is SandboxPhase.CREATING for s in sandboxes) or any(
        c.phase is ContainerPhase.STARTING for c in containers
    ):
        await _end_helpers(core)
    for sandbox_record in sandboxes:
        await _take_sandbox(core, sandbox_record)
    for container_record in containers:
        await _take_container(core, container_record)
    await _forget_strangers(core)
    await in_thread(_sweep, core)


def _prepare(core: Core) -> None:
    core.paths.ensure()
    _ensure_pause_rootfs(core)


def _ensure_pause_rootfs(core: Core) -> None:
    """One read-only root file system with /pause in it serves all sandboxes."""
    rootfs = core.paths.pause_rootfs
    program = core.pause_program
    target = rootfs / "pause"
    if target.exists() and target.stat().st_mtime >= program.stat().st_mtime:
        return
    for name in ("", "dev", "proc", "sys", "etc"):
        (rootfs / name).mkdir(mode=0o755, exist_ok=True)
    beside = rootfs / f".pause.{os.getpid()}"
    shutil.copyfile(program, beside)
    beside.chmod(0o755)
    beside.rename(target)


async def _end_helpers(core: Core) -> None:
    """Kill what crun of our last life is still at work: it would go on making what we are about to remove."""
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal():
            continue
        words = command_line(int(entry.name))
        if words[:1] != [core.crun.program] or core.crun.global_options[0] not in words:
            continue
        helper = Process.open(int(entry.name))
        if helper is not None:
            helper.send(signal.SIGKILL)
            await helper.ended()
            helper.close()


def _living(ref: ProcessRef | None) -> Process | None:
    return Process.open(ref.pid, ref.start_time) if ref is not None and ref.alive else None


async def _take_sandbox(core: Core, record: SandboxRecord) -> None:
    if record.phase is SandboxPhase.CREATING:
        log.info("sandbox %s (%s) was half-made: removing it", record.id[:12], record.name)
        await _unmake_sandbox(core, record)
        return
    sandbox = Sandbox(record)
    sandbox.pause = _living(record.pause)
    core.sandboxes[record.id] = sandbox
    sandbox_events.watch_pause(core, sandbox)


async def _unmake_sandbox(core: Core, record: SandboxRecord) -> None:
    core.cgroups.kill(record.cgroup)
    await core.forget(record.id, record.cgroup)
    with suppress(CRIError):
        await sandbox_stop.release_network(core, record)
    await in_thread(sandbox_remove.remove_files, core, record)
    core.records.drop_sandbox(record.id)


async def _take_container(core: Core, record: ContainerRecord) -> None:
    if record.phase is ContainerPhase.CREATING or record.sandbox_id not in core.sandboxes:
        log.info("container %s (%s) was half-made: removing it", record.id[:12], record.name)
        await _unmake_container(core, record)
        return
    container = Container(record)
    core.containers[record.id] = container
    _hold_image(core, container)
    if record.phase is ContainerPhase.STARTING:
        await _settle_start(core, container)
    elif record.phase is ContainerPhase.CREATED:
        if not mounts.is_mount_point(core.paths.rootfs(record.id)):
            _lost(core, container)  # a reboot in between
    elif record.phase is ContainerPhase.RUNNING:
        _adopt(core, container)


async def _unmake_container(core: Core, record: ContainerRecord) -> None:
    _kill_conmon(core, record)
    core.cgroups.kill(record.cgroup)
    await core.forget(record.id, record.cgroup)
    await in_thread(container_create.remove_files, core, record)


def _hold_image(core: Core, container: Container) -> None:
    """The kernel dropped our hold when we died."""
    with suppress(ImageError):
        image = core.images.resolve(container.record.image_id)
        container.hold = core.images.hold(image) if image else None


async def _settle_start(core: Core, container: Container) -> None:
    """We died within StartContainer: the container runs, or it is as if it had failed."""
    record = container.record
    state = await core.crun.state(record.id)
    if state is not None and state.get("status") == "running" and record.process is not None:
        record.phase = ContainerPhase.RUNNING
        record.started_at = record.started_at or time.time_ns()
        core.records.save_container(record)
        _adopt(core, container)
        return
    if container_exit.finish_from_file(core, container):
        return
    _kill_conmon(core, record)
    core.cgroups.kill(record.cgroup)
    await core.forget(record.id, record.cgroup)
    container_exit.finish(
        core,
        container,
        exit_code=container_exit.UNKNOWN_EXIT_CODE,
        finished_at=time.time_ns(),
        reason="StartError",
        message="the runtime was interrupted while it started this container",
    )


def _adopt(core: Core, container: Container) -> None:
    container.process = _living(container.record.process)
    container.conmon = _living(container.record.conmon)
    container_exit.watch(core, container)


def _lost(core: Core, container: Container) -> None:
    container_exit.finish(
        core,
        container,
        exit_code=container_exit.UNKNOWN_EXIT_CODE,
        finished_at=time.time_ns(),
        reason="Unknown",
    )


def _kill_conmon(core: Core, record: ContainerRecord) -> None:
    """Of a container that is being unmade: it may still be waiting for crun."""
    try:
        pid = int((core.paths.bundle(record.id) / "conmon.pid").read_text())
    except (FileNotFoundError, ValueError):
        return
    conmon = Process.open(pid)
    if conmon is None:
        return
    # The PID may be another's by now: it is our conmon only if it was started for this container.
    if f"--cid={record.id}" in command_line(pid):
        conmon.send(signal.SIGKILL)
    conmon.close()


async def _forget_strangers(core: Core) -> None:
    """Containers and attachments whose record is lost (a power cut): only their state leads to them."""
    known = {*core.sandboxes, *core.containers}
    for leftover in _unknown(core.paths.crun, known):
        log.info("container %s has no record: removing it", leftover.name[:12])
        with suppress(OCIError):
            await core.crun.delete(leftover.name)
    ours = str(core.config.netns_dir / NETNS_PREFIX)
    for attachment in core.cni.attachments():
        if attachment.netns.startswith(ours) and attachment.container_id not in known:
            with suppress(CNIError):
                await core.cni.delete(attachment.container_id, attachment.netns, attachment.ifname)


def _sweep(core: Core) -> None:
    """Remove what no record explains."""
    paths = core.paths
    known = {*core.sandboxes, *core.containers}
    for folder in (paths.run_sandboxes, paths.run_containers, paths.containers, paths.crun):
        for leftover in _unknown(folder, known):
            log.info("removing %s: it belongs to nothing", leftover)
            mounts.unmount_below(leftover)
            remove_tree(leftover)
    for leftover in _unknown(paths.exits, known):
        leftover.unlink(missing_ok=True)
    for leftover in _unknown(paths.sandboxes, {f"{sandbox_id}.json" for sandbox_id in core.sandboxes}):
        leftover.unlink(missing_ok=True)
    for leftover in paths.run.glob("tty-*"):
        leftover.unlink(missing_ok=True)
    pinned = {sandbox.record.netns for sandbox in core.sandboxes.values()}
    for leftover in core.config.netns_dir.glob(f"{NETNS_PREFIX}*"):
        if str(leftover) not in pinned:
            netns.remove_netns(leftover)


def _unknown(folder: Path, known: Iterable[str]) -> list[Path]:
    return [path for path in folder.iterdir() if path.name not in known]
