"""Limits of a container in the kernel's files, and how a container ends that meets them."""

from __future__ import annotations

from pathlib import Path

import pytest

from kernel.runtime_local import Local
from podling.linux.cgroups import Layout
from podling.runtime.cri import messages as cri

MIB = 1 << 20


def limited(**fields: object):
    def change(config: cri.ContainerConfig) -> None:
        config.linux.resources = cri.LinuxContainerResources(**fields)

    return change


def read(local: Local, container_id: str, controller: str, v1: str, v2: str) -> str:
    """A file of the container's cgroup, by the name it has here."""
    cgroups = local.runtime.core.cgroups
    folder = cgroups.path(local.runtime.core.container(container_id).record.cgroup, controller)
    return (folder / (v2 if cgroups.layout is Layout.V2 else v1)).read_text().strip()


async def test_every_limit_is_in_its_file(local: Local) -> None:
    host = local.runtime.core.host
    change = limited(
        cpu_shares=1024,
        cpu_quota=20_000,
        cpu_period=50_000,
        cpuset_cpus="0",
        cpuset_mems="0",
        memory_limit_in_bytes=64 * MIB,
        memory_swap_limit_in_bytes=96 * MIB,
        oom_score_adj=321,
        hugepage_limits=[cri.HugepageLimit(page_size="2MB", limit=0)],
    )
    container_id = await local.run(await local.sandbox(), "sleep", "1000", change=change)
    on_v2 = local.runtime.core.cgroups.layout is Layout.V2
    assert read(local, container_id, "cpu", "cpu.shares", "cpu.weight") == ("39" if on_v2 else "1024")
    quota = read(local, container_id, "cpu", "cpu.cfs_quota_us", "cpu.max")
    assert quota == ("20000 50000" if on_v2 else "20000")
    assert read(local, container_id, "cpuset", "cpuset.cpus", "cpuset.cpus") == "0"
    memory = read(local, container_id, "memory", "memory.limit_in_bytes", "memory.max")
    assert int(memory) == 64 * MIB
    if host.swap_limits:
        swap = read(local, container_id, "memory", "memory.memsw.limit_in_bytes", "memory.swap.max")
        assert int(swap) == (32 if on_v2 else 96) * MIB
    if host.hugepage_limits:
        name = "hugetlb.2MB.limit_in_bytes", "hugetlb.2MB.max"
        assert read(local, container_id, "hugetlb", *name) == "0"
    shown = await local.exec(container_id, "cat", "/proc/1/oom_score_adj")
    assert shown.stdout == b"321\n"
    pid = local.runtime.core.container(container_id).record.process.pid
    assert "Cpus_allowed_list:\t0\n" in Path(f"/proc/{pid}/status").read_text()


async def test_a_score_below_what_we_may_give_is_raised_to_it(local: Local) -> None:
    """Without CAP_SYS_RESOURCE the kernel refuses: the container runs with the lowest that can be had."""
    said = await local.output(
        await local.sandbox(), "cat", "/proc/self/oom_score_adj", change=limited(oom_score_adj=-998)
    )
    assert int(said) == max(-998, local.runtime.core.host.oom_score_adj_floor)


async def test_limits_change_while_it_runs_and_before_it_starts(local: Local) -> None:
    sandbox_id = await local.sandbox()
    change = limited(memory_limit_in_bytes=64 * MIB, cpu_shares=512)
    created = await local.create(sandbox_id, "sleep", "1000", change=change)
    running = await local.run(sandbox_id, "sleep", "1000", change=change)
    wanted = cri.LinuxContainerResources(memory_limit_in_bytes=32 * MIB)
    for container_id in (created, running):
        await local.runtime.update_container_resources(
            cri.UpdateContainerResourcesRequest(container_id=container_id, linux=wanted)
        )
    await local.start(created)
    on_v2 = local.runtime.core.cgroups.layout is Layout.V2
    for container_id in (created, running):
        memory = read(local, container_id, "memory", "memory.limit_in_bytes", "memory.max")
        assert int(memory) == 32 * MIB
        assert read(local, container_id, "cpu", "cpu.shares", "cpu.weight") == ("20" if on_v2 else "512")
        resources = (await local.status(container_id)).resources.linux
        assert (resources.memory_limit_in_bytes, resources.cpu_shares) == (32 * MIB, 512)


HOG = "dd if=/dev/zero of=/dev/null bs=64M count=1"


@pytest.mark.parametrize(
    ("script", "exit_code"),
    [
        (f"exec {HOG}", 137),
        (f"{HOG}; echo survived; exit 0", 0),
        (f"{HOG}; exit 3", 3),
    ],
    ids=["itself", "a child, and all went well", "a child, and it gave up"],
)
async def test_out_of_memory_is_named_whoever_was_killed(local: Local, script: str, exit_code: int) -> None:
    container_id = await local.run(
        await local.sandbox(), "sh", "-c", script, change=limited(memory_limit_in_bytes=16 * MIB)
    )
    status = await local.exited(container_id)
    assert (status.exit_code, status.reason) == (exit_code, "OOMKilled")


async def test_what_ends_within_its_limit_is_completed(local: Local) -> None:
    container_id = await local.run(
        await local.sandbox(), "true", change=limited(memory_limit_in_bytes=16 * MIB)
    )
    status = await local.exited(container_id)
    assert (status.exit_code, status.reason) == (0, "Completed")


@pytest.mark.parametrize(
    ("signal", "exit_code"), [("KILL", 137), ("TERM", 143), ("SEGV", 139), ("ABRT", 134), ("HUP", 129)]
)
async def test_signals_show_in_the_exit_code(local: Local, signal: str, exit_code: int) -> None:
    """In a shared PID namespace: PID 1 of its own does not hear signals from within."""
    sandbox_id = await local.sandbox(local.sandbox_config(pid=cri.NamespaceMode.POD))
    container_id = await local.run(sandbox_id, "sh", "-c", f"kill -{signal} $$; sleep 1000")
    status = await local.exited(container_id)
    assert (status.exit_code, status.reason) == (exit_code, "Error")


@pytest.mark.parametrize("code", [0, 1, 126, 127, 128, 255])
async def test_exit_codes_are_the_commands_own(local: Local, code: int) -> None:
    status = await local.exited(await local.run(await local.sandbox(), "sh", "-c", f"exit {code}"))
    assert (status.exit_code, status.reason) == (code, "Error" if code else "Completed")


async def test_open_files_are_as_many_as_ours(local: Local) -> None:
    """The CRI has no field for it: what the daemon was started with is what containers get."""
    said = await local.output(await local.sandbox(), "sh", "-c", "ulimit -Sn; ulimit -Hn")
    lines = Path("/proc/self/limits").read_text().splitlines()
    assert said.split() == next(line for line in lines if "Max open files" in line).split()[3:5]
