"""Keeps the node from running dry: reclaims what it can of itself, then evicts pods, one at a time.

Kubernetes documentation, "Node-pressure Eviction"; upstream's `pkg/kubelet/eviction/eviction_manager.go`.
A round reads the signals. What is low becomes conditions of the node, by which new pods are kept away. For
the most urgent threshold that acts, dead containers and unused images are removed where they take of it, and
if that does not help, the pod that is worth least is ended. Pods beyond their own limits go in any case.

Critical pods (static ones, system priorities) are never evicted.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from podling.api import core_v1
from podling.kubelet import names
from podling.kubelet.config import KubeletConfig
from podling.kubelet.events import NORMAL, WARNING, PodEvents
from podling.kubelet.eviction import messages
from podling.kubelet.eviction.admission import refusal
from podling.kubelet.eviction.dead_containers import remove_dead
from podling.kubelet.eviction.local_storage import exceeded, has_local_limit
from podling.kubelet.eviction.pressure import Pressure, Rule, rules_of
from podling.kubelet.eviction.ranking import is_critical, rank
from podling.kubelet.eviction.signals import RESOURCE_OF, NodeSignals, Observation
from podling.kubelet.eviction.usage import PodUse, read_usage
from podling.kubelet.image_gc import ImageGarbageCollector, ImageGCError
from podling.kubelet.pod_manager import PodManager
from podling.kubelet.status import Failure
from podling.runtime.cri import messages as cri
from podling.runtime.cri.errors import CRIError
from podling.runtime.cri.service import ImageService, RuntimeService

PERIOD_S = 2.0
"""Differs from upstream, which looks every 10 s: a disk fills faster, and a look is five small reads."""
LOCAL_STORAGE_PERIOD_S = 10.0
"""Upstream's: this walks through volumes and writable layers."""
CLEANUP_S = 30.0
"""How long an evicted pod may take to end before the next is looked for (upstream's `podCleanupTimeout`)."""
FRUITLESS_S = 10.0
"""Until the next attempt when no pod could be evicted."""
IMMEDIATE_GRACE_S = 1
_EVENTS = {
    "MemoryPressure": ("NodeHasInsufficientMemory", "NodeHasSufficientMemory"),
    "DiskPressure": ("NodeHasDiskPressure", "NodeHasNoDiskPressure"),
    "PIDPressure": ("NodeHasInsufficientPID", "NodeHasSufficientPID"),
}

log = logging.getLogger(__name__)


class EvictionManager:
    """One for the node. `run()` until cancelled."""

    def __init__(
        self,
        config: KubeletConfig,
        runtime: RuntimeService,
        images: ImageService,
        pods: PodManager,
        collector: ImageGarbageCollector,
        events: PodEvents,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._config = config
        self._runtime = runtime
        self._images = images
        self._pods = pods
        self._collector = collector
        self._events = events
        self._clock = clock
        self._signals = NodeSignals(config.root_dir)
        self._pressure = Pressure(rules_of(config), config.eviction_pressure_transition_period_s)
        self._local_at = 0.0
        self._idle_until = 0.0
        self._ending: tuple[names.PodUID, float] | None = None
        self.on_changed: Callable[[], None] = lambda: None
        """Told when the node's conditions change."""

    @property
    def conditions(self) -> frozenset[str]:
        return self._pressure.conditions

    def admit(self, pod: core_v1.Pod) -> Failure | None:
        """Why a new pod may not start while the node is short of something."""
        return refusal(pod, self.conditions)

    async def run(self) -> None:
        while True:
            try:
                await self.look()
            except (CRIError, ImageGCError, OSError) as err:
                log.warning("eviction: %s", err)
            await asyncio.sleep(PERIOD_S)

    async def look(self) -> None:
        """One round. Raises CRIError, ImageGCError, OSError."""
        if self._signals.image_fs is None:
            self._signals.image_fs = await self._image_fs()
        seen = await asyncio.to_thread(self._signals.read)
        before = self.conditions
        acting = self._pressure.observe(seen, self._clock())
        self._tell_conditions(before)
        if self._still_ending():
            return
        if await self._evict_over_limits() or not acting or self._clock() < self._idle_until:
            return
        if not await self._relieve(acting[0], seen):
            self._idle_until = self._clock() + FRUITLESS_S

    async def _image_fs(self) -> Path | None:
        response = await self._images.image_fs_info(cri.ImageFsInfoRequest())
        found = (usage.fs_id.mountpoint for usage in response.image_filesystems if usage.fs_id)
        return next((Path(path) for path in found if path and Path(path).exists()), None)

    def _tell_conditions(self, before: frozenset[str]) -> None:
        for name in sorted(before ^ self.conditions):
            there, absent = _EVENTS[name]
            reason = there if name in self.conditions else absent
            node = self._config.node_name
            log.warning("node %s: %s", node, reason)
            self._events.node(node, NORMAL, reason, f"Node {node} status is now: {reason}")
        if before != self.conditions:
            self.on_changed()

    def _still_ending(self) -> bool:
        """Whether the last pod evicted still has what it shall give back."""
        if self._ending is None:
            return False
        uid, until = self._ending
        if self._pods.is_ending(uid) and self._clock() < until:
            return True
        self._ending = None
        return False

    # Pods beyond their own limits

    async def _evict_over_limits(self) -> bool:
        now = self._clock()
        if self._local_at and now - self._local_at < LOCAL_STORAGE_PERIOD_S:
            return False
        self._local_at = now
        limited = [pod for pod in self._pods.evictable() if has_local_limit(pod)]
        if not limited:
            return False
        usage = await read_usage(self._config, self._runtime, limited)
        evicted = False
        for pod in limited:
            text = exceeded(pod, usage[names.pod_uid(pod)])
            if text is not None:
                evicted = self._evict(pod, text, grace_s=IMMEDIATE_GRACE_S) or evicted
        return evicted

    # The node as a whole

    async def _relieve(self, rule: Rule, seen: Mapping[str, Observation]) -> bool:
        """False when no pod was evicted."""
        resource = RESOURCE_OF[rule.signal]
        log.warning("attempting to reclaim %s: %s is %s", resource, rule.signal, seen[rule.signal])
        text = f"Attempting to reclaim {resource}"
        self._events.node(self._config.node_name, WARNING, "EvictionThresholdMet", text)
        if await self._reclaim(rule):
            seen = await asyncio.to_thread(self._signals.read)
            if not rule.met(seen[rule.signal], with_reclaim=True):
                log.info("%s is %s: no pod has to go", rule.signal, seen[rule.signal])
                return False
        pods = self._pods.evictable()
        usage = await read_usage(self._config, self._runtime, pods)
        dedicated = self._signals.dedicated_image_fs
        grace_s = IMMEDIATE_GRACE_S if rule.hard else self._config.eviction_max_pod_grace_period_s
        for pod in rank(pods, usage, rule.signal, dedicated_image_fs=dedicated):
            used = usage.get(names.pod_uid(pod), PodUse())
            message = messages.node_low(rule, seen[rule.signal], pod, used)
            if self._evict(pod, message, grace_s=grace_s):
                return True
        log.warning("unable to evict any pods from the node")
        return False

    async def _reclaim(self, rule: Rule) -> bool:
        """Free what no pod needs; False when nothing of it lies where it is short."""
        if RESOURCE_OF[rule.signal] not in ("ephemeral-storage", "inodes"):
            return False
        if rule.signal.startswith("nodefs") and self._signals.dedicated_image_fs:
            return False
        await remove_dead(self._runtime, self._pods.has_ended)
        try:
            await self._collector.delete_unused()
        except ImageGCError as err:
            log.warning("eviction: %s", err)
        return True

    def _evict(self, pod: core_v1.Pod, message: str, *, grace_s: int) -> bool:
        if is_critical(pod):
            log.warning("cannot evict a critical pod %s", names.pod_full(pod))
            return False
        uid = names.pod_uid(pod)
        log.warning("evicting pod %s: %s", names.pod_full(pod), message)
        self._pods.evict(
            pod, Failure(reason=messages.REASON, message=message, disruption=True), grace_s=grace_s
        )
        self._ending = uid, self._clock() + CLEANUP_S
        return True
