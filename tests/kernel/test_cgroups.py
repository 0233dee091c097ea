"""Against the machine's own cgroups; a v2 machine runs the v2 branches, a v1 machine the others."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kernel.runtime_local import PARENT
from podling.linux.cgroups import Cgroups, Layout, Limits

POD = f"{PARENT}/kubepods/burstable/pod1"


@pytest.fixture
def cgroups(mount_namespace: None) -> Iterator[Cgroups]:
    found = Cgroups()
    yield found
    found.kill(PARENT)
    end = time.monotonic() + 5
    while not found.remove(PARENT):
        assert time.monotonic() < end
        time.sleep(0.005)


def join(cgroups: Cgroups, cgroup: str, pid: int) -> None:
    controllers = ("cpu", "cpuacct", "memory", "pids") if cgroups.controllers else ("cpu",)
    for controller in controllers:
        folder = cgroups.path(cgroup, controller)
        assert folder is not None
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "cgroup.procs").write_text(str(pid))


@pytest.fixture
def sleeper(cgroups: Cgroups) -> Iterator[subprocess.Popen[bytes]]:
    cgroups.create(f"{POD}/c1", leaf=True)
    process = subprocess.Popen(["sleep", "1000"])
    join(cgroups, f"{POD}/c1", process.pid)
    yield process
    process.kill()
    process.wait()


def test_create_may_be_repeated_and_remove_takes_all(cgroups: Cgroups) -> None:
    for _ in range(2):
        cgroups.create(POD)
    assert cgroups.exists(POD)
    assert cgroups.children(f"{PARENT}/kubepods") == {"burstable"}
    assert cgroups.remove(f"{PARENT}/kubepods")
    assert not cgroups.exists(f"{PARENT}/kubepods")
    assert cgroups.remove(f"{PARENT}/kubepods")


def test_limits_are_the_kernels(cgroups: Cgroups) -> None:
    limits = Limits(cpu_shares=512, cpu_quota_us=50_000, memory_bytes=64 << 20, pids=100)
    cgroups.create(POD, limits)
    assert cgroups.stats(POD).memory_limit_bytes == 64 << 20
    cpu, pids = cgroups.path(POD, "cpu"), cgroups.path(POD, "pids")
    assert cpu is not None
    assert pids is not None
    assert (pids / "pids.max").read_text().strip() == "100"
    if cgroups.layout is Layout.V2:
        assert (cpu / "cpu.weight").read_text().strip() == "20"
        assert (cpu / "cpu.max").read_text().strip() == "50000 100000"
    else:
        assert (cpu / "cpu.shares").read_text().strip() == "512"
        assert (cpu / "cpu.cfs_quota_us").read_text().strip() == "50000"
    cgroups.set_limits(POD, Limits(memory_bytes=-1, cpu_quota_us=-1, pids=-1))
    assert cgroups.stats(POD).memory_limit_bytes is None
    assert (pids / "pids.max").read_text().strip() == "max"


def test_stats_and_kill(cgroups: Cgroups, sleeper: subprocess.Popen[bytes]) -> None:
    stats = cgroups.stats(POD)
    assert stats.pids == 1
    assert stats.cpu_usage_ns is not None
    assert stats.working_set_bytes is not None
    assert cgroups.procs(POD) == [sleeper.pid]
    assert cgroups.oom_kills(POD) == 0
    assert not cgroups.remove(POD)
    assert cgroups.kill(POD) == 1
    assert sleeper.wait(5) == -signal.SIGKILL


def test_gentler_signals(cgroups: Cgroups, sleeper: subprocess.Popen[bytes]) -> None:
    assert cgroups.kill(POD, signal.SIGTERM) == 1
    assert sleeper.wait(5) == -signal.SIGTERM


def test_what_is_gone_reads_as_nothing(cgroups: Cgroups) -> None:
    assert cgroups.procs(POD) == []
    assert cgroups.kill(POD) == 0
    assert cgroups.stats(POD).memory_usage_bytes is None
    assert cgroups.oom_kills(POD) == 0
    assert cgroups.children(POD) == set()


def test_expecting_moves_changes_nothing() -> None:
    before = Path("/proc/self/cgroup").read_text()
    for _ in range(3):
        Cgroups().expect_moves()
    assert Path("/proc/self/cgroup").read_text() == before
