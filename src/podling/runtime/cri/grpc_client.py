"""A container runtime behind a CRI socket: containerd's, CRI-O's, or ours in another process.

    runtime = CRIClient("unix:///run/containerd/containerd.sock")
    await runtime.version(cri.VersionRequest())
    ...
    runtime.close()

It implements `RuntimeService` and `ImageService`, so a kubelet does not see the difference. Failures are
`CRIError` with the runtime's own code and text; a runtime that cannot be reached is UNAVAILABLE, and the next
call tries to connect anew.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any, Final, TypeVar

import msgspec
from grpclib.client import Channel, UnaryStreamMethod, UnaryUnaryMethod
from grpclib.exceptions import GRPCError, ProtocolError, StreamTerminatedError

from podling.runtime.cri import messages as cri
from podling.runtime.cri.errors import Code, CRIError
from podling.runtime.cri.grpc_codec import StructCodec
from podling.runtime.cri.methods import METHOD_OF

SCHEME: Final = "unix://"
REQUEST_S: Final = 120.0
"""How long an answer may take; the kubelet's --runtime-request-timeout. Calls that wait get more."""
RUN_POD_SANDBOX_S: Final = 2 * REQUEST_S

T = TypeVar("T", bound=msgspec.Struct)


def socket_path(endpoint: str) -> str:
    """Of `unix:///run/x.sock` or a bare path. `ValueError` for what is neither."""
    path = endpoint.removeprefix(SCHEME)
    if not path.startswith("/"):
        raise ValueError(f"{endpoint!r} is not a CRI endpoint: write unix:///path/to.sock")
    return path


class CRIClient:
    """Made on a running event loop; connects at the first call."""

    def __init__(self, endpoint: str) -> None:
        """Raises `ValueError`."""
        self._path = socket_path(endpoint)
        self._channel = Channel(path=self._path, codec=StructCodec())

    def close(self) -> None:
        self._channel.close()

    # the runtime

    async def version(self, request: cri.VersionRequest) -> cri.VersionResponse:
        return await self._call("version", request, cri.VersionResponse)

    async def run_pod_sandbox(self, request: cri.RunPodSandboxRequest) -> cri.RunPodSandboxResponse:
        return await self._call("run_pod_sandbox", request, cri.RunPodSandboxResponse, RUN_POD_SANDBOX_S)

    async def stop_pod_sandbox(self, request: cri.StopPodSandboxRequest) -> cri.StopPodSandboxResponse:
        return await self._call("stop_pod_sandbox", request, cri.StopPodSandboxResponse)

    async def remove_pod_sandbox(self, request: cri.RemovePodSandboxRequest) -> cri.RemovePodSandboxResponse:
        return await self._call("remove_pod_sandbox", request, cri.RemovePodSandboxResponse)

    async def pod_sandbox_status(self, request: cri.PodSandboxStatusRequest) -> cri.PodSandboxStatusResponse:
        return await self._call("pod_sandbox_status", request, cri.PodSandboxStatusResponse)

    async def list_pod_sandbox(self, request: cri.ListPodSandboxRequest) -> cri.ListPodSandboxResponse:
        return await self._call("list_pod_sandbox", request, cri.ListPodSandboxResponse)

    def stream_pod_sandboxes(
        self, request: cri.StreamPodSandboxesRequest
    ) -> AsyncIterator[cri.StreamPodSandboxesResponse]:
        return self._stream("stream_pod_sandboxes", request, cri.StreamPodSandboxesResponse)

    async def create_container(self, request: cri.CreateContainerRequest) -> cri.CreateContainerResponse:
        return await self._call("create_container", request, cri.CreateContainerResponse)

    async def start_container(self, request: cri.StartContainerRequest) -> cri.StartContainerResponse:
        return await self._call("start_container", request, cri.StartContainerResponse)

    async def stop_container(self, request: cri.StopContainerRequest) -> cri.StopContainerResponse:
        return await self._call(
            "stop_container", request, cri.StopContainerResponse, request.timeout + REQUEST_S
        )

    async def remove_container(self, request: cri.RemoveContainerRequest) -> cri.RemoveContainerResponse:
        return await self._call("remove_container", request, cri.RemoveContainerResponse)

    async def list_containers(self, request: cri.ListContainersRequest) -> cri.ListContainersResponse:
        return await self._call("list_containers", request, cri.ListContainersResponse)

    def stream_containers(
        self, request: cri.StreamContainersRequest
    ) -> AsyncIterator[cri.StreamContainersResponse]:
        return self._stream("stream_containers", request, cri.StreamContainersResponse)

    async def container_status(self, request: cri.ContainerStatusRequest) -> cri.ContainerStatusResponse:
        return await self._call("container_status", request, cri.ContainerStatusResponse)

    async def update_container_resources(
        self, request: cri.UpdateContainerResourcesRequest
    ) -> cri.UpdateContainerResourcesResponse:
        return await self._call("update_container_resources", request, cri.UpdateContainerResourcesResponse)

    async def reopen_container_log(
        self, request: cri.ReopenContainerLogRequest
    ) -> cri.ReopenContainerLogResponse:
        return await self._call("reopen_container_log", request, cri.ReopenContainerLogResponse)

    async def exec_sync(self, request: cri.ExecSyncRequest) -> cri.ExecSyncResponse:
        return await self._call(
            "exec_sync",
            request,
            cri.ExecSyncResponse,
            request.timeout + REQUEST_S if request.timeout else None,
        )

    async def exec(self, request: cri.ExecRequest) -> cri.ExecResponse:
        return await self._call("exec", request, cri.ExecResponse)

    async def attach(self, request: cri.AttachRequest) -> cri.AttachResponse:
        return await self._call("attach", request, cri.AttachResponse)

    async def port_forward(self, request: cri.PortForwardRequest) -> cri.PortForwardResponse:
        return await self._call("port_forward", request, cri.PortForwardResponse)

    async def container_stats(self, request: cri.ContainerStatsRequest) -> cri.ContainerStatsResponse:
        return await self._call("container_stats", request, cri.ContainerStatsResponse)

    async def list_container_stats(
        self, request: cri.ListContainerStatsRequest
    ) -> cri.ListContainerStatsResponse:
        return await self._call("list_container_stats", request, cri.ListContainerStatsResponse)

    def stream_container_stats(
        self, request: cri.StreamContainerStatsRequest
    ) -> AsyncIterator[cri.StreamContainerStatsResponse]:
        return self._stream("stream_container_stats", request, cri.StreamContainerStatsResponse)

    async def pod_sandbox_stats(self, request: cri.PodSandboxStatsRequest) -> cri.PodSandboxStatsResponse:
        return await self._call("pod_sandbox_stats", request, cri.PodSandboxStatsResponse)

    async def list_pod_sandbox_stats(
        self, request: cri.ListPodSandboxStatsRequest
    ) -> cri.ListPodSandboxStatsResponse:
        return await self._call("list_pod_sandbox_stats", request, cri.ListPodSandboxStatsResponse)

    def stream_pod_sandbox_stats(
        self, request: cri.StreamPodSandboxStatsRequest
    ) -> AsyncIterator[cri.StreamPodSandboxStatsResponse]:
        return self._stream("stream_pod_sandbox_stats", request, cri.StreamPodSandboxStatsResponse)

    async def update_runtime_config(
        self, request: cri.UpdateRuntimeConfigRequest
    ) -> cri.UpdateRuntimeConfigResponse:
        return await self._call("update_runtime_config", request, cri.UpdateRuntimeConfigResponse)

    async def status(self, request: cri.StatusRequest) -> cri.StatusResponse:
        return await self._call("status", request, cri.StatusResponse)

    async def checkpoint_container(
        self, request: cri.CheckpointContainerRequest
    ) -> cri.CheckpointContainerResponse:
        return await self._call("checkpoint_container", request, cri.CheckpointContainerResponse)

    def get_container_events(
        self, request: cri.GetEventsRequest
    ) -> AsyncIterator[cri.ContainerEventResponse]:
        return self._stream("get_container_events", request, cri.ContainerEventResponse)

    async def list_metric_descriptors(
        self, request: cri.ListMetricDescriptorsRequest
    ) -> cri.ListMetricDescriptorsResponse:
        return await self._call("list_metric_descriptors", request, cri.ListMetricDescriptorsResponse)

    async def list_pod_sandbox_metrics(
        self, request: cri.ListPodSandboxMetricsRequest
    ) -> cri.ListPodSandboxMetricsResponse:
        return await self._call("list_pod_sandbox_metrics", request, cri.ListPodSandboxMetricsResponse)

    def stream_pod_sandbox_metrics(
        self, request: cri.StreamPodSandboxMetricsRequest
    ) -> AsyncIterator[cri.StreamPodSandboxMetricsResponse]:
        return self._stream("stream_pod_sandbox_metrics", request, cri.StreamPodSandboxMetricsResponse)

    async def runtime_config(self, request: cri.RuntimeConfigRequest) -> cri.RuntimeConfigResponse:
        return await self._call("runtime_config", request, cri.RuntimeConfigResponse)

    async def update_pod_sandbox_resources(
        self, request: cri.UpdatePodSandboxResourcesRequest
    ) -> cri.UpdatePodSandboxResourcesResponse:
        return await self._call(
            "update_pod_sandbox_resources", request, cri.UpdatePodSandboxResourcesResponse
        )

    # images

    async def list_images(self, request: cri.ListImagesRequest) -> cri.ListImagesResponse:
        return await self._call("list_images", request, cri.ListImagesResponse)

    def stream_images(self, request: cri.StreamImagesRequest) -> AsyncIterator[cri.StreamImagesResponse]:
        return self._stream("stream_images", request, cri.StreamImagesResponse)

    async def image_status(self, request: cri.ImageStatusRequest) -> cri.ImageStatusResponse:
        return await self._call("image_status", request, cri.ImageStatusResponse)

    async def pull_image(self, request: cri.PullImageRequest) -> cri.PullImageResponse:
        return await self._call("pull_image", request, cri.PullImageResponse, None)

    async def remove_image(self, request: cri.RemoveImageRequest) -> cri.RemoveImageResponse:
        return await self._call("remove_image", request, cri.RemoveImageResponse)

    async def image_fs_info(self, request: cri.ImageFsInfoRequest) -> cri.ImageFsInfoResponse:
        return await self._call("image_fs_info", request, cri.ImageFsInfoResponse)

    # the wire

    async def _call(
        self, attribute: str, request: msgspec.Struct, response: type[T], timeout_s: float | None = REQUEST_S
    ) -> T:
        path = METHOD_OF[attribute].path
        method = UnaryUnaryMethod[Any, T](self._channel, path, type(request), response)
        with self._translated(attribute):
            return await method(request, timeout=timeout_s)

    async def _stream(self, attribute: str, request: msgspec.Struct, response: type[T]) -> AsyncIterator[T]:
        """The call is made when the first message is asked for."""
        path = METHOD_OF[attribute].path
        method = UnaryStreamMethod[Any, T](self._channel, path, type(request), response)
        with self._translated(attribute):
            async with method.open() as stream:
                await stream.send_message(request, end=True)
                async for message in stream:
                    yield message

    @contextmanager
    def _translated(self, attribute: str) -> Iterator[None]:
        name = METHOD_OF[attribute].name
        try:
            yield
        except GRPCError as err:
            raise CRIError(_code(err.status.value), err.message or name) from err
        except TimeoutError as err:  # before OSError, which it is one of
            raise CRIError(Code.DEADLINE_EXCEEDED, f"{name}: the runtime did not answer in time") from err
        except (OSError, StreamTerminatedError, ProtocolError) as err:
            text = f"{name}: cannot reach the container runtime at {SCHEME}{self._path}: {err}"
            raise CRIError(Code.UNAVAILABLE, text) from err


def _code(value: int) -> Code:
    try:
        return Code(value)
    except ValueError:
        return Code.UNKNOWN
