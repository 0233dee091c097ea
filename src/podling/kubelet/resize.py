"""Resizing a pod in place: CPU and memory of its containers, without new containers where that may be.

What the API wants is not what a pod has at once. *Allocated* is what the node has granted: a wish that it can
never grant is Infeasible, one that it cannot grant now Deferred, and the pod goes on as it was. What is
allocated is then put in force in the runtime and the pod's cgroup, which the condition PodResizeInProgress
tells until it is done.

Kubernetes documentation, "Resize CPU and Memory Resources assigned to Containers"; upstream's
`pkg/kubelet/allocation` and "doPodResizeAction".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from msgspec import structs

from podling.api import core_v1
from podling.api.pods import is_deleting, is_sidecar, is_terminal, pod_requests
from podling.api.quantity import parse_quantity
from podling.kubelet import names, resources
from podling.kubelet.admission import lacking
from podling.kubelet.runtime_state import ContainerRecord, PodRuntime
from podling.kubelet.services import PodServices
from podling.kubelet.status import Failure
from podling.runtime.cri import messages as cri

RESIZABLE = ("cpu", "memory")
_CPU_FIELDS = ("cpu_shares", "cpu_quota")
_MEMORY_FIELD = "memory_limit_in_bytes"


class ResizeError(Exception):
    """What is allocated cannot be put in force now; the text is the condition's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A running container whose limits are not the allocated ones."""

    record: ContainerRecord
    wanted: cri.LinuxContainerResources
    restarts: bool
    """Its resize policy wants a new container."""


def refused(
    pod: core_v1.Pod, others: Sequence[Mapping[str, Decimal]], allocatable: Mapping[str, str]
) -> Failure | None:
    """Why the node cannot grant what `pod` asks for: Infeasible or Deferred. None when it can."""
    wanted = pod_requests(pod)
    for name in reversed(RESIZABLE):
        capacity = parse_quantity(allocatable.get(name, "0"))
        if wanted.get(name, 0) > capacity:
            unit = 1000 if name == "cpu" else 1
            text = f"requested: {int(wanted[name] * unit)}, capacity: {int(capacity * unit)}"
            return Failure(reason="Infeasible", message=f"Node didn't have enough capacity: {name}, {text}")
    for name in RESIZABLE:
        lack = lacking(name, wanted.get(name, Decimal(0)), others, allocatable)
        if lack is not None:
            return Failure(reason="Deferred", message=lack)
    return None


class PodResize:
    """Of one pod. Owned by its worker."""

    def __init__(
        self, services: PodServices, pod: core_v1.Pod, grant: Callable[[core_v1.Pod], Failure | None]
    ) -> None:
        """`grant`: asks the node for what the pod wants, and takes it when the answer is None."""
        self._services = services
        self._grant = grant
        self._allocated = _reported(pod)
        self._in_force: core_v1.Pod | None = None
        """As the pod's cgroup was set last."""
        self._pending: Failure | None = None
        self._busy = False
        self._error = ""

    def settle(self, wanted: core_v1.Pod) -> core_v1.Pod:
        """The pod as it may be now: with what is allocated. Call again for what was deferred."""
        if _resources(wanted) == self._allocated:
            self._pending = None
            return wanted
        if not (is_deleting(wanted) or is_terminal(wanted)):
            self._pending = self._grant(wanted)
            if self._pending is None:
                self._allocated = _resources(wanted)
                return wanted
        return _with_resources(wanted, self._allocated)

    def changes(self, pod: core_v1.Pod, runtime: PodRuntime) -> list[Change]:
        found = list(_changes(pod, runtime, self._services.node_memory_bytes))
        if self._in_force is None:
            self._in_force = pod
        self._busy = bool(found) or not self._settled(pod)
        if not self._busy:
            self._error = ""
        return found

    @property
    def pending(self) -> bool:
        """Whether the pod wants what the node has not granted."""
        return self._pending is not None

    @property
    def busy(self) -> bool:
        """Whether what is allocated is not in force yet."""
        return self._busy

    def conditions(self, generation: int | None) -> list[core_v1.PodCondition]:
        found = []
        if self._pending is not None:
            found.append(("PodResizePending", self._pending.reason, self._pending.message))
        if self._busy:
            found.append(("PodResizeInProgress", "Error" if self._error else "", self._error))
        return [
            core_v1.PodCondition(
                type=type_,
                status="True",
                reason=reason or None,
                message=message or None,
                observed_generation=generation,
            )
            for type_, reason, message in found
        ]

    async def perform(self, pod: core_v1.Pod, changes: Sequence[Change]) -> None:
        """The pod's cgroup is widened before its containers and narrowed after them, so that their limits
        always fit into its. Raises CRIError, OSError, ResizeError: call again."""
        try:
            await self._perform(pod, changes)
        except Exception as err:
            self._error = str(err)
            raise

    async def _perform(self, pod: core_v1.Pod, changes: Sequence[Change]) -> None:
        cgroups, runtime = self._services.cgroups, self._services.runtime
        cgroups.create(pod, at_least=self._in_force)
        for change in changes:
            if change.restarts:
                continue
            await self._check_usage(change)
            await runtime.update_container_resources(
                cri.UpdateContainerResourcesRequest(container_id=change.record.id, linux=change.wanted)
            )
        if not any(change.restarts for change in changes):
            cgroups.create(pod)
            self._in_force = pod

    async def _check_usage(self, change: Change) -> None:
        """A limit below what is used would have the kernel kill what the resize is to keep."""
        had, limit = _limits(change.record), change.wanted.memory_limit_in_bytes
        if had is None or not limit or not limit < had.memory_limit_in_bytes:
            return
        found = await self._services.runtime.container_stats(
            cri.ContainerStatsRequest(container_id=change.record.id)
        )
        used = found.stats.memory.working_set_bytes if found.stats and found.stats.memory else None
        if used is not None and used > limit:
            raise ResizeError(
                f"attempting to set memory limit of container {change.record.name} ({limit}) below its "
                f"current usage ({used})"
            )

    def _settled(self, pod: core_v1.Pod) -> bool:
        before = self._in_force
        return before is None or resources.pod_resources(before) == resources.pod_resources(pod)


def _changes(pod: core_v1.Pod, runtime: PodRuntime, node_memory_bytes: int) -> Iterator[Change]:
    for container in _resizable(pod):
        record = runtime.latest(container.name)
        had = _limits(record) if record is not None and record.running else None
        if record is None or had is None:
            continue
        whole = resources.container_resources(pod, container, node_memory_bytes)
        fields = [f for f in (*_CPU_FIELDS, _MEMORY_FIELD) if getattr(whole, f)]
        changed = [f for f in fields if getattr(whole, f) != getattr(had, f)]
        if changed:
            policies = {policy.resource_name: policy.restart_policy for policy in container.resize_policy}
            touched = {"memory" if f == _MEMORY_FIELD else "cpu" for f in changed}
            wanted: dict[str, Any] = {f: getattr(whole, f) for f in fields}
            yield Change(
                record=record,
                wanted=cri.LinuxContainerResources(cpu_period=whole.cpu_period, **wanted),
                restarts=any(policies.get(name) == "RestartContainer" for name in touched),
            )


def _limits(record: ContainerRecord) -> cri.LinuxContainerResources | None:
    """None: the runtime does not say."""
    return record.status.resources.linux if record.status.resources else None


def _resizable(pod: core_v1.Pod) -> Iterator[core_v1.Container]:
    spec = names.pod_spec(pod)
    yield from spec.containers
    yield from filter(is_sidecar, spec.init_containers)


Allocation = dict[str, core_v1.ResourceRequirements | None]


def _resources(pod: core_v1.Pod) -> Allocation:
    return {container.name: container.resources for container in _resizable(pod)}


def _reported(pod: core_v1.Pod) -> Allocation:
    """What a kubelet before this one allocated: its status tells. For a pod that is new, what it asks for."""
    statuses = [*pod.status.init_container_statuses, *pod.status.container_statuses] if pod.status else []
    told = {status.name: status for status in statuses if status.resources is not None}
    found = _resources(pod)
    for name, asked in found.items():
        status = told.get(name)
        if status is None or status.resources is None or asked is None:
            continue
        found[name] = structs.replace(
            asked,
            requests=_told(asked.requests, status.allocated_resources),
            limits=_told(asked.limits, status.resources.limits),
        )
    return found


def _told(asked: dict[str, str], told: dict[str, str]) -> dict[str, str]:
    """Where both say the same amount in other words, the spec's words stay."""
    kept = {name: amount for name, amount in asked.items() if name not in RESIZABLE}
    for name in RESIZABLE:
        if name in told:
            alike = name in asked and parse_quantity(asked[name]) == parse_quantity(told[name])
            kept[name] = asked[name] if alike else told[name]
    return {name: kept[name] for name in (*asked, *kept) if name in kept}


def _with_resources(pod: core_v1.Pod, allocated: Allocation) -> core_v1.Pod:
    spec = names.pod_spec(pod)

    def replaced(container: core_v1.Container) -> core_v1.Container:
        if container.name not in allocated:
            return container
        return structs.replace(container, resources=allocated[container.name])

    return structs.replace(
        pod,
        spec=structs.replace(
            spec,
            containers=[replaced(c) for c in spec.containers],
            init_containers=[replaced(c) for c in spec.init_containers],
        ),
    )
