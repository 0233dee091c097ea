"""A KubeletConfiguration file (kubelet.config.k8s.io/v1beta1), read strictly.

Every field that is unknown, doubled or of the wrong type is named. Fields of upstream's that there is
nothing behind here are taken as long as they say nothing, as in the files that kubeadm writes, and
otherwise refused. Differs from upstream, which reads a file with unknown fields all the same: a setting
that is not heard is worse than an agent that does not start.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml

from podling.kubelet.settings import Setting

API_VERSION = "kubelet.config.k8s.io/v1beta1"
KIND = "KubeletConfiguration"

ELSEWHERE = {
    "containerRuntimeEndpoint": "--container-runtime-endpoint",
    "imageServiceEndpoint": "--container-runtime-endpoint",
}
"""Fields whose setting is the agent's: the flag to use."""
NOT_HERE: dict[str, tuple[Any, ...]] = {
    "configMapAndSecretChangeDetectionStrategy": ("Watch",),
    "contentType": ("application/json",),
    "cpuCFSQuota": (True,),
    "cpuCFSQuotaPeriod": ("100ms",),
    "cpuManagerPolicy": ("none",),
    "cpuManagerPolicyOptions": (),
    "cpuManagerReconcilePeriod": (),
    "crashLoopBackOff": (),
    "enableContentionProfiling": (False,),
    "enableControllerAttachDetach": (True, False),
    "enableProfilingHandler": (False,),
    "enableServer": (True,),
    "enableSystemLogHandler": (False,),
    "enableSystemLogQuery": (False,),
    "enforceNodeAllocatable": (),
    "eventBurst": (),
    "eventRecordQPS": (),
    "failCgroupV1": (False,),
    "hairpinMode": ("promiscuous-bridge", "hairpin-veth", "none"),
    "imagePullCredentialsVerificationPolicy": (),
    "iptablesDropBit": (),
    "iptablesMasqueradeBit": (),
    "kernelMemcgNotification": (False,),
    "kubeAPIBurst": (),
    "kubeAPIQPS": (),
    "kubeReservedCgroup": (),
    "kubeletCgroups": (),
    "localStorageCapacityIsolation": (False,),
    "logging.flushFrequency": (5000000000, "5s"),
    "logging.format": ("text",),
    "logging.options": (),
    "logging.vmodule": (),
    "makeIPTablesUtilChains": (True, False),
    "maxOpenFiles": (),
    "memoryManagerPolicy": ("None",),
    "memorySwap": (),
    "memoryThrottlingFactor": (),
    "mergeDefaultEvictionSettings": (False,),
    "nodeStatusMaxImages": (50,),
    "oomScoreAdj": (),
    "protectKernelDefaults": (False,),
    "providerID": (),
    "qosReserved": (),
    "registryBurst": (),
    "registryPullQPS": (),
    "reservedMemory": (),
    "reservedSystemCPUs": (),
    "runtimeRequestTimeout": (),
    "showHiddenMetricsForVersion": (),
    "shutdownGracePeriod": (),
    "shutdownGracePeriodByPodPriority": (),
    "shutdownGracePeriodCriticalPods": (),
    "singleProcessOOMKill": (False,),
    "streamingConnectionIdleTimeout": (),
    "systemCgroups": (),
    "systemReservedCgroup": (),
    "tlsCipherSuites": (),
    "tlsMinVersion": ("VersionTLS12",),
    "topologyManagerPolicy": ("none",),
    "topologyManagerPolicyOptions": (),
    "topologyManagerScope": ("container",),
    "tracing": (),
    "userNamespaces": (),
    "volumePluginDir": (),
    "volumeStatsAggPeriod": (),
}
"""Fields with nothing behind them, and the values that ask for nothing (besides empty ones)."""


class ConfigFileError(ValueError):
    """A file that is refused; the text is upstream's and names the file and every fault."""

    def __init__(self, path: Path, why: str) -> None:
        super().__init__(
            f"failed to load kubelet config file, path: {path}, error: "
            f"failed to load Kubelet config file {path}, error {why}"
        )


def load_config_file(path: Path, settings: Iterable[Setting]) -> dict[str, Any]:
    """Values by attribute, of the fields given; relative paths are relative to the file.

    Raises ConfigFileError.
    """
    try:
        document = yaml.load(path.read_bytes(), Loader=_StrictLoader)  # a safe loader
    except OSError as err:
        raise ConfigFileError(
            path, f"failed to read kubelet config file {str(path)!r}: {err.strerror}"
        ) from err
    except (yaml.YAMLError, _DoubledKeyError) as err:
        raise ConfigFileError(path, f"failed to decode: {err}") from err
    if not isinstance(document, dict):
        raise ConfigFileError(path, "failed to decode: Object 'Kind' is missing")
    _check_kind(path, document)
    known = {item.file: item for item in settings if item.file}
    values: dict[str, Any] = {}
    faults: list[str] = []
    for name, value in _leaves(document, known):
        item = known.get(name)
        if item is None:
            faults += _judge(name, value)
        elif value is not None and not (item.zero_is_default and _empty(value)):
            try:
                values[item.attribute] = _resolved(path, item.kind.read(value))
            except ValueError as err:
                faults.append(f"{name}: {err}")
    if faults:
        raise ConfigFileError(path, f"failed to decode: strict decoding error: {', '.join(faults)}")
    return values


def _check_kind(path: Path, document: dict[Any, Any]) -> None:
    version, kind = document.pop("apiVersion", None), document.pop("kind", None)
    if not kind or not version:
        missing = "Kind" if not kind else "apiVersion"
        raise ConfigFileError(path, f"failed to decode: Object '{missing}' is missing")
    if (version, kind) != (API_VERSION, KIND):
        raise ConfigFileError(
            path, f'failed to decode: no kind "{kind}" is registered for version "{version}"'
        )


def _leaves(document: dict[Any, Any], known: Iterable[str], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Fields by dotted path, descended into as far as a declaration does."""
    paths = [*known, *NOT_HERE, *ELSEWHERE]
    for key, value in document.items():
        name = f"{prefix}{key}"
        inner = isinstance(value, dict) and name not in paths
        if inner and any(path.startswith(f"{name}.") for path in paths):
            yield from _leaves(value, known, f"{name}.")
        elif not (value is None and any(path.startswith(f"{name}.") for path in paths)):
            yield name, value


def _judge(name: str, value: Any) -> list[str]:
    """What is wrong with a field that no setting has."""
    if name in ELSEWHERE:
        return [] if _empty(value) else [f'field "{name}": use the flag {ELSEWHERE[name]}']
    if name not in NOT_HERE:
        return [f'unknown field "{name}"']
    return [] if _empty(value) or value in NOT_HERE[name] else [f'field "{name}" is not supported here']


def _empty(value: Any) -> bool:
    if isinstance(value, dict):
        return all(map(_empty, value.values()))
    return value in (None, "", 0, "0", "0s", []) and value is not False


def _resolved(path: Path, value: Any) -> Any:
    return path.parent / value if isinstance(value, Path) else value


class _DoubledKeyError(ValueError):
    pass


class _StrictLoader(yaml.SafeLoader):
    """YAML's own rules let the last of two equal keys win."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise _DoubledKeyError(f'line {key_node.start_mark.line + 1}: key "{key}" already set in map')
            seen.add(key)
        return super().construct_mapping(node, deep)
