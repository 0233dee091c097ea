"""Pods and runtime objects for the kubelet's tests, written as a reader would."""

from __future__ import annotations

from typing import Any

import msgspec

from podling.api import core_v1
from podling.kubelet import names
from podling.kubelet.runtime_state import ContainerRecord, PodRuntime, order_containers, order_sandboxes
from podling.runtime.cri import messages as cri

UID = "0b54a0f0-5a1f-4a41-9d6c-000000000001"


def container(name: str = "main", **fields: Any) -> dict[str, Any]:
    return {"name": name, "image": "busybox", "imagePullPolicy": "IfNotPresent", **fields}


def make_pod(*containers: dict[str, Any], name: str = "web", uid: str = UID, **spec: Any) -> core_v1.Pod:
    """A pod as the API server would give it: `spec` fields in wire form."""
    metadata = {"name": name, "namespace": "default", "uid": uid, **spec.pop("metadata", {})}
    status = spec.pop("status", None)
    body = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": metadata,
        "spec": {
            "containers": list(containers or (container(),)),
            "restartPolicy": "Always",
            "nodeName": "node-1",
            "terminationGracePeriodSeconds": 30,
            **spec,
        },
    }
    if status is not None:
        body["status"] = status
    return msgspec.convert(body, core_v1.Pod)


def sandbox(attempt: int = 0, *, ready: bool = True, ip: str = "10.244.1.5") -> cri.PodSandboxStatus:
    state = cri.PodSandboxState.SANDBOX_READY if ready else cri.PodSandboxState.SANDBOX_NOTREADY
    return cri.PodSandboxStatus(
        id=f"sandbox-{attempt}",
        metadata=cri.PodSandboxMetadata(name="web", uid=UID, namespace="default", attempt=attempt),
        state=state,
        created_at=attempt + 1,
        network=cri.PodSandboxNetworkStatus(ip=ip if ready else ""),
    )


def record(
    name: str = "main",
    *,
    attempt: int = 0,
    sandbox_attempt: int = 0,
    exit_code: int | None = None,
    finished_at_s: float = 100.0,
    created_only: bool = False,
    **annotations: str,
) -> ContainerRecord:
    """A container: running, ended when `exit_code` is given, or created and never started."""
    state = cri.ContainerState.CONTAINER_RUNNING
    if exit_code is not None:
        state = cri.ContainerState.CONTAINER_EXITED
    elif created_only:
        state = cri.ContainerState.CONTAINER_CREATED
    status = cri.ContainerStatus(
        id=f"{name}-{attempt}",
        metadata=cri.ContainerMetadata(name=name, attempt=attempt),
        state=state,
        created_at=1_000 + attempt,
        started_at=int(50e9),
        finished_at=int(finished_at_s * 1e9) if exit_code is not None else 0,
        exit_code=exit_code or 0,
        image=cri.ImageSpec(image="busybox"),
        image_ref="sha256:1234",
        annotations=dict(annotations),
    )
    return ContainerRecord(sandbox_id=names.SandboxID(f"sandbox-{sandbox_attempt}"), status=status)


def runtime(*records: ContainerRecord, sandboxes: tuple[cri.PodSandboxStatus, ...] = ()) -> PodRuntime:
    """What the runtime has; one ready sandbox unless said otherwise."""
    return PodRuntime(
        sandboxes=order_sandboxes(sandboxes or (sandbox(),)), containers=order_containers(records)
    )
