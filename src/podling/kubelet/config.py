"""The kubelet's settings: one declaration each, from which flag, field of the configuration file, default,
help and `/configz` follow (`settings.py`). Loaded once by whoever starts the kubelet and passed down.

Names and defaults are those of the kubelet's flags and of KubeletConfiguration v1beta1; where ours differ
the help says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from podling.api import core_v1
from podling.kubelet.settings import (
    BOOL,
    DURATION,
    DURATIONS,
    GATES,
    INT,
    PAIRS,
    PATH,
    QUANTITIES,
    SIZE,
    STRING,
    STRINGS,
    TAINTS,
    one_of,
    setting,
    within,
)
from podling.kubelet.thresholds import DEFAULT_HARD, THRESHOLDS, Threshold

KUBELET_VERSION = "v1.37.0+podling"
"""Shown by `kubectl get nodes`; the Kubernetes release whose shapes we speak."""

_PORT = within(0, 65535)


@dataclass(frozen=True, slots=True, kw_only=True)
class KubeletConfig:
    """Settings of one node's kubelet. Durations are in seconds."""

    # The node

    node_name: str = setting(
        kind=STRING,
        flag="hostname-override",
        help="Name of the Node this kubelet owns. [default: the host name in lower case]",
    )
    node_ip: str = setting(
        kind=STRING,
        flag="node-ip",
        help="Address of the node: its InternalIP and the hostIP of its pods. [default: the address from "
        "which it reaches the API server]",
    )
    root_dir: Path = setting(
        Path("/var/lib/kubelet"),
        kind=PATH,
        flag="root-dir",
        help="Directory for the kubelet's files: volumes, /etc/hosts and termination messages of pods.",
    )
    pod_logs_dir: Path = setting(
        Path("/var/log/pods"), kind=PATH, file="podLogsDir", help="Directory for the logs of containers."
    )
    node_labels: Mapping[str, str] = setting(
        {},
        kind=PAIRS,
        flag="node-labels",
        help="Labels to register the node with, as key=value pairs separated by commas. Those in the "
        "kubernetes.io namespace must begin with kubelet.kubernetes.io or node.kubernetes.io, or be known.",
    )
    register_node: bool = setting(
        True,
        kind=BOOL,
        flag="register-node",
        file="registerNode",
        help="Register the node with the API server.",
    )
    register_with_taints: tuple[core_v1.Taint, ...] = setting(
        (),
        kind=TAINTS,
        flag="register-with-taints",
        file="registerWithTaints",
        help="Taints to register the node with, as key=value:effect separated by commas.",
    )
    pod_cidr: str | None = setting(
        "",
        kind=STRING,
        flag="pod-cidr",
        file="podCIDR",
        help="Range of the node's pods, written to the Node. [default: the cluster assigns it]",
    )
    node_status_update_frequency_s: float = setting(
        10.0,
        kind=DURATION,
        flag="node-status-update-frequency",
        file="nodeStatusUpdateFrequency",
        help="How often a changed node status is looked for.",
    )
    node_status_report_frequency_s: float = setting(
        300.0,
        kind=DURATION,
        file="nodeStatusReportFrequency",
        help="An unchanged node status is reported at least this often.",
    )
    lease_duration_s: int = setting(
        40,
        kind=INT,
        file="nodeLeaseDurationSeconds",
        help="Seconds others believe in this node after its last sign of life; renewed at a quarter of it.",
    )
    kubelet_version: str = KUBELET_VERSION
    cloud_provider: str = setting(
        "",
        kind=one_of("", why="there is no cloud here"),
        flag="cloud-provider",
        help="Must be empty.",
    )

    # Pods

    static_pod_path: Path | None = setting(
        None,
        kind=PATH,
        flag="pod-manifest-path",
        file="staticPodPath",
        help="Directory with the manifests of static pods, or one such file. Files whose names begin with a "
        "dot are ignored.",
    )
    file_check_frequency_s: float = setting(
        20.0,
        kind=DURATION,
        flag="file-check-frequency",
        file="fileCheckFrequency",
        help="How often the static pods' directory is looked at, besides at once when it changes.",
    )
    static_pod_url: str = setting(
        "", kind=STRING, flag="manifest-url", file="staticPodURL", help="URL of manifests of static pods."
    )
    static_pod_url_header: tuple[str, ...] = setting(
        (),
        kind=STRINGS,
        flag="manifest-url-header",
        help="Headers for requests to --manifest-url, as name:value separated by commas.",
    )
    http_check_frequency_s: float = setting(
        20.0,
        kind=DURATION,
        flag="http-check-frequency",
        file="httpCheckFrequency",
        help="How often --manifest-url is asked.",
    )
    sync_frequency_s: float = setting(
        60.0,
        kind=DURATION,
        flag="sync-frequency",
        file="syncFrequency",
        help="How often every pod is looked at, besides at once when something changes.",
    )
    max_pods: int = setting(
        110, kind=within(1, 100_000), flag="max-pods", file="maxPods", help="Pods the node takes at most."
    )
    pods_per_core: int = setting(
        0,
        kind=INT,
        flag="pods-per-core",
        file="podsPerCore",
        help="Pods a core takes at most; 0 for no such limit. --max-pods holds too.",
    )
    pod_max_pids: int = setting(
        -1,
        kind=INT,
        flag="pod-max-pids",
        file="podPidsLimit",
        help="Processes a pod may have; -1 for as many as the node can.",
    )
    allow_privileged: bool = setting(
        True,
        kind=BOOL,
        flag="allow-privileged",
        help="Run privileged containers. (Removed from Kubernetes 1.15; false still refuses them here.)",
    )
    allowed_unsafe_sysctls: tuple[str, ...] = setting(
        (),
        kind=STRINGS,
        flag="allowed-unsafe-sysctls",
        file="allowedUnsafeSysctls",
        help="Sysctls that pods may set besides the safe ones, separated by commas; those ending in * are "
        "prefixes. Only what belongs to a pod's namespaces can be allowed.",
    )
    seccomp_default: bool = setting(
        # Differs from upstream, whose default is off: secure unless a pod says otherwise.
        True,
        kind=BOOL,
        flag="seccomp-default",
        file="seccompDefault",
        help="RuntimeDefault is the seccomp profile of containers that name none. (Kubernetes: false)",
    )
    enable_probes: bool = True

    # The names of the cluster

    cluster_dns: tuple[str, ...] = setting(
        (),
        kind=STRINGS,
        flag="cluster-dns",
        file="clusterDNS",
        help="Addresses of the cluster's DNS servers, separated by commas. Without one, pods with dnsPolicy "
        "ClusterFirst get the node's.",
    )
    cluster_domain: str = setting(
        "cluster.local",
        kind=STRING,
        flag="cluster-domain",
        file="clusterDomain",
        help="Domain of the cluster, searched by pods.",
    )
    resolv_conf: Path = setting(
        Path("/etc/resolv.conf"),
        kind=PATH,
        flag="resolv-conf",
        file="resolvConf",
        help="Resolver configuration given to pods with dnsPolicy Default.",
    )

    # Images

    max_parallel_image_pulls: int = setting(
        4,
        kind=within(1, 10_000),
        file="maxParallelImagePulls",
        help="Images pulled at once. (Kubernetes: no limit)",
    )
    serialize_image_pulls: bool = setting(
        # Differs from upstream, whose default is on.
        False,
        kind=BOOL,
        flag="serialize-image-pulls",
        file="serializeImagePulls",
        help="Pull one image at a time. (Kubernetes: true)",
    )

    image_gc_high_threshold_percent: int = setting(
        85,
        kind=within(0, 100),
        flag="image-gc-high-threshold",
        file="imageGCHighThresholdPercent",
        zero_is_default=False,
        help="Percentage of the images' disk in use above which unused images are removed.",
    )
    image_gc_low_threshold_percent: int = setting(
        80,
        kind=within(0, 100),
        flag="image-gc-low-threshold",
        file="imageGCLowThresholdPercent",
        zero_is_default=False,
        help="Percentage down to which they are removed.",
    )
    image_minimum_gc_age_s: float = setting(
        120.0,
        kind=DURATION,
        flag="minimum-image-ttl-duration",
        file="imageMinimumGCAge",
        help="Age below which an unused image is not removed.",
    )
    image_maximum_gc_age_s: float = setting(
        0.0,
        kind=DURATION,
        file="imageMaximumGCAge",
        help="Age of the last use from which an image is removed however full the disk is; 0s: none.",
    )

    # Resources

    cgroup_driver: str = setting(
        "cgroupfs",
        kind=one_of("cgroupfs", why="the runtime makes its cgroups itself"),
        flag="cgroup-driver",
        file="cgroupDriver",
        help="Who makes cgroups. Only cgroupfs.",
    )
    cgroup_root: str = setting(
        "",
        kind=STRING,
        flag="cgroup-root",
        file="cgroupRoot",
        help="Parent of the cgroup `kubepods`, from the root the kubelet sees.",
    )
    cgroups_per_qos: bool = setting(
        True,
        kind=BOOL,
        flag="cgroups-per-qos",
        file="cgroupsPerQOS",
        help="A cgroup for every pod and quality of service; false: the runtime chooses.",
    )
    fail_swap_on: bool = setting(
        True,
        kind=BOOL,
        flag="fail-swap-on",
        file="failSwapOn",
        help="Refuse to start when swap is enabled on the node.",
    )
    system_reserved: Mapping[str, str] = setting(
        {},
        kind=QUANTITIES,
        flag="system-reserved",
        file="systemReserved",
        help="Resources kept for the system, as cpu=200m,memory=500Mi: taken off what pods can have.",
    )
    kube_reserved: Mapping[str, str] = setting(
        {},
        kind=QUANTITIES,
        flag="kube-reserved",
        file="kubeReserved",
        help="Resources kept for the node agent, as cpu=200m,memory=500Mi: taken off what pods can have.",
    )
    eviction_hard: tuple[Threshold, ...] = setting(
        DEFAULT_HARD,
        kind=THRESHOLDS,
        flag="eviction-hard",
        file="evictionHard",
        help="Thresholds below which pods are evicted at once, as memory.available<100Mi,pid.available<10%. "
        "Those of memory and nodefs are taken off what pods can have.",
    )
    eviction_soft: tuple[Threshold, ...] = setting(
        (),
        kind=THRESHOLDS,
        flag="eviction-soft",
        file="evictionSoft",
        help="Thresholds below which pods are evicted after a grace period, as memory.available<300Mi.",
    )
    eviction_soft_grace_period_s: Mapping[str, float] = setting(
        {},
        kind=DURATIONS,
        flag="eviction-soft-grace-period",
        file="evictionSoftGracePeriod",
        help="Grace periods of --eviction-soft, as memory.available=1m30s.",
    )
    eviction_max_pod_grace_period_s: int = setting(
        0,
        kind=INT,
        flag="eviction-max-pod-grace-period",
        file="evictionMaxPodGracePeriod",
        help="Longest grace period in seconds of a pod that a soft threshold evicts.",
    )
    eviction_minimum_reclaim: Mapping[str, str] = setting(
        {},
        kind=PAIRS,
        flag="eviction-minimum-reclaim",
        file="evictionMinimumReclaim",
        help="How much is reclaimed at least, as nodefs.available=500Mi.",
    )
    eviction_pressure_transition_period_s: float = setting(
        300.0,
        kind=DURATION,
        flag="eviction-pressure-transition-period",
        file="evictionPressureTransitionPeriod",
        help="How long a pressure condition stays after its cause is gone.",
    )

    # The server

    bind_address: str = setting(
        "0.0.0.0",
        kind=STRING,
        flag="address",
        file="address",
        help="Address the kubelet's server listens on.",
    )
    port: int = setting(10250, kind=_PORT, flag="port", file="port", help="Port of the kubelet's server.")
    read_only_port: int = setting(
        # Differs from upstream, whose flag has 10255: what needs no password must be asked for.
        0,
        kind=_PORT,
        flag="read-only-port",
        file="readOnlyPort",
        help="Port of a server that needs no authentication and only tells; 0 for none. (Kubernetes: 10255)",
    )
    healthz_port: int = setting(
        10248,
        kind=_PORT,
        flag="healthz-port",
        file="healthzPort",
        zero_is_default=False,
        help="Port of /healthz without TLS; 0 for none.",
    )
    healthz_bind_address: str = setting(
        "127.0.0.1",
        kind=STRING,
        flag="healthz-bind-address",
        file="healthzBindAddress",
        help="Address of --healthz-port.",
    )
    enable_debugging_handlers: bool = setting(
        True,
        kind=BOOL,
        flag="enable-debugging-handlers",
        file="enableDebuggingHandlers",
        help="Serve logs, exec, attach and port-forward.",
    )
    tls_cert: Path | None = setting(
        None,
        kind=PATH,
        flag="tls-cert-file",
        file="tlsCertFile",
        help="Certificate of the server. [default: kubelet.crt in --cert-dir]",
    )
    tls_key: Path | None = setting(
        None,
        kind=PATH,
        flag="tls-private-key-file",
        file="tlsPrivateKeyFile",
        help="Key of the server's certificate. [default: kubelet.key in --cert-dir]",
    )
    client_ca: Path | None = setting(
        None,
        kind=PATH,
        flag="client-ca-file",
        file="authentication.x509.clientCAFile",
        help="CA of client certificates that the server believes.",
    )
    anonymous_auth: bool = setting(
        # Differs from the flag of upstream, whose default is on; in its configuration file it is off.
        False,
        kind=BOOL,
        flag="anonymous-auth",
        file="authentication.anonymous.enabled",
        help="Take requests without certificate or token as system:anonymous, of system:unauthenticated.",
    )
    webhook_authentication: bool = setting(
        True,
        kind=BOOL,
        flag="authentication-token-webhook",
        file="authentication.webhook.enabled",
        help="Ask the API server about bearer tokens (TokenReview).",
    )
    webhook_cache_ttl_s: float = setting(
        120.0,
        kind=DURATION,
        flag="authentication-token-webhook-cache-ttl",
        file="authentication.webhook.cacheTTL",
        help="How long its answers about tokens are believed.",
    )
    authorization_mode: str = setting(
        # Differs from the flag of upstream (AlwaysAllow); in its configuration file it is Webhook.
        "Webhook",
        kind=one_of("Webhook", "AlwaysAllow"),
        flag="authorization-mode",
        file="authorization.mode",
        help="Webhook asks the API server who may do what (SubjectAccessReview); AlwaysAllow asks nobody.",
    )
    webhook_cache_authorized_ttl_s: float = setting(
        300.0,
        kind=DURATION,
        flag="authorization-webhook-cache-authorized-ttl",
        file="authorization.webhook.cacheAuthorizedTTL",
        help="How long its permissions are believed.",
    )
    webhook_cache_unauthorized_ttl_s: float = setting(
        30.0,
        kind=DURATION,
        flag="authorization-webhook-cache-unauthorized-ttl",
        file="authorization.webhook.cacheUnauthorizedTTL",
        help="How long its refusals are believed.",
    )

    # Logs of containers

    container_log_max_size: str = setting(
        "10Mi",
        kind=SIZE,
        flag="container-log-max-size",
        file="containerLogMaxSize",
        help="Size from which a container's log is rotated.",
    )
    container_log_max_files: int = setting(
        5,
        kind=within(2, 2**31 - 1),
        flag="container-log-max-files",
        file="containerLogMaxFiles",
        help="Files kept of a container's log, with the one being written; older ones are compressed.",
    )
    container_log_max_workers: int = setting(
        1, kind=within(1, 10_000), file="containerLogMaxWorkers", help="Logs rotated at once."
    )
    container_log_monitor_interval_s: float = setting(
        10.0,
        kind=DURATION,
        file="containerLogMonitorInterval",
        help="How often logs are looked at; one that grows fast is looked at sooner.",
    )

    # All of it

    feature_gates: Mapping[str, bool] = setting(
        {},
        kind=GATES,
        flag="feature-gates",
        file="featureGates",
        help="Gates as name=true|false. Each is fixed here; the opposite of what is true is refused.",
    )
    verbosity: int = setting(
        0,
        kind=within(0, 100),
        flag="v",
        file="logging.verbosity",
        help="Verbosity of the log: 4 and more is debug.",
    )

    @property
    def pods_dir(self) -> Path:
        return self.root_dir / "pods"

    @property
    def parallel_image_pulls(self) -> int:
        return 1 if self.serialize_image_pulls else self.max_parallel_image_pulls
