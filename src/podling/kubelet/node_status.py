"""Compute a Node's status and registration: pure. The reporter (`node_reporter.py`) sends them.

Reasons and messages are upstream's (`pkg/kubelet/nodestatus/setters.go`): people search for them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from podling.api import core_v1, meta_v1
from podling.kubelet.allocatable import node_allocatable, node_capacity
from podling.kubelet.config import KubeletConfig
from podling.kubelet.machine_info import MachineInfo, system_info
from podling.runtime.cri import messages as cri

PRESSURE = {
    "MemoryPressure": (
        ("KubeletHasInsufficientMemory", "kubelet has insufficient memory available"),
        ("KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
    ),
    "DiskPressure": (
        ("KubeletHasDiskPressure", "kubelet has disk pressure"),
        ("KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
    ),
    "PIDPressure": (
        ("KubeletHasInsufficientPID", "kubelet has insufficient PID available"),
        ("KubeletHasSufficientPID", "kubelet has sufficient PID available"),
    ),
}
"""Reason and message of a condition when it is there and when it is not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeFacts:
    """What the status is computed from."""

    config: KubeletConfig
    machine: MachineInfo
    runtime_version: str
    """`podling://0.1.0`."""
    runtime_errors: Sequence[str]
    """Why the runtime cannot run pods; empty when it can."""
    images: Sequence[core_v1.ContainerImage]
    now: str
    pressure: frozenset[str] = frozenset()
    """Conditions of the node that eviction says are there, as MemoryPressure."""
    handlers: Sequence[core_v1.NodeRuntimeHandler] = ()
    features: core_v1.NodeFeatures | None = None


def runtime_errors(response: cri.StatusResponse | None, error: str = "") -> list[str]:
    """What the CRI's Status says against running pods, in upstream's words."""
    if response is None:
        return [f"container runtime is down: {error}" if error else "container runtime is down"]
    conditions = {c.type: c for c in response.status.conditions} if response.status else {}
    problems = []
    for type_, words in (
        ("RuntimeReady", "container runtime not ready"),
        ("NetworkReady", "container runtime network not ready"),
    ):
        condition = conditions.get(type_)
        if condition is None or not condition.status:
            reason = condition.reason if condition else ""
            message = condition.message if condition else ""
            problems.append(f"{words}: {type_}=false reason:{reason} message:{message}")
    return problems


def compute_node_status(facts: NodeFacts, previous: Sequence[core_v1.NodeCondition]) -> core_v1.NodeStatus:
    return core_v1.NodeStatus(
        addresses=[
            core_v1.NodeAddress(type="InternalIP", address=facts.config.node_ip),
            core_v1.NodeAddress(type="Hostname", address=facts.config.node_name),
        ],
        capacity=node_capacity(facts.config, facts.machine),
        allocatable=node_allocatable(facts.config, facts.machine),
        conditions=_conditions(facts, previous),
        daemon_endpoints=core_v1.NodeDaemonEndpoints(
            kubelet_endpoint=core_v1.DaemonEndpoint(port=facts.config.port)
        ),
        node_info=system_info(
            facts.machine,
            runtime_version=facts.runtime_version,
            kubelet_version=facts.config.kubelet_version,
        ),
        images=list(facts.images),
        runtime_handlers=list(facts.handlers),
        features=facts.features,
    )


def _conditions(facts: NodeFacts, previous: Sequence[core_v1.NodeCondition]) -> list[core_v1.NodeCondition]:
    ready = not facts.runtime_errors
    rows = [
        (type_, True, *there) if type_ in facts.pressure else (type_, False, *absent)
        for type_, (there, absent) in PRESSURE.items()
    ]
    rows.append(
        ("Ready", True, "KubeletReady", "kubelet is posting ready status")
        if ready
        else ("Ready", False, "KubeletNotReady", _joined(facts.runtime_errors))
    )
    old = {condition.type: condition for condition in previous}
    result = []
    for type_, true, reason, message in rows:
        status = "True" if true else "False"
        before = old.get(type_)
        same = before is not None and before.status == status
        result.append(
            core_v1.NodeCondition(
                type=type_,
                status=status,
                reason=reason,
                message=message,
                last_heartbeat_time=facts.now,
                last_transition_time=before.last_transition_time if before and same else facts.now,
            )
        )
    return result


def _joined(problems: Sequence[str]) -> str:
    """As Go's aggregated errors print: one alone as it is, several in brackets."""
    return problems[0] if len(problems) == 1 else f"[{', '.join(problems)}]"


def default_labels(config: KubeletConfig, machine: MachineInfo) -> dict[str, str]:
    return {
        "beta.kubernetes.io/arch": machine.architecture,
        "beta.kubernetes.io/os": "linux",
        "kubernetes.io/arch": machine.architecture,
        "kubernetes.io/hostname": config.node_name,
        "kubernetes.io/os": "linux",
        **config.node_labels,
    }


def compute_node(
    config: KubeletConfig, labels: Mapping[str, str], machine: MachineInfo, status: core_v1.NodeStatus
) -> core_v1.Node:
    """The Node to register, complete with its first status."""
    return core_v1.Node(
        metadata=meta_v1.ObjectMeta(
            name=config.node_name,
            labels=dict(labels),
            annotations={"volumes.kubernetes.io/controller-managed-attach-detach": "true"},
        ),
        spec=core_v1.NodeSpec(
            pod_cidr=config.pod_cidr,
            pod_cid_rs=[config.pod_cidr] if config.pod_cidr else [],
            taints=list(config.register_with_taints),
        ),
        status=status,
    )


def images_of(response: cri.ListImagesResponse, *, limit: int = 50) -> list[core_v1.ContainerImage]:
    """`status.images`: the largest first, as schedulers that prefer nodes with the image read it."""
    listed = sorted(response.images, key=lambda image: image.size, reverse=True)[:limit]
    return [
        core_v1.ContainerImage(names=[*image.repo_digests, *image.repo_tags][:5], size_bytes=image.size)
        for image in listed
    ]


def handlers_of(response: cri.StatusResponse | None) -> list[core_v1.NodeRuntimeHandler]:
    """`status.runtimeHandlers`: what each handler can do (Kubernetes API, "NodeRuntimeHandler")."""
    return [
        core_v1.NodeRuntimeHandler(
            name=handler.name,
            features=core_v1.NodeRuntimeHandlerFeatures(
                recursive_read_only_mounts=handler.features.recursive_read_only_mounts,
                user_namespaces=handler.features.user_namespaces,
            )
            if handler.features
            else None,
        )
        for handler in (response.runtime_handlers if response else ())
    ]


def features_of(response: cri.StatusResponse | None) -> core_v1.NodeFeatures | None:
    if response is None or response.features is None:
        return None
    return core_v1.NodeFeatures(supplemental_groups_policy=response.features.supplemental_groups_policy)


def changed_but_for_heartbeats(old: core_v1.NodeStatus, new: core_v1.NodeStatus) -> bool:
    """Whether anything but the heartbeat times differs."""

    def stripped(status: core_v1.NodeStatus) -> list[object]:
        conditions = [(c.type, c.status, c.reason, c.message) for c in status.conditions]
        rest = [getattr(status, f) for f in status.__struct_fields__ if f != "conditions"]
        return [conditions, *rest]

    return stripped(old) != stripped(new)
