"""`Runtime`: the CRI's RuntimeService and ImageService, in process. One verb, one module.

runtime = Runtime(RuntimeConfig())
await runtime.start()
...
await runtime.stop()        # containers live on; the next start finds them
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable
from typing import TypeVar

from podling.runtime import (
    checkpoint,
    container_create,
    container_list,
    container_remove,
    container_start,
    container_stats,
    container_status,
    container_stop,
    exec_sync,
    metrics,
    recovery,
    reopen_log,
    sandbox_list,
    sandbox_remove,
    sandbox_run,
    sandbox_status,
    sandbox_stop,
    sandbox_update,
    status,
    update_resources,
)
from podling.runtime.config import RuntimeConfig
from podling.runtime.core import Core
from podling.runtime.cri import messages as cri
from podling.runtime.cri.errors import Code, CRIError
from podling.runtime.images.service import StoreImageService
from podling.runtime.streaming.server import StreamingServer
from podling.runtime.streams_backend import RuntimeStreams
from podling.runtime.timings import Timings

log = logging.getLogger(__name__)

T = TypeVar("T")


class Runtime(StoreImageService):
    """Implements `RuntimeService` and `ImageService` of `podling.runtime.cri.service`."""

    def __init__(self, config: RuntimeConfig) -> None:
        """Raises `MissingProgramError` (crun, conmon) and `CgroupError`."""
        self.core = Core(config)
        super().__init__(self.core.images)
        self.streams = RuntimeStreams(self.core)
        self._streaming = StreamingServer(self.streams)

    @property
    def timings(self) -> Timings:
        return self.core.timings

    async def start(self) -> None:
        """Recover what an earlier life left, prepare the network, listen for streams on loopback."""
        if problem := status.runtime_problem(self.core):
            log.error("%s", problem)
        await recovery.recover(self.core)
        await self.core.cni.load()
        await recovery.collect_network_garbage(self.core)
        await self._streaming.start()

    async def stop(self) -> None:
        """End streams and event listeners. Sandboxes and containers live on."""
        await self._streaming.stop()
        self.core.events.close()
        for container in self.core.containers.values():
            container.release()
        for sandbox in self.core.sandboxes.values():
            if sandbox.pause is not None:
                sandbox.pause.close()
        self.core.crun.close()

    # the runtime

    async def version(self, request: cri.VersionRequest) -> cri.VersionResponse:
        return await status.version(self.core, request)

    async def status(self, request: cri.StatusRequest) -> cri.StatusResponse:
        return await status.status(self.core, request)

    async def runtime_config(self, request: cri.RuntimeConfigRequest) -> cri.RuntimeConfigResponse:
        return await status.runtime_config(self.core, request)

    async def update_runtime_config(
        self, request: cri.UpdateRuntimeConfigRequest
    ) -> cri.UpdateRuntimeConfigResponse:
        """The pod CIDR a kubelet tells: ours comes from the CNI configuration, as containerd's."""
        return cri.UpdateRuntimeConfigResponse()

    # sandboxes

    async def run_pod_sandbox(self, request: cri.RunPodSandboxRequest) -> cri.RunPodSandboxResponse:
        if problem := status.runtime_problem(self.core):
            raise CRIError(Code.FAILED_PRECONDITION, problem)
        return await _translated(sandbox_run.run_pod_sandbox(self.core, request))

    async def stop_pod_sandbox(self, request: cri.StopPodSandboxRequest) -> cri.StopPodSandboxResponse:
        return await _translated(sandbox_stop.stop_pod_sandbox(self.core, request))

    async def remove_pod_sandbox(self, request: cri.RemovePodSandboxRequest) -> cri.RemovePodSandboxResponse:
        return await _translated(sandbox_remove.remove_pod_sandbox(self.core, request))

    async def pod_sandbox_status(self, request: cri.PodSandboxStatusRequest) -> cri.PodSandboxStatusResponse:
        return await sandbox_status.pod_sandbox_status(self.core, request)

    async def list_pod_sandbox(self, request: cri.ListPodSandboxRequest) -> cri.ListPodSandboxResponse:
        return await sandbox_list.list_pod_sandbox(self.core, request)

    async def update_pod_sandbox_resources(
        self, request: cri.UpdatePodSandboxResourcesRequest
    ) -> cri.UpdatePodSandboxResourcesResponse:
        return await _translated(sandbox_update.update_pod_sandbox_resources(self.core, request))

    async def stream_pod_sandboxes(
        self, request: cri.StreamPodSandboxesRequest
    ) -> AsyncIterator[cri.StreamPodSandboxesResponse]:
        listed = await self.list_pod_sandbox(cri.ListPodSandboxRequest(filter=request.filter))
        yield cri.StreamPodSandboxesResponse(pod_sandboxes=listed.items)

    # containers

    async def create_container(self, request: cri.CreateContainerRequest) -> cri.CreateContainerResponse:
        return await _translated(container_create.create_container(self.core, request))

    async def start_container(self, request: cri.StartContainerRequest) -> cri.StartContainerResponse:
        return await _translated(container_start.start_container(self.core, request))

    async def stop_container(self, request: cri.StopContainerRequest) -> cri.StopContainerResponse:
        return await _translated(container_stop.stop_container(self.core, request))

    async def remove_container(self, request: cri.RemoveContainerRequest) -> cri.RemoveContainerResponse:
        return await _translated(container_remove.remove_container(self.core, request))

    async def list_containers(self, request: cri.ListContainersRequest) -> cri.ListContainersResponse:
        return await container_list.list_containers(self.core, request)

    async def stream_containers(
        self, request: cri.StreamContainersRequest
    ) -> AsyncIterator[cri.StreamContainersResponse]:
        listed = await self.list_containers(cri.ListContainersRequest(filter=request.filter))
        yield cri.StreamContainersResponse(containers=listed.containers)

    async def container_status(self, request: cri.ContainerStatusRequest) -> cri.ContainerStatusResponse:
        return await container_status.container_status(self.core, request)

    async def update_container_resources(
        self, request: cri.UpdateContainerResourcesRequest
    ) -> cri.UpdateContainerResourcesResponse:
        return await _translated(update_resources.update_container_resources(self.core, request))

    async def reopen_container_log(
        self, request: cri.ReopenContainerLogRequest
    ) -> cri.ReopenContainerLogResponse:
        return await _translated(reopen_log.reopen_container_log(self.core, request))

    async def checkpoint_container(
        self, request: cri.CheckpointContainerRequest
    ) -> cri.CheckpointContainerResponse:
        return await _translated(checkpoint.checkpoint_container(self.core, request))

    # processes and streams

    async def exec_sync(self, request: cri.ExecSyncRequest) -> cri.ExecSyncResponse:
        return await _translated(exec_sync.exec_sync(self.core, request))

    async def exec(self, request: cri.ExecRequest) -> cri.ExecResponse:
        self._check_running(request.container_id)
        return cri.ExecResponse(url=self._streaming.exec_url(request))

    async def attach(self, request: cri.AttachRequest) -> cri.AttachResponse:
        self._check_running(request.container_id)
        return cri.AttachResponse(url=self._streaming.attach_url(request))

    async def port_forward(self, request: cri.PortForwardRequest) -> cri.PortForwardResponse:
        sandbox = self.core.sandbox(request.pod_sandbox_id)
        if not sandbox.ready:
            raise CRIError(Code.FAILED_PRECONDITION, f"sandbox {sandbox.id!r} is not ready")
        return cri.PortForwardResponse(url=self._streaming.port_forward_url(request))

    def _check_running(self, container_id: str) -> None:
        container = self.core.container(container_id)
        if not container.running:
            state = container_status.state_of(container).name
            raise CRIError(Code.FAILED_PRECONDITION, f"container {container.id!r} is in {state} state")

    # what is measured, what happens

    async def container_stats(self, request: cri.ContainerStatsRequest) -> cri.ContainerStatsResponse:
        return await container_stats.container_stats(self.core, request)

    async def list_container_stats(
        self, request: cri.ListContainerStatsRequest
    ) -> cri.ListContainerStatsResponse:
        return await container_stats.list_container_stats(self.core, request)

    async def stream_container_stats(
        self, request: cri.StreamContainerStatsRequest
    ) -> AsyncIterator[cri.StreamContainerStatsResponse]:
        listed = await self.list_container_stats(cri.ListContainerStatsRequest(filter=request.filter))
        yield cri.StreamContainerStatsResponse(container_stats=listed.stats)

    async def pod_sandbox_stats(self, request: cri.PodSandboxStatsRequest) -> cri.PodSandboxStatsResponse:
        return await container_stats.pod_sandbox_stats(self.core, request)

    async def list_pod_sandbox_stats(
        self, request: cri.ListPodSandboxStatsRequest
    ) -> cri.ListPodSandboxStatsResponse:
        return await container_stats.list_pod_sandbox_stats(self.core, request)

    async def stream_pod_sandbox_stats(
        self, request: cri.StreamPodSandboxStatsRequest
    ) -> AsyncIterator[cri.StreamPodSandboxStatsResponse]:
        listed = await self.list_pod_sandbox_stats(cri.ListPodSandboxStatsRequest(filter=request.filter))
        yield cri.StreamPodSandboxStatsResponse(pod_sandbox_stats=listed.stats)

    async def image_fs_info(self, request: cri.ImageFsInfoRequest) -> cri.ImageFsInfoResponse:
        answer = await super().image_fs_info(request)
        answer.container_filesystems = [await container_stats.layers_usage(self.core)]
        return answer

    def get_container_events(
        self, request: cri.GetEventsRequest
    ) -> AsyncIterator[cri.ContainerEventResponse]:
        return self.core.events.listen()

    async def list_metric_descriptors(
        self, request: cri.ListMetricDescriptorsRequest
    ) -> cri.ListMetricDescriptorsResponse:
        return await metrics.list_metric_descriptors(self.core, request)

    async def list_pod_sandbox_metrics(
        self, request: cri.ListPodSandboxMetricsRequest
    ) -> cri.ListPodSandboxMetricsResponse:
        return await metrics.list_pod_sandbox_metrics(self.core, request)

    async def stream_pod_sandbox_metrics(
        self, request: cri.StreamPodSandboxMetricsRequest
    ) -> AsyncIterator[cri.StreamPodSandboxMetricsResponse]:
        listed = await self.list_pod_sandbox_metrics(cri.ListPodSandboxMetricsRequest())
        yield cri.StreamPodSandboxMetricsResponse(pod_sandbox_metrics=listed.pod_metrics)


async def _translated(work: Awaitable[T]) -> T:
    """The edge: what the machine refuses becomes a CRI error that says so."""
    try:
        return await work
    except TimeoutError as err:  # before OSError, which it is one of
        raise CRIError(Code.DEADLINE_EXCEEDED, "a helper program did not end in time") from err
    except OSError as err:
        raise CRIError(Code.UNKNOWN, str(err)) from err
