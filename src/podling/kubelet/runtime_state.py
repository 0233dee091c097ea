"""What the runtime knows of one pod: its sandboxes and containers, newest first.

Read afresh whenever a worker wakes: events only say "look again". In process this costs microseconds,
over a socket one list and one status call an object.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass

from podling.kubelet import names
from podling.runtime.cri import messages as cri
from podling.runtime.cri.errors import Code, CRIError
from podling.runtime.cri.service import RuntimeService

RUNNING = cri.ContainerState.CONTAINER_RUNNING
EXITED = cri.ContainerState.CONTAINER_EXITED
CREATED = cri.ContainerState.CONTAINER_CREATED


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerRecord:
    """One container, living or dead."""

    sandbox_id: names.SandboxID
    status: cri.ContainerStatus

    @property
    def id(self) -> names.ContainerID:
        return names.ContainerID(self.status.id)

    @property
    def name(self) -> str:
        if self.status.metadata and self.status.metadata.name:
            return self.status.metadata.name
        return self.status.labels.get(names.CONTAINER_NAME_LABEL, "")

    @property
    def attempt(self) -> int:
        return self.status.metadata.attempt if self.status.metadata else 0

    @property
    def running(self) -> bool:
        return self.status.state is RUNNING

    @property
    def exited(self) -> bool:
        return self.status.state is EXITED

    @property
    def finished_at_s(self) -> float:
        return self.status.finished_at / 1e9


@dataclass(frozen=True, slots=True, kw_only=True)
class PodRuntime:
    """A pod as the runtime sees it at one moment."""

    sandboxes: tuple[cri.PodSandboxStatus, ...] = ()
    containers: tuple[ContainerRecord, ...] = ()

    @property
    def sandbox(self) -> cri.PodSandboxStatus | None:
        """The newest sandbox, ready or not."""
        return self.sandboxes[0] if self.sandboxes else None

    @property
    def ready_sandbox(self) -> cri.PodSandboxStatus | None:
        newest = self.sandbox
        return newest if newest and newest.state is cri.PodSandboxState.SANDBOX_READY else None

    @property
    def ips(self) -> list[str]:
        """Addresses of the ready sandbox, the primary one first; empty without one."""
        sandbox = self.ready_sandbox
        if sandbox is None or sandbox.network is None or not sandbox.network.ip:
            return []
        return [sandbox.network.ip, *(extra.ip for extra in sandbox.network.additional_ips)]

    def history(self, name: str) -> list[ContainerRecord]:
        """Every container of that name, newest first."""
        return [record for record in self.containers if record.name == name]

    def latest(self, name: str) -> ContainerRecord | None:
        return next((record for record in self.containers if record.name == name), None)

    def in_sandbox(self, name: str, sandbox_id: str) -> ContainerRecord | None:
        """The newest container of that name in that sandbox."""
        return next((r for r in self.containers if r.name == name and r.sandbox_id == sandbox_id), None)

    @property
    def any_running(self) -> bool:
        return any(record.running for record in self.containers)


def order_sandboxes(items: Iterable[cri.PodSandboxStatus]) -> tuple[cri.PodSandboxStatus, ...]:
    return tuple(
        sorted(items, key=lambda s: (s.metadata.attempt if s.metadata else 0, s.created_at), reverse=True)
    )


def order_containers(items: Iterable[ContainerRecord]) -> tuple[ContainerRecord, ...]:
    return tuple(sorted(items, key=lambda r: (r.attempt, r.status.created_at), reverse=True))


async def read_pod_runtime(runtime: RuntimeService, uid: str) -> PodRuntime:
    """Ask the runtime for everything it has of this pod.

    An object removed between list and status is left out. Raises CRIError for anything else.
    """
    wanted = {names.POD_UID_LABEL: uid}
    listed_sandboxes = await runtime.list_pod_sandbox(
        cri.ListPodSandboxRequest(filter=cri.PodSandboxFilter(label_selector=wanted))
    )
    listed_containers = await runtime.list_containers(
        cri.ListContainersRequest(filter=cri.ContainerFilter(label_selector=wanted))
    )
    sandboxes = [await _sandbox_status(runtime, item.id) for item in listed_sandboxes.items]
    records = [
        ContainerRecord(sandbox_id=names.SandboxID(item.pod_sandbox_id), status=status)
        for item in listed_containers.containers
        if (status := await _container_status(runtime, item.id)) is not None
    ]
    return PodRuntime(
        sandboxes=order_sandboxes(status for status in sandboxes if status is not None),
        containers=order_containers(records),
    )


async def _sandbox_status(runtime: RuntimeService, sandbox_id: str) -> cri.PodSandboxStatus | None:
    try:
        return (
            await runtime.pod_sandbox_status(cri.PodSandboxStatusRequest(pod_sandbox_id=sandbox_id))
        ).status
    except CRIError as err:
        if err.code is not Code.NOT_FOUND:
            raise
        return None


async def _container_status(runtime: RuntimeService, container_id: str) -> cri.ContainerStatus | None:
    try:
        return (await runtime.container_status(cri.ContainerStatusRequest(container_id=container_id))).status
    except CRIError as err:
        if err.code is not Code.NOT_FOUND:
            raise
        return None


async def list_pod_uids(runtime: RuntimeService) -> set[names.PodUID]:
    """UIDs of all pods that have a sandbox or a container in the runtime."""
    sandboxes, containers = await asyncio.gather(
        runtime.list_pod_sandbox(cri.ListPodSandboxRequest()),
        runtime.list_containers(cri.ListContainersRequest()),
    )
    uids = {item.labels.get(names.POD_UID_LABEL, "") for item in sandboxes.items}
    uids |= {item.labels.get(names.POD_UID_LABEL, "") for item in containers.containers}
    return {names.PodUID(uid) for uid in uids if uid}
