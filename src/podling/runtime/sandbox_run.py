"""RunPodSandbox: a network namespace wired by CNI, and pause to hold the other namespaces open.

The network namespace is made and pinned first, so that it is there before pause is and outlives it: wiring it
and starting pause run side by side. (One that belongs to a user namespace comes with pause, and is pinned and
wired then.) Pause is started by crun alone, without conmon: it has no output, no terminal and no exit code
anyone asks for, and its end is seen through a pidfd. That saves a process (about a megabyte) and some 10 ms a
pod.

Every step registers its undo; a failure or a cancellation undoes all of them, newest first. A crash is undone
by the next start (`recovery`): a sandbox that has a directory and no record was never finished.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from podling.cni.types import CNIError, Result
from podling.linux import mounts, netns
from podling.linux.pidfd import Process
from podling.linux.processes import reference
from podling.runtime import launch_script, names, oci, pause_launch, sandbox_events, security, userns
from podling.runtime.bandwidth import bandwidth_of
from podling.runtime.core import Core, Sandbox, in_thread, to_the_end
from podling.runtime.cri import messages as cri
from podling.runtime.cri.errors import Code, CRIError
from podling.runtime.cri.messages import NamespaceMode
from podling.runtime.crun import OCIError
from podling.runtime.launch_script import ScriptError
from podling.runtime.sandbox_files import write_sandbox_files
from podling.runtime.sandbox_stop import cni_arguments, release_network
from podling.runtime.state import SandboxPhase, SandboxRecord, encode_json, remove_tree

HOST_NAME_MAX = 64  # <linux/utsname.h>, __NEW_UTS_LEN
SANDBOX_DEFAULTS = cri.LinuxSandboxSecurityContext()

log = logging.getLogger(__name__)


async def run_pod_sandbox(core: Core, request: cri.RunPodSandboxRequest) -> cri.RunPodSandboxResponse:
    config, metadata = _validate(request)
    name = names.sandbox_name(metadata)
    core.check_name_is_free(name)
    sandbox_id = names.new_id()
    sandbox = Sandbox(
        SandboxRecord(
            id=sandbox_id,
            name=name,
            config=config,
            runtime_handler=request.runtime_handler,
            created_at=time.time_ns(),
            cgroup=f"{_cgroup_parent(core, config)}/{sandbox_id}",
        )
    )
    with core.timings.phase("sandbox: all", sandbox_id):
        core.sandboxes[sandbox_id] = sandbox
        async with sandbox.lock:
            try:
                await _create(core, sandbox)
            except BaseException:
                del core.sandboxes[sandbox_id]
                raise
    return cri.RunPodSandboxResponse(pod_sandbox_id=sandbox_id)


async def _create(core: Core, sandbox: Sandbox) -> None:
    record = sandbox.record
    async with AsyncExitStack() as undo:
        if record.namespaces.network is not NamespaceMode.NODE:
            record.netns = str(core.paths.netns(sandbox.id))
        with core.timings.phase("sandbox: netns", sandbox.id):
            undo.push_async_callback(in_thread, remove_files, core, sandbox.id)
            await in_thread(_prepare, core, record)
        # Before ADD, not after: CNI spec, "Lifecycle & Ordering", wants DEL even if ADD fails.
        undo.push_async_callback(release_network, core, record)
        undo.push_async_callback(_end_pause, core, sandbox)
        result = await _connect(core, sandbox)
        record.ips = [str(address.ip) for address in result.addresses_of("eth0")] if result else []
        record.phase = SandboxPhase.READY
        core.records.save_sandbox(record)
        undo.pop_all()
    sandbox_events.watch_pause(core, sandbox)
    sandbox_events.publish(core, sandbox.id, sandbox.id, cri.ContainerEventType.CONTAINER_CREATED_EVENT)
    sandbox_events.publish(core, sandbox.id, sandbox.id, cri.ContainerEventType.CONTAINER_STARTED_EVENT)


async def _connect(core: Core, sandbox: Sandbox) -> Result | None:
    """Pause and the network, side by side; what CNI says of the latter."""
    record = sandbox.record
    if record.user_namespace is not None:
        # The network namespace must belong to the user namespace, which is made with pause.
        await _start_pause(core, sandbox)
        assert record.pause is not None
        await in_thread(netns.pin_netns, record.pause.pid, record.netns)
        return await _wire(core, record)
    async with _Together() as tasks:
        network = tasks.create_task(_wire(core, record), name=f"cni {sandbox.id[:12]}")
        tasks.create_task(_start_pause(core, sandbox), name=f"pause {sandbox.id[:12]}")
    return network.result()


def _validate(request: cri.RunPodSandboxRequest) -> tuple[cri.PodSandboxConfig, cri.PodSandboxMetadata]:
    config = request.config
    if config is None or config.metadata is None or not config.metadata.name or not config.metadata.uid:
        raise CRIError(Code.INVALID_ARGUMENT, "sandbox config needs metadata with a name and a uid")
    if request.runtime_handler:
        raise CRIError(Code.NOT_FOUND, f"no runtime for {request.runtime_handler!r} is configured")
    options = oci.namespace_options(config.linux)
    userns.check(options, config.metadata.name)
    if problem := _problem(config):
        raise CRIError(Code.INVALID_ARGUMENT, f"pod {config.metadata.name}: {problem}")
    return config, config.metadata


def _problem(config: cri.PodSandboxConfig) -> str:
    """What crun, the kernel or a plugin would refuse later, or what would leave the place it is meant for."""
    if len(config.hostname) > HOST_NAME_MAX:
        return f"hostname {config.hostname!r} is longer than {HOST_NAME_MAX} characters"
    parent = config.linux.cgroup_parent if config.linux else ""
    if ".." in parent.split("/"):
        return f"cgroup parent {parent!r} has '..' in it"
    if config.log_directory and not config.log_directory.startswith("/"):
        return f"log directory {config.log_directory!r} is not an absolute path"
    context = (config.linux and config.linux.security_context) or SANDBOX_DEFAULTS
    if context.run_as_group is not None and context.run_as_user is None:
        return f"user group {context.run_as_group} is specified without user"
    for port in config.port_mappings:
        if not (0 < port.container_port < 1 << 16 and 0 <= port.host_port < 1 << 16):
            return f"port mapping {port.host_port}:{port.container_port} is out of range"
    return ""


def _cgroup_parent(core: Core, config: cri.PodSandboxConfig) -> str:
    given = config.linux.cgroup_parent if config.linux else ""
    return "/" + (given or core.config.cgroup_parent).strip("/")


def _prepare(core: Core, record: SandboxRecord) -> None:
    """Everything pause and the containers need on disk, and the namespace."""
    folder = core.paths.sandbox(record.id)
    folder.mkdir(mode=0o711)
    if record.netns and record.user_namespace is None:
        netns.create_netns(record.netns)
    owner = userns.root(record.user_namespace)
    write_sandbox_files(folder, record.config, owner=owner)
    if record.namespaces.ipc is not NamespaceMode.NODE:
        shm = core.paths.shm(record.id)
        shm.mkdir()
        mounts.mount_tmpfs(shm, size_bytes=core.config.shm_bytes, owner=owner)
    if record.config.log_directory:
        os.makedirs(record.config.log_directory, mode=0o755, exist_ok=True)
    # On cgroup v2 the controllers must be handed down to the parent before crun comes; the kubelet does it
    # for the cgroups that it makes, this is for all others.
    core.cgroups.create(str(Path(record.cgroup).parent))
    (folder / "config.json").write_bytes(encode_json(_pause_spec(core, record)))


def _pause_spec(core: Core, record: SandboxRecord) -> dict[str, Any]:
    context = (record.config.linux and record.config.linux.security_context) or SANDBOX_DEFAULTS
    profile = security.profile_of(context.seccomp, context.seccomp_profile_path)
    return oci.pause_spec(
        oci.PauseInput(
            config=record.config,
            rootfs=core.paths.pause_rootfs,
            netns=record.netns,
            cgroup=record.cgroup,
            host=core.host,
            annotations=oci.pause_annotations(record.id, record.metadata),
            seccomp=security.resolve_seccomp(profile, frozenset()),
            shared_pid=record.namespaces.pid is NamespaceMode.POD,
        )
    )


async def _wire(core: Core, record: SandboxRecord) -> Result | None:
    if not record.netns:
        return None
    try:
        bandwidth_of(record.config.annotations)
    except ValueError as err:
        raise CRIError(Code.INVALID_ARGUMENT, str(err)) from err
    with core.timings.phase("sandbox: cni add", record.id):
        try:
            return await core.cni.add(record.id, record.netns, **cni_arguments(record))
        except CNIError as err:
            raise CRIError(Code.UNKNOWN, f'failed to setup network for sandbox "{record.id}": {err}') from err


async def _start_pause(core: Core, sandbox: Sandbox) -> None:
    record = sandbox.record
    folder = core.paths.sandbox(sandbox.id)
    with core.timings.phase("sandbox: pause", sandbox.id):
        try:
            pid = await to_the_end(_launch(core, record, folder))
        except (OCIError, ScriptError, OSError, TimeoutError) as err:
            raise CRIError(
                Code.UNKNOWN, f'failed to start the pause container of sandbox "{record.id}": {err}'
            ) from err
    record.pause = reference(pid)
    sandbox.pause = Process.open(pid, record.pause.start_time) if record.pause else None
    if sandbox.pause is None:
        raise CRIError(Code.UNKNOWN, f'the pause container of sandbox "{record.id}" ended at once')


async def _launch(core: Core, record: SandboxRecord, folder: Path) -> int:
    """By our own hand when it is an ordinary pause, else by crun; its PID."""
    if core.launch is not None:
        script = pause_launch.steps(_pause_spec(core, record), core.cgroups.leaf_files(record.cgroup))
        if script is not None:
            await in_thread(core.cgroups.create_leaf, record.cgroup)
            return await launch_script.run(core.runner, core.launch, script)
    return await core.crun.run_detached(record.id, folder, folder / "pid")


async def _end_pause(core: Core, sandbox: Sandbox) -> None:
    if sandbox.pause is not None:
        sandbox.pause.close()
        sandbox.pause = None
    await core.forget(sandbox.id, sandbox.record.cgroup)


def remove_files(core: Core, sandbox_id: str) -> None:
    """The namespace's pin and everything on disk but the record. Twice is fine."""
    netns.remove_netns(core.paths.netns(sandbox_id))
    mounts.unmount(core.paths.shm(sandbox_id))
    remove_tree(core.paths.sandbox(sandbox_id))


class _Together(asyncio.TaskGroup):
    """A task group that raises the first error itself: our callers know CRIError, not groups."""

    async def __aexit__(self, *details: Any) -> None:
        try:
            await super().__aexit__(*details)
        except BaseExceptionGroup as group:
            raise group.exceptions[0] from None
