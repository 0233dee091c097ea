"""Start one container: image, configuration, create, start, postStart hook.

Every failure becomes a `StartProblem`: the reason and message of the container's waiting state, after an
event told it. Source of order and words: upstream's `kuberuntime_container.go`, "startContainer".
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from podling.api import core_v1
from podling.client.errors import ClientError
from podling.kubelet import names
from podling.kubelet.container_config import (
    ContainerContext,
    ImageUser,
    PreparedVolume,
    build_container_config,
)
from podling.kubelet.container_stop import stop_record
from podling.kubelet.environment import ConfigError, Sources, make_environment, referenced_objects
from podling.kubelet.events import NORMAL, WARNING
from podling.kubelet.field_paths import PodFacts
from podling.kubelet.hosts_file import hosts_path, write_hosts
from podling.kubelet.images import ImageProblem
from podling.kubelet.lifecycle import HookError, run_hook
from podling.kubelet.pod_actions import ContainerStart, backoff_key
from podling.kubelet.runtime_state import CREATED, ContainerRecord, PodRuntime
from podling.kubelet.sandbox_start import sandbox_config
from podling.kubelet.service_env import service_environment
from podling.kubelet.services import PodServices
from podling.kubelet.termination_message import create_message_file
from podling.kubelet.volumes.manager import has_sub_paths, resolve_sub_paths
from podling.kubelet.volumes.payload import VolumeError
from podling.runtime.cri import messages as cri
from podling.runtime.cri.errors import CRIError

log = logging.getLogger(__name__)


class StartProblem(Exception):
    """The container does not run: reason and message of its waiting state."""

    def __init__(self, reason: str, message: str, retry_at: float | None = None) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.retry_at = retry_at


@dataclass(frozen=True, slots=True, kw_only=True)
class StartRequest:
    pod: core_v1.Pod
    start: ContainerStart
    runtime: PodRuntime
    """As the decision saw it; its sandbox is ready."""
    volumes: Mapping[str, PreparedVolume]


async def pull_for_container(services: PodServices, request: StartRequest) -> cri.Image:
    """The part of a start that may take long and may be given up at any time. Raises StartProblem."""
    container = request.start.container
    try:
        for volume in mounted_images(request.pod, container):
            wanted = {"image": volume.reference, "image_pull_policy": volume.pull_policy}
            await services.images.ensure(request.pod, msgspec.structs.replace(container, **wanted))
        return await services.images.ensure(request.pod, container)
    except ImageProblem as err:
        raise StartProblem(err.reason, err.message, err.retry_at) from err


def mounted_images(pod: core_v1.Pod, container: names.AnyContainer) -> list[core_v1.ImageVolumeSource]:
    """The image volumes that a container mounts."""
    mounted = {mount.name for mount in container.volume_mounts}
    return [v.image for v in names.pod_spec(pod).volumes if v.image is not None and v.name in mounted]


async def start_container(services: PodServices, request: StartRequest, image: cri.Image) -> str:
    """Create and start; returns the container's ID. Raises StartProblem."""
    pod, container = request.pod, request.start.container
    if request.start.follows is not None:
        ended = request.start.follows.finished_at_s
        services.backoff.advance(backoff_key(pod, container), ended, services.wall_clock())
    try:
        config = await _configure(services, request, image)
    except (ConfigError, VolumeError) as err:
        raise _told(services, request, "CreateContainerConfigError", str(err)) from err
    except ClientError as err:
        text = f"failed to sync the objects it refers to: {err}"
        raise _told(services, request, "CreateContainerConfigError", text) from err
    container_id = await _create(services, request, config)
    try:
        await _start(services, request, container_id)
    except StartProblem:
        await _forget_if_sandbox_went(services, request, container_id)
        raise
    return container_id


def _told(services: PodServices, request: StartRequest, reason: str, message: str) -> StartProblem:
    services.events.container(
        request.pod, request.start.container.name, WARNING, "Failed", f"Error: {message}"
    )
    return StartProblem(reason, message)


async def _configure(services: PodServices, request: StartRequest, image: cri.Image) -> cri.ContainerConfig:
    pod, container = request.pod, request.start.container
    uid = names.pod_uid(pod)
    references = referenced_objects(container)
    sources = await services.objects.fetch(names.pod_namespace(pod), references) if references else Sources()
    ips = _pod_ips(services, request)
    facts = PodFacts(host_ip=services.config.node_ip, pod_ips=ips, allocatable=services.allocatable)
    sub_paths = {}
    if has_sub_paths(container):
        environment = make_environment(pod, container, sources=sources, facts=facts)
        sub_paths = await asyncio.to_thread(
            resolve_sub_paths,
            services.config,
            pod,
            container,
            volumes=request.volumes,
            environment=environment,
        )
    hosts = hosts_path(services.config, uid)
    if not hosts.exists():
        write_hosts(services.config, pod, ips)
    context = ContainerContext(
        attempt=request.start.attempt,
        image_id=image.id,
        image_user=ImageUser(uid=image.uid, username=image.username),
        sources=sources,
        facts=facts,
        service_env=service_environment(
            services.cluster_services.values(),
            names.pod_namespace(pod),
            links=names.pod_spec(pod).enable_service_links is not False,
        ),
        volumes=request.volumes,
        sub_paths=sub_paths,
        hosts_file=hosts,
        termination_file=create_message_file(services.config, uid, container.name, request.start.attempt),
        node_memory_bytes=services.node_memory_bytes,
        page_sizes=[name for name in services.allocatable if name.startswith("hugepages-")],
        cgroup_files=services.cgroups.container_files,
        target_id=_target_id(request),
        users=await services.users.of(pod),
        seccomp_default=services.config.seccomp_default,
        seccomp_root=services.config.root_dir / "seccomp",
    )
    return build_container_config(pod, container, context)


def _pod_ips(services: PodServices, request: StartRequest) -> list[str]:
    if names.pod_spec(request.pod).host_network:
        return [services.config.node_ip]
    return request.runtime.ips


def _target_id(request: StartRequest) -> str:
    """The container whose processes an ephemeral container (`kubectl debug --target`) wants to see."""
    container = request.start.container
    if not isinstance(container, core_v1.EphemeralContainer) or not container.target_container_name:
        return ""
    target = request.runtime.latest(container.target_container_name)
    if target is None or not target.running:
        raise ConfigError(f"unable to find target container {container.target_container_name!r}")
    return target.id


async def _create(services: PodServices, request: StartRequest, config: cri.ContainerConfig) -> str:
    sandbox = request.runtime.ready_sandbox
    if sandbox is None:
        raise StartProblem("ContainerCreating", "the pod's sandbox is gone")
    name = request.start.container.name
    leftover = request.runtime.in_sandbox(name, sandbox.id)
    attempt = sandbox.metadata.attempt if sandbox.metadata else 0
    try:
        if leftover is not None and leftover.status.state is CREATED:
            # Created by a kubelet that was killed before it could start it.
            await services.runtime.remove_container(cri.RemoveContainerRequest(container_id=leftover.id))
        response = await services.runtime.create_container(
            cri.CreateContainerRequest(
                pod_sandbox_id=sandbox.id,
                config=config,
                sandbox_config=await sandbox_config(services, request.pod, attempt),
            )
        )
    except CRIError as err:
        raise _told(services, request, "CreateContainerError", err.message) from err
    services.events.container(request.pod, name, NORMAL, "Created", f"Created container: {name}")
    return response.container_id


async def _start(services: PodServices, request: StartRequest, container_id: str) -> None:
    name = request.start.container.name
    try:
        await services.runtime.start_container(cri.StartContainerRequest(container_id=container_id))
    except CRIError as err:
        raise _told(services, request, "RunContainerError", err.message) from err
    services.events.container(request.pod, name, NORMAL, "Started", f"Started container {name}")


async def _forget_if_sandbox_went(services: PodServices, request: StartRequest, container_id: str) -> None:
    """A start that failed because the sandbox was going away is no run: it must not count as a restart."""
    sandbox = request.runtime.ready_sandbox
    try:
        status = (
            await services.runtime.pod_sandbox_status(
                cri.PodSandboxStatusRequest(pod_sandbox_id=sandbox.id if sandbox else "")
            )
        ).status
        if status is None or status.state is not cri.PodSandboxState.SANDBOX_READY:
            await services.runtime.remove_container(cri.RemoveContainerRequest(container_id=container_id))
    except CRIError as err:
        log.debug("container %s after a failed start: %s", container_id, err)


async def run_post_start(services: PodServices, request: StartRequest, container_id: str) -> None:
    """Run the hook, if there is one; a container whose hook fails is killed. Raises StartProblem."""
    container = request.start.container
    if container.lifecycle is None or container.lifecycle.post_start is None:
        return
    try:
        await run_hook(
            services.runtime,
            container,
            container_id,
            container.lifecycle.post_start,
            pod_ips=_pod_ips(services, request),
        )
    except HookError as err:
        text = f"PostStartHook failed: {err}"
        services.events.container(request.pod, container.name, WARNING, "FailedPostStartHook", text)
        status = cri.ContainerStatus(
            id=container_id,
            metadata=cri.ContainerMetadata(name=container.name, attempt=request.start.attempt),
        )
        sandbox = request.runtime.ready_sandbox
        record = ContainerRecord(sandbox_id=names.SandboxID(sandbox.id if sandbox else ""), status=status)
        await stop_record(services, request.pod, record, grace_s=2, message="FailedPostStartHook")
        raise StartProblem("PostStartHookError", text) from err
