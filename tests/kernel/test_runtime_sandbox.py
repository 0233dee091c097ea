"""Sandboxes: namespaces, network, pause, and that nothing stays."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from kernel.runtime_local import Local
from podling.linux import syscalls as sc
from podling.linux.processes import start_time
from podling.runtime.cri import messages as cri
from podling.runtime.cri.errors import Code, CRIError

NODE, POD = cri.NamespaceMode.NODE, cri.NamespaceMode.POD


def ns(pid: int | str, kind: str) -> str:
    return os.readlink(f"/proc/{pid}/ns/{kind}")


def pause_pid(local: Local, sandbox_id: str) -> int:
    return local.runtime.core.sandbox(sandbox_id).pause.pid


async def test_has_an_address_and_pause_in_namespaces_of_its_own(local: Local) -> None:
    sandbox_id = await local.sandbox()
    status = await local.sandbox_status(sandbox_id)
    assert len(sandbox_id) == 64
    assert status.state is cri.PodSandboxState.SANDBOX_READY
    assert status.network.ip == "10.85.0.2"
    pid = pause_pid(local, sandbox_id)
    async with asyncio.timeout(10):  # crun may be gone before pause has come to its exec
        while Path(f"/proc/{pid}/cmdline").read_bytes() != b"/pause\0":  # noqa: ASYNC110
            await asyncio.sleep(0.001)
    for kind in ("net", "ipc", "uts", "mnt"):
        assert ns(pid, kind) != ns("self", kind), kind
    assert ns(pid, "pid") == ns("self", "pid")
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    assert fields["Uid"].split() == ["65535"] * 4
    assert int(fields["CapEff"], 16) == int(fields["CapBnd"], 16) == 0
    assert fields["NoNewPrivs"].strip() == "1"
    assert fields["Seccomp"].strip() == "2"


async def test_remove_leaves_nothing_and_may_be_repeated(local: Local) -> None:
    sandbox_id = await local.sandbox()
    pid = pause_pid(local, sandbox_id)
    await local.run(sandbox_id, "sleep", "1000")
    for _ in range(2):
        await local.remove_sandbox(sandbox_id)
    assert start_time(pid) is None
    assert local.leftovers() == []
    with pytest.raises(CRIError) as caught:
        await local.sandbox_status(sandbox_id)
    assert caught.value.code is Code.NOT_FOUND


async def test_with_the_nodes_namespaces(local: Local) -> None:
    config = local.sandbox_config(network=NODE, pid=NODE, ipc=NODE)
    sandbox_id = await local.sandbox(config)
    pid = pause_pid(local, sandbox_id)
    for kind in ("net", "ipc", "uts", "pid"):
        assert ns(pid, kind) == ns("self", kind), kind
    assert (await local.sandbox_status(sandbox_id)).network.ip == ""
    container_id = await local.run(sandbox_id, "sleep", "1000")
    first = local.runtime.core.container(container_id).record.process.pid
    for kind in ("net", "ipc", "uts", "pid"):
        assert ns(first, kind) == ns("self", kind), kind


async def test_containers_join_pauses_namespaces(local: Local) -> None:
    sandbox_id = await local.sandbox(local.sandbox_config("web-0"))
    pid = pause_pid(local, sandbox_id)
    container_id = await local.run(sandbox_id, "sleep", "1000")
    first = local.runtime.core.container(container_id).record.process.pid
    for kind in ("net", "ipc", "uts"):
        assert ns(first, kind) == ns(pid, kind), kind
    assert ns(first, "pid") != ns(pid, "pid")
    assert (await local.exec(container_id, "hostname")).stdout == b"web-0\n"


async def test_shared_pid_namespace_has_pause_as_pid_1(local: Local) -> None:
    sandbox_id = await local.sandbox(local.sandbox_config(pid=POD))
    one = await local.run(sandbox_id, "sleep", "1001")
    other = await local.run(sandbox_id, "sleep", "1002")
    listed = (await local.exec(one, "ps", "-o", "pid,ppid,args")).stdout.decode()
    lines = [line.split(None, 2) for line in listed.splitlines()]
    assert ["1", "0", "/pause"] in lines
    assert any(args == "sleep 1002" for _, _, args in lines)
    # The kernel kills all processes of a PID namespace whose first one ends.
    os.kill(pause_pid(local, sandbox_id), signal.SIGKILL)
    for container_id in (one, other):
        assert (await local.exited(container_id)).exit_code == 137


async def test_dead_pause_makes_the_sandbox_not_ready_and_is_told(local: Local) -> None:
    sandbox_id = await local.sandbox()
    container_id = await local.run(sandbox_id, "sleep", "1000")
    events = local.runtime.get_container_events(cri.GetEventsRequest())
    os.kill(pause_pid(local, sandbox_id), signal.SIGKILL)
    async with asyncio.timeout(5):
        event = await anext(events)
    assert event.container_id == sandbox_id
    assert event.container_event_type is cri.ContainerEventType.CONTAINER_STOPPED_EVENT
    assert event.pod_sandbox_status.state is cri.PodSandboxState.SANDBOX_NOTREADY
    assert (await local.status(container_id)).state is cri.ContainerState.CONTAINER_RUNNING
    with pytest.raises(CRIError) as caught:
        await local.create(sandbox_id, "true")
    assert caught.value.code is Code.FAILED_PRECONDITION


async def test_failed_network_leaves_nothing(local: Local) -> None:
    (local.config.cni_conf_dir / "10-test.conflist").write_text('{"cniVersion": "1.0.0"}')
    with pytest.raises(CRIError, match="failed to setup network"):
        await local.sandbox()
    assert local.leftovers() == []
    assert (await local.runtime.list_pod_sandbox(cri.ListPodSandboxRequest())).items == []


@pytest.mark.parametrize("folder", ["root/sandboxes", "run/sandboxes", "root/containers", "run/containers"])
async def test_a_full_disk_is_told_and_leaves_nothing(local: Local, folder: str) -> None:
    """Below each folder in turn there is a file system of one page, which is full."""
    place = local.config.root_dir.parent / folder
    sandbox_id = await local.sandbox()
    sc.mount("none", str(place), "tmpfs", 0, "size=4k")
    try:
        (place / "filler").write_bytes(bytes(4096))
        making = local.create(sandbox_id, "true") if "containers" in folder else local.sandbox()
        with pytest.raises(CRIError, match="No space left on device"):
            await making
        assert [path.name for path in place.iterdir()] == ["filler"]
    finally:
        sc.umount(str(place), sc.MNT_DETACH)
    await local.run(sandbox_id, "true")


async def test_cancelled_creation_leaves_nothing(local: Local) -> None:
    for delay_s in (0.001, 0.005, 0.015, 0.03):
        task = asyncio.create_task(local.sandbox())
        await asyncio.sleep(delay_s)
        task.cancel()
        done = await asyncio.gather(task, return_exceptions=True)
        if isinstance(done[0], str):
            await local.remove_sandbox(done[0])
        assert local.leftovers() == []


async def test_same_attempt_twice_is_refused(local: Local) -> None:
    config = local.sandbox_config()
    await local.sandbox(config)
    with pytest.raises(CRIError) as caught:
        await local.sandbox(config)
    assert caught.value.code is Code.ALREADY_EXISTS


async def test_shared_memory_is_the_pods(local: Local) -> None:
    sandbox_id = await local.sandbox()
    one = await local.run(sandbox_id, "sleep", "1000")
    other = await local.run(sandbox_id, "sleep", "1000")
    await local.exec(one, "sh", "-c", "echo hello > /dev/shm/x")
    assert (await local.exec(other, "cat", "/dev/shm/x")).stdout == b"hello\n"


async def test_sysctls_and_low_ports(local: Local) -> None:
    config = local.sandbox_config()
    config.linux.sysctls = {"kernel.shm_rmid_forced": "1", "net.core.somaxconn": "77"}
    sandbox_id = await local.sandbox(config)
    container_id = await local.run(sandbox_id, "sleep", "1000")
    names = ("kernel/shm_rmid_forced", "net/core/somaxconn", "net/ipv4/ip_unprivileged_port_start")
    shown = await local.exec(container_id, "cat", *(f"/proc/sys/{name}" for name in names))
    assert shown.stdout.split() == [b"1", b"77", b"0"]


async def test_many_at_once(local: Local) -> None:
    ids = await asyncio.gather(*(local.sandbox() for _ in range(12)))
    addresses = {(await local.sandbox_status(i)).network.ip for i in ids}
    assert len(addresses) == 12
    await asyncio.gather(*(local.remove_sandbox(i) for i in ids))
    assert local.leftovers() == []
