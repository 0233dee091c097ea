"""CreateContainer: the root file system and the specification. No process yet: that is StartContainer's.

The writable layer is an overlay over the image's unpacked root file system. containerd divides the work in
the same way, so what is wrong with the command shows at the start, where the kubelet expects it.
"""

from __future__ import annotations

import os
import signal
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from podling.runtime import cdi, container_mounts, host, names, oci, sandbox_events, security, userns, users
from podling.runtime.container_validate import check_config, check_privileged, check_propagation
from podling.runtime.core import Container, Core, Sandbox, in_thread
from podling.runtime.cri import messages as cri
from podling.runtime.cri.errors import Code, CRIError
from podling.runtime.cri.messages import NamespaceMode
from podling.runtime.images.errors import ImageError
from podling.runtime.images.record import ImageRecord
from podling.runtime.sandbox_files import mounted_files
from podling.runtime.state import ContainerPhase, ContainerRecord, encode_json, remove_tree


@dataclass(frozen=True, slots=True)
class _Wanted:
    """Everything CreateContainer was given, resolved."""

    sandbox: Sandbox
    config: cri.ContainerConfig
    image: ImageRecord
    volume_images: dict[str, ImageRecord]
    """By container path."""


async def create_container(core: Core, request: cri.CreateContainerRequest) -> cri.CreateContainerResponse:
    wanted = _validate(core, request)
    config, sandbox = wanted.config, wanted.sandbox
    name = names.container_name(config.metadata or cri.ContainerMetadata(), sandbox.record.metadata)
    core.check_name_is_free(name)
    container_id = names.new_id()
    container = Container(
        ContainerRecord(
            id=container_id,
            sandbox_id=sandbox.id,
            name=name,
            config=config,
            image_id=wanted.image.id,
            image_name=_image_name(config, wanted.image),
            image_ref=next(iter(wanted.image.repo_digests), ""),
            command=_command(config, wanted.image),
            volume_images=sorted({image.id for image in wanted.volume_images.values()}),
            stop_signal=_stop_signal(config, wanted.image),
            log_path=_log_path(sandbox.record.config, config),
            cgroup=f"{Path(sandbox.record.cgroup).parent}/{container_id}",
            created_at=time.time_ns(),
        )
    )
    core.expect_start()
    with core.timings.phase("container: create", container_id):
        core.containers[container_id] = container
        try:
            await _create(core, container, wanted)
        except BaseException:
            del core.containers[container_id]
            container.release()
            raise
    kind = cri.ContainerEventType.CONTAINER_CREATED_EVENT
    sandbox_events.publish(core, sandbox.id, container_id, kind)
    return cri.CreateContainerResponse(container_id=container_id)


async def _create(core: Core, container: Container, wanted: _Wanted) -> None:
    record = container.record
    async with AsyncExitStack() as undo:
        try:
            container.hold = core.images.hold(wanted.image)
            container.volume_holds = [core.images.hold(image) for image in wanted.volume_images.values()]
        except ImageError as err:
            raise CRIError(err.code, err.message) from err
        undo.push_async_callback(in_thread, remove_files, core, record)
        await in_thread(_prepare, core, record, wanted)
        record.phase = ContainerPhase.CREATED
        core.records.save_container(record)
        undo.pop_all()


def _validate(core: Core, request: cri.CreateContainerRequest) -> _Wanted:
    config = request.config
    if config is None or config.metadata is None or not config.metadata.name:
        raise CRIError(Code.INVALID_ARGUMENT, "container config needs metadata with a name")
    if config.image is None or not config.image.image:
        raise CRIError(Code.INVALID_ARGUMENT, f"container {config.metadata.name}: no image named")
    sandbox = core.sandbox(request.pod_sandbox_id)
    if not sandbox.ready:
        raise CRIError(Code.FAILED_PRECONDITION, f"sandbox {sandbox.id} is not ready")
    check_config(config)
    check_privileged(config, request.sandbox_config)
    cdi.requested(config)
    try:
        image = core.images.resolve(config.image.image)
    except ImageError as err:
        raise CRIError(err.code, err.message) from err
    if image is None:
        raise CRIError(Code.NOT_FOUND, f"image {config.image.image!r} not found")
    return _Wanted(sandbox, config, image, container_mounts.volume_images(core, config))


def _image_name(config: cri.ContainerConfig, image: ImageRecord) -> str:
    given = config.image or cri.ImageSpec()
    return given.user_specified_image or next(iter(image.repo_tags), given.image)


def _command(config: cri.ContainerConfig, image: ImageRecord) -> list[str]:
    """As Kubernetes has it: `command` replaces entrypoint and cmd, `args` alone replaces cmd."""
    run = image.run_config
    if config.command:
        words = [*config.command, *config.args]
    else:
        words = [*(run.entrypoint or ()), *(config.args or run.cmd or ())]
    if not words:
        name = config.metadata.name if config.metadata else ""
        raise CRIError(Code.INVALID_ARGUMENT, f"container {name}: no command specified")
    return words


def _stop_signal(config: cri.ContainerConfig, image: ImageRecord) -> int:
    if config.stop_signal is not cri.Signal.RUNTIME_DEFAULT:
        name = config.stop_signal.name.replace("PLUS", "+").replace("MINUS", "-")
    else:
        name = image.run_config.stop_signal or "SIGTERM"
    try:
        return signal_number(name)
    except InvalidSignalError as err:
        raise CRIError(Code.INVALID_ARGUMENT, f"invalid stop signal {name!r}") from err


class InvalidSignalError(ValueError):
    """Not the name or number of a signal."""


def signal_number(name: str) -> int:
    """`SIGTERM`, `TERM`, `15`, `SIGRTMIN+3`. Raises `InvalidSignalError`."""
    base, sign, offset = name.upper().removeprefix("SIG").partition("-" if "-" in name else "+")
    try:
        if name.isdecimal():
            return int(signal.Signals(int(name)))
        number = int(signal.Signals[f"SIG{base}"])
        return number + int(f"{sign}{offset}") if sign else number
    except (KeyError, ValueError):
        raise InvalidSignalError(name) from None


def _log_path(sandbox: cri.PodSandboxConfig, config: cri.ContainerConfig) -> str:
    return os.path.join(sandbox.log_directory, config.log_path) if config.log_path else ""


# on disk, in a thread


def _prepare(core: Core, record: ContainerRecord, wanted: _Wanted) -> None:
    layer = core.paths.layer(record.id)
    layer.mkdir(mode=0o711)
    lower = core.images.rootfs_path(wanted.image)
    record.user = _user(lower, wanted)
    users = wanted.sandbox.record.user_namespace
    if users is not None:
        userns.check_user(users, record.user)
    container_mounts.mount_rootfs(layer, lower, wanted.sandbox)
    check_propagation(record.config)
    sources = container_mounts.sources(core, record, wanted.sandbox, wanted.volume_images)
    bundle = core.paths.bundle(record.id)
    bundle.mkdir(mode=0o700)
    specification = _specification(core, record, wanted, sources)
    cdi.inject(specification, cdi.requested(record.config), core.config.cdi_spec_dirs)
    record.hooks = cdi.has_hooks(specification)
    (bundle / "config.json").write_bytes(encode_json(specification))
    if record.log_path:
        os.makedirs(os.path.dirname(record.log_path), mode=0o755, exist_ok=True)


def user_request(context: cri.LinuxContainerSecurityContext, image_user: str) -> users.UserRequest:
    return users.UserRequest(
        image_user=image_user,
        uid=context.run_as_user,
        username=context.run_as_username,
        gid=context.run_as_group,
        groups=context.supplemental_groups,
        merge_image_groups=context.supplemental_groups_policy is cri.SupplementalGroupsPolicy.Merge,
    )


def _user(lower: Path, wanted: _Wanted) -> cri.LinuxContainerUser:
    context = oci.security_context(wanted.config)
    try:
        user = users.resolve(lower, user_request(context, wanted.image.user))
    except users.UnknownUserError as err:
        raise CRIError(Code.INVALID_ARGUMENT, str(err)) from err
    return cri.LinuxContainerUser(uid=user.uid, gid=user.gid, supplemental_groups=list(user.groups))


def _specification(
    core: Core, record: ContainerRecord, wanted: _Wanted, sources: dict[str, Path]
) -> dict[str, Any]:
    config, sandbox = wanted.config, wanted.sandbox
    context = oci.security_context(config)
    security.check_selinux(context.selinux_options)
    machine = core.host
    if context.privileged:
        machine = oci.with_devices(machine, host.host_devices())
    granted = frozenset(oci.capabilities(context, machine.capabilities))
    given = security.profile_of(context.seccomp, context.seccomp_profile_path)
    profile = None if context.privileged else security.resolve_seccomp(given, granted)
    apparmor = security.profile_of(context.apparmor, context.apparmor_profile)
    run = wanted.image.run_config
    return oci.container_spec(
        oci.ContainerInput(
            config=config,
            args=record.command,
            env=[*(run.env or ()), f"HOSTNAME={_hostname(sandbox)}", *_environment(config)],
            cwd=config.working_dir or run.working_dir or "/",
            user=record.user,
            rootfs=core.paths.rootfs(record.id),
            namespaces=_namespaces(core, sandbox, context),
            cgroup=record.cgroup,
            host=machine,
            shm=_shm(core, sandbox),
            sandbox_files=mounted_files(core.paths.sandbox(sandbox.id)),
            annotations=oci.container_annotations(
                sandbox.id, sandbox.record.metadata, config, record.image_name
            ),
            devices=[device for given in config.devices for device in _devices(given)],
            seccomp=profile or oci.Seccomp(),
            apparmor=security.resolve_apparmor(apparmor, privileged=context.privileged),
            sources=sources,
            user_namespace=sandbox.record.user_namespace,
        )
    )


def _devices(given: cri.Device) -> list[dict[str, Any]]:
    try:
        return host.devices(given.host_path, given.container_path, given.permissions)
    except ValueError as err:
        raise CRIError(Code.INVALID_ARGUMENT, str(err)) from err


def _hostname(sandbox: Sandbox) -> str:
    return sandbox.record.config.hostname or os.uname().nodename


def _environment(config: cri.ContainerConfig) -> list[str]:
    return [f"{env.key}={env.value.decode(errors='replace')}" for env in config.envs]


def _namespaces(core: Core, sandbox: Sandbox, context: cri.LinuxContainerSecurityContext) -> dict[str, str]:
    """What to join: pause's namespaces by the paths of its process, the network by its pinned file."""
    options = context.namespace_options or sandbox.record.namespaces
    assert sandbox.record.pause is not None  # a ready sandbox has one
    pause = f"/proc/{sandbox.record.pause.pid}/ns"
    joined: dict[str, str] = {}
    if sandbox.record.user_namespace is not None:
        joined["user"] = f"{pause}/user"
    if options.network is not NamespaceMode.NODE:
        joined |= {"network": sandbox.record.netns, "uts": f"{pause}/uts"}
    if options.ipc is not NamespaceMode.NODE:
        joined["ipc"] = f"{pause}/ipc"
    if options.pid is NamespaceMode.CONTAINER:
        joined["pid"] = ""
    elif options.pid is NamespaceMode.POD:
        joined["pid"] = f"{pause}/pid"
    elif options.pid is NamespaceMode.TARGET:
        joined["pid"] = f"/proc/{_target_pid(core, sandbox, options.target_id)}/ns/pid"
    return joined


def _target_pid(core: Core, sandbox: Sandbox, container_id: str) -> int:
    target = core.container(container_id)
    if target.record.sandbox_id != sandbox.id:
        text = f"target container {container_id!r} is not in sandbox {sandbox.id!r}"
        raise CRIError(Code.INVALID_ARGUMENT, text)
    if not target.running or target.record.process is None:
        raise CRIError(Code.FAILED_PRECONDITION, f"target container {container_id!r} is not running")
    return target.record.process.pid


def _shm(core: Core, sandbox: Sandbox) -> Path:
    shared_with_node = sandbox.record.namespaces.ipc is NamespaceMode.NODE
    return Path("/dev/shm") if shared_with_node else core.paths.shm(sandbox.id)


def remove_files(core: Core, record: ContainerRecord) -> None:
    """Unmount and remove all of a container. Twice is fine."""
    container_mounts.remove(core, record.id)
    remove_tree(core.paths.bundle(record.id))
    core.paths.exit_file(record.id).unlink(missing_ok=True)
    remove_tree(core.paths.layer(record.id))
