"""What the server tells: pods, settings, statistics, metrics."""

from __future__ import annotations

from typing import Any

import msgspec
from aiohttp import web

from podling.api.prometheus import CONTENT_TYPE
from podling.kubelet import names
from podling.kubelet.config import KubeletConfig
from podling.kubelet.pod_manager import PodManager
from podling.kubelet.probes.counts import ProbeCounts
from podling.kubelet.server import metrics
from podling.kubelet.server.stats import NodeUsage, summary
from podling.kubelet.server.streams import ask
from podling.kubelet.settings import settings_of, shown
from podling.kubelet.status_manager import status_to_json
from podling.runtime.cri import messages as cri
from podling.runtime.cri.service import ImageService, RuntimeService


class Pages:
    def __init__(
        self,
        config: KubeletConfig,
        runtime: RuntimeService,
        images: ImageService,
        manager: PodManager,
        probe_counts: ProbeCounts,
    ) -> None:
        self._config = config
        self._runtime = runtime
        self._images = images
        self._manager = manager
        self._probe_counts = probe_counts
        self._node = NodeUsage(config)

    async def healthz(self, request: web.Request) -> web.Response:
        return web.Response(text="ok")

    async def pods(self, request: web.Request) -> web.Response:
        """The pods this node should run, with the newest status of each."""
        items = []
        for pod in self._manager.known():
            plain: dict[str, Any] = msgspec.to_builtins(pod)
            if pod.status is not None:
                plain["status"] = status_to_json(pod.status)
            items.append(plain)
        return _pod_list(items)

    async def running_pods(self, request: web.Request) -> web.Response:
        """The pods the runtime has, whoever wants them."""
        listed = await ask(self._runtime.list_containers(cri.ListContainersRequest()))
        sandboxes = await ask(self._runtime.list_pod_sandbox(cri.ListPodSandboxRequest()))
        items = []
        for sandbox in sandboxes.items:
            if sandbox.metadata is None or sandbox.state is not cri.PodSandboxState.SANDBOX_READY:
                continue
            running = [
                {"name": item.metadata.name if item.metadata else "", "image": _image(item), "resources": {}}
                for item in listed.containers
                if item.pod_sandbox_id == sandbox.id
                and item.state is cri.ContainerState.CONTAINER_RUNNING
                and names.CONTAINER_NAME_LABEL in item.labels
            ]
            meta = sandbox.metadata
            metadata = {"name": meta.name, "namespace": meta.namespace, "uid": meta.uid}
            items.append({"metadata": metadata, "spec": {"containers": running}, "status": {}})
        return _pod_list(items)

    async def configz(self, request: web.Request) -> web.Response:
        return _json({"kubeletconfig": shown(settings_of(KubeletConfig), self._config)})

    async def stats_summary(self, request: web.Request) -> web.Response:
        return _json(await self._summary())

    async def metrics(self, request: web.Request) -> web.Response:
        sandboxes = await ask(self._runtime.list_pod_sandbox(cri.ListPodSandboxRequest()))
        containers = await ask(self._runtime.list_containers(cri.ListContainersRequest()))
        pods = self._manager.known()
        return _text(metrics.kubelet_metrics(self._config, pods, sandboxes, containers))

    async def metrics_resource(self, request: web.Request) -> web.Response:
        return _text(metrics.resource_metrics(await self._summary()))

    async def metrics_cadvisor(self, request: web.Request) -> web.Response:
        described = await ask(self._runtime.list_metric_descriptors(cri.ListMetricDescriptorsRequest()))
        listed = await ask(self._runtime.list_pod_sandbox_metrics(cri.ListPodSandboxMetricsRequest()))
        return _text(metrics.cadvisor_metrics(described, listed))

    async def metrics_probes(self, request: web.Request) -> web.Response:
        return _text(metrics.probe_metrics(self._probe_counts))

    async def _summary(self) -> dict[str, Any]:
        return await ask(
            summary(self._node, self._config, self._runtime, self._images, self._manager.known())
        )


def _image(item: cri.Container) -> str:
    return item.image.image if item.image else ""


def _pod_list(items: list[Any]) -> web.Response:
    return _json({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items})


def _json(body: Any) -> web.Response:
    return web.Response(body=msgspec.json.encode(body), content_type="application/json")


def _text(body: str) -> web.Response:
    return web.Response(body=body.encode(), headers={"Content-Type": CONTENT_TYPE})
