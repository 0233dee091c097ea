"""Labels, annotations and paths that tie runtime objects to pods.

The labels are upstream's (`pkg/kubelet/types/labels.go`): a real kubelet above our runtime and our
kubelet above containerd find each other's sandboxes by them.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import NewType

import msgspec

from podling.api import core_v1
from podling.kubelet.config import KubeletConfig

PodUID = NewType("PodUID", str)
SandboxID = NewType("SandboxID", str)
ContainerID = NewType("ContainerID", str)
FullName = tuple[str, str]
"""Namespace and name."""

POD_NAME_LABEL = "io.kubernetes.pod.name"
POD_NAMESPACE_LABEL = "io.kubernetes.pod.namespace"
POD_UID_LABEL = "io.kubernetes.pod.uid"
CONTAINER_NAME_LABEL = "io.kubernetes.container.name"

HASH_ANNOTATION = "io.kubernetes.container.hash"
RESTART_COUNT_ANNOTATION = "io.kubernetes.container.restartCount"
TERMINATION_PATH_ANNOTATION = "io.kubernetes.container.terminationMessagePath"
TERMINATION_POLICY_ANNOTATION = "io.kubernetes.container.terminationMessagePolicy"
POD_GRACE_ANNOTATION = "io.kubernetes.pod.terminationGracePeriod"

CONTAINER_ID_SCHEME = "podling"
"""`containerID` in a pod's status is `podling://ID`, as CRI-O writes `cri-o://ID`."""

AnyContainer = core_v1.Container | core_v1.EphemeralContainer


def pod_uid(pod: core_v1.Pod) -> PodUID:
    return PodUID(pod.metadata.uid or "")


def pod_namespace(pod: core_v1.Pod) -> str:
    return pod.metadata.namespace or "default"


def pod_key(pod: core_v1.Pod) -> str:
    """`namespace/name`, as kubectl users write it."""
    return f"{pod_namespace(pod)}/{pod.metadata.name}"


def full_name(pod: core_v1.Pod) -> FullName:
    """What of a pod's identity a static pod and its mirror have in common."""
    return pod_namespace(pod), pod.metadata.name or ""


def pod_full(pod: core_v1.Pod) -> str:
    """`name_namespace(uid)`: how upstream's events and messages name a pod."""
    return f"{pod.metadata.name}_{pod_namespace(pod)}({pod.metadata.uid})"


def pod_spec(pod: core_v1.Pod) -> core_v1.PodSpec:
    """The spec; a pod without one cannot come from an API server, and has no containers."""
    return pod.spec if pod.spec is not None else core_v1.PodSpec()


def pod_dir(config: KubeletConfig, uid: PodUID) -> Path:
    return config.pods_dir / uid


def volume_dir(config: KubeletConfig, uid: PodUID, plugin: str, name: str) -> Path:
    """Upstream's place: `pods/UID/volumes/kubernetes.io~empty-dir/NAME`."""
    return pod_dir(config, uid) / "volumes" / f"kubernetes.io~{plugin}" / name


def log_directory(config: KubeletConfig, pod: core_v1.Pod) -> Path:
    return config.pod_logs_dir / f"{pod_namespace(pod)}_{pod.metadata.name}_{pod.metadata.uid}"


def container_log_path(container: str, attempt: int) -> str:
    """Path of a container's log below the pod's log directory."""
    return f"{container}/{attempt}.log"


def container_hash(container: AnyContainer) -> str:
    """Changes exactly when something that needs a new container changes.

    Upstream hashes name and image only since v1.31: every other field of a running container either
    cannot change or is resized in place (`pkg/kubelet/container/helpers.go`, "HashContainer").
    """
    picked = msgspec.json.encode({"name": container.name, "image": container.image})
    return hashlib.blake2s(picked, digest_size=4).hexdigest()
