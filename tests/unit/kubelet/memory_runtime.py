"""A CRI runtime in memory: containers are records, and tests end them by hand.

Stands in for the real runtime where what is tested is the kubelet's judgement. It keeps the CRI's rules
that matter here: states only move forward, a removed sandbox takes its containers along, "gone" is
NOT_FOUND for status and success for stop and remove, every change is an event.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

from msgspec.structs import replace

from podling.runtime.cri import messages as cri
from podling.runtime.cri.errors import Code, CRIError

READY, NOTREADY = cri.PodSandboxState.SANDBOX_READY, cri.PodSandboxState.SANDBOX_NOTREADY
RUNNING, EXITED = cri.ContainerState.CONTAINER_RUNNING, cri.ContainerState.CONTAINER_EXITED


class MemoryRuntime:
    def __init__(self) -> None:
        self.sandboxes: dict[str, cri.PodSandboxStatus] = {}
        self.containers: dict[str, tuple[str, cri.ContainerStatus]] = {}
        self.configs: dict[str, cri.ContainerConfig] = {}
        self.pulled_with: list[cri.AuthConfig | None] = []
        self.images: dict[str, cri.Image] = {
            "busybox": cri.Image(id="sha256:b", repo_tags=["busybox:latest"])
        }
        self.calls: list[str] = []
        self.failures: dict[str, list[CRIError]] = {}
        self.ignores_sigterm: set[str] = set()
        """Names of containers that only SIGKILL ends."""
        self._streams: set[asyncio.Queue[cri.ContainerEventResponse]] = set()
        self._counter = 0

    # What tests do

    def fail(self, method: str, *errors: CRIError) -> None:
        self.failures.setdefault(method, []).extend(errors)

    def end(self, name: str, exit_code: int = 0) -> None:
        """The newest running container of that name ends."""
        running = [s for _, s in self.containers.values() if s.metadata.name == name and s.state is RUNNING]
        self._end(max(running, key=lambda s: s.metadata.attempt).id, exit_code)

    def kill_pause(self, *, containers_too: bool = False) -> None:
        for sandbox in self.sandboxes.values():
            if sandbox.state is READY:
                sandbox.state = NOTREADY
                sandbox.network = cri.PodSandboxNetworkStatus()
                if containers_too:
                    for sandbox_id, status in list(self.containers.values()):
                        if sandbox_id == sandbox.id and status.state is RUNNING:
                            self._end(status.id, 137)
                self._emit(sandbox.id, cri.ContainerEventType.CONTAINER_STOPPED_EVENT, sandbox)

    def lose_stream(self) -> None:
        for stream in list(self._streams):
            stream.put_nowait(cri.ContainerEventResponse(container_id="END"))

    def running(self) -> list[str]:
        """`name/attempt` of what runs, sorted."""
        alive = [s.metadata for _, s in self.containers.values() if s.state is RUNNING]
        return sorted(f"{m.name}/{m.attempt}" for m in alive)

    # RuntimeService

    async def version(self, request: cri.VersionRequest) -> cri.VersionResponse:
        return cri.VersionResponse(runtime_name="memory", runtime_version="1")

    async def status(self, request: cri.StatusRequest) -> cri.StatusResponse:
        kinds = ("RuntimeReady", "NetworkReady")
        conditions = [cri.RuntimeCondition(type=kind, status=True) for kind in kinds]
        return cri.StatusResponse(status=cri.RuntimeStatus(conditions=conditions))

    async def run_pod_sandbox(self, request: cri.RunPodSandboxRequest) -> cri.RunPodSandboxResponse:
        await self._called("run_pod_sandbox")
        config = request.config
        self._counter += 1
        status = cri.PodSandboxStatus(
            id=f"s{self._counter}",
            metadata=config.metadata,
            state=READY,
            created_at=time.time_ns(),
            network=cri.PodSandboxNetworkStatus(ip=f"10.244.1.{self._counter}"),
            labels=config.labels,
        )
        self.sandboxes[status.id] = status
        self._emit(status.id, cri.ContainerEventType.CONTAINER_STARTED_EVENT, status)
        return cri.RunPodSandboxResponse(pod_sandbox_id=status.id)

    async def stop_pod_sandbox(self, request: cri.StopPodSandboxRequest) -> cri.StopPodSandboxResponse:
        await self._called("stop_pod_sandbox")
        sandbox = self.sandboxes.get(request.pod_sandbox_id)
        if sandbox is not None:
            for sandbox_id, status in list(self.containers.values()):
                if sandbox_id == sandbox.id and status.state is RUNNING:
                    self._end(status.id, 137)
            sandbox.state = NOTREADY
            self._emit(sandbox.id, cri.ContainerEventType.CONTAINER_STOPPED_EVENT, sandbox)
        return cri.StopPodSandboxResponse()

    async def remove_pod_sandbox(self, request: cri.RemovePodSandboxRequest) -> cri.RemovePodSandboxResponse:
        await self._called("remove_pod_sandbox")
        self.sandboxes.pop(request.pod_sandbox_id, None)
        kept = {k: v for k, v in self.containers.items() if v[0] != request.pod_sandbox_id}
        self.containers = kept
        return cri.RemovePodSandboxResponse()

    async def pod_sandbox_status(self, request: cri.PodSandboxStatusRequest) -> cri.PodSandboxStatusResponse:
        sandbox = self.sandboxes.get(request.pod_sandbox_id)
        if sandbox is None:
            raise CRIError(Code.NOT_FOUND, f"sandbox {request.pod_sandbox_id} not found")
        return cri.PodSandboxStatusResponse(status=replace(sandbox))

    async def list_pod_sandbox(self, request: cri.ListPodSandboxRequest) -> cri.ListPodSandboxResponse:
        wanted = request.filter.label_selector.items() if request.filter else {}.items()
        items = [
            cri.PodSandbox(id=s.id, metadata=s.metadata, state=s.state, labels=s.labels)
            for s in self.sandboxes.values()
            if wanted <= s.labels.items()
        ]
        return cri.ListPodSandboxResponse(items=items)

    async def create_container(self, request: cri.CreateContainerRequest) -> cri.CreateContainerResponse:
        await self._called("create_container")
        config = request.config
        self._counter += 1
        status = cri.ContainerStatus(
            id=f"c{self._counter}",
            metadata=config.metadata,
            state=cri.ContainerState.CONTAINER_CREATED,
            created_at=time.time_ns(),
            image=config.image,
            image_ref=config.image.image,
            labels=config.labels,
            annotations=config.annotations,
            mounts=config.mounts,
            log_path=f"{request.sandbox_config.log_directory}/{config.log_path}",
        )
        self.containers[status.id] = (request.pod_sandbox_id, status)
        self.configs[status.id] = config
        self._emit_container(status.id, cri.ContainerEventType.CONTAINER_CREATED_EVENT)
        return cri.CreateContainerResponse(container_id=status.id)

    async def start_container(self, request: cri.StartContainerRequest) -> cri.StartContainerResponse:
        await self._called("start_container")
        _, status = self.containers[request.container_id]
        status.state, status.started_at = RUNNING, time.time_ns()
        self._emit_container(status.id, cri.ContainerEventType.CONTAINER_STARTED_EVENT)
        return cri.StartContainerResponse()

    async def stop_container(self, request: cri.StopContainerRequest) -> cri.StopContainerResponse:
        await self._called("stop_container")
        found = self.containers.get(request.container_id)
        if found is not None and found[1].state is RUNNING:
            if found[1].metadata.name in self.ignores_sigterm:
                await asyncio.sleep(request.timeout)
            if found[1].state is RUNNING:
                self._end(
                    request.container_id, 137 if found[1].metadata.name in self.ignores_sigterm else 143
                )
        return cri.StopContainerResponse()

    async def remove_container(self, request: cri.RemoveContainerRequest) -> cri.RemoveContainerResponse:
        await self._called("remove_container")
        self.containers.pop(request.container_id, None)
        return cri.RemoveContainerResponse()

    async def list_containers(self, request: cri.ListContainersRequest) -> cri.ListContainersResponse:
        wanted = request.filter.label_selector.items() if request.filter else {}.items()
        return cri.ListContainersResponse(
            containers=[
                cri.Container(
                    id=s.id,
                    pod_sandbox_id=sandbox_id,
                    metadata=s.metadata,
                    labels=s.labels,
                    image=s.image,
                    image_ref=s.image_ref,
                )
                for sandbox_id, s in self.containers.values()
                if wanted <= s.labels.items()
            ]
        )

    async def container_status(self, request: cri.ContainerStatusRequest) -> cri.ContainerStatusResponse:
        found = self.containers.get(request.container_id)
        if found is None:
            raise CRIError(Code.NOT_FOUND, f"container {request.container_id} not found")
        return cri.ContainerStatusResponse(status=replace(found[1]))

    async def exec_sync(self, request: cri.ExecSyncRequest) -> cri.ExecSyncResponse:
        await self._called("exec_sync")
        return cri.ExecSyncResponse(exit_code=0 if request.cmd[0] == "true" else 1)

    async def get_container_events(
        self, request: cri.GetEventsRequest
    ) -> AsyncIterator[cri.ContainerEventResponse]:
        stream: asyncio.Queue[cri.ContainerEventResponse] = asyncio.Queue()
        self._streams.add(stream)
        try:
            while (event := await stream.get()).container_id != "END":
                yield event
        finally:
            self._streams.discard(stream)

    # ImageService

    async def image_status(self, request: cri.ImageStatusRequest) -> cri.ImageStatusResponse:
        return cri.ImageStatusResponse(image=self.images.get(request.image.image))

    async def list_images(self, request: cri.ListImagesRequest) -> cri.ListImagesResponse:
        return cri.ListImagesResponse(images=list(self.images.values()))

    async def pull_image(self, request: cri.PullImageRequest) -> cri.PullImageResponse:
        self.pulled_with.append(request.auth)
        await self._called("pull_image")
        self.images[request.image.image] = cri.Image(id=f"sha256:{request.image.image}", repo_digests=["d"])
        return cri.PullImageResponse(image_ref=f"sha256:{request.image.image}")

    async def remove_image(self, request: cri.RemoveImageRequest) -> cri.RemoveImageResponse:
        await self._called("remove_image")
        self.images = {key: one for key, one in self.images.items() if one.id != request.image.image}
        return cri.RemoveImageResponse()

    async def image_fs_info(self, request: cri.ImageFsInfoRequest) -> cri.ImageFsInfoResponse:
        usage = cri.FilesystemUsage(fs_id=cri.FilesystemIdentifier(mountpoint="/"))
        return cri.ImageFsInfoResponse(image_filesystems=[usage])

    # Inside

    async def _called(self, method: str) -> None:
        self.calls.append(method)
        await asyncio.sleep(0)
        if self.failures.get(method):
            raise self.failures[method].pop(0)

    def _end(self, container_id: str, exit_code: int) -> None:
        _, status = self.containers[container_id]
        status.state, status.exit_code, status.finished_at = EXITED, exit_code, time.time_ns()
        status.reason = "Completed" if exit_code == 0 else "Error"
        self._emit_container(container_id, cri.ContainerEventType.CONTAINER_STOPPED_EVENT)

    def _emit_container(self, container_id: str, type_: cri.ContainerEventType) -> None:
        self._emit(container_id, type_, self.sandboxes.get(self.containers[container_id][0]))

    def _emit(
        self, object_id: str, type_: cri.ContainerEventType, sandbox: cri.PodSandboxStatus | None
    ) -> None:
        event = cri.ContainerEventResponse(
            container_id=object_id, container_event_type=type_, pod_sandbox_status=sandbox
        )
        for stream in self._streams:
            stream.put_nowait(event)
