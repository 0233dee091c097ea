"""The kubelet over the real runtime and a real API server: what a pod finds, and what it leaves."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from kernel.api_local import LocalAPI, eventually
from kernel.runtime_local import PARENT, Local, log_text
from podling.api import core_v1, meta_v1
from podling.client.client import Client
from podling.client.errors import NotFoundError
from podling.kubelet import names
from podling.kubelet.config import KubeletConfig
from podling.kubelet.kubelet import Kubelet
from podling.kubelet.volumes.payload import VolumeError
from podling.kubelet.volumes.subpath import bind_sub_path, release_sub_path
from podling.linux.cgroups import Cgroups
from podling.linux.mounts import can_idmap, read_mountinfo
from podling.runtime.core import Container

NODE = "node-1"
SERVE = "trap 'exit 0' TERM; sleep 1000 & wait"


class Node:
    """A kubelet under test, and short ways to look at what it does."""

    def __init__(self, local: Local, api: LocalAPI, directory: Path) -> None:
        self.local = local
        self.api: Client = api.local()
        self._kubelet_client = api.local(f"system:node:{NODE}", "system:nodes")
        self.config = KubeletConfig(
            node_name=NODE,
            node_ip="127.0.0.1",
            root_dir=directory / "kubelet",
            pod_logs_dir=directory / "logs",
            cgroup_root=PARENT,
        )
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        runtime = self.local.runtime
        kubelet = Kubelet(self.config, self._kubelet_client, runtime, runtime)
        self._task = asyncio.create_task(kubelet.run())

    async def kill(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None

    async def restart_agent(self) -> None:
        """Kubelet and runtime end, tell nobody, and come back: containers are on their own meanwhile."""
        await self.kill()
        await self.local.restart()
        await self.start()

    async def run(self, *containers: dict[str, Any], name: str = "web", **spec: Any) -> core_v1.Pod:
        # A shell that is stopped before it has set its trap hears nothing, and has the whole grace period.
        spec = {"terminationGracePeriodSeconds": 5} | spec
        body = {
            "metadata": {"name": name, "namespace": "default"},
            "spec": {"nodeName": NODE, "containers": list(containers), **spec},
        }
        return await self.api.create(msgspec.convert(body, core_v1.Pod))

    async def until(self, check: Callable[[core_v1.Pod], Any], name: str = "web") -> core_v1.Pod:
        async def look() -> core_v1.Pod | None:
            pod = await self.api.get(core_v1.Pod, name, "default")
            with contextlib.suppress(AttributeError, IndexError, ValueError):
                return pod if check(pod) else None
            return None

        found: core_v1.Pod = await eventually(look)
        return found

    async def ready(self, name: str = "web") -> core_v1.Pod:
        return await self.until(lambda p: _condition(p, "Ready") == "True", name)

    async def ended(self, name: str = "web") -> core_v1.Pod:
        return await self.until(lambda p: p.status.phase in ("Succeeded", "Failed"), name)

    async def output(self, container: str = "main", name: str = "web") -> str:
        pod = await self.api.get(core_v1.Pod, name, "default")
        path = names.log_directory(self.config, pod) / names.container_log_path(container, 0)
        return log_text(path)

    async def delete(self, name: str = "web") -> None:
        await self.api.delete(core_v1.Pod, name, "default")
        await eventually(lambda: self.absent(name))

    async def absent(self, name: str = "web") -> bool:
        try:
            await self.api.get(core_v1.Pod, name, "default")
        except NotFoundError:
            return True
        return False

    def containers(self, name: str = "main") -> list[Container]:
        """Running containers of that name."""
        found = self.local.runtime.core.containers.values()
        return [c for c in found if c.running and c.record.config.metadata.name == name]

    def pid(self, name: str = "main") -> int:
        (container,) = self.containers(name)
        return int(container.record.process.pid)


def _condition(pod: core_v1.Pod, type_: str) -> str:
    return next((c.status for c in pod.status.conditions if c.type == type_), "")


def main(script: str = SERVE, name: str = "main", **fields: Any) -> dict[str, Any]:
    return {
        "name": name,
        "image": "busybox",
        "imagePullPolicy": "IfNotPresent",
        "command": ["sh", "-c", script],
        **fields,
    }


@pytest.fixture
async def node(local: Local, tmp_path: Path) -> AsyncIterator[Node]:
    api = LocalAPI(tmp_path)
    await api.start()
    made = Node(local, api, tmp_path)
    await made.start()
    try:
        yield made
        for pod in (await made.api.list(core_v1.Pod, "default")).items:
            await made.delete(pod.metadata.name or "")
        await eventually(lambda: _settled(made))
        assert [m.target for m in read_mountinfo() if m.target.startswith(str(tmp_path))] == []
    finally:
        await made.kill()
        Cgroups().remove(f"{PARENT}/kubepods")
        await api.stop()


async def _settled(node: Node) -> bool:
    places = (node.config.pods_dir, node.config.pod_logs_dir)
    return not node.local.runtime.core.sandboxes and not any(list(place.iterdir()) for place in places)


async def test_a_pod_finds_its_name_address_and_environment(node: Node) -> None:
    script = 'echo "$IP $NAME $CPU"; hostname; grep other /etc/hosts'
    env = [
        {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
        {"name": "NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
        {"name": "CPU", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu", "divisor": "1m"}}},
    ]
    limits = {"limits": {"cpu": "250m", "memory": "64Mi"}}
    await node.run(main(script, env=env, resources=limits), restartPolicy="Never", hostname="other")
    pod = await node.ended()
    ip = pod.status.pod_ip
    assert (await node.output()).splitlines() == [f"{ip} web 250", "other", f"{ip}\tother"]
    assert pod.status.phase == "Succeeded"


async def test_a_pod_sits_in_its_quality_of_service_cgroup_with_its_limits(node: Node) -> None:
    amounts = {"cpu": "500m", "memory": "64Mi"}
    pod = await node.run(main(resources={"limits": amounts, "requests": amounts}))
    pod = await node.ready()
    assert pod.status.qos_class == "Guaranteed"
    parent = f"{PARENT}/kubepods/pod{pod.metadata.uid}"
    cgroups = Cgroups()
    assert cgroups.stats(parent).memory_limit_bytes == 64 * 1024**2
    (container,) = node.containers()
    assert container.record.cgroup.startswith(f"{parent}/")
    assert cgroups.stats(container.record.cgroup).memory_limit_bytes == 64 * 1024**2
    await node.delete()
    assert not cgroups.exists(parent)


async def test_a_killed_pause_restarts_every_container_at_once(node: Node) -> None:
    created = await node.run(main(name="a"), main(name="b"))
    before = await node.ready()
    (sandbox,) = node.local.runtime.core.sandboxes.values()
    started = time.monotonic()
    os.kill(sandbox.record.pause.pid, signal.SIGKILL)
    after = await node.until(
        lambda p: (
            [s.restart_count for s in p.status.container_statuses] == [1, 1]
            and _condition(p, "Ready") == "True"
        )
    )
    assert time.monotonic() - started < 3
    assert after.metadata.uid == created.metadata.uid
    assert after.status.pod_ip != before.status.pod_ip
    assert [ip.ip for ip in after.status.pod_i_ps] == [after.status.pod_ip]
    assert after.status.start_time == before.status.start_time


async def test_a_killed_pause_that_was_pid_1_of_its_pod(node: Node) -> None:
    await node.run(main(name="a"), main(name="b"), shareProcessNamespace=True)
    await node.ready()
    (sandbox,) = node.local.runtime.core.sandboxes.values()
    os.kill(sandbox.record.pause.pid, signal.SIGKILL)
    await node.until(
        lambda p: (
            [s.restart_count for s in p.status.container_statuses] == [1, 1]
            and _condition(p, "Ready") == "True"
        )
    )


async def test_a_killed_container_comes_back_with_its_history(node: Node) -> None:
    await node.run(main())
    await node.ready()
    os.kill(node.pid(), signal.SIGKILL)
    pod = await node.until(lambda p: p.status.container_statuses[0].restart_count == 1)
    (status,) = pod.status.container_statuses
    assert status.last_state.terminated.exit_code == 137
    assert status.last_state.terminated.reason == "Error"


async def test_an_agent_that_was_killed_finds_its_pods_again(node: Node) -> None:
    await node.run(main(name="a"), main(name="b"), volumes=[{"name": "v", "emptyDir": {"medium": "Memory"}}])
    before = await node.ready()
    pids = node.pid("a"), node.pid("b")
    await node.restart_agent()
    await asyncio.sleep(0.3)
    assert (node.pid("a"), node.pid("b")) == pids
    after = await node.api.get(core_v1.Pod, "web", "default")
    assert after.status == before.status
    os.kill(pids[0], signal.SIGKILL)
    await node.until(lambda p: p.status.container_statuses[0].restart_count == 1)


async def test_what_was_deleted_while_the_agent_was_away_is_removed(node: Node) -> None:
    await node.run(main())
    await node.ready()
    await node.kill()
    await node.api.delete(core_v1.Pod, "web", "default", grace_period_s=0)
    assert len(node.containers()) == 1
    await node.restart_agent()
    await eventually(lambda: _settled(node))


async def test_a_command_that_is_not_there_is_a_start_error(node: Node) -> None:
    await node.run(main(command=["/nope"]), restartPolicy="Never")
    pod = await node.ended()
    end = pod.status.container_statuses[0].state.terminated
    assert (pod.status.phase, end.exit_code, end.reason) == ("Failed", 128, "StartError")
    assert 'exec: "/nope": stat /nope: no such file or directory' in end.message


async def test_termination_messages_are_reported(node: Node) -> None:
    logs = main("echo from the log; exit 2", "logs", terminationMessagePolicy="FallbackToLogsOnError")
    await node.run(main("echo said > /dev/termination-log; exit 1", "file"), logs, restartPolicy="Never")
    pod = await node.ended()
    messages = [s.state.terminated.message for s in pod.status.container_statuses]
    assert messages == ["said\n", "from the log\n"]


async def test_volumes_are_what_the_pod_says(node: Node) -> None:
    script = (
        "cat /cfg/a; touch /cfg/x 2>&1 | grep -c Read-only; cat /proc/mounts | grep ' /mem tmpfs'; "
        "echo 1 > /mem/shared; ls -ld /plain; cat /sub/file"
    )
    config_map = core_v1.ConfigMap(metadata=meta_v1.ObjectMeta(name="cm"), data={"a": "conf\n"})
    await node.api.create(config_map, "default")
    mounts = [
        {"name": "cm", "mountPath": "/cfg", "readOnly": True},
        {"name": "mem", "mountPath": "/mem"},
        {"name": "plain", "mountPath": "/plain"},
        {"name": "plain", "mountPath": "/sub", "subPath": "deep/er"},
    ]
    volumes = [
        {"name": "cm", "configMap": {"name": "cm"}},
        {"name": "mem", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}},
        {"name": "plain", "emptyDir": {}},
    ]
    writer = main(
        "mkdir -p /plain/deep/er; echo below > /plain/deep/er/file",
        "writer",
        volumeMounts=[{"name": "plain", "mountPath": "/plain"}],
    )
    await node.run(
        main(script, volumeMounts=mounts), initContainers=[writer], volumes=volumes, restartPolicy="Never"
    )
    await node.ended()
    conf, read_only, mem, plain, below = (await node.output()).splitlines()
    assert (conf, read_only, below) == ("conf", "1", "below")
    assert "size=1024k" in mem
    assert plain.startswith("drwxrwxrwx")


async def test_sigterm_first_and_sigkill_after_the_grace_period(node: Node) -> None:
    stubborn = main("trap '' TERM; while true; do sleep 1; done")
    await node.run(stubborn, terminationGracePeriodSeconds=1)
    await node.ready()
    started = time.monotonic()
    await node.delete()
    assert 0.9 < time.monotonic() - started < 4
    await node.run(main(), terminationGracePeriodSeconds=30)
    await node.ready()
    started = time.monotonic()
    await node.delete()
    assert time.monotonic() - started < 4


async def test_probes_reach_the_pod(node: Node) -> None:
    serve = "trap 'exit 0' TERM; while true; do nc -l -p 8080 < /dev/null > /dev/null; done & wait"
    probe = {"tcpSocket": {"port": "web"}, "periodSeconds": 1}
    ports = [{"name": "web", "containerPort": 8080}]
    await node.run(main(serve, ports=ports, readinessProbe=probe, startupProbe=probe))
    pod = await node.ready()
    assert pod.status.container_statuses[0].started
    await node.run(main(readinessProbe=probe | {"tcpSocket": {"port": 9}}), name="deaf")
    pod = await node.until(lambda p: p.status.phase == "Running", "deaf")
    assert _condition(pod, "Ready") == "False"

    async def told() -> bool:
        events = (await node.api.list(core_v1.Event, "default")).items
        wanted = f"Readiness probe failed: dial tcp {pod.status.pod_ip}:9: connect: connection refused"
        return any(e.reason == "Unhealthy" and e.message == wanted for e in events)

    await eventually(told)


async def test_exec_probes_and_hooks_run_inside(node: Node) -> None:
    alive = {"exec": {"command": ["test", "-e", "/tmp/started"]}, "periodSeconds": 1}
    hook = {"postStart": {"exec": {"command": ["sh", "-c", "echo 1 > /tmp/started"]}}}
    await node.run(main(readinessProbe=alive, lifecycle=hook))
    await node.ready()


async def test_a_host_network_pod_sees_the_node(node: Node) -> None:
    await node.run(main("ls -l /proc/self/ns/net"), hostNetwork=True, restartPolicy="Never")
    pod = await node.ended()
    assert (await node.output()).endswith(os.readlink("/proc/self/ns/net"))
    assert pod.status.pod_ip == "127.0.0.1"


async def test_many_pods_start_and_end_together(node: Node) -> None:
    count = 15
    started = time.monotonic()
    await asyncio.gather(*(node.run(main(), name=f"p{i}") for i in range(count)))
    await asyncio.gather(*(node.ready(f"p{i}") for i in range(count)))
    ran = time.monotonic()
    await asyncio.gather(*(node.delete(f"p{i}") for i in range(count)))
    assert ran - started < 15
    assert time.monotonic() - ran < 15


# subPath


@pytest.fixture
def volume(mount_namespace: None, tmp_path: Path) -> Path:
    volume = tmp_path / "volume"
    volume.mkdir()
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "key").write_text("of the node")
    return volume


@pytest.mark.parametrize("link", ["../secret", "/secret", "{outside}"])
def test_sub_paths_do_not_follow_links_out_of_the_volume(volume: Path, tmp_path: Path, link: str) -> None:
    (volume / "evil").symlink_to(link.format(outside=tmp_path / "secret"))
    target = tmp_path / "target"
    try:
        bind_sub_path(volume, "evil", target)
    except VolumeError:
        return  # nothing of that name inside the volume
    assert not (target / "key").exists()
    release_sub_path(target)


def test_sub_paths_resolve_links_inside_the_volume(volume: Path, tmp_path: Path) -> None:
    (volume / "v1").mkdir()
    (volume / "v1" / "file").write_text("inside")
    (volume / "current").symlink_to("/v1")
    target = bind_sub_path(volume, "current/file", tmp_path / "target")
    assert target.read_text() == "inside"
    again = bind_sub_path(volume, "current/file", target)
    assert again.read_text() == "inside"
    release_sub_path(target)
    release_sub_path(target)


@pytest.mark.parametrize("path", ["../secret", "a/../../secret", "/secret"])
def test_sub_paths_that_leave_the_volume_are_refused(volume: Path, tmp_path: Path, path: str) -> None:
    with pytest.raises(VolumeError, match="must be relative"):
        bind_sub_path(volume, path, tmp_path / "target")


async def test_a_pod_with_users_of_its_own(node: Node) -> None:
    """Root in there owns its files and volumes, and is one of a range of its own on the node."""
    config_map = core_v1.ConfigMap(metadata=meta_v1.ObjectMeta(name="cm"), data={"a": "conf\n"})
    await node.api.create(config_map, "default")
    mounts = [{"name": "cm", "mountPath": "/cfg"}, {"name": "plain", "mountPath": "/plain"}]
    volumes = [
        {"name": "cm", "configMap": {"name": "cm"}},
        {"name": "plain", "emptyDir": {"medium": "Memory"}},
    ]
    script = (
        "cat /proc/self/uid_map /cfg/a; id -u; echo x > /plain/x; grep -c web /etc/hosts; "
        "ls -ln /plain/x; echo bye > /dev/termination-log"
    )
    pod = await node.run(
        main(script, volumeMounts=mounts), volumes=volumes, hostUsers=False, restartPolicy="Never"
    )
    pod = await node.ended()
    mapped, conf, uid, hosts, listed = (await node.output()).splitlines()
    inside, outside, length = map(int, mapped.split())
    assert (inside, outside % 65536, length) == (0, 0, 65536)
    assert outside >= 65536
    assert (conf, uid, hosts, listed.split()[2]) == ("conf", "0", "1", "0")
    assert pod.status.container_statuses[0].state.terminated.message == "bye\n"
    recorded = node.config.pods_dir / pod.metadata.uid / "userns"
    assert str(outside) in recorded.read_text()
    await node.delete()
    await eventually(lambda: _settled(node))
    assert not recorded.exists()


async def test_the_status_tells_users_and_mounts_in_force(node: Node) -> None:
    mounts = [
        {"name": "v", "mountPath": "/rw"},
        {"name": "v", "mountPath": "/ro", "readOnly": True},
        {"name": "v", "mountPath": "/rro", "readOnly": True, "recursiveReadOnly": "Enabled"},
    ]
    security = {"runAsUser": 1000, "supplementalGroups": [3000]}
    volumes = [{"name": "v", "emptyDir": {}}]
    await node.run(main(volumeMounts=mounts), volumes=volumes, securityContext=security)
    (status,) = (await node.ready()).status.container_statuses
    user = status.user.linux
    assert (user.uid, user.gid, user.supplemental_groups) == (1000, 1001, [1001, 2000, 3000])
    told = {m.mount_path: (m.read_only, m.recursive_read_only) for m in status.volume_mounts}
    assert told == {"/rw": (None, None), "/ro": (True, "Disabled"), "/rro": (True, "Enabled")}


async def test_the_node_says_what_its_runtime_can_do(node: Node) -> None:
    await node.run(main())
    await node.ready()  # so it is registered
    status = (await node.api.get(core_v1.Node, NODE)).status
    assert status.features.supplemental_groups_policy
    assert [h.features.user_namespaces for h in status.runtime_handlers] == [can_idmap()]


async def test_an_image_as_a_volume(node: Node) -> None:
    volumes = [{"name": "tools", "image": {"reference": "busybox", "pullPolicy": "Never"}}]
    mounts = [{"name": "tools", "mountPath": "/tools", "subPath": "etc"}]
    await node.run(main("cat /tools/group", volumeMounts=mounts), volumes=volumes, restartPolicy="Never")
    await node.ended()
    assert "extra:x:2000:web" in await node.output()
    absent = [{"name": "tools", "image": {"reference": "localhost/absent:1", "pullPolicy": "Never"}}]
    await node.run(main(volumeMounts=mounts), name="absent", volumes=absent)
    pod = await node.until(
        lambda p: p.status.container_statuses[0].state.waiting.reason == "ErrImageNeverPull", "absent"
    )
    assert "localhost/absent:1" in pod.status.container_statuses[0].state.waiting.message
