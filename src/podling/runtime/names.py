"""Names as dockershim gave them, which people know from `docker ps` on a node.

k8s_POD_<pod>_<namespace>_<uid>_<attempt>
k8s_<container>_<pod>_<namespace>_<uid>_<attempt>
"""

from __future__ import annotations

import secrets
from typing import NewType

from podling.runtime.cri import messages as cri

SandboxID = NewType("SandboxID", str)
ContainerID = NewType("ContainerID", str)

NETNS_PREFIX = "podling-"
"""Of the files that pin network namespaces, beside those of other programs."""

POD_NAME_LABEL = "io.kubernetes.pod.name"
POD_NAMESPACE_LABEL = "io.kubernetes.pod.namespace"
POD_UID_LABEL = "io.kubernetes.pod.uid"
CONTAINER_NAME_LABEL = "io.kubernetes.container.name"


def new_id() -> str:
    """64 hex digits, as every runtime's."""
    return secrets.token_hex(32)


def sandbox_name(metadata: cri.PodSandboxMetadata) -> str:
    return f"k8s_POD_{metadata.name}_{metadata.namespace}_{metadata.uid}_{metadata.attempt}"


def container_name(container: cri.ContainerMetadata, sandbox: cri.PodSandboxMetadata) -> str:
    pod = f"{sandbox.name}_{sandbox.namespace}_{sandbox.uid}"
    return f"k8s_{container.name}_{pod}_{container.attempt}"
