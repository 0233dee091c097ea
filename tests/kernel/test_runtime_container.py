"""Containers: what they get, how they end, and what is said when they cannot start."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

import pytest

from kernel.runtime_local import IMAGE, Local, log_text
from podling.linux.cgroups import Layout
from podling.runtime.cri import messages as cri
from podling.runtime.cri.errors import Code, CRIError

EXITED, RUNNING = cri.ContainerState.CONTAINER_EXITED, cri.ContainerState.CONTAINER_RUNNING


def context(config: cri.ContainerConfig) -> cri.LinuxContainerSecurityContext:
    return config.linux.security_context


async def test_writes_a_cri_log_and_its_exit_code(local: Local) -> None:
    before = time.time_ns()
    sandbox_id = await local.sandbox()
    container_id = await local.run(sandbox_id, "sh", "-c", "echo out; echo err >&2; exit 7")
    status = await local.exited(container_id)
    assert (status.state, status.exit_code, status.reason) == (EXITED, 7, "Error")
    assert before < status.created_at <= status.started_at <= status.finished_at < time.time_ns()
    lines = Path(status.log_path).read_text().splitlines()
    assert {tuple(line.split(" ")[1:]) for line in lines} == {("stdout", "F", "out"), ("stderr", "F", "err")}


async def test_command_and_environment_come_from_image_and_pod(local: Local) -> None:
    sandbox_id = await local.sandbox(local.sandbox_config("web-0"))

    def change(config: cri.ContainerConfig) -> None:
        config.args = ["-c", "pwd; echo $FROM_IMAGE $OVERRIDE $HOSTNAME $PATH"]
        config.command = ["sh"]
        config.envs = [cri.KeyValue(key="OVERRIDE", value=b"pod")]

    said = await local.output(sandbox_id, change=change)
    path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    assert said == f"/work\nyes pod web-0 {path}"


async def test_image_command_alone(local: Local) -> None:
    container_id = await local.create(await local.sandbox())
    assert local.runtime.core.container(container_id).record.command == ["/bin/sh"]


async def test_files_of_the_sandbox(local: Local) -> None:
    sandbox_id = await local.sandbox(local.sandbox_config("web-0"))
    said = await local.output(sandbox_id, "cat", "/etc/hostname", "/etc/resolv.conf")
    assert said == "web-0\nsearch svc.local\nnameserver 10.96.0.10\noptions ndots:5"


@pytest.mark.parametrize(
    ("user", "expected"),
    [
        ({}, "uid=0(root) gid=0(root) groups=0(root)"),
        ({"run_as_user": 1000}, "uid=1000(web) gid=1001(web) groups=1001(web),2000(extra)"),
        ({"run_as_username": "web"}, "uid=1000(web) gid=1001(web) groups=1001(web),2000(extra)"),
        ({"run_as_user": 77, "run_as_group": 88}, "uid=77 gid=88 groups=88"),
        ({"run_as_user": 5, "supplemental_groups": [9]}, "uid=5 gid=0(root) groups=0(root),9"),
    ],
)
async def test_user(local: Local, user: dict, expected: str) -> None:
    def change(config: cri.ContainerConfig) -> None:
        for name, value in user.items():
            setattr(context(config), name, value)

    assert await local.output(await local.sandbox(), "id", change=change) == expected


async def test_unknown_user_is_refused(local: Local) -> None:
    def change(config: cri.ContainerConfig) -> None:
        context(config).run_as_username = "nobody"

    with pytest.raises(CRIError, match="unable to find user nobody: no matching entries in passwd file"):
        await local.create(await local.sandbox(), "true", change=change)


async def test_default_rights(local: Local) -> None:
    sandbox_id = await local.sandbox()
    said = await local.output(
        sandbox_id, "grep", "-E", "^(CapEff|CapBnd|Seccomp|NoNewPrivs):", "/proc/self/status"
    )
    fields = dict(line.split(":\t") for line in said.splitlines())
    assert fields == {
        "CapEff": "00000000a80425fb",
        "CapBnd": "00000000a80425fb",
        "NoNewPrivs": "0",
        "Seccomp": "2",
    }


async def test_chosen_rights(local: Local) -> None:
    def change(config: cri.ContainerConfig) -> None:
        own = context(config)
        own.capabilities = cri.Capability(add_capabilities=["NET_ADMIN"], drop_capabilities=["ALL"])
        own.no_new_privs = True
        own.seccomp = cri.SecurityProfile(profile_type=cri.SecurityProfileType.Unconfined)

    said = await local.output(await local.sandbox(), "cat", "/proc/self/status", change=change)
    fields = dict(line.split(":\t", 1) for line in said.splitlines() if ":\t" in line)
    assert int(fields["CapEff"], 16) == 1 << 12
    assert (fields["NoNewPrivs"], fields["Seccomp"]) == ("1", "0")


async def test_privileged_may_mount_and_sees_devices(local: Local) -> None:
    def change(config: cri.ContainerConfig) -> None:
        context(config).privileged = True

    said = await local.output(
        await local.sandbox(), "sh", "-c", "mount -t tmpfs x /tmp && ls /dev", change=change
    )
    assert "loop-control" in said or "kmsg" in said


async def test_seccomp_default_forbids_mounting(local: Local) -> None:
    def change(config: cri.ContainerConfig) -> None:
        context(config).capabilities = cri.Capability(add_capabilities=["SYS_TIME"])

    said = await local.output(
        await local.sandbox(), "sh", "-c", "mount -t tmpfs x /tmp || echo refused", change=change
    )
    assert "refused" in said


async def test_mounts(local: Local, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "file").write_text("content")
    (tmp_path / "single").write_text("one file")

    def change(config: cri.ContainerConfig) -> None:
        context(config).readonly_rootfs = True
        config.mounts = [
            cri.Mount(container_path="/data/inner", host_path=str(tmp_path / "made")),
            cri.Mount(container_path="/data", host_path=str(tmp_path / "data")),
            cri.Mount(container_path="/etc/hosts", host_path=str(tmp_path / "single"), readonly=True),
        ]

    (tmp_path / "data" / "inner").mkdir()
    script = "cat /data/file /etc/hosts; echo x > /data/inner/y; echo x > /etc/hosts; echo x > /new"
    said = await local.output(await local.sandbox(), "sh", "-c", script, change=change)
    assert said.startswith("contentone file")
    assert said.count("Read-only file system") == 2
    assert (tmp_path / "made" / "y").read_text() == "x\n"


async def test_writable_layers_are_private(local: Local) -> None:
    sandbox_id = await local.sandbox()
    one = await local.run(sandbox_id, "sleep", "1000")
    other = await local.run(sandbox_id, "sleep", "1000")
    await local.exec(one, "sh", "-c", "echo mine > /work/file; rm /bin/false")
    assert (await local.exec(other, "ls", "/work")).stdout == b""
    assert (await local.exec(other, "ls", "/bin/false")).exit_code == 0


async def test_limits_reach_the_kernel(local: Local) -> None:
    def change(config: cri.ContainerConfig) -> None:
        config.linux.resources = cri.LinuxContainerResources(
            cpu_shares=512, cpu_quota=50_000, cpu_period=100_000, memory_limit_in_bytes=64 << 20
        )

    container_id = await local.run(await local.sandbox(), "sleep", "1000", change=change)
    core = local.runtime.core
    cgroup = core.container(container_id).record.cgroup
    assert core.cgroups.stats(cgroup).memory_limit_bytes == 64 << 20
    quota, shares = ("cpu.cfs_quota_us", "cpu.shares"), ("50000", "512")
    if core.cgroups.layout is Layout.V2:
        quota, shares = ("cpu.max", "cpu.weight"), ("50000 100000", "20")
    folder = core.cgroups.path(cgroup, "cpu")
    assert tuple((folder / name).read_text().strip() for name in quota) == shares
    update = cri.UpdateContainerResourcesRequest(
        container_id=container_id, linux=cri.LinuxContainerResources(memory_limit_in_bytes=32 << 20)
    )
    await local.runtime.update_container_resources(update)
    assert core.cgroups.stats(cgroup).memory_limit_bytes == 32 << 20
    assert (await local.status(container_id)).resources.linux.cpu_shares == 512


async def test_out_of_memory_is_named(local: Local) -> None:
    def change(config: cri.ContainerConfig) -> None:
        config.linux.resources = cri.LinuxContainerResources(memory_limit_in_bytes=16 << 20)

    command = ("sh", "-c", "exec dd if=/dev/zero of=/dev/null bs=64M count=1")
    status = await local.exited(await local.run(await local.sandbox(), *command, change=change))
    assert (status.exit_code, status.reason) == (137, "OOMKilled")


@pytest.mark.parametrize(
    ("command", "text"),
    [
        ("nonexistent", 'exec: "nonexistent": executable file not found in $PATH'),
        ("/nonexistent", 'exec: "/nonexistent": stat /nonexistent: no such file or directory'),
        ("/bin/plain", 'exec: "/bin/plain": permission denied'),
    ],
)
async def test_command_that_cannot_run(local: Local, command: str, text: str) -> None:
    container_id = await local.create(await local.sandbox(), command)
    with pytest.raises(CRIError) as caught:
        await local.start(container_id)
    assert text in caught.value.message
    status = await local.status(container_id)
    assert (status.state, status.exit_code, status.reason) == (EXITED, 128, "StartError")
    assert text in status.message


async def test_unknown_image(local: Local) -> None:
    def change(config: cri.ContainerConfig) -> None:
        config.image = cri.ImageSpec(image="not-there:1")

    with pytest.raises(CRIError) as caught:
        await local.create(await local.sandbox(), "true", change=change)
    assert caught.value.code is Code.NOT_FOUND


async def test_image_in_use_is_kept(local: Local) -> None:
    await local.run(await local.sandbox(), "sleep", "1000")
    with pytest.raises(CRIError, match="is being used by a container"):
        await local.runtime.remove_image(cri.RemoveImageRequest(image=cri.ImageSpec(image=IMAGE)))


async def test_stop_lets_the_process_end_itself(local: Local) -> None:
    script = "trap 'echo bye; exit 3' TERM; echo ready; while :; do sleep 0.02; done"
    container_id = await local.run(await local.sandbox(), "sh", "-c", script)
    await until_logged(local, container_id, "ready")
    await local.stop(container_id, timeout=10)
    status = await local.status(container_id)
    assert (status.state, status.exit_code) == (EXITED, 3)
    assert log_text(Path(status.log_path)) == "ready\nbye"


async def test_stop_kills_when_time_is_over(local: Local) -> None:
    container_id = await local.run(await local.sandbox(), "sleep", "1000")  # as PID 1 it ignores SIGTERM
    start = time.monotonic()
    await local.stop(container_id, timeout=1)
    assert 1 <= time.monotonic() - start < 3
    assert (await local.status(container_id)).exit_code == 137
    await local.stop(container_id, timeout=1)
    await local.runtime.stop_container(cri.StopContainerRequest(container_id="f" * 64))


async def test_second_stop_brings_the_end_forward(local: Local) -> None:
    container_id = await local.run(await local.sandbox(), "sleep", "1000")
    slow = asyncio.create_task(local.stop(container_id, timeout=60))
    await asyncio.sleep(0.05)
    async with asyncio.timeout(5):
        await local.stop(container_id, timeout=0)
        await slow


async def test_chosen_stop_signal(local: Local) -> None:
    def change(config: cri.ContainerConfig) -> None:
        config.stop_signal = cri.Signal.SIGUSR1

    script = "trap 'exit 10' USR1; echo ready; while :; do sleep 0.02; done"
    container_id = await local.run(await local.sandbox(), "sh", "-c", script, change=change)
    await until_logged(local, container_id, "ready")
    await local.stop(container_id, timeout=10)
    assert (await local.status(container_id)).exit_code == 10


async def test_killed_from_outside_is_seen_at_once(local: Local) -> None:
    container_id = await local.run(await local.sandbox(), "sleep", "1000")
    events = local.runtime.get_container_events(cri.GetEventsRequest())
    os.kill(local.runtime.core.container(container_id).record.process.pid, signal.SIGKILL)
    async with asyncio.timeout(5):
        event = await anext(events)
    assert event.container_event_type is cri.ContainerEventType.CONTAINER_STOPPED_EVENT
    assert [s.exit_code for s in event.containers_statuses] == [137]


async def test_children_in_a_shared_pid_namespace_end_with_the_container(local: Local) -> None:
    sandbox_id = await local.sandbox(local.sandbox_config(pid=cri.NamespaceMode.POD))
    other = await local.run(sandbox_id, "sleep", "1000")
    container_id = await local.run(sandbox_id, "sh", "-c", "sleep 4242 & exec sleep 4243")
    await local.stop(container_id)
    listed = (await local.exec(other, "ps", "-o", "args")).stdout.decode()
    assert "4242" not in listed


async def test_dead_conmon_does_not_hide_the_end(local: Local) -> None:
    container_id = await local.run(await local.sandbox(), "sleep", "1000")
    container = local.runtime.core.container(container_id)
    os.kill(container.record.conmon.pid, signal.SIGKILL)
    await asyncio.sleep(0.05)
    assert (await local.status(container_id)).state is RUNNING
    os.kill(container.record.process.pid, signal.SIGKILL)
    assert (await local.exited(container_id)).exit_code == 255


async def test_start_twice_is_refused(local: Local) -> None:
    container_id = await local.run(await local.sandbox(), "sleep", "1000")
    with pytest.raises(CRIError) as caught:
        await local.start(container_id)
    assert caught.value.code is Code.FAILED_PRECONDITION


async def test_log_is_reopened(local: Local) -> None:
    container_id = await local.run(
        await local.sandbox(), "sh", "-c", "while :; do echo line; sleep 0.02; done"
    )
    path = Path((await local.status(container_id)).log_path)
    await until_logged(local, container_id, "line")
    path.rename(f"{path}.1")
    await local.runtime.reopen_container_log(cri.ReopenContainerLogRequest(container_id=container_id))
    await until_logged(local, container_id, "line")


async def test_stats(local: Local) -> None:
    sandbox_id = await local.sandbox()
    container_id = await local.run(
        sandbox_id, "sh", "-c", "dd if=/dev/zero of=/work/f bs=1M count=2; sleep 1000"
    )
    await local.exec(container_id, "true")
    stats = (await local.runtime.container_stats(cri.ContainerStatsRequest(container_id=container_id))).stats
    assert stats.cpu.usage_core_nano_seconds > 0
    assert stats.memory.working_set_bytes > 0
    assert stats.writable_layer.inodes_used >= 1
    pods = await local.runtime.list_pod_sandbox_stats(cri.ListPodSandboxStatsRequest())
    assert pods.stats[0].linux.network.default_interface.name == "eth0"
    assert pods.stats[0].linux.process.process_count >= 2


async def until_logged(local: Local, container_id: str, text: str) -> None:
    path = Path((await local.status(container_id)).log_path)
    async with asyncio.timeout(10):
        while not path.exists() or text not in path.read_text():  # noqa: ASYNC110 - another program writes it
            await asyncio.sleep(0.005)
