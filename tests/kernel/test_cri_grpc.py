"""The CRI on its socket: every method and its errors through a client, against our runtime."""

from __future__ import annotations

import asyncio
import json
import os
import stat
import struct
import sys
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from grpclib.client import Channel, UnaryUnaryMethod
from grpclib.const import Status
from grpclib.encoding.base import CodecBase
from grpclib.exceptions import GRPCError

from kernel.runtime_local import IMAGE, Local
from podling.runtime.cri import messages as cri
from podling.runtime.cri.errors import Code, CRIError
from podling.runtime.cri.grpc_client import CRIClient
from podling.runtime.cri.grpc_server import CRIServer
from podling.runtime.cri.methods import METHOD_OF, Method
from podling.runtime.server import Runtime

NOWHERE = "0123456789abcdef"
MIB = 1 << 20


class Remote(CRIClient):
    """Remembers which RPCs were made; the rest of the helper looks into the runtime it stands for."""

    def __init__(self, endpoint: str, runtime: Runtime) -> None:
        super().__init__(endpoint)
        self.core = runtime.core
        self.stop = runtime.stop
        self.called: set[str] = set()

    async def _call(self, attribute, request, response, *rest) -> Any:
        self.called.add(attribute)
        return await super()._call(attribute, request, response, *rest)

    def _stream(self, attribute, request, response) -> AsyncIterator[Any]:
        self.called.add(attribute)
        return super()._stream(attribute, request, response)


@pytest.fixture
async def server(local: Local) -> AsyncIterator[CRIServer]:
    made = CRIServer(local.runtime, local.runtime, local.config.cri_socket)
    await made.start()
    yield made
    await made.stop()


@pytest.fixture
async def remote(local: Local, server: CRIServer) -> AsyncIterator[Local]:
    """`local`, whose every call goes through the socket."""
    inner = local.runtime
    local.runtime = Remote(f"unix://{local.config.cri_socket}", inner)
    yield local
    local.runtime.close()
    local.runtime = inner


async def collect(stream: AsyncIterator[Any]) -> list[Any]:
    return [item async for item in stream]


async def test_every_method(remote: Local) -> None:
    api = remote.runtime
    events: list[cri.ContainerEventResponse] = []

    async def follow() -> None:
        async for event in api.get_container_events(cri.GetEventsRequest()):
            events.append(event)

    following = asyncio.create_task(follow())
    assert (await api.version(cri.VersionRequest())).runtime_name == "podling"
    status = (await api.status(cri.StatusRequest(verbose=True))).status
    assert [c.status for c in status.conditions] == [True, True]
    driver = (await api.runtime_config(cri.RuntimeConfigRequest())).linux.cgroup_driver
    assert driver is cri.CgroupDriver.CGROUPFS
    await api.update_runtime_config(cri.UpdateRuntimeConfigRequest())
    await _images(api)

    sandbox_id = await remote.sandbox()
    container_id = await remote.run(sandbox_id, "sleep", "1000")
    await _lists(remote, sandbox_id, container_id)
    await _processes(api, sandbox_id, container_id)
    await _metrics(api, sandbox_id, container_id)
    await _updates(api, remote, sandbox_id, container_id)
    for _ in range(2):  # all four are idempotent
        await remote.stop(container_id)
        await api.remove_container(cri.RemoveContainerRequest(container_id=container_id))
        await remote.remove_sandbox(sandbox_id)

    async with asyncio.timeout(5):
        while not _ended(events, container_id):  # noqa: ASYNC110 - what comes over the wire sets no event
            await asyncio.sleep(0.01)
    following.cancel()
    assert api.called == set(METHOD_OF)


def _ended(events: list[cri.ContainerEventResponse], container_id: str) -> bool:
    kinds = [e.container_event_type.name for e in events if e.container_id == container_id]
    steps = ("CREATED", "STARTED", "STOPPED", "DELETED")
    return kinds == [f"CONTAINER_{step}_EVENT" for step in steps]


async def _images(api: Remote) -> None:
    spec = cri.ImageSpec(image=IMAGE)
    listed = (await api.list_images(cri.ListImagesRequest())).images
    assert [i.repo_tags for i in listed] == [[f"docker.io/library/{IMAGE}:latest"]]
    streamed = await collect(api.stream_images(cri.StreamImagesRequest()))
    assert [i for part in streamed for i in part.images] == listed
    assert (await api.image_status(cri.ImageStatusRequest(image=spec))).image == listed[0]
    absent = cri.ImageSpec(image="localhost/absent:1")
    assert (await api.image_status(cri.ImageStatusRequest(image=absent))).image is None
    await api.remove_image(cri.RemoveImageRequest(image=absent))
    info = await api.image_fs_info(cri.ImageFsInfoRequest())
    assert info.image_filesystems[0].used_bytes > 0
    with pytest.raises(CRIError) as refused:
        await api.pull_image(cri.PullImageRequest(image=cri.ImageSpec(image="Not A Reference")))
    assert refused.value.code is Code.UNKNOWN  # as containerd


async def _lists(remote: Local, sandbox_id: str, container_id: str) -> None:
    api = remote.runtime
    sandboxes = (await api.list_pod_sandbox(cri.ListPodSandboxRequest())).items
    assert [s.id for s in sandboxes] == [sandbox_id]
    streamed = await collect(api.stream_pod_sandboxes(cri.StreamPodSandboxesRequest()))
    assert streamed == [cri.StreamPodSandboxesResponse(pod_sandboxes=sandboxes)]
    none = cri.PodSandboxFilter(label_selector={"app": "other"})
    assert (await api.list_pod_sandbox(cri.ListPodSandboxRequest(filter=none))).items == []
    containers = (await api.list_containers(cri.ListContainersRequest())).containers
    assert [(c.id, c.pod_sandbox_id) for c in containers] == [(container_id, sandbox_id)]
    parts = await collect(api.stream_containers(cri.StreamContainersRequest()))
    assert parts == [cri.StreamContainersResponse(containers=containers)]

    sandbox = await remote.sandbox_status(sandbox_id)
    assert (sandbox.state, sandbox.network.ip[:6]) == (cri.PodSandboxState.SANDBOX_READY, "10.85.")
    assert (await remote.status(container_id)).state is cri.ContainerState.CONTAINER_RUNNING

    one = (await api.container_stats(cri.ContainerStatsRequest(container_id=container_id))).stats
    assert one.memory.usage_bytes > 0
    assert len((await api.list_container_stats(cri.ListContainerStatsRequest())).stats) == 1
    assert len(await collect(api.stream_container_stats(cri.StreamContainerStatsRequest()))) == 1
    pod = (await api.pod_sandbox_stats(cri.PodSandboxStatsRequest(pod_sandbox_id=sandbox_id))).stats
    assert [c.attributes.id for c in pod.linux.containers] == [container_id]
    assert len((await api.list_pod_sandbox_stats(cri.ListPodSandboxStatsRequest())).stats) == 1
    assert len(await collect(api.stream_pod_sandbox_stats(cri.StreamPodSandboxStatsRequest()))) == 1


async def _processes(api: Remote, sandbox_id: str, container_id: str) -> None:
    done = await api.exec_sync(
        cri.ExecSyncRequest(container_id=container_id, cmd=["sh", "-c", "echo out; echo err >&2; exit 3"])
    )
    assert (done.stdout, done.stderr, done.exit_code) == (b"out\n", b"err\n", 3)
    asked = (
        await api.exec(cri.ExecRequest(container_id=container_id, cmd=["id"], stdout=True)),
        await api.attach(cri.AttachRequest(container_id=container_id, stdout=True)),
        await api.port_forward(cri.PortForwardRequest(pod_sandbox_id=sandbox_id)),
    )
    assert all(answer.url.startswith("http://127.0.0.1:") for answer in asked)


async def _metrics(api: Remote, sandbox_id: str, container_id: str) -> None:
    descriptors = (await api.list_metric_descriptors(cri.ListMetricDescriptorsRequest())).descriptors
    keys = {d.name: d.label_keys for d in descriptors}
    assert len(keys) == len(descriptors)
    (pod,) = (await api.list_pod_sandbox_metrics(cri.ListPodSandboxMetricsRequest())).pod_metrics
    assert pod.pod_sandbox_id == sandbox_id
    (container,) = pod.container_metrics
    assert container.container_id == container_id
    for metric in (*pod.metrics, *container.metrics):
        assert len(metric.label_values) == len(keys[metric.name]), metric.name
    streamed = await collect(api.stream_pod_sandbox_metrics(cri.StreamPodSandboxMetricsRequest()))
    assert [p.pod_sandbox_id for part in streamed for p in part.pod_sandbox_metrics] == [sandbox_id]


async def _updates(api: Remote, remote: Local, sandbox_id: str, container_id: str) -> None:
    limits = cri.LinuxContainerResources(cpu_shares=512, memory_limit_in_bytes=64 * MIB)
    await api.update_container_resources(
        cri.UpdateContainerResourcesRequest(container_id=container_id, linux=limits)
    )
    await api.update_pod_sandbox_resources(
        cri.UpdatePodSandboxResourcesRequest(pod_sandbox_id=sandbox_id, resources=limits)
    )
    assert remote.runtime.core.sandbox(sandbox_id).record.config.linux.resources == limits
    await api.reopen_container_log(cri.ReopenContainerLogRequest(container_id=container_id))
    wanted = cri.CheckpointContainerRequest(container_id=container_id, location="/nowhere.tar")
    with pytest.raises(CRIError, match=f"checkpoint/restore not supported: container '{container_id}'") as no:
        await api.checkpoint_container(wanted)
    assert no.value.code is Code.UNIMPLEMENTED


ID_FIELDS = ("container_id", "pod_sandbox_id")
IDEMPOTENT = {"stop_pod_sandbox", "remove_pod_sandbox", "stop_container", "remove_container"}
"""CRI: what is gone already is a success."""
BESIDES = {
    "create_container": {
        "config": cri.ContainerConfig(
            metadata=cri.ContainerMetadata(name="web"), image=cri.ImageSpec(image=IMAGE)
        )
    },
    "exec": {"cmd": ["id"], "stdout": True},
    "exec_sync": {"cmd": ["id"]},
    "attach": {"stdout": True},
    "update_container_resources": {"linux": cri.LinuxContainerResources()},
    "checkpoint_container": {"location": "/nowhere.tar"},
}
"""What a request needs to be valid but for its id."""


def id_field(method: Method) -> str | None:
    return next((name for name in ID_FIELDS if name in method.request_type.__struct_fields__), None)


BY_ID = [method for method in METHOD_OF.values() if id_field(method)]


@pytest.mark.parametrize("method", BY_ID, ids=lambda method: method.name)
async def test_what_is_not_there_is_named(remote: Local, method: Method) -> None:
    """Every method that takes an id, whichever the services have."""
    request = method.request_type(**{id_field(method): NOWHERE, **BESIDES.get(method.attribute, {})})
    call = getattr(remote.runtime, method.attribute)
    if method.attribute in IDEMPOTENT:
        assert await call(request) == method.response_type()
        return
    with pytest.raises(CRIError, match=NOWHERE) as caught:
        await call(request)
    assert caught.value.code is Code.NOT_FOUND


@pytest.mark.parametrize("method", METHOD_OF.values(), ids=lambda method: method.name)
async def test_an_empty_request_is_answered(remote: Local, method: Method) -> None:
    """With a value or a code that says what is missing, and never by a failure of the server's own."""
    if method.attribute == "get_container_events":
        return  # waits for events
    answer = getattr(remote.runtime, method.attribute)(method.request_type())
    code = Code.OK
    try:
        await (collect(answer) if method.streams else answer)
    except CRIError as err:
        code = err.code
    if id_field(method) and method.attribute not in IDEMPOTENT:
        assert code is (Code.INVALID_ARGUMENT if method.attribute == "create_container" else Code.NOT_FOUND)
    elif method.attribute in ("image_status", "pull_image", "remove_image"):
        assert code is Code.UNKNOWN  # as containerd, with a text that says it
    else:
        assert code in (Code.OK, Code.INVALID_ARGUMENT)


async def test_invalid_requests_have_their_code(remote: Local) -> None:
    api = remote.runtime
    with pytest.raises(CRIError) as caught:
        await api.run_pod_sandbox(cri.RunPodSandboxRequest())
    assert caught.value.code is Code.INVALID_ARGUMENT
    with pytest.raises(CRIError, match="nope") as caught:
        await api.run_pod_sandbox(
            cri.RunPodSandboxRequest(config=remote.sandbox_config(), runtime_handler="nope")
        )
    assert caught.value.code is Code.NOT_FOUND

    sandbox_id = await remote.sandbox(config := remote.sandbox_config())
    with pytest.raises(CRIError, match=sandbox_id) as caught:
        await api.run_pod_sandbox(cri.RunPodSandboxRequest(config=config))
    assert caught.value.code is Code.ALREADY_EXISTS
    with pytest.raises(CRIError, match="absent") as caught:
        await remote.create(sandbox_id, "id", change=lambda c: setattr(c.image, "image", "absent"))
    assert caught.value.code is Code.NOT_FOUND

    container_id = await remote.run(sandbox_id, "sleep", "1000")
    with pytest.raises(CRIError, match=container_id) as caught:
        await remote.start(container_id)
    assert caught.value.code is Code.FAILED_PRECONDITION
    with pytest.raises(CRIError, match=container_id) as caught:
        await remote.create(sandbox_id, "id", change=lambda c: setattr(c.metadata, "name", "c0"))
    assert caught.value.code is Code.ALREADY_EXISTS
    with pytest.raises(CRIError) as caught:
        await api.exec(
            cri.ExecRequest(container_id=container_id, cmd=["id"], tty=True, stdout=True, stderr=True)
        )
    assert caught.value.code is Code.INVALID_ARGUMENT
    with pytest.raises(CRIError) as caught:
        await remote.exec(container_id, "sleep", "100", timeout=1)
    assert caught.value.code is Code.DEADLINE_EXCEEDED


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda c: setattr(c, "metadata", None), "metadata"),
        (lambda c: setattr(c.metadata, "uid", ""), "a name and a uid"),
        (lambda c: setattr(c, "hostname", "x" * 65), "longer than 64 characters"),
        (lambda c: setattr(c, "log_directory", "logs"), "log directory 'logs' is not an absolute path"),
        (lambda c: setattr(c.linux, "cgroup_parent", "/a/../../b"), "cgroup parent '/a/../../b'"),
        (lambda c: setattr(c, "port_mappings", [cri.PortMapping(host_port=1)]), "1:0 is out of range"),
        (
            lambda c: setattr(c, "port_mappings", [cri.PortMapping(container_port=1, host_port=1 << 16)]),
            "65536:1 is out of range",
        ),
    ],
)
async def test_sandboxes_that_cannot_be(remote: Local, change: Any, text: str) -> None:
    config = remote.sandbox_config()
    change(config)
    with pytest.raises(CRIError, match=text) as caught:
        await remote.sandbox(config)
    assert caught.value.code is Code.INVALID_ARGUMENT


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (
            lambda c: setattr(c, "port_mappings", [cri.PortMapping(protocol=77)]),
            "config.port_mappings.protocol: 77 is no Protocol",
        ),
        (
            lambda c: setattr(c.linux.security_context.namespace_options, "pid", 9),
            "config.linux.security_context.namespace_options.pid: 9 is no NamespaceMode",
        ),
    ],
)
async def test_values_of_a_later_version_are_refused(remote: Local, change: Any, text: str) -> None:
    config = remote.sandbox_config()
    change(config)
    with pytest.raises(CRIError, match=f"RunPodSandbox: {text}") as caught:
        await remote.sandbox(config)
    assert caught.value.code is Code.INVALID_ARGUMENT
    assert (await remote.runtime.list_pod_sandbox(cri.ListPodSandboxRequest())).items == []


async def test_what_does_not_run_takes_no_calls(remote: Local) -> None:
    """Created, exited, stopped: each state says so, with the id."""
    api, sandbox_id = remote.runtime, await remote.sandbox()
    created = await remote.create(sandbox_id, "true")
    ended = await remote.run(sandbox_id, "true")
    async with asyncio.timeout(10):
        while (await remote.status(ended)).state is not cri.ContainerState.CONTAINER_EXITED:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    for container_id in (created, ended):
        for call in (
            api.exec_sync(cri.ExecSyncRequest(container_id=container_id, cmd=["id"])),
            api.exec(cri.ExecRequest(container_id=container_id, cmd=["id"], stdout=True)),
            api.attach(cri.AttachRequest(container_id=container_id, stdout=True)),
            api.reopen_container_log(cri.ReopenContainerLogRequest(container_id=container_id)),
            api.checkpoint_container(
                cri.CheckpointContainerRequest(container_id=container_id, location="/x")
            ),
        ):
            with pytest.raises(CRIError, match=container_id) as caught:
                await call
            assert caught.value.code is Code.FAILED_PRECONDITION
    with pytest.raises(CRIError, match=ended) as caught:
        await remote.start(ended)
    assert caught.value.code is Code.FAILED_PRECONDITION
    limits = cri.UpdateContainerResourcesRequest(container_id=ended, linux=cri.LinuxContainerResources())
    with pytest.raises(CRIError, match=ended) as caught:
        await api.update_container_resources(limits)
    assert caught.value.code is Code.FAILED_PRECONDITION

    await api.stop_pod_sandbox(cri.StopPodSandboxRequest(pod_sandbox_id=sandbox_id))
    for call in (
        remote.create(sandbox_id, "true", change=lambda c: setattr(c.metadata, "name", "late")),
        remote.start(created),
        api.port_forward(cri.PortForwardRequest(pod_sandbox_id=sandbox_id)),
        api.update_pod_sandbox_resources(cri.UpdatePodSandboxResourcesRequest(pod_sandbox_id=sandbox_id)),
    ):
        with pytest.raises(CRIError, match=sandbox_id) as caught:
            await call
        assert caught.value.code is Code.FAILED_PRECONDITION


class _Raw(CodecBase):
    """Bytes as they are."""

    __content_subtype__ = "proto"

    def encode(self, message: Any, message_type: Any) -> bytes:
        return message

    def decode(self, data: bytes, message_type: Any) -> Any:
        return data


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/runtime.v1.RuntimeService/Version", b"\x0a\x05a", Status.INTERNAL),
        ("/runtime.v1.RuntimeService/Nothing", b"", Status.UNIMPLEMENTED),
        ("/runtime.v1alpha2.RuntimeService/Version", b"", Status.UNIMPLEMENTED),
    ],
)
async def test_what_is_no_call(remote: Local, path: str, body: bytes, status: Status) -> None:
    async with Channel(path=str(remote.config.cri_socket), codec=_Raw()) as channel:
        with pytest.raises(GRPCError) as caught:
            await UnaryUnaryMethod(channel, path, bytes, bytes)(body)
    assert caught.value.status is status


async def test_googles_client_runs_a_pod(local: Local, server: CRIServer) -> None:
    """grpcio, as of the library that kubelets and crictl have: its HTTP/2 and protobuf are not ours."""
    pytest.importorskip("grpc", reason="grpcio is not installed")
    tests = Path(__file__).parent.parent
    client = await asyncio.create_subprocess_exec(
        *(sys.executable, tests / "kernel/cri_grpcio_client.py"),
        *(f"unix://{local.config.cri_socket}", local.logs / "grpcio"),
        env={**os.environ, "PYTHONPATH": str(tests)},
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await client.communicate()
    assert json.loads(out) == {
        "version": "v1",
        "exec": ["1000\n", "no\n", 7],
        "status": [True, cri.ContainerState.CONTAINER_RUNNING, 1000],
        "ended": [cri.ContainerState.CONTAINER_EXITED, 137],
        "left": 0,
        "images": [[f"docker.io/library/{IMAGE}:latest"]],
        "events": [0, 1, 2, 3],
        "refused": ["NOT_FOUND", "container 'nowhere': not found"],
    }


async def test_bytes_that_are_no_http2_end_the_connection_only(remote: Local) -> None:
    reader, writer = await asyncio.open_unix_connection(str(remote.config.cri_socket))
    writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" + struct.pack(">I", 7) * 100)
    async with asyncio.timeout(5):
        await reader.read()
    writer.close()
    assert (await remote.runtime.version(cri.VersionRequest())).runtime_name == "podling"


async def test_many_calls_at_once_with_large_answers(remote: Local) -> None:
    container_id = await remote.run(await remote.sandbox(), "sleep", "1000")
    command = ("sh", "-c", "dd if=/dev/zero bs=1048576 count=2 2>/dev/null")
    answers = await asyncio.gather(*(remote.exec(container_id, *command) for _ in range(8)))
    assert [len(answer.stdout) for answer in answers] == [2 * MIB] * 8


async def test_a_call_given_up_leaves_nothing(remote: Local) -> None:
    """The client's deadline ends the work of the server too; `local` looks for what is left."""
    for wait_s in (0.001, 0.01, 0.02, 0.04):
        with suppress(TimeoutError):  # or it was quicker
            async with asyncio.timeout(wait_s):
                await remote.sandbox()
    api = remote.runtime
    async with asyncio.timeout(10):
        while True:
            items = (await api.list_pod_sandbox(cri.ListPodSandboxRequest())).items
            for item in items:  # finished just before the client went
                await remote.remove_sandbox(item.id)
            if not remote.leftovers():
                break
            await asyncio.sleep(0.05)


async def test_socket_is_roots_alone_and_replaces_a_dead_one(local: Local) -> None:
    path = local.config.cri_socket
    first = CRIServer(local.runtime, local.runtime, path)
    await first.start()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    client = CRIClient(str(path))
    following = asyncio.create_task(anext(client.get_container_events(cri.GetEventsRequest())))
    await client.version(cri.VersionRequest())
    # As after kill -9: the file is still there, and nobody behind it. The first server must leave ours alone.
    second = CRIServer(local.runtime, local.runtime, path)
    await second.start()
    async with asyncio.timeout(5):
        await first.stop()
        with pytest.raises(CRIError) as caught:
            await following
    assert caught.value.code in (Code.UNAVAILABLE, Code.CANCELLED)
    assert (await client.version(cri.VersionRequest())).runtime_name == "podling"
    await second.stop()
    assert not path.exists()
    with pytest.raises(CRIError, match="cannot reach the container runtime at unix://") as caught:
        await client.version(cri.VersionRequest())
    assert caught.value.code is Code.UNAVAILABLE
    client.close()
    assert sorted(p.name for p in path.parent.glob("*cri.sock*")) == []


def test_an_endpoint_is_a_path() -> None:
    with pytest.raises(ValueError, match="not a CRI endpoint"):
        CRIClient("tcp://127.0.0.1:1")
