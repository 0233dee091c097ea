"""The agent's settings, and how they are made from a command line and a configuration file.

The kubelet's own are declared in `kubelet/config.py`; here are those of what runs beside it in the agent:
the runtime, CNI, services and DNS. A flag overrides the file, the file the default.
"""

from __future__ import annotations

import logging
import os
import re
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from podling.api.durations import format_duration
from podling.client.kubeconfig import client_config
from podling.kubelet import feature_gates
from podling.kubelet.config import KubeletConfig
from podling.kubelet.config_file import ConfigFileError, load_config_file
from podling.kubelet.flags import FlagError, parse_flags
from podling.kubelet.settings import BOOL, PATH, STRING, Kind, Setting, one_of, setting, settings_of
from podling.machine.config import ConfigError
from podling.machine.network import Network, parse_network, set_up_network
from podling.machine.node_certificates import SERVING_PAIR, CertificatePair
from podling.network.flannel.node import FlannelConfig
from podling.runtime.config import RuntimeConfig
from podling.runtime.cri.grpc_client import socket_path

DOCUMENTATION_ADDRESS = "192.0.2.1"
"""RFC 5737: nobody's. Asking the kernel for the way there finds the default route's address."""
FREE_LABELS = frozenset(
    {
        "kubernetes.io/hostname",
        "kubernetes.io/arch",
        "kubernetes.io/os",
        "beta.kubernetes.io/arch",
        "beta.kubernetes.io/os",
        "beta.kubernetes.io/instance-type",
        "node.kubernetes.io/instance-type",
        "failure-domain.beta.kubernetes.io/region",
        "failure-domain.beta.kubernetes.io/zone",
        "failure-domain.kubernetes.io/region",
        "failure-domain.kubernetes.io/zone",
        "topology.kubernetes.io/region",
        "topology.kubernetes.io/zone",
    }
)
FREE_LABEL_NAMESPACES = ("kubelet.kubernetes.io", "node.kubernetes.io")

log = logging.getLogger(__name__)


def _network(text: str) -> IPv4Network | None:
    return IPv4Network(text) if text else None


def _endpoint(text: str) -> str:
    if text:
        socket_path(text)
    return text


_NETWORK: Kind[IPv4Network | None] = Kind(
    name="cidr", parse=_network, read=_network, show=str, text=lambda network: str(network or "")
)
_POD_NETWORK: Kind[Network | None] = Kind(
    name="string", parse=parse_network, read=parse_network, show=str, text=lambda network: ""
)
_ENDPOINT: Kind[str] = Kind(name="string", parse=_endpoint, read=_endpoint, show=str, text=str)


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentConfig:
    """What one node's agent is told."""

    kubelet: KubeletConfig
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)
    config: Path | None = setting(
        None,
        kind=PATH,
        flag="config",
        help="KubeletConfiguration file (kubelet.config.k8s.io/v1beta1, YAML or JSON). Flags override it.",
    )
    kubeconfig: Path | None = setting(
        None,
        kind=PATH,
        flag="kubeconfig",
        help="How to reach the API server, and as whom. Without it the agent runs on its own (standalone), "
        "with static pods only.",
    )
    cert_dir: Path = setting(
        Path("/var/lib/kubelet/pki"),
        kind=PATH,
        flag="cert-dir",
        help="Directory of kubelet.crt and kubelet.key, and of the certificates asked for.",
    )
    rotate_certificates: bool = setting(
        False,
        kind=BOOL,
        flag="rotate-certificates",
        file="rotateCertificates",
        help="Ask for the next client certificate before the last one ends.",
    )
    rotate_server_certificates: bool = setting(
        False,
        kind=BOOL,
        flag="rotate-server-certificates",
        file="serverTLSBootstrap",
        help="Ask for the server's certificate too, instead of making one.",
    )
    bootstrap_kubeconfig: Path | None = setting(
        None,
        kind=PATH,
        flag="bootstrap-kubeconfig",
        help="How to ask for a client certificate when the file of --kubeconfig is not there yet; it is "
        "then written.",
    )
    container_runtime_endpoint: str = setting(
        "",
        kind=_ENDPOINT,
        flag="container-runtime-endpoint",
        help="CRI socket of another runtime, such as unix:///run/containerd/containerd.sock. [default: our "
        "own, in this process]",
    )
    network_plugin: str = setting(
        "cni",
        kind=one_of("cni", why="kubenet and the like are long gone"),
        flag="network-plugin",
        help="What wires pods. Only cni. (Removed from Kubernetes 1.24)",
    )
    network: Network | None = setting(
        None,
        kind=_POD_NETWORK,
        flag="network",
        help="flannel:vxlan, flannel:host-gw, flannel:udp, bridge, or a CNI configuration FILE: written into "
        "--cni-conf-dir; flannel's daemon then runs in this process. [default: what is configured there]",
    )
    flannel: FlannelConfig | None = None
    """Be flannel's daemon, too."""
    cni_conf_dir: Path = setting(
        Path("/etc/cni/net.d"), kind=PATH, flag="cni-conf-dir", help="Directory of CNI configuration files."
    )
    cni_bin_dir: Path = setting(
        Path("/opt/cni/bin"), kind=PATH, flag="cni-bin-dir", help="Directory of CNI plugins."
    )
    cni_cache_dir: Path = setting(
        Path("/var/lib/cni/results"), kind=PATH, flag="cni-cache-dir", help="Directory of cached CNI results."
    )
    pod_infra_container_image: str = setting(
        "",
        kind=STRING,
        flag="pod-infra-container-image",
        help="Image of the pause container. Our own pause program stands for it, and the log says so.",
    )
    cluster_cidr: IPv4Network | None = setting(
        None,
        kind=_NETWORK,
        flag="cluster-cidr",
        help="Range of all pods: what comes from outside it and goes to a service is masqueraded.",
    )
    service_cidr: IPv4Network | None = setting(
        None,
        kind=_NETWORK,
        flag="service-cidr",
        help="Range of services: what is sent to one that does not exist is refused.",
    )
    load_balancer_cidr: IPv4Network | None = setting(
        None,
        kind=_NETWORK,
        flag="load-balancer-cidr",
        help="Range of the nodes' network for LoadBalancer services: the nodes answer for its addresses.",
    )
    service_proxy: bool = setting(
        True,
        kind=BOOL,
        flag="service-proxy",
        help="Translate services on this node; turn off where a kube-proxy does.",
    )
    network_policies: bool = setting(
        True,
        kind=BOOL,
        flag="network-policies",
        help="Enforce NetworkPolicy objects on this node; turn off where the network plugin does.",
    )
    dns: bool = setting(
        True,
        kind=BOOL,
        flag="dns",
        help="Answer the cluster's DNS on this node's address, port 10053; metrics are on 9153.",
    )
    route_sync: bool = setting(
        True,
        kind=BOOL,
        flag="route-sync",
        help="Keep routes to the other nodes' pods; turn off where the network plugin does.",
    )


def agent_settings() -> tuple[Setting, ...]:
    """Every flag of `podling agent`."""
    return settings_of(AgentConfig) + settings_of(KubeletConfig)


def agent_config_of(argv: Sequence[str]) -> AgentConfig:
    """Raises ConfigError in the kubelet's words."""
    settings = agent_settings()
    try:
        flags = parse_flags(argv, settings)
    except FlagError as err:
        raise ConfigError(f"failed to parse kubelet flag: {err}") from err
    try:
        said = load_config_file(flags["config"], settings) if flags.get("config") else {}
    except ConfigFileError as err:
        raise ConfigError(str(err)) from err
    gates = {**said.get("feature_gates", {}), **flags.get("feature_gates", {})}
    values = {**said, **flags, "feature_gates": gates}
    _complete(values)
    kubelet = KubeletConfig(**_of(KubeletConfig, values))
    own = _of(AgentConfig, values)
    for fault in validate(kubelet):
        raise ConfigError(f"failed to validate kubelet configuration, error: {fault}")
    plain = AgentConfig(kubelet=kubelet, **own)
    runtime = RuntimeConfig(
        cni_conf_dir=plain.cni_conf_dir, cni_bin_dirs=(plain.cni_bin_dir,), cni_cache_dir=plain.cni_cache_dir
    )
    flannel = _flannel(plain)
    if flannel is not None:
        own["route_sync"] = False
    return AgentConfig(kubelet=kubelet, runtime=runtime, flannel=flannel, **own)


def _flannel(config: AgentConfig) -> FlannelConfig | None:
    """Has the network's configuration written. Raises ConfigError."""
    if config.network is None:
        return None
    if config.network.is_flannel and config.kubeconfig is None:
        raise ConfigError("--network=flannel needs --kubeconfig: its leases are in the API")
    return set_up_network(
        config.network,
        conf_dir=config.cni_conf_dir,
        pod_cidr=_network(config.kubelet.pod_cidr or ""),
        cluster_cidr=config.cluster_cidr,
        node_ip=IPv4Address(config.kubelet.node_ip),
    )


def _of(cls: type[Any], values: Mapping[str, Any]) -> dict[str, Any]:
    names = {item.name for item in fields(cls)}
    return {name: value for name, value in values.items() if name in names}


def _complete(values: dict[str, Any]) -> None:
    """Fill in what is found out rather than declared."""
    kubeconfig, bootstrap = values.get("kubeconfig"), values.get("bootstrap_kubeconfig")
    if kubeconfig is None and bootstrap is not None:
        raise ConfigError("--bootstrap-kubeconfig needs --kubeconfig: the file to write")
    if kubeconfig is not None and not kubeconfig.exists():
        if bootstrap is None or not bootstrap.exists():
            raise ConfigError(
                f"invalid kubeconfig: stat {bootstrap or kubeconfig}: no such file or directory"
            )
        kubeconfig = bootstrap
    values.setdefault("node_name", socket.gethostname().lower())
    if not values.get("node_ip"):
        server = client_config(kubeconfig).server if kubeconfig else ""
        values["node_ip"] = _own_address(urlsplit(server).hostname or DOCUMENTATION_ADDRESS)
    try:
        IPv4Address(values["node_ip"])
    except ValueError as err:
        raise ConfigError(f'bad --node-ip "{values["node_ip"]}": {err}') from err
    directory = values.get("cert_dir") or Path("/var/lib/kubelet/pki")
    if values.get("tls_cert") is None:
        if values.get("rotate_server_certificates"):
            current = CertificatePair(directory, SERVING_PAIR).current
            values["tls_cert"] = values["tls_key"] = current
        else:
            values["tls_cert"], values["tls_key"] = directory / "kubelet.crt", directory / "kubelet.key"


def _own_address(towards: str) -> str:
    """Our address on the way to another. Connecting a UDP socket sends nothing."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.connect((towards, 9))
        except OSError as err:
            raise ConfigError(f"no address for this node ({err.strerror}): give it with --node-ip") from err
        return str(sock.getsockname()[0])


def validate(config: KubeletConfig) -> list[str]:
    """What settings that are well formed each cannot be together; as one text, as upstream aggregates."""
    faults, warnings = feature_gates.check(config.feature_gates)
    for warning in warnings:
        log.warning("%s", warning)
    if strange := [label for label in config.node_labels if not _label_allowed(label)]:
        faults.append(
            f"unknown 'kubernetes.io' or 'k8s.io' labels specified with --node-labels: {strange}: those must "
            f"begin with {' or '.join(FREE_LABEL_NAMESPACES)}, or be one of {', '.join(sorted(FREE_LABELS))}"
        )
    if config.pod_max_pids < -1 or config.pod_max_pids == 0:
        faults.append(
            f"invalid configuration: podPidsLimit (--pod-max-pids) {config.pod_max_pids} must be -1 or "
            "more than 0"
        )
    soft = {threshold.signal for threshold in config.eviction_soft}
    low, high = config.image_gc_low_threshold_percent, config.image_gc_high_threshold_percent
    if low >= high:
        faults.append(
            f"invalid configuration: imageGCLowThresholdPercent (--image-gc-low-threshold) {low} must be "
            f"less than imageGCHighThresholdPercent (--image-gc-high-threshold) {high}"
        )
    if config.image_maximum_gc_age_s and config.image_maximum_gc_age_s <= config.image_minimum_gc_age_s:
        faults.append(
            "invalid configuration: imageMaximumGCAge "
            f"{format_duration(config.image_maximum_gc_age_s)} must be greater than imageMinimumGCAge "
            f"{format_duration(config.image_minimum_gc_age_s)}"
        )
    if missing := soft - set(config.eviction_soft_grace_period_s):
        faults.append(
            f"grace period must be specified for the soft eviction threshold {', '.join(sorted(missing))}"
        )
    for name in ("sync_frequency_s", "file_check_frequency_s", "http_check_frequency_s", "lease_duration_s"):
        if getattr(config, name) <= 0:
            faults.append(f"invalid configuration: {name.removesuffix('_s')} must be greater than 0")
    if not re.fullmatch(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?", config.node_name):
        faults.append(f'invalid node name "{config.node_name}"')
    return [faults[0] if len(faults) == 1 else f"[{', '.join(faults)}]"] if faults else []


def _label_allowed(label: str) -> bool:
    namespace, slash, _ = label.rpartition("/")
    if not slash or not any(
        namespace == d or namespace.endswith(f".{d}") for d in ("kubernetes.io", "k8s.io")
    ):
        return True
    return label in FREE_LABELS or any(
        namespace == free or namespace.endswith(f".{free}") for free in FREE_LABEL_NAMESPACES
    )


def check_swap(config: KubeletConfig) -> None:
    """Raises ConfigError when there is swap and the settings do not want it."""
    if not config.fail_swap_on or not os.path.exists("/proc/swaps"):
        return
    lines = Path("/proc/swaps").read_text().splitlines()
    if len(lines) > 1:
        raise ConfigError(
            "running with swap on is not supported, please disable swap or set --fail-swap-on flag to false. "
            f"/proc/swaps contained: {lines}"
        )
