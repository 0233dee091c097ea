"""What a cgroup with all below it has used, in the detail that metrics ask for. Reads files, nothing more.

v1 and v2 say much the same in different files and units; here it has one name and one unit. What a machine
does not say (pressure on v1, a disk that was not touched) is None or empty.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from podling.linux.cgroups import Cgroups

USER_HZ_NS = 10_000_000
"""cpuacct.stat counts hundredths of a second (`man 7 time`, USER_HZ)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskIO:
    """Of one block device."""

    read_bytes: int = 0
    write_bytes: int = 0
    reads: int = 0
    writes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Stall:
    """A line of a pressure file (`accounting/psi.rst`)."""

    total_us: int = 0
    avg10: float = 0.0
    avg60: float = 0.0
    avg300: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    cpu_user_ns: int | None = None
    cpu_system_ns: int | None = None
    periods: int | None = None
    """CFS bandwidth: how many periods there were, in how many it was throttled, and how long."""
    throttled_periods: int | None = None
    throttled_ns: int | None = None
    cache_bytes: int | None = None
    mapped_file_bytes: int | None = None
    active_anon_bytes: int | None = None
    inactive_anon_bytes: int | None = None
    max_memory_bytes: int | None = None
    limit_hits: int | None = None
    """How often memory reached the limit."""
    swap_limit_bytes: int | None = None
    """Of swap alone; None also when there is no limit."""
    pids_max: int | None = None
    """None: no limit."""
    disks: Mapping[str, DiskIO] = field(default_factory=dict)
    """By `major:minor`."""
    pressure: Mapping[str, Mapping[str, Stall]] = field(default_factory=dict)
    """cpu, memory, io -> some, full."""


def read_usage(cgroups: Cgroups, cgroup: str) -> Usage:
    if cgroups.controllers:
        return _v1(cgroups, cgroup)
    assert cgroups.unified is not None
    return _v2(cgroups.unified / cgroup.lstrip("/"))


def _v1(cgroups: Cgroups, cgroup: str) -> Usage:
    def folder(controller: str) -> Path:
        return cgroups.path(cgroup, controller) or Path("/nonexistent")

    ticks, throttling = pairs(folder("cpuacct") / "cpuacct.stat"), pairs(folder("cpu") / "cpu.stat")
    memory, stat = folder("memory"), pairs(folder("memory") / "memory.stat")
    both, limit = _number(memory / "memory.memsw.limit_in_bytes"), _number(memory / "memory.limit_in_bytes")
    return Usage(
        cpu_user_ns=_scaled(ticks.get("user"), USER_HZ_NS),
        cpu_system_ns=_scaled(ticks.get("system"), USER_HZ_NS),
        periods=throttling.get("nr_periods"),
        throttled_periods=throttling.get("nr_throttled"),
        throttled_ns=throttling.get("throttled_time"),
        cache_bytes=stat.get("total_cache"),
        mapped_file_bytes=stat.get("total_mapped_file"),
        active_anon_bytes=stat.get("total_active_anon"),
        inactive_anon_bytes=stat.get("total_inactive_anon"),
        max_memory_bytes=_number(memory / "memory.max_usage_in_bytes"),
        limit_hits=_number(memory / "memory.failcnt"),
        # A limit too large to be meant is none; both are rounded to pages.
        swap_limit_bytes=both - limit if both is not None and limit is not None and both < 1 << 62 else None,
        pids_max=_number(folder("pids") / "pids.max"),
        disks=_blkio(folder("blkio")),
    )


def _v2(folder: Path) -> Usage:
    cpu, stat, events = (pairs(folder / name) for name in ("cpu.stat", "memory.stat", "memory.events"))
    return Usage(
        cpu_user_ns=_scaled(cpu.get("user_usec"), 1000),
        cpu_system_ns=_scaled(cpu.get("system_usec"), 1000),
        periods=cpu.get("nr_periods"),
        throttled_periods=cpu.get("nr_throttled"),
        throttled_ns=_scaled(cpu.get("throttled_usec"), 1000),
        cache_bytes=stat.get("file"),
        mapped_file_bytes=stat.get("file_mapped"),
        active_anon_bytes=stat.get("active_anon"),
        inactive_anon_bytes=stat.get("inactive_anon"),
        max_memory_bytes=_number(folder / "memory.peak"),
        limit_hits=events.get("max"),
        swap_limit_bytes=_number(folder / "memory.swap.max"),
        pids_max=_number(folder / "pids.max"),
        disks=parse_io_stat(_text(folder / "io.stat")),
        pressure={
            kind: parsed
            for kind in ("cpu", "memory", "io")
            if (parsed := parse_pressure(_text(folder / f"{kind}.pressure")))
        },
    )


def parse_pressure(text: str) -> dict[str, Stall]:
    """`some avg10=0.00 avg60=0.00 avg300=0.00 total=0`."""
    found: dict[str, Stall] = {}
    for line in text.splitlines():
        kind, *fields = line.split()
        values = dict(part.partition("=")[::2] for part in fields)
        averages = {name: float(values.get(name, 0)) for name in ("avg10", "avg60", "avg300")}
        found[kind] = Stall(total_us=int(values.get("total", 0)), **averages)
    return found


def parse_io_stat(text: str) -> dict[str, DiskIO]:
    """`8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0`."""
    found: dict[str, DiskIO] = {}
    for line in text.splitlines():
        device, *fields = line.split()
        values = {name: int(value) for name, _, value in (part.partition("=") for part in fields)}
        found[device] = DiskIO(
            read_bytes=values.get("rbytes", 0),
            write_bytes=values.get("wbytes", 0),
            reads=values.get("rios", 0),
            writes=values.get("wios", 0),
        )
    return found


def _blkio(folder: Path) -> dict[str, DiskIO]:
    sizes = parse_blkio(_text(folder / "blkio.throttle.io_service_bytes_recursive"))
    counts = parse_blkio(_text(folder / "blkio.throttle.io_serviced_recursive"))
    return {
        device: DiskIO(
            read_bytes=size.get("Read", 0),
            write_bytes=size.get("Write", 0),
            reads=counts.get(device, {}).get("Read", 0),
            writes=counts.get(device, {}).get("Write", 0),
        )
        for device, size in sizes.items()
    }


def parse_blkio(text: str) -> dict[str, dict[str, int]]:
    """`8:0 Read 4096`, and a line `Total 4096` at the end."""
    found: dict[str, dict[str, int]] = {}
    for words in map(str.split, text.splitlines()):
        if len(words) == 3:
            found.setdefault(words[0], {})[words[1]] = int(words[2])
    return found


def pairs(file: Path) -> dict[str, int]:
    """A file of `key value` lines; empty when it is not there."""
    words = map(str.split, _text(file).splitlines())
    return {word[0]: int(word[1]) for word in words if len(word) == 2 and word[1].isdecimal()}


def _number(file: Path) -> int | None:
    text = _text(file).strip()
    return int(text) if text.isdecimal() else None


def _text(file: Path) -> str:
    with suppress(OSError):
        return file.read_text()
    return ""


def _scaled(value: int | None, factor: int) -> int | None:
    return None if value is None else value * factor
