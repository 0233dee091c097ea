"""What the kernel says is left, on a file system small enough to be filled."""

from __future__ import annotations

import os
from pathlib import Path

from podling.kubelet.eviction.pressure import Pressure, Rule
from podling.kubelet.eviction.signals import NodeSignals
from podling.kubelet.thresholds import Threshold
from podling.linux import syscalls
from podling.linux.disk_usage import disk_usage

MI = 1 << 20


def small_disk(path: Path) -> Path:
    path.mkdir()
    syscalls.mount("tmpfs", path, "tmpfs", data="size=4m,nr_inodes=100")
    return path


def test_a_full_disk_is_low_and_an_emptied_one_is_not(mount_namespace: None, tmp_path: Path) -> None:
    signals = NodeSignals(small_disk(tmp_path / "root"))
    signals.image_fs = tmp_path
    assert signals.dedicated_image_fs
    pressure = Pressure([Rule(threshold=Threshold("nodefs.available", "50%"))], 0)
    before = signals.read()
    assert before["nodefs.available"].capacity == 4 * MI
    assert pressure.observe(before, 0) == []
    (tmp_path / "root" / "big").write_bytes(b"x" * 3 * MI)
    full = signals.read()
    assert full["nodefs.available"].available <= MI
    assert full["nodefs.inodesFree"].available == before["nodefs.inodesFree"].available - 1
    assert full["imagefs.available"] != full["nodefs.available"]
    assert len(pressure.observe(full, 1)) == 1
    assert pressure.conditions == {"DiskPressure"}
    (tmp_path / "root" / "big").unlink()
    assert pressure.observe(signals.read(), 2) == []
    assert not pressure.conditions


def test_memory_and_process_numbers_are_the_machines(tmp_path: Path) -> None:
    seen = NodeSignals(tmp_path).read()
    memory, pids = seen["memory.available"], seen["pid.available"]
    assert memory.capacity == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert 0 < memory.available < memory.capacity
    assert pids.capacity == int(Path("/proc/sys/kernel/pid_max").read_text())
    assert 0 < pids.available < pids.capacity


def test_a_tree_is_measured_without_other_names_and_other_disks(
    mount_namespace: None, tmp_path: Path
) -> None:
    root = tmp_path / "tree"
    root.mkdir()
    (root / "file").write_bytes(b"x" * 64 * 1024)
    os.link(root / "file", root / "again")
    os.symlink("/etc", root / "link")
    (small_disk(root / "other") / "more").write_bytes(b"x" * MI)
    size, inodes = disk_usage(root)
    assert inodes == 2
    assert 64 * 1024 <= size < 128 * 1024
    assert disk_usage(tmp_path / "absent") == (0, 0)
