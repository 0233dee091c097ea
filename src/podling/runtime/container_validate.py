"""What a container's configuration must not say: refused at CreateContainer, with the field in the text.

Most of it would fail later anyway, in crun's words or in the kernel's; some of it would not fail at all and
mean something else (a mount on an empty path would hide the root file system).
"""

from __future__ import annotations

from podling.linux import mounts
from podling.linux.mounts import MountInfo
from podling.runtime.cri import messages as cri
from podling.runtime.cri.errors import Code, CRIError
from podling.runtime.cri.messages import MountPropagation
from podling.runtime.oci import security_context


def check_config(config: cri.ContainerConfig) -> None:
    """Raises `CRIError` INVALID_ARGUMENT. Asks nothing of the machine."""
    name = config.metadata.name if config.metadata else ""
    problems = [
        _log_problem(config),
        _user_problem(config),
        _directory_problem(config),
        *map(_mount_problem, config.mounts),
        *map(_device_problem, config.devices),
        *map(_env_problem, config.envs),
    ]
    for problem in filter(None, problems):
        raise CRIError(Code.INVALID_ARGUMENT, f"container {name}: {problem}")


def _log_problem(config: cri.ContainerConfig) -> str:
    """CRI, "ContainerConfig": relative to the sandbox's log directory."""
    path = config.log_path
    return f"log path {path!r} leads out of the log directory" if ".." in path.split("/") else ""


def _user_problem(config: cri.ContainerConfig) -> str:
    """A group without a user must be an error (CRI, "LinuxContainerSecurityContext")."""
    context = security_context(config)
    named = context.run_as_user is not None or context.run_as_username
    if context.run_as_user is not None and context.run_as_username:
        return f"both user {context.run_as_user} and user name {context.run_as_username!r} are specified"
    if context.run_as_group is not None and not named:
        return f"user group {context.run_as_group} is specified without user"
    for what, number in (
        ("user", context.run_as_user),
        ("group", context.run_as_group),
        *(("supplemental group", gid) for gid in context.supplemental_groups),
    ):
        if number is not None and not 0 <= number < 0xFFFFFFFF:
            return f"{what} {number} is out of range"
    return ""


def _directory_problem(config: cri.ContainerConfig) -> str:
    path = config.working_dir
    return f"working directory {path!r} is not an absolute path" if path and path[0] != "/" else ""


def _mount_problem(mount: cri.Mount) -> str:
    path = mount.container_path
    if not path.strip("/"):
        return f"mount: container path {path!r} is empty"
    if not mount.host_path and mount.image is None:
        return f"mount {path}: neither a host path nor an image"
    if mount.recursive_read_only:
        if not mount.readonly:
            return f"mount {path}: recursive read-only mount must be read-only"
        if mount.propagation is not MountPropagation.PROPAGATION_PRIVATE:
            return f"mount {path}: recursive read-only mount must have private propagation"
    return ""


def _device_problem(device: cri.Device) -> str:
    if not device.host_path or set(device.permissions) - set("rwm"):
        return f"device {device.host_path!r}: invalid host path or permissions {device.permissions!r}"
    return ""


def _env_problem(env: cri.KeyValue) -> str:
    wrong = not env.key or "=" in env.key or "\0" in env.key or b"\0" in env.value
    return f"invalid environment variable {env.key!r}" if wrong else ""


def check_privileged(config: cri.ContainerConfig, sandbox: cri.PodSandboxConfig | None) -> None:
    """The sandbox config that comes with the container says whether it may be (CRI, "PodSandboxConfig"); a
    debugger's container may be privileged in a pod that was not when it was made. Raises `CRIError`."""
    if sandbox is None or not security_context(config).privileged:
        return
    context = sandbox.linux.security_context if sandbox.linux else None
    if context is None or not context.privileged:
        name = config.metadata.name if config.metadata else ""
        raise CRIError(Code.INVALID_ARGUMENT, f"container {name}: no privileged container allowed in sandbox")


def check_propagation(config: cri.ContainerConfig) -> None:
    """A mount can only be propagated over one that is shared (`man 7 mount_namespaces`); containerd's words.

    Reads mountinfo, when a mount asks for it: call it in a thread.
    """
    for mount in config.mounts:
        wanted = mount.propagation
        if wanted is MountPropagation.PROPAGATION_PRIVATE or not mount.host_path:
            continue
        at: MountInfo = mounts.mounts_of(mount.host_path)[0]
        kinds = {option.partition(":")[0] for option in at.propagation}
        text = f'path "{mount.host_path}" is mounted on "{at.target}" but it is not a shared'
        if wanted is MountPropagation.PROPAGATION_BIDIRECTIONAL and "shared" not in kinds:
            raise CRIError(Code.FAILED_PRECONDITION, f"{text} mount")
        if not kinds & {"shared", "master"}:
            raise CRIError(Code.FAILED_PRECONDITION, f"{text} or slave mount")
