"""The kubelet: makes the pods of one node what the API says they are.

Wires the parts and owns their tasks:

    informer (pods of this node) ─▶ pod manager ─▶ a worker a pod ─▶ runtime (CRI)
    manifests (static pods) ──────▶      │              │
    PLEG (runtime events) ────────▶      │              │
                                         │              └─▶ status manager ─▶ API
    node reporter, lease ─▶ API          └─ 10250 server: logs, exec, attach, port-forward

It may be killed at any moment: containers and their monitors live on, and the next kubelet starts from
what the API, the runtime and its root directory say.
"""

from __future__ import annotations

import asyncio
import logging
import time

from podling.api import core_v1
from podling.api.pods import is_mirror
from podling.client.client import Client
from podling.client.events import EventRecorder
from podling.client.informer import Informer
from podling.kubelet.allocatable import node_allocatable
from podling.kubelet.backoff import Backoff
from podling.kubelet.cgroups import PodCgroups
from podling.kubelet.config import KubeletConfig
from podling.kubelet.events import WARNING, PodEvents
from podling.kubelet.eviction.manager import EvictionManager
from podling.kubelet.image_gc import ImageGarbageCollector, ImageGCPolicy
from podling.kubelet.images import ImageManager
from podling.kubelet.lease import NodeLease
from podling.kubelet.log_rotation import LogRotation
from podling.kubelet.machine_info import MachineInfo, read_machine_info
from podling.kubelet.node_reporter import NodeReporter
from podling.kubelet.objects import ObjectCache
from podling.kubelet.pleg import PLEG
from podling.kubelet.pod_manager import PodManager
from podling.kubelet.probes.counts import ProbeCounts
from podling.kubelet.server.server import KubeletServer
from podling.kubelet.services import NetworkGate, PodServices, open_gate
from podling.kubelet.standalone import NoServer
from podling.kubelet.static_pods.mirror import MirrorPods
from podling.kubelet.static_pods.sources import StaticPodSources
from podling.kubelet.status_manager import StatusManager
from podling.kubelet.tokens import PodTokens
from podling.kubelet.userns import UserNamespaces
from podling.runtime.cri.service import ImageService, RuntimeService

log = logging.getLogger(__name__)


class Kubelet:
    """`run()` until cancelled; nothing is started before, and pods run on after."""

    def __init__(
        self,
        config: KubeletConfig,
        client: Client | None,
        runtime: RuntimeService,
        images: ImageService,
        *,
        network_gate: NetworkGate = open_gate,
    ) -> None:
        """`client`: None for a kubelet on its own (standalone), which runs static pods only."""
        self._network_gate = network_gate
        self._config = config
        self._standalone = client is None
        self._client = client or Client(NoServer())
        self._runtime = runtime
        self._images = images

    async def run(self) -> None:
        self._config.pods_dir.mkdir(parents=True, exist_ok=True)
        self._config.pod_logs_dir.mkdir(parents=True, exist_ok=True)
        async with asyncio.TaskGroup() as tasks:
            await self._run(tasks)

    async def _run(self, tasks: asyncio.TaskGroup) -> None:
        config = self._config
        machine = read_machine_info(config.root_dir)
        recorder = EventRecorder(self._client, "kubelet", config.node_name)
        events = PodEvents(recorder)
        cgroups = PodCgroups(config)
        cgroups.ensure_roots()
        cluster_services = Informer(self._client, core_v1.Service)
        objects = ObjectCache(self._client)
        probe_counts = ProbeCounts()
        services = PodServices(
            config=config,
            client=self._client,
            runtime=self._runtime,
            images=ImageManager(
                self._images,
                events,
                objects,
                root_dir=config.root_dir,
                max_parallel=config.parallel_image_pulls,
            ),
            objects=objects,
            tokens=PodTokens(self._client, time.time),
            cluster_services=cluster_services.store,
            events=events,
            statuses=StatusManager(self._client, tasks),
            backoff=Backoff(),
            cgroups=cgroups,
            network_gate=self._network_gate,
            users=UserNamespaces(config, self._runtime),
            allocatable=node_allocatable(config, machine),
            node_memory_bytes=machine.memory_bytes,
            probe_counts=probe_counts,
            wall_clock=time.time,
        )
        manager = PodManager(services, tasks)
        collector = self._image_collector(events)
        eviction = EvictionManager(config, self._runtime, self._images, manager, collector, events)
        manager.admit_under_pressure = eviction.admit
        pleg = PLEG(self._runtime, manager.on_runtime_change, manager.on_runtime_listed)
        server = KubeletServer(
            config,
            None if self._standalone else self._client,
            self._runtime,
            self._images,
            manager,
            pleg,
            probe_counts,
        )
        static = StaticPodSources(
            config,
            manager.set_static,
            lambda why: events.node(config.node_name, WARNING, "InvalidManifest", why),
        )
        await server.start()
        try:
            tasks.create_task(pleg.run(), name="PLEG")
            tasks.create_task(LogRotation(config, self._runtime).run(), name="log rotation")
            tasks.create_task(self._look_again(manager), name="sync")
            if config.image_gc_high_threshold_percent < 100 or config.image_maximum_gc_age_s:
                tasks.create_task(collector.run(), name="image garbage collection")
            tasks.create_task(eviction.run(), name="eviction")
            # Before anything is asked of the API server: it may itself be one of them.
            static.start(tasks)
            if self._standalone:
                await static.wait_ready()
            else:
                tasks.create_task(recorder.run(), name="events")
                await self._follow_api(tasks, manager, static, cluster_services, events, machine, eviction)
            await pleg.wait_listed()
            await manager.end_orphans()
            await asyncio.Event().wait()
        finally:
            await server.stop()

    def _image_collector(self, events: PodEvents) -> ImageGarbageCollector:
        config = self._config
        policy = ImageGCPolicy(
            high_threshold_percent=config.image_gc_high_threshold_percent,
            low_threshold_percent=config.image_gc_low_threshold_percent,
            minimum_age_s=config.image_minimum_gc_age_s,
            maximum_age_s=config.image_maximum_gc_age_s,
        )
        return ImageGarbageCollector(
            self._runtime, self._images, events, node_name=config.node_name, policy=policy
        )

    async def _look_again(self, manager: PodManager) -> None:
        """Events tell of every change; this is for what they cannot tell, as upstream's sync loop."""
        while True:
            await asyncio.sleep(self._config.sync_frequency_s)
            manager.wake_all()

    async def _follow_api(
        self,
        tasks: asyncio.TaskGroup,
        manager: PodManager,
        static: StaticPodSources,
        cluster_services: Informer[core_v1.Service],
        events: PodEvents,
        machine: MachineInfo,
        eviction: EvictionManager,
    ) -> None:
        """Return when the pods of this node are known, from the API and from manifests."""
        config = self._config
        mirrors = MirrorPods(
            self._client,
            config.node_name,
            static_pod=manager.static_pod,
            present=manager.has_static,
            on_mirror=manager.on_mirror,
        )
        manager.on_static_changed = mirrors.look

        def on_pod(old: core_v1.Pod | None, new: core_v1.Pod | None) -> None:
            mirrored = any(pod is not None and is_mirror(pod) for pod in (old, new))
            (mirrors if mirrored else manager).on_pod(old, new)

        pods = Informer(self._client, core_v1.Pod, field_selector=f"spec.nodeName={config.node_name}")
        pods.add_handler(on_pod)
        node = NodeReporter(
            config,
            self._client,
            self._runtime,
            self._images,
            events,
            machine,
            pressure=lambda: eviction.conditions,
        )
        eviction.on_changed = node.report_soon
        tasks.create_task(node.run(), name="node status")
        tasks.create_task(cluster_services.run(), name="service informer")
        # First: a container is told of the services there are when it is made.
        await cluster_services.wait_synced()
        tasks.create_task(pods.run(), name="pod informer")
        await node.wait_registered()
        tasks.create_task(NodeLease(config, self._client).run(), name="node lease")
        await pods.wait_synced()
        log.info("node %s: %d pods from the API", config.node_name, len(pods.store))
        await static.wait_ready()
        tasks.create_task(mirrors.run(), name="mirror pods")
