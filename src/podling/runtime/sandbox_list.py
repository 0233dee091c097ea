"""ListPodSandbox: newest last, as created."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from podling.runtime.core import Core, Sandbox
from podling.runtime.cri import messages as cri
from podling.runtime.sandbox_status import state_of
from podling.runtime.state import SandboxPhase


async def list_pod_sandbox(core: Core, request: cri.ListPodSandboxRequest) -> cri.ListPodSandboxResponse:
    return cri.ListPodSandboxResponse(items=list(_matching(core, request.filter)))


def _matching(core: Core, wanted: cri.PodSandboxFilter | None) -> Iterator[cri.PodSandbox]:
    wanted = wanted or cri.PodSandboxFilter()
    for sandbox in core.sandboxes.values():
        if sandbox.record.phase is SandboxPhase.CREATING:
            continue  # not there before RunPodSandbox has returned: nobody may act on half a sandbox
        if not sandbox.id.startswith(wanted.id) or not has_labels(
            sandbox.record.config.labels, wanted.label_selector
        ):
            continue
        if wanted.state is not None and state_of(sandbox) is not wanted.state.state:
            continue
        yield _item(sandbox)


def has_labels(labels: Mapping[str, str], wanted: Mapping[str, str]) -> bool:
    return all(labels.get(key) == value for key, value in wanted.items())


def _item(sandbox: Sandbox) -> cri.PodSandbox:
    record = sandbox.record
    return cri.PodSandbox(
        id=record.id,
        metadata=record.config.metadata,
        state=state_of(sandbox),
        created_at=record.created_at,
        labels=record.config.labels,
        annotations=record.config.annotations,
        runtime_handler=record.runtime_handler,
    )
