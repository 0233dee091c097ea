"""Requests that cannot be: the same to containerd and to us, over a socket each, and what both answer.

Where containerd has a code so have we; where it has none (Unknown) ours says what is wrong. What differs
otherwise stands in `DIFFERS`, each with its reason.
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kernel.runtime_local import Local
from kernel.test_cri_containerd import container, containerd, pod  # noqa: F401 - a fixture
from podling.runtime.cri import messages as cri
from podling.runtime.cri.errors import CRIError
from podling.runtime.cri.grpc_client import CRIClient
from podling.runtime.cri.grpc_server import CRIServer
from podling.runtime.cri.messages import NamespaceMode, SecurityProfileType
from podling.testing.containerd import Containerd

NOWHERE = "0123456789abcdef"
SPEAKING = {"INVALID_ARGUMENT", "NOT_FOUND", "ALREADY_EXISTS", "FAILED_PRECONDITION"}
DIFFERS = {
    "sandbox: metadata.uid": "would be found under the name of another without one",
    "sandbox: log_directory": "would be made below the daemon's own directory",
    "sandbox: host port": "portmap ignores what it cannot translate",
    "sandbox: container port": "portmap ignores what it cannot translate",
    "stop sandbox nowhere": "idempotent, as containerd 1.7 has it too",
    "stop nowhere": "idempotent, as containerd 1.7 has it too",
    "stop nameless": "idempotent",
    "remove nameless": "idempotent",
    "update of an ended one": "nobody would be limited",
    "update with nothing": "an empty request is a mistake",
    "container: stopped sandbox": "the sandbox is there; containerd misses its process",
    "container: image": "a name that cannot be is no image that is absent",
    "container: mount path": "containerd fails when it is started",
    "container: working_dir": "containerd fails when it is started",
    "container: log_path": "would be written outside of the pod's directory",
    "container: device rights": "containerd passes on what the kernel ignores",
}


@dataclass
class World:
    """What there is at one of the two."""

    client: CRIClient
    config: cri.PodSandboxConfig
    sandbox: str
    created: str
    ended: str
    running: str
    stopped: str


@asynccontextmanager
async def world(client: CRIClient, folder: Path) -> AsyncIterator[World]:
    config, other = pod(folder / "a", f"{folder.name}-a"), pod(folder / "b", f"{folder.name}-b")
    sandboxes = [
        (await client.run_pod_sandbox(cri.RunPodSandboxRequest(config=c))).pod_sandbox_id
        for c in (config, other)
    ]

    async def create(name: str, *command: str) -> str:
        wanted = changed(container(*command), "metadata.name", name)
        made = await client.create_container(
            cri.CreateContainerRequest(pod_sandbox_id=sandboxes[0], config=wanted, sandbox_config=config)
        )
        return made.container_id

    created, ended, running = [await create(name, "sleep", "1000") for name in ("new", "ended", "running")]
    for container_id in (ended, running):
        await client.start_container(cri.StartContainerRequest(container_id=container_id))
    await client.stop_container(cri.StopContainerRequest(container_id=ended))
    await client.stop_pod_sandbox(cri.StopPodSandboxRequest(pod_sandbox_id=sandboxes[1]))
    try:
        yield World(client, config, sandboxes[0], created, ended, running, sandboxes[1])
    finally:
        for item in (await client.list_pod_sandbox(cri.ListPodSandboxRequest())).items:
            await client.stop_pod_sandbox(cri.StopPodSandboxRequest(pod_sandbox_id=item.id))
            await client.remove_pod_sandbox(cri.RemovePodSandboxRequest(pod_sandbox_id=item.id))
        client.close()


def changed(config: Any, path: str, value: object) -> Any:
    config = copy.deepcopy(config)
    at: Any = config
    *way, last = path.split(".")
    for step in way:
        at = getattr(at, step)
    setattr(at, last, value)
    return config


Questions = Iterator[tuple[str, Awaitable[object]]]


def about_sandboxes(w: World) -> Questions:
    context, new = "linux.security_context.", changed(w.config, "metadata.uid", "another")

    def run(config: cri.PodSandboxConfig | None, handler: str = "") -> Awaitable[object]:
        return w.client.run_pod_sandbox(cri.RunPodSandboxRequest(config=config, runtime_handler=handler))

    localhost = cri.SecurityProfile(
        profile_type=SecurityProfileType.Localhost, localhost_ref="/absent/profile"
    )
    yield "sandbox: none", run(None)
    yield "sandbox: handler", run(new, "nosuch")
    yield "sandbox: twice", run(w.config)
    yield "sandbox: metadata", run(changed(new, "metadata", None))
    yield "sandbox: metadata.uid", run(changed(new, "metadata.uid", ""))
    yield "sandbox: hostname", run(changed(new, "hostname", "x" * 70))
    yield "sandbox: log_directory", run(changed(new, "log_directory", "relative"))
    yield "sandbox: sysctl", run(changed(new, "linux.sysctls", {"kernel.nosuch": "1"}))
    yield "sandbox: sysctl value", run(changed(new, "linux.sysctls", {"kernel.shm_rmid_forced": "x"}))
    yield "sandbox: group", run(changed(new, context + "run_as_group", 5))
    yield "sandbox: seccomp", run(changed(new, context + "seccomp", localhost))
    yield "sandbox: seccomp path", run(changed(new, context + "seccomp_profile_path", "bogus"))
    for label, port in (
        ("host port", cri.PortMapping(host_port=70000, container_port=1)),
        ("container port", cri.PortMapping(host_port=99)),
    ):
        yield f"sandbox: {label}", run(changed(new, "port_mappings", [port]))


def about_containers(w: World) -> Questions:
    context = "linux.security_context."

    def create(path: str, value: object, sandbox: str = w.sandbox) -> Awaitable[object]:
        config = changed(changed(container("sleep", "1"), "metadata.name", "another"), path, value)
        return w.client.create_container(
            cri.CreateContainerRequest(pod_sandbox_id=sandbox, config=config, sandbox_config=w.config)
        )

    localhost = cri.SecurityProfile(profile_type=SecurityProfileType.Localhost, localhost_ref="nosuch")
    target = cri.NamespaceOption(pid=NamespaceMode.TARGET, target_id=NOWHERE)
    yield "container: sandbox", create("tty", False, NOWHERE)
    yield "container: stopped sandbox", create("tty", False, w.stopped)
    yield "container: twice", create("metadata.name", "running")
    yield "container: metadata", create("metadata", None)
    yield "container: no image", create("image", None)
    yield "container: absent image", create("image.image", "nosuch")
    yield "container: image", create("image.image", "BAD NAME")
    yield "container: working_dir", create("working_dir", "relative")
    yield "container: log_path", create("log_path", "../../x")
    yield "container: mount", create("mounts", [cri.Mount(container_path="/x")])
    yield "container: mount path", create("mounts", [cri.Mount(host_path="/tmp")])
    yield "container: absent device", create("devices", [cri.Device(host_path="/dev/nosuch")])
    yield "container: no device", create("devices", [cri.Device(host_path="/etc/passwd")])
    yield "container: device rights", create("devices", [cri.Device(host_path="/dev/null", permissions="z")])
    yield "container: user and name", create(context + "run_as_username", "nosuch")
    yield "container: group alone", create(context + "run_as_user", None)
    yield "container: user", create(context + "run_as_user", -1)
    yield "container: target", create(context + "namespace_options", target)
    yield "container: privileged", create(context + "privileged", True)
    yield "container: seccomp", create(context + "seccomp", localhost)
    yield "container: seccomp path", create(context + "seccomp_profile_path", "bogus")
    yield "container: apparmor", create(context + "apparmor", localhost)
    yield "container: apparmor path", create(context + "apparmor_profile", "localhost/nosuch")


def about_what_is(w: World) -> Questions:
    c = w.client
    shared = cri.LinuxContainerResources(cpu_shares=100)
    for name, i in (("new", w.created), ("ended", w.ended), ("nowhere", NOWHERE), ("nameless", "")):
        yield f"exec_sync {name}", c.exec_sync(cri.ExecSyncRequest(container_id=i, cmd=["true"]))
        yield f"exec {name}", c.exec(cri.ExecRequest(container_id=i, cmd=["true"], stdout=True))
        yield f"attach {name}", c.attach(cri.AttachRequest(container_id=i, stdout=True))
        yield f"reopen {name}", c.reopen_container_log(cri.ReopenContainerLogRequest(container_id=i))
        if name != "new":
            yield f"start {name}", c.start_container(cri.StartContainerRequest(container_id=i))
            yield f"stop {name}", c.stop_container(cri.StopContainerRequest(container_id=i))
    for name, i in (("nowhere", NOWHERE), ("nameless", "")):
        yield f"status {name}", c.container_status(cri.ContainerStatusRequest(container_id=i))
        yield f"stats {name}", c.container_stats(cri.ContainerStatsRequest(container_id=i))
        yield f"remove {name}", c.remove_container(cri.RemoveContainerRequest(container_id=i))
        update = cri.UpdateContainerResourcesRequest(container_id=i, linux=shared)
        yield f"update {name}", c.update_container_resources(update)
    update = cri.UpdateContainerResourcesRequest(container_id=w.ended, linux=shared)
    yield "update of an ended one", c.update_container_resources(update)
    update = cri.UpdateContainerResourcesRequest(container_id=w.running)
    yield "update with nothing", c.update_container_resources(update)
    unfit = cri.LinuxContainerResources(cpuset_cpus="9999")
    update = cri.UpdateContainerResourcesRequest(container_id=w.running, linux=unfit)
    yield "update to what there is not", c.update_container_resources(update)

    yield "stop sandbox nowhere", c.stop_pod_sandbox(cri.StopPodSandboxRequest(pod_sandbox_id=NOWHERE))
    yield "remove sandbox nowhere", c.remove_pod_sandbox(cri.RemovePodSandboxRequest(pod_sandbox_id=NOWHERE))
    yield "sandbox status", c.pod_sandbox_status(cri.PodSandboxStatusRequest(pod_sandbox_id=NOWHERE))
    yield "sandbox stats", c.pod_sandbox_stats(cri.PodSandboxStatsRequest(pod_sandbox_id=NOWHERE))
    yield "forward nowhere", c.port_forward(cri.PortForwardRequest(pod_sandbox_id=NOWHERE, port=[80]))
    yield "forward stopped", c.port_forward(cri.PortForwardRequest(pod_sandbox_id=w.stopped, port=[80]))

    i = w.running
    yield "start running", c.start_container(cri.StartContainerRequest(container_id=i))
    yield "short id", c.container_status(cri.ContainerStatusRequest(container_id=i[:12]))
    yield "exec nothing", c.exec(cri.ExecRequest(container_id=i, cmd=["true"]))
    both = {"container_id": i, "tty": True, "stdout": True, "stderr": True}
    yield "exec terminal", c.exec(cri.ExecRequest(cmd=["true"], **both))
    yield "attach terminal", c.attach(cri.AttachRequest(**both))
    yield "exec_sync without", c.exec_sync(cri.ExecSyncRequest(container_id=i))
    yield "exec_sync nosuch", c.exec_sync(cri.ExecSyncRequest(container_id=i, cmd=["nosuch"]))
    late = cri.ExecSyncRequest(container_id=i, cmd=["sleep", "100"], timeout=1)
    yield "exec_sync late", c.exec_sync(late)
    yield "exec_sync negative", c.exec_sync(cri.ExecSyncRequest(container_id=i, cmd=["true"], timeout=-1))


async def answers(client: CRIClient, folder: Path) -> dict[str, tuple[str, str]]:
    found = {}
    async with world(client, folder) as made:
        for questions in (about_what_is, about_containers, about_sandboxes):
            for label, call in questions(made):
                try:
                    async with asyncio.timeout(60):
                        await call
                    found[label] = "OK", ""
                except CRIError as err:
                    found[label] = err.code.name, err.message
    return found


async def test_what_cannot_be_has_containerds_code_or_one_that_says_more(
    local: Local,
    containerd: Containerd,  # noqa: F811
    tmp_path: Path,
) -> None:
    server = CRIServer(local.runtime, local.runtime, local.config.cri_socket)
    await server.start()
    mine = await answers(CRIClient(f"unix://{local.config.cri_socket}"), tmp_path / "ours")
    theirs = await answers(CRIClient(containerd.endpoint), tmp_path / "theirs")
    await server.stop()
    differing = {
        label: (mine[label], answer)
        for label, answer in theirs.items()
        if mine[label][0] != answer[0]
        and not (answer[0] == "UNKNOWN" and mine[label][0] in SPEAKING)
        and label not in DIFFERS
    }
    assert differing == {}
    unused = {label for label in DIFFERS if mine[label][0] == theirs[label][0]}
    assert unused == set()
