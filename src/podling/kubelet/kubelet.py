"""The kubelet: makes the pods of one node what the API says they are.

Wires the parts and owns their tasks:

    informer (pods of this node) ─▶ pod manager ─▶ a worker a pod ─▶ runtime (CRI)
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
from podling.client.client import Client
from podling.client.events import EventRecorder
from podling.client.informer import Informer
from podling.kubelet.backoff import Backoff
from podling.kubelet.cgroups import PodCgroups
from podling.kubelet.config import KubeletConfig
from podling.kubelet.events import PodEvents
from podling.kubelet.images import ImageManager
from podling.kubelet.lease import NodeLease
from podling.kubelet.machine_info import capacity, read_machine_info
from podling.kubelet.node_reporter import NodeReporter
from podling.kubelet.objects import ObjectCache
from podling.kubelet.pleg import PLEG
from podling.kubelet.pod_manager import PodManager
from podling.kubelet.server.server import KubeletServer
from podling.kubelet.services import PodServices
from podling.kubelet.status_manager import StatusManager
from podling.runtime.cri.service import ImageService, RuntimeService

log = logging.getLogger(__name__)


class Kubelet:
    """`run()` until cancelled; nothing is started before, and pods run on after."""

    def __init__(
        self, config: KubeletConfig, client: Client, runtime: RuntimeService, images: ImageService
    ) -> None:
        self._config = config
        self._client = client
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
        services = PodServices(
            config=config,
            client=self._client,
            runtime=self._runtime,
            images=ImageManager(self._images, events, max_parallel=config.max_parallel_image_pulls),
            objects=ObjectCache(self._client),
            cluster_services=cluster_services.store,
            events=events,
            statuses=StatusManager(self._client, tasks),
            backoff=Backoff(),
            cgroups=cgroups,
            allocatable=capacity(machine, max_pods=config.max_pods),
            node_memory_bytes=machine.memory_bytes,
            wall_clock=time.time,
        )
        manager = PodManager(services, tasks)
        pleg = PLEG(self._runtime, manager.on_runtime_change, manager.on_runtime_listed)
        pods = Informer(self._client, core_v1.Pod, field_selector=f"spec.nodeName={config.node_name}")
        pods.add_handler(manager.on_pod)
        node = NodeReporter(config, self._client, self._runtime, self._images, events, machine)
        server = KubeletServer(config, self._runtime, manager, pleg)

        await server.start()
        try:
            tasks.create_task(recorder.run(), name="events")
            tasks.create_task(pleg.run(), name="PLEG")
            tasks.create_task(node.run(), name="node status")
            tasks.create_task(cluster_services.run(), name="service informer")
            # First: a container is told of the services there are when it is made.
            await cluster_services.wait_synced()
            tasks.create_task(pods.run(), name="pod informer")
            await node.wait_registered()
            tasks.create_task(NodeLease(config, self._client).run(), name="node lease")
            await pods.wait_synced()
            await pleg.wait_listed()
            log.info("node %s: %d pods from the API", config.node_name, len(pods.store))
            await manager.end_orphans()
            await asyncio.Event().wait()
        finally:
            await server.stop()
