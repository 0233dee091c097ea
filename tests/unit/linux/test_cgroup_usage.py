"""The same usage in the words of cgroup v1 and v2."""

from __future__ import annotations

from pathlib import Path

from podling.linux.cgroup_usage import DiskIO, Stall, parse_blkio, parse_io_stat, parse_pressure, read_usage
from podling.linux.cgroups import Cgroups
from podling.linux.mounts import MountInfo


def mount(target: Path, fstype: str, *options: str) -> MountInfo:
    return MountInfo(1, 0, "/", str(target), frozenset(), frozenset(), fstype, fstype, frozenset(options))


def write(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)


def test_v2(tmp_path: Path) -> None:
    write(
        tmp_path / "pod",
        cpu__stat="user_usec 20\nsystem_usec 10\nnr_periods 4\nnr_throttled 2\nthrottled_usec 7\n",
        memory__stat="anon 1\nfile 8192\nfile_mapped 4096\nactive_anon 5\ninactive_anon 6\n",
        memory__events="low 0\nmax 3\noom 1\n",
        memory__peak="99\n",
        memory__swap__max="max\n",
        pids__max="100\n",
        io__stat="8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0\n",
        cpu__pressure="some avg10=1.50 avg60=0.00 avg300=0.00 total=12\n"
        "full avg10=0.00 avg60=0.00 avg300=0.00 total=3\n",
    )
    usage = read_usage(Cgroups([mount(tmp_path, "cgroup2")]), "/pod")
    assert (usage.cpu_user_ns, usage.cpu_system_ns) == (20_000, 10_000)
    assert (usage.periods, usage.throttled_periods, usage.throttled_ns) == (4, 2, 7_000)
    assert (usage.cache_bytes, usage.mapped_file_bytes, usage.max_memory_bytes) == (8192, 4096, 99)
    assert (usage.limit_hits, usage.swap_limit_bytes, usage.pids_max) == (3, None, 100)
    assert usage.disks == {"8:0": DiskIO(read_bytes=1, write_bytes=2, reads=3, writes=4)}
    assert usage.pressure == {"cpu": {"some": Stall(total_us=12, avg10=1.5), "full": Stall(total_us=3)}}


def test_v1(tmp_path: Path) -> None:
    controllers = ("cpu", "cpuacct", "memory", "pids", "blkio")
    write(tmp_path / "cpu/pod", cpu__stat="nr_periods 4\nnr_throttled 2\nthrottled_time 7\n")
    write(tmp_path / "cpuacct/pod", cpuacct__stat="user 2\nsystem 1\n")
    write(
        tmp_path / "memory/pod",
        memory__stat="cache 1\ntotal_cache 8192\ntotal_mapped_file 4096\ntotal_active_anon 5\n",
        memory__max_usage_in_bytes="99\n",
        memory__failcnt="3\n",
        memory__limit_in_bytes="1000\n",
        memory__memsw__limit_in_bytes="1500\n",
    )
    write(tmp_path / "pids/pod", pids__max="max\n")
    write(
        tmp_path / "blkio/pod",
        blkio__throttle__io_service_bytes_recursive="8:0 Read 1\n8:0 Write 2\n8:0 Total 3\nTotal 3\n",
        blkio__throttle__io_serviced_recursive="8:0 Read 5\n8:0 Write 6\nTotal 11\n",
    )
    usage = read_usage(Cgroups([mount(tmp_path / c, "cgroup", c) for c in controllers]), "/pod")
    assert (usage.cpu_user_ns, usage.cpu_system_ns) == (20_000_000, 10_000_000)
    assert (usage.periods, usage.throttled_periods, usage.throttled_ns) == (4, 2, 7)
    assert (usage.cache_bytes, usage.mapped_file_bytes, usage.max_memory_bytes) == (8192, 4096, 99)
    assert (usage.limit_hits, usage.swap_limit_bytes, usage.pids_max) == (3, 500, None)
    assert usage.disks == {"8:0": DiskIO(read_bytes=1, write_bytes=2, reads=5, writes=6)}
    assert usage.pressure == {}


def test_what_is_not_there_is_not_known(tmp_path: Path) -> None:
    usage = read_usage(Cgroups([mount(tmp_path, "cgroup2")]), "/gone")
    assert usage.cpu_user_ns is usage.cache_bytes is usage.max_memory_bytes is None
    assert usage.disks == usage.pressure == {}


def test_empty_files() -> None:
    assert parse_blkio("Total 0\n") == parse_io_stat("") == parse_pressure("") == {}
