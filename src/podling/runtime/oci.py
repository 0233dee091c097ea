"""The OCI runtime spec of a sandbox's pause and of its containers, as plain values (OCI runtime spec 1.0.2).

Pure: everything the machine has to be asked for comes in as a value, so tests compare documents and debug
logs show them. What is default here is what containerd and Docker give a container.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from podling.linux.cgroups import Layout
from podling.runtime import names, userns
from podling.runtime.cri import messages as cri
from podling.runtime.cri.messages import MountPropagation, NamespaceMode

OCI_VERSION = "1.0.2"
DEFAULT_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
PAUSE_UID = 65535
"""Nobody's: pause needs no right at all."""

DEFAULT_CAPABILITIES = (
    "CAP_AUDIT_WRITE", "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_MKNOD",
    "CAP_NET_BIND_SERVICE", "CAP_NET_RAW", "CAP_SETFCAP", "CAP_SETGID", "CAP_SETPCAP", "CAP_SETUID",
    "CAP_SYS_CHROOT",
)  # fmt: skip
DEFAULT_MASKED_PATHS = (
    "/proc/asound", "/proc/acpi", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
    "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware",
    "/sys/devices/virtual/powercap",
)  # fmt: skip
DEFAULT_READONLY_PATHS = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")

PROPAGATION = {
    MountPropagation.PROPAGATION_PRIVATE: "rprivate",
    MountPropagation.PROPAGATION_HOST_TO_CONTAINER: "rslave",
    MountPropagation.PROPAGATION_BIDIRECTIONAL: "rshared",
}

Spec = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """What of this machine shows in a specification."""

    layout: Layout
    capabilities: frozenset[str]
    """Those we may give away: our own bounding set."""
    oom_score_adj_floor: int = -1000
    """Below it the kernel refuses us (no CAP_SYS_RESOURCE)."""
    device_filter: bool = True
    """Whether access to devices can be limited here; if not, CAP_MKNOD must not be given away either."""
    swap_limits: bool = True
    """Whether swap is accounted for, so that it can be limited."""
    hugepage_limits: bool = True
    devices: tuple[Spec, ...] = ()
    """`linux.devices` of a privileged container: all of the machine's."""


def with_devices(host: Host, devices: tuple[Spec, ...]) -> Host:
    return replace(host, devices=devices)


@dataclass(frozen=True, slots=True, kw_only=True)
class Seccomp:
    """A resolved profile: a finished filter for crun, or a document for any runtime. Neither: unconfined."""

    filter: str | None = None
    profile: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PauseInput:
    config: cri.PodSandboxConfig
    rootfs: Path
    netns: str
    cgroup: str
    host: Host
    annotations: Mapping[str, str]
    seccomp: Seccomp = Seccomp()
    shared_pid: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerInput:
    config: cri.ContainerConfig
    args: Sequence[str]
    env: Sequence[str]
    """NAME=value of the image, overridden by the configuration's."""
    cwd: str
    user: cri.LinuxContainerUser
    rootfs: Path
    namespaces: Mapping[str, str]
    """OCI namespace type -> path to join, empty for a new one; types left out are the node's."""
    cgroup: str
    host: Host
    shm: Path
    sandbox_files: Mapping[str, Path]
    """Path in the container -> file of the sandbox: /etc/resolv.conf, /etc/hostname."""
    annotations: Mapping[str, str]
    devices: Sequence[Spec] = ()
    seccomp: Seccomp = Seccomp()
    apparmor: str = ""
    """A profile the kernel has loaded; empty: none."""
    sources: Mapping[str, Path] = field(default_factory=dict)
    """Container path -> what to mount there, where it is not the mount's own host path."""
    user_namespace: cri.UserNamespace | None = None


def pause_spec(given: PauseInput) -> Spec:
    """Pause with a read-only root file system that holds nothing else, and no rights."""
    options = namespace_options(given.config.linux)
    users = userns.of(options)
    namespaces: list[Spec] = [{"type": "mount"}]
    if users is not None:
        namespaces += [{"type": "user"}, {"type": "network"}, {"type": "uts"}]
    elif options.network is not NamespaceMode.NODE:
        # With the node's network comes the node's hostname: containerd and CRI-O do the same.
        namespaces += [{"type": "network", "path": given.netns}, {"type": "uts"}]
    if options.ipc is not NamespaceMode.NODE:
        namespaces.append({"type": "ipc"})
    if given.shared_pid:
        namespaces.append({"type": "pid"})
    linux: Spec = {
        "namespaces": namespaces,
        "cgroupsPath": given.cgroup,
        "sysctl": _sandbox_sysctls(given.config, options),
    }
    spec: Spec = {
        "ociVersion": OCI_VERSION,
        "process": {
            "args": ["/pause"],
            "cwd": "/",
            "env": [],
            "user": {"uid": PAUSE_UID, "gid": PAUSE_UID},
            "capabilities": {},
            "noNewPrivileges": True,
            "oomScoreAdj": max(-998, given.host.oom_score_adj_floor),
        },
        "root": {"path": str(given.rootfs), "readonly": True},
        # The namespace's root may not write to pause's file system, and crun wants to make devices.
        "mounts": [_mount("/dev", "tmpfs", "tmpfs", ["nosuid", "mode=755", "size=64k"])] if users else [],
        "annotations": dict(given.annotations),
        "linux": linux | _id_mappings(users),
    }
    if options.network is not NamespaceMode.NODE and given.config.hostname:
        spec["hostname"] = given.config.hostname
    _confine(spec, given.seccomp)
    return spec


def namespace_options(linux: cri.LinuxPodSandboxConfig | None) -> cri.NamespaceOption:
    """What is left unsaid means: a network and IPC of the pod's own, a PID namespace for each container."""
    context = linux.security_context if linux else None
    return (context.namespace_options if context else None) or cri.NamespaceOption(
        pid=NamespaceMode.CONTAINER
    )


def _sandbox_sysctls(config: cri.PodSandboxConfig, options: cri.NamespaceOption) -> dict[str, str]:
    given = dict(config.linux.sysctls) if config.linux else {}
    if options.network is NamespaceMode.NODE:
        return given
    # As Docker and containerd 2: a pod's ports are its own, so binding port 80 needs no privilege, nor ping.
    users = userns.of(options)
    last = userns.last_gid(users) if users else 2147483647
    defaults = {"net.ipv4.ip_unprivileged_port_start": "0", "net.ipv4.ping_group_range": f"0 {last}"}
    return defaults | given


def _id_mappings(users: cri.UserNamespace | None) -> Spec:
    if users is None:
        return {}
    return {"uidMappings": userns.to_oci(users.uids), "gidMappings": userns.to_oci(users.gids)}


def container_spec(given: ContainerInput) -> Spec:
    config = given.config
    context = security_context(config)
    linux: Spec = {
        "namespaces": _container_namespaces(given.namespaces, given.host),
        "cgroupsPath": given.cgroup,
        "resources": _resources(config, given.host, privileged=context.privileged),
        "rootfsPropagation": _rootfs_propagation(config.mounts),
    }
    devices = [*(given.host.devices if context.privileged else ()), *given.devices]
    if devices:
        linux["devices"] = devices
        if given.host.device_filter:
            linux["resources"]["devices"] += [_device_rule(device) for device in given.devices]
    if not context.privileged:
        # Over gRPC empty and unsaid are one. A kubelet always says them, but for procMount Unmasked, which
        # only a pod with a user namespace may have.
        unmasked = given.user_namespace is not None
        linux["maskedPaths"] = list(context.masked_paths or (() if unmasked else DEFAULT_MASKED_PATHS))
        linux["readonlyPaths"] = list(context.readonly_paths or (() if unmasked else DEFAULT_READONLY_PATHS))
    spec: Spec = {
        "ociVersion": OCI_VERSION,
        "process": _process(given, context),
        "root": {"path": str(given.rootfs), "readonly": context.readonly_rootfs},
        "mounts": _mounts(given, context),
        "annotations": dict(given.annotations),
        "linux": linux | _id_mappings(given.user_namespace),
    }
    _confine(spec, given.seccomp)
    return spec


def security_context(config: cri.ContainerConfig) -> cri.LinuxContainerSecurityContext:
    return (config.linux.security_context if config.linux else None) or cri.LinuxContainerSecurityContext()


def _process(given: ContainerInput, context: cri.LinuxContainerSecurityContext) -> Spec:
    config = given.config
    process: Spec = {
        "terminal": config.tty,
        "args": list(given.args),
        "cwd": given.cwd,
        "env": environment(given.env, tty=config.tty),
        "user": {
            "uid": given.user.uid,
            "gid": given.user.gid,
            "additionalGids": list(given.user.supplemental_groups),
        },
        "capabilities": capability_sets(context, given.host.capabilities),
        "noNewPrivileges": context.no_new_privs,
    }
    if given.apparmor:
        process["apparmorProfile"] = given.apparmor
    resources = config.linux.resources if config.linux else None
    if resources is not None:
        process["oomScoreAdj"] = max(resources.oom_score_adj, given.host.oom_score_adj_floor)
    return process


def environment(env: Sequence[str], *, tty: bool) -> list[str]:
    """Later ones win; a PATH and, with a terminal, a TERM are always there."""
    merged: dict[str, str] = {}
    for entry in (DEFAULT_PATH, *(["TERM=xterm"] if tty else []), *env):
        merged[entry.partition("=")[0]] = entry
    return list(merged.values())


def capabilities(context: cri.LinuxContainerSecurityContext, available: frozenset[str]) -> list[str]:
    """Docker's default, plus what is added, less what is dropped; never more than we have ourselves."""
    wanted = context.capabilities or cri.Capability()
    added, dropped = map(_capability_names, (wanted.add_capabilities, wanted.drop_capabilities))
    if context.privileged:
        return sorted(available)
    granted = set() if "CAP_ALL" in dropped else set(DEFAULT_CAPABILITIES)
    granted |= available if "CAP_ALL" in added else added
    return sorted((granted - (dropped - added)) & available)


def capability_sets(
    context: cri.LinuxContainerSecurityContext, available: frozenset[str]
) -> dict[str, list[str]]:
    granted = capabilities(context, available)
    ambient = (
        _capability_names(context.capabilities.add_ambient_capabilities) if context.capabilities else set()
    )
    sets = {"bounding": granted, "effective": granted, "permitted": granted}
    if ambient:
        # The kernel takes as ambient only what is also inheritable (`man 7 capabilities`).
        sets["inheritable"] = sets["ambient"] = sorted(ambient & set(granted))
    return sets


def _capability_names(names: Sequence[str]) -> set[str]:
    """Kubernetes writes NET_ADMIN, the spec CAP_NET_ADMIN; both are taken."""
    return {name.upper() if name.upper().startswith("CAP_") else f"CAP_{name.upper()}" for name in names}


def _container_namespaces(joined: Mapping[str, str], host: Host) -> list[Spec]:
    namespaces: list[Spec] = [{"type": "mount"}]
    for kind, path in joined.items():
        namespaces.append({"type": kind, "path": path} if path else {"type": kind})
    if host.layout is Layout.V2:
        # As containerd: its own cgroup is what a container sees as the root, on v2 only.
        namespaces.append({"type": "cgroup"})
    return namespaces


def _resources(config: cri.ContainerConfig, host: Host, *, privileged: bool) -> Spec:
    given = (config.linux.resources if config.linux else None) or cri.LinuxContainerResources()
    rules = [{"allow": privileged, "access": "rwm"}] if host.device_filter else []
    limits = resource_limits(given, host)
    return {"devices": rules, **limits} if rules else limits


def resource_limits(given: cri.LinuxContainerResources, host: Host) -> Spec:
    """CPU, memory, huge pages, v2 files; zero means unsaid. Also what `crun update` takes.

    Limits for which this machine has no controller are left out, as containerd does: every kubelet limits
    huge pages, and hardly anyone has them.
    """
    cpu: Spec = {}
    for key, value in (
        ("shares", given.cpu_shares),
        ("quota", given.cpu_quota),
        ("period", given.cpu_period),
        ("cpus", given.cpuset_cpus),
        ("mems", given.cpuset_mems),
    ):
        if value:
            cpu[key] = value
    limits: Spec = {}
    if cpu:
        limits["cpu"] = cpu
    if given.memory_limit_in_bytes:
        limits["memory"] = {"limit": given.memory_limit_in_bytes}
        if given.memory_swap_limit_in_bytes and host.swap_limits:
            limits["memory"]["swap"] = given.memory_swap_limit_in_bytes
    if given.hugepage_limits and host.hugepage_limits:
        limits["hugepageLimits"] = [
            {"pageSize": huge.page_size, "limit": huge.limit} for huge in given.hugepage_limits
        ]
    if given.unified and host.layout is Layout.V2:
        limits["unified"] = dict(given.unified)
    return limits


def _device_rule(device: Spec) -> Spec:
    rule = {key: device[key] for key in ("type", "major", "minor")}
    return {"allow": True, "access": device.get("access", "rwm"), **rule}


# mounts


def _mounts(given: ContainerInput, context: cri.LinuxContainerSecurityContext) -> list[Spec]:
    own = [_cri_mount(mount, given) for mount in order_mounts(given.config.mounts)]
    taken = {mount["destination"] for mount in own}
    files = [
        _bind(path, source, ["rw", "rprivate"])
        for path, source in given.sandbox_files.items()
        if path not in taken
    ]
    return [m for m in _default_mounts(given, context) if m["destination"] not in taken] + files + own


def order_mounts(mounts: Sequence[cri.Mount]) -> list[cri.Mount]:
    """Parents before children, so that none hides another; otherwise in the order given."""
    return sorted(mounts, key=lambda mount: len([part for part in mount.container_path.split("/") if part]))


def _default_mounts(given: ContainerInput, context: cri.LinuxContainerSecurityContext) -> list[Spec]:
    access = "rw" if context.privileged else "ro"
    tight = ["nosuid", "noexec", "nodev"]
    return [
        _mount("/proc", "proc", "proc", tight),
        _mount("/dev", "tmpfs", "tmpfs", ["nosuid", "strictatime", "mode=755", "size=65536k"]),
        _mount(
            "/dev/pts",
            "devpts",
            "devpts",
            ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        ),
        _mount("/dev/mqueue", "mqueue", "mqueue", tight),
        _mount("/sys", "sysfs", "sysfs", [*tight, access]),
        _mount("/sys/fs/cgroup", "cgroup", "cgroup", [*tight, "relatime", access]),
        _bind("/dev/shm", given.shm, ["rprivate", *tight, "rw"]),
    ]


def _mount(destination: str, kind: str, source: str, options: Sequence[str]) -> Spec:
    return {"destination": destination, "type": kind, "source": source, "options": list(options)}


def _bind(destination: str, source: Path | str, options: Sequence[str]) -> Spec:
    return _mount(destination, "bind", str(source), ["rbind", *options])


def _cri_mount(mount: cri.Mount, given: ContainerInput) -> Spec:
    source = given.sources.get(mount.container_path, mount.host_path)
    access = "ro" if mount.readonly or mount.image is not None else "rw"
    if mount.recursive_read_only:
        access = "rro"
    destination = "/" + mount.container_path.strip("/")
    # Kubernetes API, "ImageVolumeSource": mounted read-only and with non-executable files.
    tight = ["noexec"] if mount.image is not None else []
    return _bind(destination, source, [access, *tight, PROPAGATION[mount.propagation]])


def _rootfs_propagation(mounts: Sequence[cri.Mount]) -> str:
    """What the container may see of later mounts is decided at its root."""
    wanted = max((mount.propagation for mount in mounts), default=MountPropagation.PROPAGATION_PRIVATE)
    return PROPAGATION[MountPropagation(wanted)]


def _confine(spec: Spec, seccomp: Seccomp) -> None:
    if seccomp.filter is not None:
        from podling.runtime.seccomp import BPF_ANNOTATION

        spec["annotations"][BPF_ANNOTATION] = seccomp.filter
    elif seccomp.profile is not None:
        spec["linux"]["seccomp"] = dict(seccomp.profile)


# annotations: what `crun list` and people with `crun state` see of a container


def pause_annotations(sandbox_id: str, metadata: cri.PodSandboxMetadata) -> dict[str, str]:
    return {
        "io.kubernetes.cri.container-type": "sandbox",
        "io.kubernetes.cri.sandbox-id": sandbox_id,
        "io.kubernetes.cri.sandbox-name": metadata.name,
        "io.kubernetes.cri.sandbox-namespace": metadata.namespace,
        "io.kubernetes.cri.sandbox-uid": metadata.uid,
    }


def container_annotations(
    sandbox_id: str, sandbox: cri.PodSandboxMetadata, config: cri.ContainerConfig, image: str
) -> dict[str, str]:
    name = config.metadata.name if config.metadata else config.labels.get(names.CONTAINER_NAME_LABEL, "")
    return pause_annotations(sandbox_id, sandbox) | {
        "io.kubernetes.cri.container-type": "container",
        "io.kubernetes.cri.container-name": name,
        "io.kubernetes.cri.image-name": image,
    }
