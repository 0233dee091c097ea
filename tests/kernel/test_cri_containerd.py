"""Our CRI client, and our kubelet's calls, against Debian's containerd."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Iterator
from pathlib import Path

import msgspec
import pytest

from kernel.api_local import LocalAPI, eventually
from kernel.registry_local import HTPASSWD, Pusher, needs_registry, run_registry
from kernel.runtime_local import PARENT, log_text
from podling.api import core_v1
from podling.client.errors import NotFoundError
from podling.kubelet import names
from podling.kubelet.config import KubeletConfig
from podling.kubelet.kubelet import Kubelet
from podling.linux.cgroups import Cgroups
from podling.pause.build import pause_path
from podling.runtime.cri import messages as cri
from podling.runtime.cri.errors import Code, CRIError
from podling.runtime.cri.grpc_client import CRIClient
from podling.runtime.images.service import StoreImageService
from podling.runtime.images.store import ImageStore
from podling.testing.containerd import Containerd, missing, write_test_images
from unit.runtime.images.layers import entry
from unit.runtime.images.layers import layer as image_layer


@pytest.fixture(scope="module")
def containerd(mount_namespace: None) -> Iterator[Containerd]:
    if program := missing():
        pytest.skip(f"{program} is not installed")
    busybox = shutil.which("busybox")
    if busybox is None:
        pytest.skip("busybox (busybox-static) is not installed")
    base = Path(tempfile.mkdtemp(prefix="ctd-"))  # not tmp_path: sockets must have short paths
    (base / "images").mkdir()
    images = write_test_images(base / "images", busybox, pause_path())
    with Containerd(base, images=images) as made:
        yield made
    shutil.rmtree(base)


@pytest.fixture
async def client(containerd: Containerd) -> AsyncIterator[CRIClient]:
    made = CRIClient(containerd.endpoint)
    yield made
    for item in (await made.list_pod_sandbox(cri.ListPodSandboxRequest())).items:
        await made.stop_pod_sandbox(cri.StopPodSandboxRequest(pod_sandbox_id=item.id))
        await made.remove_pod_sandbox(cri.RemovePodSandboxRequest(pod_sandbox_id=item.id))
    made.close()


def pod(folder: Path, name: str = "pod") -> cri.PodSandboxConfig:
    context = cri.LinuxSandboxSecurityContext(
        namespace_options=cri.NamespaceOption(pid=cri.NamespaceMode.CONTAINER)
    )
    return cri.PodSandboxConfig(
        metadata=cri.PodSandboxMetadata(name=name, uid=f"uid-{name}", namespace="default"),
        hostname=name,
        log_directory=str(folder),
        labels={"app": name},
        linux=cri.LinuxPodSandboxConfig(cgroup_parent=f"{PARENT}/ctd-{name}", security_context=context),
    )


def container(*command: str) -> cri.ContainerConfig:
    return cri.ContainerConfig(
        metadata=cri.ContainerMetadata(name="c"),
        image=cri.ImageSpec(image="docker.io/library/busybox:latest"),
        command=list(command),
        log_path="c.log",
        linux=cri.LinuxContainerConfig(
            resources=cri.LinuxContainerResources(memory_limit_in_bytes=64 << 20, cpu_shares=256),
            security_context=cri.LinuxContainerSecurityContext(
                run_as_user=1000,
                run_as_group=0,
                supplemental_groups=[5, 300],
                namespace_options=cri.NamespaceOption(pid=cri.NamespaceMode.CONTAINER),
            ),
        ),
    )


async def create(client: CRIClient, config: cri.PodSandboxConfig, *command: str) -> str:
    sandbox = await client.run_pod_sandbox(cri.RunPodSandboxRequest(config=config))
    made = await client.create_container(
        cri.CreateContainerRequest(
            pod_sandbox_id=sandbox.pod_sandbox_id, config=container(*command), sandbox_config=config
        )
    )
    await client.start_container(cri.StartContainerRequest(container_id=made.container_id))
    return made.container_id


async def test_says_what_it_is(client: CRIClient) -> None:
    assert (await client.version(cri.VersionRequest())).runtime_name == "containerd"
    conditions = (await client.status(cri.StatusRequest())).status.conditions
    assert {c.type: c.status for c in conditions} == {"RuntimeReady": True, "NetworkReady": True}
    tags = [tag for i in (await client.list_images(cri.ListImagesRequest())).images for tag in i.repo_tags]
    assert "docker.io/library/busybox:latest" in tags


async def test_life_of_a_container(client: CRIClient, tmp_path: Path) -> None:
    config = pod(tmp_path)
    container_id = await create(client, config, "sh", "-c", "id; exec sleep 1000")
    listed = (await client.list_containers(cri.ListContainersRequest())).containers
    assert [c.id for c in listed] == [container_id]
    sandbox_id = listed[0].pod_sandbox_id
    status = await client.pod_sandbox_status(cri.PodSandboxStatusRequest(pod_sandbox_id=sandbox_id))
    assert status.status.metadata == config.metadata
    assert status.status.network.ip.startswith("10.86.0.")
    assert status.status.labels["app"] == "pod"

    done = await client.exec_sync(
        cri.ExecSyncRequest(container_id=container_id, cmd=["sh", "-c", "id -u; echo err >&2; exit 7"])
    )
    assert (done.stdout, done.stderr, done.exit_code) == (b"1000\n", b"err\n", 7)
    stats = (await client.container_stats(cri.ContainerStatsRequest(container_id=container_id))).stats
    assert stats.attributes.id == container_id
    url = (await client.exec(cri.ExecRequest(container_id=container_id, cmd=["id"], stdout=True))).url
    assert url.startswith("http://127.0.0.1:")

    await client.stop_container(cri.StopContainerRequest(container_id=container_id, timeout=0))
    ended = (await client.container_status(cri.ContainerStatusRequest(container_id=container_id))).status
    assert (ended.state, ended.exit_code) == (cri.ContainerState.CONTAINER_EXITED, 137)
    assert log_text(tmp_path / "c.log") == "uid=1000 gid=0 groups=0,5,300"
    for _ in range(2):
        await client.remove_container(cri.RemoveContainerRequest(container_id=container_id))


async def test_many_at_once(client: CRIClient, tmp_path: Path) -> None:
    configs = [pod(tmp_path / str(i), f"pod-{i}") for i in range(4)]
    made = await asyncio.gather(*(create(client, config, "sleep", "1000") for config in configs))
    assert len(set(made)) == 4
    assert len((await client.list_pod_sandbox(cri.ListPodSandboxRequest())).items) == 4


async def test_errors_keep_their_code_and_text(client: CRIClient) -> None:
    with pytest.raises(CRIError, match="nowhere") as caught:
        await client.container_status(cri.ContainerStatusRequest(container_id="nowhere"))
    assert caught.value.code is Code.NOT_FOUND
    version = (await client.version(cri.VersionRequest())).runtime_version
    if version.startswith("1.6."):  # the call is of a newer API
        with pytest.raises(CRIError) as caught:
            await anext(client.get_container_events(cri.GetEventsRequest()))
        assert caught.value.code is Code.UNIMPLEMENTED


async def test_our_kubelet_runs_pods_on_it(client: CRIClient, tmp_path: Path) -> None:
    api = LocalAPI(tmp_path)
    await api.start()
    admin = api.local()
    config = KubeletConfig(
        node_name="node-1",
        node_ip="127.0.0.1",
        root_dir=tmp_path / "kubelet",
        pod_logs_dir=tmp_path / "logs",
        cgroup_root=PARENT,
    )
    kubelet = Kubelet(config, api.local("system:node:node-1", "system:nodes"), client, client)
    running = asyncio.create_task(kubelet.run())
    again = "if [ -e /data/lived ]; then echo again; exec sleep 1000; fi"
    script = f"{again}; : >/data/lived; echo first; exit 3"
    body = {
        "metadata": {"name": "web", "namespace": "default"},
        "spec": {
            "nodeName": "node-1",
            "restartPolicy": "OnFailure",
            "terminationGracePeriodSeconds": 1,
            "volumes": [{"name": "data", "emptyDir": {}}],
            "containers": [
                {
                    "name": "main",
                    "image": "busybox",
                    "imagePullPolicy": "IfNotPresent",
                    "command": ["sh", "-c", script],
                    "volumeMounts": [{"name": "data", "mountPath": "/data"}],
                    "resources": {"limits": {"memory": "64Mi"}},
                }
            ],
        },
    }
    try:
        pod = await admin.create(msgspec.convert(body, core_v1.Pod))

        async def restarted() -> core_v1.Pod | None:
            found = await admin.get(core_v1.Pod, "web", "default")
            statuses = found.status.container_statuses
            return found if statuses and statuses[0].restart_count and statuses[0].state.running else None

        found = await eventually(restarted)
        assert found.status.pod_ip.startswith("10.86.0.")
        assert found.status.container_statuses[0].last_state.terminated.exit_code == 3
        folder = names.log_directory(config, pod)
        assert log_text(folder / names.container_log_path("main", 0)) == "first"
        assert log_text(folder / names.container_log_path("main", 1)) == "again"

        await admin.delete(core_v1.Pod, "web", "default")

        async def gone() -> bool:
            try:
                await admin.get(core_v1.Pod, "web", "default")
            except NotFoundError:
                return True
            return False

        await eventually(gone)
        assert (await client.list_containers(cri.ListContainersRequest())).containers == []
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        Cgroups().remove(f"{PARENT}/kubepods")
        await api.stop()


# Images: the same questions to both, about the same registry


@pytest.fixture(scope="module")
def private_and_public(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """The addresses of a registry that wants a password, and of one that does not."""
    private, public = tmp_path_factory.mktemp("private"), tmp_path_factory.mktemp("public")
    (private / "htpasswd").write_text(HTPASSWD)
    auth = {"htpasswd": {"realm": "private", "path": str(private / "htpasswd")}}
    with run_registry(private, auth=auth) as first, run_registry(public) as second:
        content = image_layer(entry("hello", b"hi"))
        foreign = Pusher(second).image("app", "foreign", [content], architecture="s390x")
        Pusher(second).image("app", "1", [content])
        Pusher(second).index("app", "index", [foreign.descriptor(architecture="other")])
        yield first, second


async def asked(call: Awaitable[object]) -> tuple[Code, str]:
    try:
        await call
    except CRIError as err:
        return err.code, err.message
    return Code.OK, ""


@needs_registry
async def test_what_is_asked_of_images_has_containerds_codes_and_words(
    client: CRIClient, private_and_public: tuple[str, str], tmp_path: Path
) -> None:
    private, public = private_and_public
    ours = StoreImageService(ImageStore(tmp_path / "images"))
    pulls = ["", "bad name", f"{public}/app:1", f"{public}/app:nosuch", f"{public}/nosuch:1"]
    pulls += [f"{public}/app@sha256:{'0' * 64}", f"{public}/app:foreign", f"{public}/app:index"]
    for name in pulls:
        request = cri.PullImageRequest(image=cri.ImageSpec(image=name))
        theirs, mine = await asked(client.pull_image(request)), await asked(ours.pull_image(request))
        assert mine[0] == theirs[0], name
        # Where there is more to say we say it: which platforms an index has, which digest.
        beginning = theirs[1].removesuffix(": not found") if name.endswith(":index") else theirs[1]
        assert mine[1].startswith(beginning), name
    for auth in (None, cri.AuthConfig(username="x", password="y"), cri.AuthConfig(auth="%%%")):
        request = cri.PullImageRequest(image=cri.ImageSpec(image=f"{private}/app:1"), auth=auth)
        theirs, mine = await asked(client.pull_image(request)), await asked(ours.pull_image(request))
        assert mine[0] == theirs[0] == Code.UNKNOWN
    for name in ("", "bad name", "nosuch", f"sha256:{'0' * 64}", f"{public}/app:1", f"{public}/app:2"):
        spec = cri.ImageSpec(image=name)
        status, remove = cri.ImageStatusRequest(image=spec), cri.RemoveImageRequest(image=spec)
        assert await asked(ours.image_status(status)) == await asked(client.image_status(status)), name
        if name:
            mine, theirs = [(await service.image_status(status)).image for service in (ours, client)]
            assert (mine.id if mine else "") == (theirs.id if theirs else ""), name
        for _ in range(2):
            assert await asked(ours.remove_image(remove)) == await asked(client.remove_image(remove)), name
