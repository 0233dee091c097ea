"""Find the container a request means, with the errors kubectl users know."""

from __future__ import annotations

from dataclasses import dataclass

from aiohttp import web

from podling.api import core_v1
from podling.api.pods import find_container
from podling.kubelet import names
from podling.kubelet.pod_manager import PodManager
from podling.kubelet.runtime_state import PodRuntime, read_pod_runtime
from podling.runtime.cri.service import RuntimeService


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    pod: core_v1.Pod
    runtime: PodRuntime


class Lookup:
    def __init__(self, manager: PodManager, runtime: RuntimeService) -> None:
        self._manager = manager
        self._runtime = runtime

    async def pod(self, request: web.Request) -> Found:
        """The pod named in the path, optionally with its UID. Raises HTTPNotFound."""
        namespace, name = request.match_info["namespace"], request.match_info["pod"]
        uid = request.match_info.get("uid", "")
        pod = self._manager.find(namespace, name)
        if pod is None or (uid and pod.metadata.uid != uid):
            raise web.HTTPNotFound(text=f'pod "{name}_{namespace}" does not exist')
        return Found(pod=pod, runtime=await read_pod_runtime(self._runtime, names.pod_uid(pod)))

    async def running_container(self, request: web.Request) -> str:
        """The ID of a running container. Raises HTTPNotFound."""
        found = await self.pod(request)
        container = request.match_info["container"]
        name = names.pod_full(found.pod)
        if find_container(found.pod, container) is None:
            raise web.HTTPNotFound(text=f"container {container} not found in pod {name}")
        record = found.runtime.latest(container)
        if record is None or not record.running:
            raise web.HTTPNotFound(text=f'container not found ("{container}")')
        return record.id
