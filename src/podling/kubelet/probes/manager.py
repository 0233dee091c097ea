"""Runs the probes of the containers that run, and remembers what they say.

A probe is a task that lives as long as its container. Results only change after the thresholds, and only
a change wakes the pod's worker. Kubernetes documentation, "Configure Liveness, Readiness and Startup
Probes": while a startup probe has not succeeded, the others wait.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from podling.api import core_v1
from podling.kubelet import names
from podling.kubelet.events import WARNING, PodEvents
from podling.kubelet.pod_actions import ProbeView
from podling.kubelet.probes.checks import CheckResult, run_check
from podling.kubelet.probes.counts import ProbeCounts
from podling.kubelet.runtime_state import ContainerRecord, PodRuntime
from podling.kubelet.tasks import guarded
from podling.runtime.cri.service import RuntimeService

Kind = Literal["Startup", "Liveness", "Readiness"]


@dataclass(slots=True)
class _Probed:
    """A container under observation."""

    pod: core_v1.Pod
    container: names.AnyContainer
    id: names.ContainerID
    pod_ips: list[str]
    started: asyncio.Event = field(default_factory=asyncio.Event)
    ready: bool | None = None
    """None: no readiness probe."""
    unhealthy: str = ""
    tasks: list[asyncio.Task[None]] = field(default_factory=list)


class PodProbes:
    """The probes of one pod; owned by its worker."""

    def __init__(
        self,
        runtime: RuntimeService,
        events: PodEvents,
        wake: Callable[[], None],
        *,
        counts: ProbeCounts,
        stagger_s: Callable[[float], float] = lambda period_s: random.uniform(0, min(period_s, 1.0)),
    ) -> None:
        self._runtime = runtime
        self._events = events
        self._wake = wake
        self._counts = counts
        self._stagger_s = stagger_s
        self._probed: dict[names.ContainerID, _Probed] = {}

    def sync(self, pod: core_v1.Pod, runtime: PodRuntime) -> None:
        """Start probing containers that run, stop probing those that do not."""
        containers = {c.name: c for c in _all_containers(pod) if _has_probe(c)}
        if not containers and not self._probed:
            return
        running = {r.id: r for r in runtime.containers if r.running and r.name in containers}
        for container_id in [key for key in self._probed if key not in running]:
            self._stop(container_id)
        for container_id, record in running.items():
            if container_id not in self._probed:
                self._begin(pod, containers[record.name], record, runtime.ips)

    def stop(self) -> None:
        for container_id in list(self._probed):
            self._stop(container_id)

    def ready(self) -> Mapping[str, bool]:
        """By container ID; only containers that have a readiness probe."""
        return {key: probed.ready for key, probed in self._probed.items() if probed.ready is not None}

    def view(self) -> ProbeView:
        return ProbeView(
            unhealthy={key: probed.unhealthy for key, probed in self._probed.items() if probed.unhealthy},
            starting=frozenset(key for key, probed in self._probed.items() if not probed.started.is_set()),
        )

    def _begin(
        self, pod: core_v1.Pod, container: names.AnyContainer, record: ContainerRecord, ips: list[str]
    ) -> None:
        probed = _Probed(pod=pod, container=container, id=record.id, pod_ips=ips)
        self._probed[record.id] = probed
        wanted: list[tuple[Kind, core_v1.Probe | None]] = [
            ("Startup", container.startup_probe),
            ("Liveness", container.liveness_probe),
            ("Readiness", container.readiness_probe),
        ]
        if container.startup_probe is None:
            probed.started.set()
        if container.readiness_probe is not None:
            probed.ready = False
        for kind, probe in wanted:
            if probe is not None:
                work = guarded(self._observe(probed, kind, probe), f"{kind} probe of {names.pod_key(pod)}")
                name = f"{kind} probe {names.pod_key(pod)} {container.name}"
                probed.tasks.append(asyncio.create_task(work, name=name))

    def _stop(self, container_id: names.ContainerID) -> None:
        for task in self._probed.pop(container_id).tasks:
            task.cancel()

    async def _observe(self, probed: _Probed, kind: Kind, probe: core_v1.Probe) -> None:
        period_s = float(probe.period_seconds or 10)
        await asyncio.sleep(float(probe.initial_delay_seconds or 0))
        if kind != "Startup":
            await probed.started.wait()
            if kind == "Liveness" or probe.initial_delay_seconds:
                # So that the probes of a node that restarted do not all fire at the same moment; the
                # first readiness check is not held back, it is what a rollout waits for.
                await asyncio.sleep(self._stagger_s(period_s))
        streak = _Streak(probe)
        while True:
            result = await run_check(
                self._runtime, probed.container, probed.id, probe, pod_ips=probed.pod_ips
            )
            self._counts.add(probed.pod, probed.container.name, kind, success=result.success)
            if not result.success:
                text = f"{kind} probe failed: {result.output}"
                self._events.container(probed.pod, probed.container.name, WARNING, "Unhealthy", text)
            if streak.add(result) and self._apply(probed, kind, result.success):
                return
            await asyncio.sleep(period_s)

    def _apply(self, probed: _Probed, kind: Kind, success: bool) -> bool:
        """Note a verdict; True when this probe has said all it has to say."""
        if kind == "Readiness":
            if probed.ready != success:
                probed.ready = success
                self._wake()
            return False
        if success:
            if kind == "Startup":
                probed.started.set()
                self._wake()
            return kind == "Startup"
        what = f"Container {probed.container.name} failed {kind.lower()} probe, will be restarted"
        probed.unhealthy = what
        self._wake()
        return True


class _Streak:
    """Counts results of one kind in a row against the probe's thresholds."""

    def __init__(self, probe: core_v1.Probe) -> None:
        self._needed = {True: probe.success_threshold or 1, False: probe.failure_threshold or 3}
        self._last: bool | None = None
        self._count = 0

    def add(self, result: CheckResult) -> bool:
        """True when the result counts now."""
        self._count = self._count + 1 if result.success == self._last else 1
        self._last = result.success
        return self._count >= self._needed[result.success]


def _all_containers(pod: core_v1.Pod) -> list[core_v1.Container]:
    spec = names.pod_spec(pod)
    return [*spec.init_containers, *spec.containers]


def _has_probe(container: core_v1.Container) -> bool:
    return any((container.startup_probe, container.liveness_probe, container.readiness_probe))
