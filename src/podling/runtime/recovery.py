"""After a start: memory from records and kernel, and away with what was half-made.

The agent may have been killed at any instruction. What has a record and a living process is adopted, and
goes on as if nothing had been; what was being made is unmade; what ended meanwhile gets its exit code and
time from conmon's file. A process is ours only if PID, start time and boot agree with the record. Last,
files and namespaces that no record explains are removed: nobody else writes below our directories.
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

import msgspec

from podling.cni.library import IFNAME
from podling.cni.types import CNIError
from podling.linux import mounts, netns
from podling.linux.pidfd import Process, command_line
from podling.linux.processes import ProcessRef, reference
from podling.runtime import container_create, container_exit, exec_process, sandbox_events, sandbox_run
from podling.runtime.core import Container, Core, Sandbox, in_thread
from podling.runtime.crun import OCIError
from podling.runtime.images.errors import ImageError
from podling.runtime.names import NETNS_PREFIX
from podling.runtime.state import ContainerPhase, ContainerRecord, SandboxRecord, remove_tree

log = logging.getLogger(__name__)


async def recover(core: Core) -> None:
    """Call once, before any verb."""
    await in_thread(_prepare, core)
    for sandbox_record in sorted(core.records.sandboxes(), key=lambda r: r.created_at):
        _take_sandbox(core, sandbox_record)
    containers = sorted(core.records.containers(), key=lambda r: r.created_at)
    half_made = _unknown(core.paths.run_sandboxes, core.sandboxes)
    execs = {record.id: exec_process.abandoned(core.paths.bundle(record.id)) for record in containers}
    conmons: dict[str, int] = {}
    if half_made or any(execs.values()) or any(r.phase is ContainerPhase.CREATED for r in containers):
        # Only then was a helper at work that we must stop before we look at what it has made.
        conmons = await _end_helpers(core)
    for record in containers:
        for folder in execs[record.id]:
            exec_process.end_abandoned(folder, core.cgroups.procs(record.cgroup))
    for folder in half_made:
        await _unmake_sandbox(core, folder)
    for record in containers:
        await _take_container(core, record, conmons.get(record.id))
    await _forget_strangers(core)
    await in_thread(_sweep, core)


def _prepare(core: Core) -> None:
    core.paths.ensure()
    ensure_pause_rootfs(core)


def ensure_pause_rootfs(core: Core) -> None:
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


async def _end_helpers(core: Core) -> dict[str, int]:
    """Kill what crun of our last life is still at work: it would go on making what we are about to remove.

    Returns the conmons by container. They stay: one may watch over a container that has just been started.
    So does an exec that another process waits for.
    """
    conmons: dict[str, int] = {}
    for entry in Path("/proc").iterdir():
        words = command_line(int(entry.name)) if entry.name.isdecimal() else []
        root = core.crun.global_options[0]
        if f"--runtime-arg={root}" in words:
            conmons[next((w[6:] for w in words if w.startswith("--cid=")), "")] = int(entry.name)
        elif root in words and not _is_waited_for(words):
            await _kill(int(entry.name))
    return conmons


def _is_waited_for(words: list[str]) -> bool:
    """A `crun exec` of a living process."""
    pid_file = next((Path(w[11:]) for w in words if w.startswith("--pid-file=")), Path())
    folder = pid_file.parent
    is_exec = folder.name.startswith(exec_process.PREFIX) and folder.exists()
    return is_exec and folder not in exec_process.abandoned(folder.parent)


async def _kill(pid: int) -> None:
    process = Process.open(pid)
    if process is not None:
        process.send(signal.SIGKILL)
        await process.ended()
        process.close()


def _living(ref: ProcessRef | None) -> Process | None:
    return Process.open(ref.pid, ref.start_time) if ref is not None and ref.alive else None


def _take_sandbox(core: Core, record: SandboxRecord) -> None:
    sandbox = Sandbox(record)
    sandbox.pause = _living(record.pause)
    core.sandboxes[record.id] = sandbox
    sandbox_events.watch_pause(core, sandbox)


async def _unmake_sandbox(core: Core, folder: Path) -> None:
    """From the directory alone: the id gives the namespace, and pause's specification its cgroup."""
    sandbox_id = folder.name
    log.info("sandbox %s was half-made: removing it", sandbox_id[:12])
    try:
        cgroup = msgspec.json.decode((folder / "config.json").read_bytes())["linux"]["cgroupsPath"]
    except (OSError, msgspec.MsgspecError):
        cgroup = ""  # then there was no pause yet
    if cgroup:
        core.cgroups.kill(cgroup)
        await core.forget(sandbox_id, cgroup)
    pinned = core.paths.netns(sandbox_id)
    if pinned.exists():
        with suppress(CNIError):
            await core.cni.delete(sandbox_id, pinned)
    await in_thread(sandbox_run.remove_files, core, sandbox_id)


async def _take_container(core: Core, record: ContainerRecord, conmon: int | None) -> None:
    if record.sandbox_id not in core.sandboxes:
        log.info("container %s (%s) has no sandbox: removing it", record.id[:12], record.name)
        await _stop_start(core, record, conmon or (record.conmon.pid if record.conmon else None))
        await in_thread(container_create.remove_files, core, record)
        return
    container = Container(record)
    core.containers[record.id] = container
    _hold_image(core, container)
    if record.phase is ContainerPhase.CREATED:
        if conmon is not None or (core.paths.crun / record.id).exists():
            await _settle_start(core, container, conmon)
        elif not mounts.is_mount_point(core.paths.rootfs(record.id)):
            _lost(core, container)  # a reboot in between
    elif record.phase is ContainerPhase.RUNNING:
        _adopt(core, container)


async def _stop_start(core: Core, record: ContainerRecord, conmon: int | None) -> None:
    if conmon is not None and f"--cid={record.id}" in command_line(conmon):
        await _kill(conmon)
    core.cgroups.kill(record.cgroup)
    await core.forget(record.id, record.cgroup)


def _hold_image(core: Core, container: Container) -> None:
    """The kernel dropped our hold when we died."""
    with suppress(ImageError):
        image = core.images.resolve(container.record.image_id)
        container.hold = core.images.hold(image) if image else None
    for image_id in container.record.volume_images:
        with suppress(ImageError):
            volume = core.images.resolve(image_id)
            container.volume_holds += [core.images.hold(volume)] if volume else []


async def _settle_start(core: Core, container: Container, conmon: int | None) -> None:
    """We died within StartContainer: the container runs, or it is as if it had failed."""
    record = container.record
    state = await core.crun.state(record.id)
    if state is not None and state.get("status") == "running":
        record.process = reference(int(state["pid"]))
        record.conmon = reference(conmon) if conmon is not None else None
        record.phase = ContainerPhase.RUNNING
        record.started_at = time.time_ns()
        core.records.save_container(record)
        _adopt(core, container)
        return
    if container_exit.finish_from_file(core, container):
        return
    await _stop_start(core, record, conmon)
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


async def _forget_strangers(core: Core) -> None:
    """Containers and attachments whose record is lost (a power cut): only their state leads to them."""
    known = {*core.sandboxes, *core.containers}
    for leftover in _unknown(core.paths.crun, known):
        log.info("container %s has no record: removing it", leftover.name[:12])
        with suppress(OCIError):
            await core.crun.delete(leftover.name)
    for attachment in core.cni.attachments():
        if attachment.netns.startswith(_our_netns(core)) and attachment.container_id not in known:
            with suppress(CNIError):
                await core.cni.delete(attachment.container_id, attachment.netns, attachment.ifname)


async def collect_network_garbage(core: Core) -> None:
    """CNI GC: plugins let go of all that no sandbox has. Before the first sandbox is run or stopped.

    Attachments of other runtimes, who may share the cache and the network's name, stay valid.
    """
    others = [a for a in core.cni.attachments() if not a.netns.startswith(_our_netns(core))]
    valid = [(sandbox_id, IFNAME) for sandbox_id in core.sandboxes]
    try:
        await core.cni.gc([*valid, *((other.container_id, other.ifname) for other in others)])
    except CNIError as err:
        log.warning("CNI garbage collection: %s", err)


def _our_netns(core: Core) -> str:
    return str(core.config.netns_dir / NETNS_PREFIX)


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
