"""The volumes of one pod: prepared before its containers start, kept up to date while it runs.

Config maps and secrets are looked at again every minute, as upstream's sync does, and at once when the
pod's own labels or annotations change: the documented way to hurry (Kubernetes documentation,
"ConfigMaps", "Mounted ConfigMaps are updated automatically").
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace

from podling.api import core_v1
from podling.kubelet import names
from podling.kubelet.container_config import PreparedVolume
from podling.kubelet.environment import Sources
from podling.kubelet.events import WARNING
from podling.kubelet.field_paths import PodFacts
from podling.kubelet.services import PodServices
from podling.kubelet.volumes.manager import MountFailure, prepare_volumes, refresh_volumes
from podling.kubelet.volumes.payload import has_payload, pod_sources, pod_tokens

REFRESH_S = 60.0


class PodVolumes:
    def __init__(self, services: PodServices, pod: core_v1.Pod) -> None:
        self._services = services
        self._pod = pod
        self._changes = any(has_payload(volume) for volume in names.pod_spec(pod).volumes)
        self._due_at = 0.0
        self._hurried = False
        self.prepared: Mapping[str, PreparedVolume] | None = None
        """By name; None until all are there."""

    def update(self, pod: core_v1.Pod) -> None:
        """The API has a newer version of the pod."""
        old, new = self._pod.metadata, pod.metadata
        self._pod = pod
        if old.labels != new.labels or old.annotations != new.annotations:
            self._due_at, self._hurried = 0.0, True

    async def prepare(self) -> None:
        """Make every volume ready. Raises MountFailure, after telling it by event, and ClientError."""
        sources, facts = await self._inputs()
        try:
            self.prepared = await prepare_volumes(
                self._services.config, self._pod, sources=sources, facts=facts
            )
        except MountFailure as err:
            self._tell(err)
            raise
        self._done()

    async def refresh(self) -> None:
        """Show the present values; what cannot be read stays as it was. Raises as `prepare` does."""
        hurried, self._hurried = self._hurried, False
        sources, facts = await self._inputs(max_age_s=0.0 if hurried else REFRESH_S / 2)
        try:
            await refresh_volumes(self._services.config, self._pod, sources=sources, facts=facts)
        except MountFailure as err:
            self._tell(err)
            raise
        self._done()

    @property
    def refresh_in_s(self) -> float | None:
        """How long until `refresh` is due; None when nothing can change."""
        if self.prepared is None or not self._changes:
            return None
        return max(0.0, self._due_at - asyncio.get_running_loop().time())

    def _done(self) -> None:
        self._due_at = asyncio.get_running_loop().time() + REFRESH_S

    def _tell(self, failure: MountFailure) -> None:
        self._services.events.pod(self._pod, WARNING, "FailedMount", str(failure))

    async def _inputs(self, *, max_age_s: float = 0.0) -> tuple[Sources, PodFacts]:
        keys = pod_sources(self._pod)
        namespace = names.pod_namespace(self._pod)
        sources = (
            await self._services.objects.fetch(namespace, keys, max_age_s=max_age_s) if keys else Sources()
        )
        if tokens := pod_tokens(self._pod):
            sources = replace(sources, tokens=await self._services.tokens.fetch(self._pod, tokens))
        facts = PodFacts(host_ip=self._services.config.node_ip, allocatable=self._services.allocatable)
        return sources, facts
