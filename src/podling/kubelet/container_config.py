"""From a pod and one of its containers to the CRI's ContainerConfig: pure, so tests compare values.

What the kubelet had to fetch or prepare (config maps, volume paths, the image's id) comes in a
`ContainerContext`. Source of the defaults: upstream's `kuberuntime_container.go`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from podling.api import core_v1
from podling.kubelet import names, resources
from podling.kubelet.environment import ConfigError, Sources, make_environment
from podling.kubelet.expansion import expand
from podling.kubelet.field_paths import PodFacts
from podling.kubelet.sandbox_config import namespace_options
from podling.runtime.cri import messages as cri

# Upstream: `pkg/securitycontext/util.go`; what an unprivileged process shall not see or change.
DEFAULT_MASKED_PATHS = (
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
)
DEFAULT_READONLY_PATHS = (
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
)
DEFAULT_TERMINATION_PATH = "/dev/termination-log"

_PROPAGATION = {
    "HostToContainer": cri.MountPropagation.PROPAGATION_HOST_TO_CONTAINER,
    "Bidirectional": cri.MountPropagation.PROPAGATION_BIDIRECTIONAL,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedVolume:
    """A volume that is ready to be mounted into containers."""

    path: Path = Path()
    read_only: bool = False
    """Set by the volume itself (config maps, secrets), whatever the mount says."""
    image: str = ""
    """Of an image volume, which the runtime mounts: its reference; there is no path then."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerContext:
    """Everything the configuration needs that is not in the pod."""

    attempt: int
    image_id: str
    image_user: ImageUser
    sources: Sources = field(default_factory=Sources)
    facts: PodFacts = field(default_factory=PodFacts)
    service_env: Mapping[str, str] = field(default_factory=dict)
    volumes: Mapping[str, PreparedVolume] = field(default_factory=dict)
    sub_paths: Mapping[str, Path] = field(default_factory=dict)
    """Resolved subPath mounts by mount path; see `volumes/subpath.py`."""
    hosts_file: Path | None = None
    termination_file: Path | None = None
    node_memory_bytes: int = 0
    page_sizes: Sequence[str] = ()
    """The node's resources of huge pages."""
    cgroup_files: Mapping[str, str] = field(default_factory=dict)
    """cgroup v2 files every container gets."""
    target_id: str = ""
    """Container whose PID namespace an ephemeral container joins."""
    users: cri.UserNamespace | None = None
    """The pod's own users."""
    seccomp_default: bool = False
    seccomp_root: Path = Path("/var/lib/kubelet/seccomp")
    """Where profiles of type Localhost are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageUser:
    """Whom the image wants to run as, needed for runAsNonRoot."""

    uid: int | None = None
    username: str = ""


def build_container_config(
    pod: core_v1.Pod, container: names.AnyContainer, context: ContainerContext
) -> cri.ContainerConfig:
    """The value for CreateContainer. Raises ConfigError with the text for CreateContainerConfigError."""
    environment = make_environment(
        pod,
        container,
        sources=context.sources,
        facts=context.facts,
        service_env=context.service_env,
    )
    _verify_run_as_non_root(pod, container, context.image_user)
    return cri.ContainerConfig(
        metadata=cri.ContainerMetadata(name=container.name, attempt=context.attempt),
        image=cri.ImageSpec(image=context.image_id, user_specified_image=container.image or ""),
        command=[expand(word, environment) for word in container.command],
        args=[expand(word, environment) for word in container.args],
        working_dir=container.working_dir or "",
        envs=[
            cri.KeyValue(key=name, value=value.encode("utf-8", "surrogateescape"))
            for name, value in environment.items()
        ],
        mounts=_mounts(container, context, environment),
        labels=container_labels(pod, container),
        annotations=_annotations(pod, container, context.attempt),
        log_path=names.container_log_path(container.name, context.attempt),
        stdin=bool(container.stdin),
        stdin_once=bool(container.stdin_once),
        tty=bool(container.tty),
        linux=cri.LinuxContainerConfig(
            resources=resources.container_resources(
                pod, container, context.node_memory_bytes, context.cgroup_files, context.page_sizes
            ),
            security_context=_security_context(pod, container, context),
        ),
        stop_signal=_stop_signal(container),
    )


def container_labels(pod: core_v1.Pod, container: names.AnyContainer) -> dict[str, str]:
    return {
        names.POD_NAME_LABEL: pod.metadata.name or "",
        names.POD_NAMESPACE_LABEL: names.pod_namespace(pod),
        names.POD_UID_LABEL: pod.metadata.uid or "",
        names.CONTAINER_NAME_LABEL: container.name,
    }


def _annotations(pod: core_v1.Pod, container: names.AnyContainer, attempt: int) -> dict[str, str]:
    grace = names.pod_spec(pod).termination_grace_period_seconds
    return {
        names.HASH_ANNOTATION: names.container_hash(container),
        names.RESTART_COUNT_ANNOTATION: str(attempt),
        names.TERMINATION_PATH_ANNOTATION: container.termination_message_path or DEFAULT_TERMINATION_PATH,
        names.TERMINATION_POLICY_ANNOTATION: container.termination_message_policy or "File",
        names.POD_GRACE_ANNOTATION: str(30 if grace is None else grace),
    }


def _mounts(
    container: names.AnyContainer, context: ContainerContext, environment: Mapping[str, str]
) -> list[cri.Mount]:
    mounts = [_volume_mount(mount, context, environment) for mount in container.volume_mounts]
    taken = {mount.container_path.rstrip("/") for mount in mounts}
    if context.hosts_file is not None and "/etc/hosts" not in taken:
        mounts.append(cri.Mount(container_path="/etc/hosts", host_path=str(context.hosts_file)))
    if context.termination_file is not None:
        path = container.termination_message_path or DEFAULT_TERMINATION_PATH
        mounts.append(cri.Mount(container_path=path, host_path=str(context.termination_file)))
    if context.users is not None:
        for mount in mounts:
            mount.uid_mappings, mount.gid_mappings = context.users.uids, context.users.gids
    return mounts


def _volume_mount(
    mount: core_v1.VolumeMount, context: ContainerContext, environment: Mapping[str, str]
) -> cri.Mount:
    volume = context.volumes.get(mount.name)
    if volume is None:
        raise ConfigError(f'cannot find volume "{mount.name}" to mount into container')
    path = mount.mount_path if mount.mount_path.startswith("/") else f"/{mount.mount_path}"
    if volume.image:
        sub_path = mount.sub_path or expand(mount.sub_path_expr or "", environment)
        image = cri.ImageSpec(image=volume.image, user_specified_image=volume.image)
        return cri.Mount(container_path=path, image=image, image_sub_path=sub_path, readonly=True)
    return cri.Mount(
        container_path=path,
        host_path=str(context.sub_paths.get(mount.mount_path, volume.path)),
        readonly=bool(mount.read_only) or volume.read_only,
        recursive_read_only=mount.recursive_read_only in ("Enabled", "IfPossible"),
        propagation=_PROPAGATION.get(
            mount.mount_propagation or "None", cri.MountPropagation.PROPAGATION_PRIVATE
        ),
    )


def effective_run_as_user(pod: core_v1.Pod, container: names.AnyContainer) -> int | None:
    own = container.security_context or core_v1.SecurityContext()
    shared = names.pod_spec(pod).security_context or core_v1.PodSecurityContext()
    return own.run_as_user if own.run_as_user is not None else shared.run_as_user


def _verify_run_as_non_root(pod: core_v1.Pod, container: names.AnyContainer, image: ImageUser) -> None:
    """Upstream's `verifyRunAsNonRoot`, with its texts."""
    own = container.security_context or core_v1.SecurityContext()
    shared = names.pod_spec(pod).security_context or core_v1.PodSecurityContext()
    wanted = own.run_as_non_root if own.run_as_non_root is not None else shared.run_as_non_root
    if not wanted:
        return
    what = f'(pod: "{names.pod_full(pod)}", container: {container.name})'
    user = effective_run_as_user(pod, container)
    if user is not None:
        if user == 0:
            raise ConfigError(f"container's runAsUser breaks non-root policy {what}")
        return
    if image.username and image.uid is None:
        raise ConfigError(
            f"container has runAsNonRoot and image has non-numeric user ({image.username}), "
            f"cannot verify user is non-root {what}"
        )
    if not image.uid:
        raise ConfigError(f"container has runAsNonRoot and image will run as root {what}")


def _security_context(
    pod: core_v1.Pod, container: names.AnyContainer, context: ContainerContext
) -> cri.LinuxContainerSecurityContext:
    own = container.security_context or core_v1.SecurityContext()
    shared = names.pod_spec(pod).security_context or core_v1.PodSecurityContext()
    privileged = bool(own.privileged)
    unmasked = privileged or own.proc_mount == "Unmasked"
    seccomp = own.seccomp_profile or shared.seccomp_profile
    groups = list(shared.supplemental_groups)
    if shared.fs_group is not None:
        groups.append(shared.fs_group)
    user = effective_run_as_user(pod, container)
    group = own.run_as_group if own.run_as_group is not None else shared.run_as_group
    if group is not None and user is None and not context.image_user.username:
        user = context.image_user.uid or 0  # the CRI takes no group without a user
    return cri.LinuxContainerSecurityContext(
        capabilities=cri.Capability(
            add_capabilities=list(own.capabilities.add), drop_capabilities=list(own.capabilities.drop)
        )
        if own.capabilities
        else None,
        privileged=privileged,
        namespace_options=namespace_options(pod, target_id=context.target_id, users=context.users),
        run_as_user=user,
        run_as_username=context.image_user.username if group is not None and user is None else "",
        run_as_group=group,
        readonly_rootfs=bool(own.read_only_root_filesystem),
        supplemental_groups=groups,
        supplemental_groups_policy=cri.SupplementalGroupsPolicy.Strict
        if shared.supplemental_groups_policy == "Strict"
        else cri.SupplementalGroupsPolicy.Merge,
        no_new_privs=own.allow_privilege_escalation is False and not privileged,
        masked_paths=[] if unmasked else list(DEFAULT_MASKED_PATHS),
        readonly_paths=[] if unmasked else list(DEFAULT_READONLY_PATHS),
        seccomp=_seccomp(seccomp, context, privileged=privileged),
        apparmor=_apparmor(own.app_armor_profile or shared.app_armor_profile),
    )


def _seccomp(
    profile: core_v1.SeccompProfile | None, context: ContainerContext, *, privileged: bool
) -> cri.SecurityProfile:
    """Without a profile: the default that is configured, and none where privileged."""
    kinds = cri.SecurityProfileType
    if profile is None:
        confined = context.seccomp_default and not privileged
        return cri.SecurityProfile(profile_type=kinds.RuntimeDefault if confined else kinds.Unconfined)
    if profile.type == "Localhost":
        file = context.seccomp_root / (profile.localhost_profile or "")
        return cri.SecurityProfile(profile_type=kinds.Localhost, localhost_ref=str(file))
    return cri.SecurityProfile(profile_type=kinds[profile.type])


def _apparmor(profile: core_v1.AppArmorProfile | None) -> cri.SecurityProfile | None:
    if profile is None:
        return None
    return cri.SecurityProfile(
        profile_type=cri.SecurityProfileType[profile.type], localhost_ref=profile.localhost_profile or ""
    )


def _stop_signal(container: names.AnyContainer) -> cri.Signal:
    signal = container.lifecycle.stop_signal if container.lifecycle else None
    name = (signal or "").replace("+", "PLUS").replace("-", "MINUS")  # the API writes SIGRTMIN+3
    return cri.Signal[name] if name in cri.Signal.__members__ else cri.Signal.RUNTIME_DEFAULT
