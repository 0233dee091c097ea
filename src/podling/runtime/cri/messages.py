"""CRI v1 messages (package `runtime.v1`, cri-api 0.36) as Python types.

The kubelet and the runtime speak in these whether they share a process or a socket. Names are the
standard's; each field carries its wire number and, where Python's type does not say it, its wire type,
so that one generic codec can put any message on the wire. The wrappers `Int64Value` and `UInt64Value`
are `int | None`: None is "not said", 0 is "zero".
"""

from __future__ import annotations

from enum import IntEnum
from typing import Annotated

from msgspec import Struct, field


class Protocol(IntEnum):
    TCP = 0
    UDP = 1
    SCTP = 2


class MountPropagation(IntEnum):
    PROPAGATION_PRIVATE = 0
    PROPAGATION_HOST_TO_CONTAINER = 1
    PROPAGATION_BIDIRECTIONAL = 2


class NamespaceMode(IntEnum):
    POD = 0
    CONTAINER = 1
    NODE = 2
    TARGET = 3


class SupplementalGroupsPolicy(IntEnum):
    Merge = 0
    Strict = 1


class PodSandboxState(IntEnum):
    SANDBOX_READY = 0
    SANDBOX_NOTREADY = 1


class Signal(IntEnum):
    RUNTIME_DEFAULT = 0
    SIGABRT = 1
    SIGALRM = 2
    SIGBUS = 3
    SIGCHLD = 4
    SIGCLD = 5
    SIGCONT = 6
    SIGFPE = 7
    SIGHUP = 8
    SIGILL = 9
    SIGINT = 10
    SIGIO = 11
    SIGIOT = 12
    SIGKILL = 13
    SIGPIPE = 14
    SIGPOLL = 15
    SIGPROF = 16
    SIGPWR = 17
    SIGQUIT = 18
    SIGSEGV = 19
    SIGSTKFLT = 20
    SIGSTOP = 21
    SIGSYS = 22
    SIGTERM = 23
    SIGTRAP = 24
    SIGTSTP = 25
    SIGTTIN = 26
    SIGTTOU = 27
    SIGURG = 28
    SIGUSR1 = 29
    SIGUSR2 = 30
    SIGVTALRM = 31
    SIGWINCH = 32
    SIGXCPU = 33
    SIGXFSZ = 34
    SIGRTMIN = 35
    SIGRTMINPLUS1 = 36
    SIGRTMINPLUS2 = 37
    SIGRTMINPLUS3 = 38
    SIGRTMINPLUS4 = 39
    SIGRTMINPLUS5 = 40
    SIGRTMINPLUS6 = 41
    SIGRTMINPLUS7 = 42
    SIGRTMINPLUS8 = 43
    SIGRTMINPLUS9 = 44
    SIGRTMINPLUS10 = 45
    SIGRTMINPLUS11 = 46
    SIGRTMINPLUS12 = 47
    SIGRTMINPLUS13 = 48
    SIGRTMINPLUS14 = 49
    SIGRTMINPLUS15 = 50
    SIGRTMAXMINUS14 = 51
    SIGRTMAXMINUS13 = 52
    SIGRTMAXMINUS12 = 53
    SIGRTMAXMINUS11 = 54
    SIGRTMAXMINUS10 = 55
    SIGRTMAXMINUS9 = 56
    SIGRTMAXMINUS8 = 57
    SIGRTMAXMINUS7 = 58
    SIGRTMAXMINUS6 = 59
    SIGRTMAXMINUS5 = 60
    SIGRTMAXMINUS4 = 61
    SIGRTMAXMINUS3 = 62
    SIGRTMAXMINUS2 = 63
    SIGRTMAXMINUS1 = 64
    SIGRTMAX = 65


class ContainerState(IntEnum):
    CONTAINER_CREATED = 0
    CONTAINER_RUNNING = 1
    CONTAINER_EXITED = 2
    CONTAINER_UNKNOWN = 3


class ContainerEventType(IntEnum):
    CONTAINER_CREATED_EVENT = 0
    CONTAINER_STARTED_EVENT = 1
    CONTAINER_STOPPED_EVENT = 2
    CONTAINER_DELETED_EVENT = 3


class MetricType(IntEnum):
    COUNTER = 0
    GAUGE = 1


class CgroupDriver(IntEnum):
    SYSTEMD = 0
    CGROUPFS = 1


class SecurityProfileType(IntEnum):
    RuntimeDefault = 0
    Unconfined = 1
    Localhost = 2


class VersionRequest(Struct, kw_only=True):
    version: Annotated[str, 1, "string"] = ""


class VersionResponse(Struct, kw_only=True):
    version: Annotated[str, 1, "string"] = ""
    runtime_name: Annotated[str, 2, "string"] = ""
    runtime_version: Annotated[str, 3, "string"] = ""
    runtime_api_version: Annotated[str, 4, "string"] = ""


class DNSConfig(Struct, kw_only=True):
    servers: Annotated[list[str], 1, "string"] = field(default_factory=list)
    searches: Annotated[list[str], 2, "string"] = field(default_factory=list)
    options: Annotated[list[str], 3, "string"] = field(default_factory=list)


class PortMapping(Struct, kw_only=True):
    protocol: Annotated[Protocol, 1, "enum"] = Protocol(0)
    container_port: Annotated[int, 2, "int32"] = 0
    host_port: Annotated[int, 3, "int32"] = 0
    host_ip: Annotated[str, 4, "string"] = ""


class Mount(Struct, kw_only=True):
    container_path: Annotated[str, 1, "string"] = ""
    host_path: Annotated[str, 2, "string"] = ""
    readonly: Annotated[bool, 3, "bool"] = False
    selinux_relabel: Annotated[bool, 4, "bool"] = False
    propagation: Annotated[MountPropagation, 5, "enum"] = MountPropagation(0)
    uid_mappings: Annotated[list[IDMapping], 6, "message"] = field(default_factory=list)
    gid_mappings: Annotated[list[IDMapping], 7, "message"] = field(default_factory=list)
    recursive_read_only: Annotated[bool, 8, "bool"] = False
    image: Annotated[ImageSpec | None, 9, "message"] = None
    image_sub_path: Annotated[str, 10, "string"] = ""


class IDMapping(Struct, kw_only=True):
    host_id: Annotated[int, 1, "uint32"] = 0
    container_id: Annotated[int, 2, "uint32"] = 0
    length: Annotated[int, 3, "uint32"] = 0


class UserNamespace(Struct, kw_only=True):
    mode: Annotated[NamespaceMode, 1, "enum"] = NamespaceMode(0)
    uids: Annotated[list[IDMapping], 2, "message"] = field(default_factory=list)
    gids: Annotated[list[IDMapping], 3, "message"] = field(default_factory=list)


class NamespaceOption(Struct, kw_only=True):
    network: Annotated[NamespaceMode, 1, "enum"] = NamespaceMode(0)
    pid: Annotated[NamespaceMode, 2, "enum"] = NamespaceMode(0)
    ipc: Annotated[NamespaceMode, 3, "enum"] = NamespaceMode(0)
    target_id: Annotated[str, 4, "string"] = ""
    userns_options: Annotated[UserNamespace | None, 5, "message"] = None


class LinuxSandboxSecurityContext(Struct, kw_only=True):
    namespace_options: Annotated[NamespaceOption | None, 1, "message"] = None
    selinux_options: Annotated[SELinuxOption | None, 2, "message"] = None
    run_as_user: Annotated[int | None, 3, "Int64Value"] = None
    run_as_group: Annotated[int | None, 8, "Int64Value"] = None
    readonly_rootfs: Annotated[bool, 4, "bool"] = False
    supplemental_groups: Annotated[list[int], 5, "int64"] = field(default_factory=list)
    supplemental_groups_policy: Annotated[SupplementalGroupsPolicy, 11, "enum"] = SupplementalGroupsPolicy(0)
    privileged: Annotated[bool, 6, "bool"] = False
    seccomp: Annotated[SecurityProfile | None, 9, "message"] = None
    apparmor: Annotated[SecurityProfile | None, 10, "message"] = None
    seccomp_profile_path: Annotated[str, 7, "string"] = ""


class SecurityProfile(Struct, kw_only=True):
    profile_type: Annotated[SecurityProfileType, 1, "enum"] = SecurityProfileType(0)
    localhost_ref: Annotated[str, 2, "string"] = ""


class LinuxPodSandboxConfig(Struct, kw_only=True):
    cgroup_parent: Annotated[str, 1, "string"] = ""
    security_context: Annotated[LinuxSandboxSecurityContext | None, 2, "message"] = None
    sysctls: Annotated[dict[str, str], 3, "map<string,string>"] = field(default_factory=dict)
    overhead: Annotated[LinuxContainerResources | None, 4, "message"] = None
    resources: Annotated[LinuxContainerResources | None, 5, "message"] = None


class PodSandboxMetadata(Struct, kw_only=True):
    name: Annotated[str, 1, "string"] = ""
    uid: Annotated[str, 2, "string"] = ""
    namespace: Annotated[str, 3, "string"] = ""
    attempt: Annotated[int, 4, "uint32"] = 0


class PodSandboxConfig(Struct, kw_only=True):
    metadata: Annotated[PodSandboxMetadata | None, 1, "message"] = None
    hostname: Annotated[str, 2, "string"] = ""
    log_directory: Annotated[str, 3, "string"] = ""
    dns_config: Annotated[DNSConfig | None, 4, "message"] = None
    port_mappings: Annotated[list[PortMapping], 5, "message"] = field(default_factory=list)
    labels: Annotated[dict[str, str], 6, "map<string,string>"] = field(default_factory=dict)
    annotations: Annotated[dict[str, str], 7, "map<string,string>"] = field(default_factory=dict)
    linux: Annotated[LinuxPodSandboxConfig | None, 8, "message"] = None


class RunPodSandboxRequest(Struct, kw_only=True):
    config: Annotated[PodSandboxConfig | None, 1, "message"] = None
    runtime_handler: Annotated[str, 2, "string"] = ""


class RunPodSandboxResponse(Struct, kw_only=True):
    pod_sandbox_id: Annotated[str, 1, "string"] = ""


class StopPodSandboxRequest(Struct, kw_only=True):
    pod_sandbox_id: Annotated[str, 1, "string"] = ""


class StopPodSandboxResponse(Struct, kw_only=True):
    pass


class RemovePodSandboxRequest(Struct, kw_only=True):
    pod_sandbox_id: Annotated[str, 1, "string"] = ""


class RemovePodSandboxResponse(Struct, kw_only=True):
    pass


class PodSandboxStatusRequest(Struct, kw_only=True):
    pod_sandbox_id: Annotated[str, 1, "string"] = ""
    verbose: Annotated[bool, 2, "bool"] = False


class PodIP(Struct, kw_only=True):
    ip: Annotated[str, 1, "string"] = ""


class PodSandboxNetworkStatus(Struct, kw_only=True):
    ip: Annotated[str, 1, "string"] = ""
    additional_ips: Annotated[list[PodIP], 2, "message"] = field(default_factory=list)


class Namespace(Struct, kw_only=True):
    options: Annotated[NamespaceOption | None, 2, "message"] = None


class LinuxPodSandboxStatus(Struct, kw_only=True):
    namespaces: Annotated[Namespace | None, 1, "message"] = None


class PodSandboxStatus(Struct, kw_only=True):
    id: Annotated[str, 1, "string"] = ""
    metadata: Annotated[PodSandboxMetadata | None, 2, "message"] = None
    state: Annotated[PodSandboxState, 3, "enum"] = PodSandboxState(0)
    created_at: Annotated[int, 4, "int64"] = 0
    network: Annotated[PodSandboxNetworkStatus | None, 5, "message"] = None
    linux: Annotated[LinuxPodSandboxStatus | None, 6, "message"] = None
    labels: Annotated[dict[str, str], 7, "map<string,string>"] = field(default_factory=dict)
    annotations: Annotated[dict[str, str], 8, "map<string,string>"] = field(default_factory=dict)
    runtime_handler: Annotated[str, 9, "string"] = ""


class PodSandboxStatusResponse(Struct, kw_only=True):
    status: Annotated[PodSandboxStatus | None, 1, "message"] = None
    info: Annotated[dict[str, str], 2, "map<string,string>"] = field(default_factory=dict)
    containers_statuses: Annotated[list[ContainerStatus], 3, "message"] = field(default_factory=list)
    timestamp: Annotated[int, 4, "int64"] = 0


class PodSandboxStateValue(Struct, kw_only=True):
    state: Annotated[PodSandboxState, 1, "enum"] = PodSandboxState(0)


class PodSandboxFilter(Struct, kw_only=True):
    id: Annotated[str, 1, "string"] = ""
    state: Annotated[PodSandboxStateValue | None, 2, "message"] = None
    label_selector: Annotated[dict[str, str], 3, "map<string,string>"] = field(default_factory=dict)


class ListPodSandboxRequest(Struct, kw_only=True):
    filter: Annotated[PodSandboxFilter | None, 1, "message"] = None


class PodSandbox(Struct, kw_only=True):
    id: Annotated[str, 1, "string"] = ""
    metadata: Annotated[PodSandboxMetadata | None, 2, "message"] = None
    state: Annotated[PodSandboxState, 3, "enum"] = PodSandboxState(0)
    created_at: Annotated[int, 4, "int64"] = 0
    labels: Annotated[dict[str, str], 5, "map<string,string>"] = field(default_factory=dict)
    annotations: Annotated[dict[str, str], 6, "map<string,string>"] = field(default_factory=dict)
    runtime_handler: Annotated[str, 7, "string"] = ""


class ListPodSandboxResponse(Struct, kw_only=True):
    items: Annotated[list[PodSandbox], 1, "message"] = field(default_factory=list)


class StreamPodSandboxesRequest(Struct, kw_only=True):
    filter: Annotated[PodSandboxFilter | None, 1, "message"] = None


class StreamPodSandboxesResponse(Struct, kw_only=True):
    pod_sandboxes: Annotated[list[PodSandbox], 1, "message"] = field(default_factory=list)


class PodSandboxStatsRequest(Struct, kw_only=True):
    pod_sandbox_id: Annotated[str, 1, "string"] = ""


class PodSandboxStatsResponse(Struct, kw_only=True):
    stats: Annotated[PodSandboxStats | None, 1, "message"] = None


class PodSandboxStatsFilter(Struct, kw_only=True):
    id: Annotated[str, 1, "string"] = ""
    label_selector: Annotated[dict[str, str], 2, "map<string,string>"] = field(default_factory=dict)


class ListPodSandboxStatsRequest(Struct, kw_only=True):
    filter: Annotated[PodSandboxStatsFilter | None, 1, "message"] = None


class ListPodSandboxStatsResponse(Struct, kw_only=True):
    stats: Annotated[list[PodSandboxStats], 1, "message"] = field(default_factory=list)


class StreamPodSandboxStatsRequest(Struct, kw_only=True):
    filter: Annotated[PodSandboxStatsFilter | None, 1, "message"] = None


class StreamPodSandboxStatsResponse(Struct, kw_only=True):
    pod_sandbox_stats: Annotated[list[PodSandboxStats], 1, "message"] = field(default_factory=list)


class PodSandboxAttributes(Struct, kw_only=True):
    id: Annotated[str, 1, "string"] = ""
    metadata: Annotated[PodSandboxMetadata | None, 2, "message"] = None
    labels: Annotated[dict[str, str], 3, "map<string,string>"] = field(default_factory=dict)
    annotations: Annotated[dict[str, str], 4, "map<string,string>"] = field(default_factory=dict)


class PodSandboxStats(Struct, kw_only=True):
    attributes: Annotated[PodSandboxAttributes | None, 1, "message"] = None
    linux: Annotated[LinuxPodSandboxStats | None, 2, "message"] = None


class LinuxPodSandboxStats(Struct, kw_only=True):
    cpu: Annotated[CpuUsage | None, 1, "message"] = None
    memory: Annotated[MemoryUsage | None, 2, "message"] = None
    network: Annotated[NetworkUsage | None, 3, "message"] = None
    process: Annotated[ProcessUsage | None, 4, "message"] = None
    containers: Annotated[list[ContainerStats], 5, "message"] = field(default_factory=list)
    io: Annotated[IoUsage | None, 6, "message"] = None


class NetworkUsage(Struct, kw_only=True):
    timestamp: Annotated[int, 1, "int64"] = 0
    default_interface: Annotated[NetworkInterfaceUsage | None, 2, "message"] = None
    interfaces: Annotated[list[NetworkInterfaceUsage], 3, "message"] = field(default_factory=list)


class NetworkInterfaceUsage(Struct, kw_only=True):
    name: Annotated[str, 1, "string"] = ""
    rx_bytes: Annotated[int | None, 2, "UInt64Value"] = None
    rx_errors: Annotated[int | None, 3, "UInt64Value"] = None
    tx_bytes: Annotated[int | None, 4, "UInt64Value"] = None
    tx_errors: Annotated[int | None, 5, "UInt64Value"] = None


class ProcessUsage(Struct, kw_only=True):
    timestamp: Annotated[int, 1, "int64"] = 0
    process_count: Annotated[int | None, 2, "UInt64Value"] = None


class ImageSpec(Struct, kw_only=True):
    image: Annotated[str, 1, "string"] = ""
    annotations: Annotated[dict[str, str], 2, "map<string,string>"] = field(default_factory=dict)
    user_specified_image: Annotated[str, 18, "string"] = ""
    runtime_handler: Annotated[str, 19, "string"] = ""
    image_ref: Annotated[str, 20, "string"] = ""


class KeyValue(Struct, kw_only=True):
    key: Annotated[str, 1, "string"] = ""
    value: Annotated[bytes, 2, "bytes"] = b""


class LinuxContainerResources(Struct, kw_only=True):
    cpu_period: Annotated[int, 1, "int64"] = 0
    cpu_quota: Annotated[int, 2, "int64"] = 0
    cpu_shares: Annotated[int, 3, "int64"] = 0
    memory_limit_in_bytes: Annotated[int, 4, "int64"] = 0
    oom_score_adj: Annotated[int, 5, "int64"] = 0
    cpuset_cpus: Annotated[str, 6, "string"] = ""
    cpuset_mems: Annotated[str, 7, "string"] = ""
    hugepage_limits: Annotated[list[HugepageLimit], 8, "message"] = field(default_factory=list)
    unified: Annotated[dict[str, str], 9, "map<string,string>"] = field(default_factory=dict)
    memory_swap_limit_in_bytes: Annotated[int, 10, "int64"] = 0


class HugepageLimit(Struct, kw_only=True):
    page_size: Annotated[str, 1, "string"] = ""
    limit: Annotated[int, 2, "uint64"] = 0


class SELinuxOption(Struct, kw_only=True):
    user: Annotated[str, 1, "string"] = ""
    role: Annotated[str, 2, "string"] = ""
    type: Annotated[str, 3, "string"] = ""
    level: Annotated[str, 4, "string"] = ""


class Capability(Struct, kw_only=True):
    add_capabilities: Annotated[list[str], 1, "string"] = field(default_factory=list)
    drop_capabilities: Annotated[list[str], 2, "string"] = field(default_factory=list)
    add_ambient_capabilities: Annotated[list[str], 3, "string"] = field(default_factory=list)


class LinuxContainerSecurityContext(Struct, kw_only=True):
    capabilities: Annotated[Capability | None, 1, "message"] = None
    privileged: Annotated[bool, 2, "bool"] = False
    namespace_options: Annotated[NamespaceOption | None, 3, "message"] = None
    selinux_options: Annotated[SELinuxOption | None, 4, "message"] = None
    run_as_user: Annotated[int | None, 5, "Int64Value"] = None
    run_as_group: Annotated[int | None, 12, "Int64Value"] = None
    run_as_username: Annotated[str, 6, "string"] = ""
    readonly_rootfs: Annotated[bool, 7, "bool"] = False
    supplemental_groups: Annotated[list[int], 8, "int64"] = field(default_factory=list)
    supplemental_groups_policy: Annotated[SupplementalGroupsPolicy, 17, "enum"] = SupplementalGroupsPolicy(0)
    no_new_privs: Annotated[bool, 11, "bool"] = False
    masked_paths: Annotated[list[str], 13, "string"] = field(default_factory=list)
    readonly_paths: Annotated[list[str], 14, "string"] = field(default_factory=list)
    seccomp: Annotated[SecurityProfile | None, 15, "message"] = None
    apparmor: Annotated[SecurityProfile | None, 16, "message"] = None
    apparmor_profile: Annotated[str, 9, "string"] = ""
    seccomp_profile_path: Annotated[str, 10, "string"] = ""


class LinuxContainerConfig(Struct, kw_only=True):
    resources: Annotated[LinuxContainerResources | None, 1, "message"] = None
    security_context: Annotated[LinuxContainerSecurityContext | None, 2, "message"] = None


class LinuxContainerUser(Struct, kw_only=True):
    uid: Annotated[int, 1, "int64"] = 0
    gid: Annotated[int, 2, "int64"] = 0
    supplemental_groups: Annotated[list[int], 3, "int64"] = field(default_factory=list)


class ContainerMetadata(Struct, kw_only=True):
    name: Annotated[str, 1, "string"] = ""
    attempt: Annotated[int, 2, "uint32"] = 0


class Device(Struct, kw_only=True):
    container_path: Annotated[str, 1, "string"] = ""
    host_path: Annotated[str, 2, "string"] = ""
    permissions: Annotated[str, 3, "string"] = ""


class CDIDevice(Struct, kw_only=True):
    name: Annotated[str, 1, "string"] = ""


class ContainerConfig(Struct, kw_only=True):
    metadata: Annotated[ContainerMetadata | None, 1, "message"] = None
    image: Annotated[ImageSpec | None, 2, "message"] = None
    command: Annotated[list[str], 3, "string"] = field(default_factory=list)
    args: Annotated[list[str], 4, "string"] = field(default_factory=list)
    working_dir: Annotated[str, 5, "string"] = ""
    envs: Annotated[list[KeyValue], 6, "message"] = field(default_factory=list)
    mounts: Annotated[list[Mount], 7, "message"] = field(default_factory=list)
    devices: Annotated[list[Device], 8, "message"] = field(default_factory=list)
    labels: Annotated[dict[str, str], 9, "map<string,string>"] = field(default_factory=dict)
    annotations: Annotated[dict[str, str], 10, "map<string,string>"] = field(default_factory=dict)
    log_path: Annotated[str, 11, "string"] = ""
    stdin: Annotated[bool, 12, "bool"] = False
    stdin_once: Annotated[bool, 13, "bool"] = False
    tty: Annotated[bool, 14, "bool"] = False
    linux: Annotated[LinuxContainerConfig | None, 15, "message"] = None
    cdi_devices: Annotated[list[CDIDevice], 17, "message"] = field(default_factory=list)
    stop_signal: Annotated[Signal, 18, "enum"] = Signal(0)


class CreateContainerRequest(Struct, kw_only=True):
    pod_sandbox_id: Annotated[str, 1, "string"] = ""
    config: Annotated[ContainerConfig | None, 2, "message"] = None
    sandbox_config: Annotated[PodSandboxConfig | None, 3, "message"] = None


class CreateContainerResponse(Struct, kw_only=True):
    container_id: Annotated[str, 1, "string"] = ""


class StartContainerRequest(Struct, kw_only=True):
    container_id: Annotated[str, 1, "string"] = ""


class StartContainerResponse(Struct, kw_only=True):
    pass


class StopContainerRequest(Struct, kw_only=True):
    container_id: Annotated[str, 1, "string"] = ""
    timeout: Annotated[int, 2, "int64"] = 0


class StopContainerResponse(Struct, kw_only=True):
    pass


class RemoveContainerRequest(Struct, kw_only=True):
    container_id: Annotated[str, 1, "string"] = ""


class RemoveContainerResponse(Struct, kw_only=True):
    pass


class ContainerStateValue(Struct, kw_only=True):
    state: Annotated[ContainerState, 1, "enum"] = ContainerState(0)


class ContainerFilter(Struct, kw_only=True):
    id: Annotated[str, 1, "string"] = ""
    state: Annotated[ContainerStateValue | None, 2, "message"] = None
    pod_sandbox_id: Annotated[str, 3, "string"] = ""
    label_selector: Annotated[dict[str, str], 4, "map<string,string>"] = field(default_factory=dict)


class ListContainersRequest(Struct, kw_only=True):
    filter: Annotated[ContainerFilter | None, 1, "message"] = None


class Container(Struct, kw_only=True):
    id: Annotated[str, 1, "string"] = ""
    pod_sandbox_id: Annotated[str, 2, "string"] = ""
    metadata: Annotated[ContainerMetadata | None, 3, "message"] = None
    image: Annotated[ImageSpec | None, 4, "message"] = None
    image_ref: Annotated[str, 5, "string"] = ""
    state: Annotated[ContainerState, 6, "enum"] = ContainerState(0)
    created_at: Annotated[int, 7, "int64"] = 0
    labels: Annotated[dict[str, str], 8, "map<string,string>"] = field(default_factory=dict)
    annotations: Annotated[dict[str, str], 9, "map<string,string>"] = field(default_factory=dict)
    image_id: Annotated[str, 10, "string"] = ""


class ListContainersResponse(Struct, kw_only=True):
    containers: Annotated[list[Container], 1, "message"] = field(default_factory=list)


class StreamContainersRequest(Struct, kw_only=True):
    filter: Annotated[ContainerFilter | None, 1, "message"] = None


class StreamContainersResponse(Struct, kw_only=True):
    containers: Annotated[list[Container], 1, "message"] = field(default_factory=list)


class ContainerStatusRequest(Struct, kw_only=True):
    container_id: Annotated[str, 1, "string"] = ""
    verbose: Annotated[bool, 2, "bool"] = False


class ContainerStatus(Struct, kw_only=True):
    id: Annotated[str, 1, "string"] = ""
    metadata: Annotated[ContainerMetadata | None, 2, "message"] = None
    state: Annotated[ContainerState, 3, "enum"] = ContainerState(0)
    created_at: Annotated[int, 4, "int64"] = 0
    started_at: Annotated[int, 5, "int64"] = 0
    finished_at: Annotated[int, 6, "int64"] = 0
    exit_code: Annotated[int, 7, "int32"] = 0
    image: Annotated[ImageSpec | None, 8, "message"] = None
    image_ref: Annotated[str, 9, "string"] = ""
    reason: Annotated[str, 10, "string"] = ""
    message: Annotated[str, 11, "string"] = ""
    labels: Annotated[dict[str, str], 12, "map<string,string>"] = field(default_factory=dict)
    annotations: Annotated[dict[str, str], 13, "map<string,string>"] = field(default_factory=dict)
    mounts: Annotated[list[Mount], 14, "message"] = field(default_factory=list)
    log_path: Annotated[str, 15, "string"] = ""
    resources: Annotated[ContainerResources | None, 16, "message"] = None
    image_id: Annotated[str, 17, "string"] = ""
    user: Annotated[ContainerUser | None, 18, "message"] = None
    stop_signal: Annotated[Signal, 19, "enum"] = Signal(0)


class ContainerStatusResponse(Struct, kw_only=True):
    status: Annotated[ContainerStatus | None, 1, "message"] = None
    info: Annotated[dict[str, str], 2, "map<string,string>"] = field(default_factory=dict)


class ContainerResources(Struct, kw_only=True):
    linux: Annotated[LinuxContainerResources | None, 1, "message"] = None


class ContainerUser(Struct, kw_only=True):
    linux: Annotated[LinuxContainerUser | None, 1, "message"] = None


class UpdateContainerResourcesRequest(Struct, kw_only=True):
    container_id: Annotated[str, 1, "string"] = ""
    linux: Annotated[LinuxContainerResources | None, 2, "message"] = None
    annotations: Annotated[dict[str, str], 4, "map<string,string>"] = field(default_factory=dict)


class UpdateContainerResourcesResponse(Struct, kw_only=True):
    pass


class ExecSyncRequest(Struct, kw_only=True):
    container_id: Annotated[str, 1, "string"] = ""
    cmd: Annotated[list[str], 2, "string"] = field(default_factory=list)
    timeout: Annotated[int, 3, "int64"] = 0


class ExecSyncResponse(Struct, kw_only=True):
    stdout: Annotated[bytes, 1, "bytes"] = b""
    stderr: Annotated[bytes, 2, "bytes"] = b""
    exit_code: Annotated[int, 3, "int32"] = 0


class ExecRequest(Struct, kw_only=True):
    container_id: Annotated[str, 1, "string"] = ""
    cmd: Annotated[list[str], 2, "string"] = field(default_factory=list)
    tty: Annotated[bool, 3, "bool"] = False
    stdin: Annotated[bool, 4, "bool"] = False
    stdout: Annotated[bool, 5, "bool"] = False
    stderr: Annotated[bool, 6, "bool"] = False


class ExecResponse(Struct, kw_only=True):
    url: Annotated[str, 1, "string"] = ""


class AttachRequest(Struct, kw_only=True):
    container_id: Annotated[str, 1, "string"] = ""
    stdin: Annotated[bool, 2, "bool"] = False
    tty: Annotated[bool, 3, "bool"] = False
    stdout: Annotated[bool, 4, "bool"] = False
    stderr: Annotated[bool, 5, "bool"] = False


class AttachResponse(Struct, kw_only=True):
    url: Annotated[str, 1, "string"] = ""


class PortForwardRequest(Struct, kw_only=True):
    pod_sandbox_id: Annotated[str, 1, "string"] = ""
    port: Annotated[list[int], 2, "int32"] = field(default_factory=list)


class PortForwardResponse(Struct, kw_only=True):
    url: Annotated[str, 1, "string"] = ""


class ImageFilter(Struct, kw_only=True):
    image: Annotated[ImageSpec | None, 1, "message"] = None


class ListImagesRequest(Struct, kw_only=True):
    filter: Annotated[ImageFilter | None, 1, "message"] = None


class Image(Struct, kw_only=True):
    id: Annotated[str, 1, "string"] = ""
    repo_tags: Annotated[list[str], 2, "string"] = field(default_factory=list)
    repo_digests: Annotated[list[str], 3, "string"] = field(default_factory=list)
    size: Annotated[int, 4, "uint64"] = 0
    uid: Annotated[int | None, 5, "Int64Value"] = None
    username: Annotated[str, 6, "string"] = ""
    spec: Annotated[ImageSpec | None, 7, "message"] = None
    pinned: Annotated[bool, 8, "bool"] = False


class ListImagesResponse(Struct, kw_only=True):
    images: Annotated[list[Image], 1, "message"] = field(default_factory=list)


class StreamImagesRequest(Struct, kw_only=True):
    filter: Annotated[ImageFilter | None, 1, "message"] = None


class StreamImagesResponse(Struct, kw_only=True):
    images: Annotated[list[Image], 1, "message"] = field(default_factory=list)


class ImageStatusRequest(Struct, kw_only=True):
    image: Annotated[ImageSpec | None, 1, "message"] = None
    verbose: Annotated[bool, 2, "bool"] = False


class ImageStatusResponse(Struct, kw_only=True):
    image: Annotated[Image | None, 1, "message"] = None
    info: Annotated[dict[str, str], 2, "map<string,string>"] = field(default_factory=dict)


class AuthConfig(Struct, kw_only=True):
    username: Annotated[str, 1, "string"] = ""
    password: Annotated[str, 2, "string"] = ""
    auth: Annotated[str, 3, "string"] = ""
    server_address: Annotated[str, 4, "string"] = ""
    identity_token: Annotated[str, 5, "string"] = ""
    registry_token: Annotated[str, 6, "string"] = ""


class PullImageRequest(Struct, kw_only=True):
    image: Annotated[ImageSpec | None, 1, "message"] = None
    auth: Annotated[AuthConfig | None, 2, "message"] = None
    sandbox_config: Annotated[PodSandboxConfig | None, 3, "message"] = None


class PullImageResponse(Struct, kw_only=True):
    image_ref: Annotated[str, 1, "string"] = ""


class RemoveImageRequest(Struct, kw_only=True):
    image: Annotated[ImageSpec | None, 1, "message"] = None


class RemoveImageResponse(Struct, kw_only=True):
    pass


class NetworkConfig(Struct, kw_only=True):
    pod_cidr: Annotated[str, 1, "string"] = ""


class RuntimeConfig(Struct, kw_only=True):
    network_config: Annotated[NetworkConfig | None, 1, "message"] = None


class UpdateRuntimeConfigRequest(Struct, kw_only=True):
    runtime_config: Annotated[RuntimeConfig | None, 1, "message"] = None


class UpdateRuntimeConfigResponse(Struct, kw_only=True):
    pass


class RuntimeCondition(Struct, kw_only=True):
    type: Annotated[str, 1, "string"] = ""
    status: Annotated[bool, 2, "bool"] = False
    reason: Annotated[str, 3, "string"] = ""
    message: Annotated[str, 4, "string"] = ""


class RuntimeStatus(Struct, kw_only=True):
    conditions: Annotated[list[RuntimeCondition], 1, "message"] = field(default_factory=list)


class StatusRequest(Struct, kw_only=True):
    verbose: Annotated[bool, 1, "bool"] = False


class RuntimeHandlerFeatures(Struct, kw_only=True):
    recursive_read_only_mounts: Annotated[bool, 1, "bool"] = False
    user_namespaces: Annotated[bool, 2, "bool"] = False


class RuntimeHandler(Struct, kw_only=True):
    name: Annotated[str, 1, "string"] = ""
    features: Annotated[RuntimeHandlerFeatures | None, 2, "message"] = None


class RuntimeFeatures(Struct, kw_only=True):
    supplemental_groups_policy: Annotated[bool, 1, "bool"] = False
    user_namespaces_host_network: Annotated[bool, 2, "bool"] = False


class StatusResponse(Struct, kw_only=True):
    status: Annotated[RuntimeStatus | None, 1, "message"] = None
    info: Annotated[dict[str, str], 2, "map<string,string>"] = field(default_factory=dict)
    runtime_handlers: Annotated[list[RuntimeHandler], 3, "message"] = field(default_factory=list)
    features: Annotated[RuntimeFeatures | None, 4, "message"] = None


class ImageFsInfoRequest(Struct, kw_only=True):
    pass


class FilesystemIdentifier(Struct, kw_only=True):
    mountpoint: Annotated[str, 1, "string"] = ""


class FilesystemUsage(Struct, kw_only=True):
    timestamp: Annotated[int, 1, "int64"] = 0
    fs_id: Annotated[FilesystemIdentifier | None, 2, "message"] = None
    used_bytes: Annotated[int | None, 3, "UInt64Value"] = None
    inodes_used: Annotated[int | None, 4, "UInt64Value"] = None


class ImageFsInfoResponse(Struct, kw_only=True):
    image_filesystems: Annotated[list[FilesystemUsage], 1, "message"] = field(default_factory=list)
    container_filesystems: Annotated[list[FilesystemUsage], 2, "message"] = field(default_factory=list)


class ContainerStatsRequest(Struct, kw_only=True):
    container_id: Annotated[str, 1, "string"] = ""


class ContainerStatsResponse(Struct, kw_only=True):
    stats: Annotated[ContainerStats | None, 1, "message"] = None


class ListContainerStatsRequest(Struct, kw_only=True):
    filter: Annotated[ContainerStatsFilter | None, 1, "message"] = None


class ContainerStatsFilter(Struct, kw_only=True):
    id: Annotated[str, 1, "string"] = ""
    pod_sandbox_id: Annotated[str, 2, "string"] = ""
    label_selector: Annotated[dict[str, str], 3, "map<string,string>"] = field(default_factory=dict)


class ListContainerStatsResponse(Struct, kw_only=True):
    stats: Annotated[list[ContainerStats], 1, "message"] = field(default_factory=list)


class StreamContainerStatsRequest(Struct, kw_only=True):
    filter: Annotated[ContainerStatsFilter | None, 1, "message"] = None


class StreamContainerStatsResponse(Struct, kw_only=True):
    container_stats: Annotated[list[ContainerStats], 1, "message"] = field(default_factory=list)


class ContainerAttributes(Struct, kw_only=True):
    id: Annotated[str, 1, "string"] = ""
    metadata: Annotated[ContainerMetadata | None, 2, "message"] = None
    labels: Annotated[dict[str, str], 3, "map<string,string>"] = field(default_factory=dict)
    annotations: Annotated[dict[str, str], 4, "map<string,string>"] = field(default_factory=dict)


class ContainerStats(Struct, kw_only=True):
    attributes: Annotated[ContainerAttributes | None, 1, "message"] = None
    cpu: Annotated[CpuUsage | None, 2, "message"] = None
    memory: Annotated[MemoryUsage | None, 3, "message"] = None
    writable_layer: Annotated[FilesystemUsage | None, 4, "message"] = None
    swap: Annotated[SwapUsage | None, 5, "message"] = None
    io: Annotated[IoUsage | None, 6, "message"] = None


class PsiStats(Struct, kw_only=True):
    full: Annotated[PsiData | None, 1, "message"] = None
    some: Annotated[PsiData | None, 2, "message"] = None


class PsiData(Struct, kw_only=True):
    total: Annotated[int, 1, "uint64"] = 0
    avg10: Annotated[float, 2, "double"] = 0.0
    avg60: Annotated[float, 3, "double"] = 0.0
    avg300: Annotated[float, 4, "double"] = 0.0


class CpuUsage(Struct, kw_only=True):
    timestamp: Annotated[int, 1, "int64"] = 0
    usage_core_nano_seconds: Annotated[int | None, 2, "UInt64Value"] = None
    usage_nano_cores: Annotated[int | None, 3, "UInt64Value"] = None
    psi: Annotated[PsiStats | None, 4, "message"] = None


class MemoryUsage(Struct, kw_only=True):
    timestamp: Annotated[int, 1, "int64"] = 0
    working_set_bytes: Annotated[int | None, 2, "UInt64Value"] = None
    available_bytes: Annotated[int | None, 3, "UInt64Value"] = None
    usage_bytes: Annotated[int | None, 4, "UInt64Value"] = None
    rss_bytes: Annotated[int | None, 5, "UInt64Value"] = None
    page_faults: Annotated[int | None, 6, "UInt64Value"] = None
    major_page_faults: Annotated[int | None, 7, "UInt64Value"] = None
    psi: Annotated[PsiStats | None, 8, "message"] = None


class IoUsage(Struct, kw_only=True):
    timestamp: Annotated[int, 1, "int64"] = 0
    psi: Annotated[PsiStats | None, 2, "message"] = None


class SwapUsage(Struct, kw_only=True):
    timestamp: Annotated[int, 1, "int64"] = 0
    swap_available_bytes: Annotated[int | None, 2, "UInt64Value"] = None
    swap_usage_bytes: Annotated[int | None, 3, "UInt64Value"] = None


class ReopenContainerLogRequest(Struct, kw_only=True):
    container_id: Annotated[str, 1, "string"] = ""


class ReopenContainerLogResponse(Struct, kw_only=True):
    pass


class CheckpointContainerRequest(Struct, kw_only=True):
    container_id: Annotated[str, 1, "string"] = ""
    location: Annotated[str, 2, "string"] = ""
    timeout: Annotated[int, 3, "int64"] = 0


class CheckpointContainerResponse(Struct, kw_only=True):
    pass


class GetEventsRequest(Struct, kw_only=True):
    pass


class ContainerEventResponse(Struct, kw_only=True):
    container_id: Annotated[str, 1, "string"] = ""
    container_event_type: Annotated[ContainerEventType, 2, "enum"] = ContainerEventType(0)
    created_at: Annotated[int, 3, "int64"] = 0
    pod_sandbox_status: Annotated[PodSandboxStatus | None, 4, "message"] = None
    containers_statuses: Annotated[list[ContainerStatus], 5, "message"] = field(default_factory=list)


class ListMetricDescriptorsRequest(Struct, kw_only=True):
    pass


class ListMetricDescriptorsResponse(Struct, kw_only=True):
    descriptors: Annotated[list[MetricDescriptor], 1, "message"] = field(default_factory=list)


class MetricDescriptor(Struct, kw_only=True):
    name: Annotated[str, 1, "string"] = ""
    help: Annotated[str, 2, "string"] = ""
    label_keys: Annotated[list[str], 3, "string"] = field(default_factory=list)


class ListPodSandboxMetricsRequest(Struct, kw_only=True):
    pass


class ListPodSandboxMetricsResponse(Struct, kw_only=True):
    pod_metrics: Annotated[list[PodSandboxMetrics], 1, "message"] = field(default_factory=list)


class StreamPodSandboxMetricsRequest(Struct, kw_only=True):
    pass


class StreamPodSandboxMetricsResponse(Struct, kw_only=True):
    pod_sandbox_metrics: Annotated[list[PodSandboxMetrics], 1, "message"] = field(default_factory=list)


class PodSandboxMetrics(Struct, kw_only=True):
    pod_sandbox_id: Annotated[str, 1, "string"] = ""
    metrics: Annotated[list[Metric], 2, "message"] = field(default_factory=list)
    container_metrics: Annotated[list[ContainerMetrics], 3, "message"] = field(default_factory=list)


class ContainerMetrics(Struct, kw_only=True):
    container_id: Annotated[str, 1, "string"] = ""
    metrics: Annotated[list[Metric], 2, "message"] = field(default_factory=list)


class Metric(Struct, kw_only=True):
    name: Annotated[str, 1, "string"] = ""
    timestamp: Annotated[int, 2, "int64"] = 0
    metric_type: Annotated[MetricType, 3, "enum"] = MetricType(0)
    label_values: Annotated[list[str], 4, "string"] = field(default_factory=list)
    value: Annotated[int | None, 5, "UInt64Value"] = None


class RuntimeConfigRequest(Struct, kw_only=True):
    pass


class RuntimeConfigResponse(Struct, kw_only=True):
    linux: Annotated[LinuxRuntimeConfiguration | None, 1, "message"] = None


class LinuxRuntimeConfiguration(Struct, kw_only=True):
    cgroup_driver: Annotated[CgroupDriver, 1, "enum"] = CgroupDriver(0)


class UpdatePodSandboxResourcesRequest(Struct, kw_only=True):
    pod_sandbox_id: Annotated[str, 1, "string"] = ""
    overhead: Annotated[LinuxContainerResources | None, 2, "message"] = None
    resources: Annotated[LinuxContainerResources | None, 3, "message"] = None


class UpdatePodSandboxResourcesResponse(Struct, kw_only=True):
    pass
