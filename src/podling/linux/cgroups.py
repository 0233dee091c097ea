"""cgroups v1, v2 and hybrid: create, limit, read, kill, remove. Thin and typed, no policy.

Paths are as in an OCI spec's `cgroupsPath`: absolute, from the root of the hierarchies this process sees. The
layout is read from /proc/self/mountinfo once per `Cgroups`; nothing is assumed from the machine's name or
the distribution.

    v1      one hierarchy per controller or group of controllers
    v2      one hierarchy; a cgroup with controllers enabled for its children holds no processes itself
            (`cgroup-v2.rst`, "No Internal Process Constraint")
    hybrid  v1 controllers, and a v2 hierarchy beside them that has none; used as v1

Writing and reading these files never waits for anything but the kernel.
"""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from podling.linux.mounts import MountInfo, read_mountinfo

POD_CONTROLLERS = ("cpu", "memory", "pids")
"""What a pod's own cgroup needs on v1; crun makes the others where a container needs them."""
LEAF_CONTROLLERS = (*POD_CONTROLLERS, "cpuacct", "name=systemd")
V2_CONTROLLERS = ("cpu", "cpuset", "memory", "pids", "io", "hugetlb")

DEFAULT_PERIOD_US = 100_000
NO_LIMIT_V1 = 0x7FFF_FFFF_FFFF_F000
"""LONG_MAX rounded down to a page: how v1 says that memory is not limited."""


class Layout(StrEnum):
    V1 = "v1"
    V2 = "v2"
    HYBRID = "hybrid"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """None leaves a value as it is."""

    cpu_shares: int | None = None
    """v1's unit, 2 to 262144; turned into cpu.weight on v2."""
    cpu_quota_us: int | None = None
    """Per period; -1 for none."""
    cpu_period_us: int = DEFAULT_PERIOD_US
    memory_bytes: int | None = None
    """-1 for none."""
    pids: int | None = None
    """-1 for none."""
    unified: Mapping[str, str] = field(default_factory=dict)
    """v2 files by name, written as they are; ignored on v1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    """Of a cgroup with all below it. None: this machine does not say."""

    cpu_usage_ns: int | None = None
    memory_usage_bytes: int | None = None
    memory_limit_bytes: int | None = None
    """None also when there is no limit."""
    working_set_bytes: int | None = None
    """Usage less the inactive file cache, as the kubelet counts it."""
    rss_bytes: int | None = None
    page_faults: int | None = None
    major_page_faults: int | None = None
    swap_bytes: int | None = None
    pids: int | None = None


class CgroupError(OSError):
    """A cgroup file system that cannot be used; the message says how to change that."""


class Cgroups:
    """The hierarchies this process sees."""

    def __init__(self, mounts: Iterable[MountInfo] | None = None) -> None:
        """Raises `CgroupError` when there is no cgroup file system."""
        self.controllers: dict[str, Path] = {}
        """v1: controller, or `name=systemd`, to mount point. Empty on v2."""
        self.unified: Path | None = None
        for mount in read_mountinfo() if mounts is None else mounts:
            if mount.fstype == "cgroup2":
                self.unified = Path(mount.target)
            elif mount.fstype == "cgroup":
                for option in mount.super_options:
                    if _is_controller(option):
                        self.controllers[option] = Path(mount.target)
        if not self.controllers and self.unified is None:
            raise CgroupError(errno.ENOENT, "no cgroup file system is mounted", "/sys/fs/cgroup")
        self._roots = sorted(set(self.controllers.values()))
        if not self._roots and self.unified is not None:
            self._roots = [self.unified]

    @property
    def layout(self) -> Layout:
        if not self.controllers:
            return Layout.V2
        return Layout.V1 if self.unified is None else Layout.HYBRID

    def _hierarchies(self) -> list[Path]:
        return self._roots

    def path(self, cgroup: str, controller: str) -> Path | None:
        """Where a cgroup's files of one controller are; None when the controller is not there."""
        root = self.controllers.get(controller) if self.controllers else self.unified
        return root / cgroup.lstrip("/") if root else None

    def has_controller(self, controller: str) -> bool:
        if self.controllers:
            return controller in self.controllers
        assert self.unified is not None
        return controller in (self.unified / "cgroup.controllers").read_text().split()

    def limits_swap(self) -> bool:
        """v1: when the kernel accounts for swap (`swapaccount`). v2: a file that only the root has not."""
        if self.controllers:
            memory = self.controllers.get("memory")
            return memory is not None and (memory / "memory.memsw.limit_in_bytes").exists()
        assert self.unified is not None
        return any(self.unified.glob("*/memory.swap.max"))

    def exists(self, cgroup: str) -> bool:
        return any((root / cgroup.lstrip("/")).is_dir() for root in self._hierarchies())

    # making

    def create(self, cgroup: str, limits: Limits | None = None, *, leaf: bool = False) -> None:
        """Make the cgroup and its parents, and set limits. Idempotent.

        `leaf`: it is for processes. Otherwise it is for further cgroups, which get its controllers.
        """
        parts = [part for part in cgroup.split("/") if part]
        if self.controllers:
            for root in {self.controllers[c] for c in POD_CONTROLLERS if c in self.controllers}:
                (root / "/".join(parts)).mkdir(parents=True, exist_ok=True)
        else:
            assert self.unified is not None
            at = self.unified
            for part in parts:
                enable_controllers(at)
                at /= part
                at.mkdir(exist_ok=True)
            if not leaf:
                enable_controllers(at)
        if limits is not None:
            self.set_limits(cgroup, limits)

    def leaf_files(self, cgroup: str) -> list[Path]:
        """The files by which a single-threaded process moves itself (`0`) to a cgroup that limits nothing.

        On v1 it is in those where it is counted, and where systemd looks for the processes of a service. It
        enters by `tasks`: whoever writes to `cgroup.procs` first waits until no process forks or ends
        (`cgroup_threadgroup_rwsem`), 2 to 15 ms; a thread that moves itself is let off that.
        """
        if not self.controllers:
            assert self.unified is not None
            return [self.unified / cgroup.lstrip("/") / "cgroup.procs"]
        roots = {self.controllers[c] for c in LEAF_CONTROLLERS if c in self.controllers}
        return [root / cgroup.lstrip("/") / "tasks" for root in sorted(roots)]

    def create_leaf(self, cgroup: str) -> None:
        """Make what `leaf_files` names. Idempotent. On v2 its parent hands controllers down (`create`)."""
        for file in self.leaf_files(cgroup):
            file.parent.mkdir(parents=True, exist_ok=True)

    def expect_moves(self) -> None:
        """Spare whoever moves a process between cgroups within the next 10 ms or so the wait for it.

        The first write to a `cgroup.procs` waits for an RCU grace period, 2 to 15 ms, before it holds
        `cgroup_threadgroup_rwsem`; those that follow soon after find it open. So we make the first: it moves
        this process to where it is. Blocks for that time; without effect where it cannot be.
        """
        root, controller = self.unified, ""
        if self.controllers:
            controller, root = next(iter(self.controllers.items()))
        assert root is not None
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, names, path = line.split(":", 2)
            if controller in names.split(","):
                with suppress(OSError):
                    _write(root / path.lstrip("/") / "cgroup.procs", "0")
                return

    def set_limits(self, cgroup: str, limits: Limits) -> None:
        """Raises OSError from the kernel, with the file's name, when a value is refused."""
        files = _v1_files(limits) if self.controllers else _v2_files(limits)
        for controller, name, value in files:
            folder = self.path(cgroup, controller)
            if folder is not None:
                _write(folder / name, value)

    # unmaking

    def procs(self, cgroup: str) -> list[int]:
        """PIDs in the cgroup and below it. On v1 one hierarchy is asked: a container is in the same place in
        all of them."""
        root = self.unified
        if self.controllers:
            root = self.controllers.get("pids") or self._hierarchies()[0]
        assert root is not None
        found: set[int] = set()
        for folder in _deepest_first(root / cgroup.lstrip("/")):
            with suppress(OSError):
                found.update(map(int, (folder / "cgroup.procs").read_text().split()))
        return sorted(found - {0})

    def kill(self, cgroup: str, number: int = signal.SIGKILL) -> int:
        """Signal every process in the cgroup and below; returns how many there were.

        SIGKILL reaches also what is forked meanwhile: v2 has `cgroup.kill` for that, on v1 we look again
        until the list holds no new process.
        """
        if self.unified is not None and not self.controllers and number == signal.SIGKILL:
            folder = self.unified / cgroup.lstrip("/")
            count = len(self.procs(cgroup))
            with suppress(FileNotFoundError):
                if count:
                    (folder / "cgroup.kill").write_text("1")
            return count
        killed: set[int] = set()
        while new := [pid for pid in self.procs(cgroup) if pid not in killed]:
            for pid in new:
                with suppress(ProcessLookupError):
                    os.kill(pid, number)
            killed.update(new)
        return len(killed)

    def remove(self, cgroup: str) -> bool:
        """Remove the cgroup and all below it in every hierarchy. Absent is success.

        False when a process is still in it (killed ones stay until they are reaped): call again then.
        """
        gone = [_remove_tree(os.path.join(root, cgroup.lstrip("/"))) for root in self._hierarchies()]
        return all(gone)

    # reading

    def children(self, cgroup: str) -> set[str]:
        """Names of the cgroups directly below, in any hierarchy."""
        found: set[str] = set()
        for root in self._hierarchies():
            with suppress(FileNotFoundError), os.scandir(root / cgroup.lstrip("/")) as entries:
                found.update(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))
        return found

    def stats(self, cgroup: str) -> Stats:
        """What is not there (any more) reads as None."""
        return self._stats_v1(cgroup) if self.controllers else self._stats_v2(cgroup)

    def oom_kills(self, cgroup: str) -> int:
        """How often the kernel killed a process here for want of memory."""
        folder = self.path(cgroup, "memory")
        if folder is None:
            return 0
        return _flat(folder / ("memory.oom_control" if self.controllers else "memory.events")).get(
            "oom_kill", 0
        )

    def _stats_v1(self, cgroup: str) -> Stats:
        memory, cpu, pids = (self.path(cgroup, c) for c in ("memory", "cpuacct", "pids"))
        usage = _number(memory, "memory.usage_in_bytes")
        limit = _number(memory, "memory.limit_in_bytes")
        stat = _flat(memory / "memory.stat") if memory else {}
        return Stats(
            cpu_usage_ns=_number(cpu, "cpuacct.usage"),
            memory_usage_bytes=usage,
            memory_limit_bytes=limit if limit is not None and limit < NO_LIMIT_V1 else None,
            working_set_bytes=_working_set(usage, stat.get("total_inactive_file")),
            rss_bytes=stat.get("total_rss"),
            page_faults=stat.get("total_pgfault"),
            major_page_faults=stat.get("total_pgmajfault"),
            swap_bytes=stat.get("total_swap"),
            pids=_number(pids, "pids.current"),
        )

    def _stats_v2(self, cgroup: str) -> Stats:
        assert self.unified is not None
        folder = self.unified / cgroup.lstrip("/")
        usage = _number(folder, "memory.current")
        stat = _flat(folder / "memory.stat")
        cpu_us = _flat(folder / "cpu.stat").get("usage_usec")
        return Stats(
            cpu_usage_ns=cpu_us * 1000 if cpu_us is not None else None,
            memory_usage_bytes=usage,
            memory_limit_bytes=_number(folder, "memory.max"),
            working_set_bytes=_working_set(usage, stat.get("inactive_file")),
            rss_bytes=stat.get("anon"),
            page_faults=stat.get("pgfault"),
            major_page_faults=stat.get("pgmajfault"),
            swap_bytes=_number(folder, "memory.swap.current"),
            pids=_number(folder, "pids.current"),
        )


def shares_to_weight(shares: int) -> int:
    """cpu.shares (2 to 262144) as cpu.weight (1 to 10000), on a straight line as runc and crun do."""
    if shares <= 0:
        return 0
    return 1 + (min(max(shares, 2), 262144) - 2) * 9999 // 262142


def _v1_files(limits: Limits) -> Iterator[tuple[str, str, str]]:
    if limits.cpu_shares is not None:
        yield "cpu", "cpu.shares", str(limits.cpu_shares)
    if limits.cpu_quota_us is not None:
        yield "cpu", "cpu.cfs_period_us", str(limits.cpu_period_us)
        yield "cpu", "cpu.cfs_quota_us", str(limits.cpu_quota_us)
    if limits.memory_bytes is not None:
        yield "memory", "memory.limit_in_bytes", str(limits.memory_bytes)
    if limits.pids is not None:
        yield "pids", "pids.max", _or_max(limits.pids)


def _v2_files(limits: Limits) -> Iterator[tuple[str, str, str]]:
    if limits.cpu_shares is not None:
        yield "cpu", "cpu.weight", str(shares_to_weight(limits.cpu_shares))
    if limits.cpu_quota_us is not None:
        yield "cpu", "cpu.max", f"{_or_max(limits.cpu_quota_us)} {limits.cpu_period_us}"
    if limits.memory_bytes is not None:
        yield "memory", "memory.max", _or_max(limits.memory_bytes)
    if limits.pids is not None:
        yield "pids", "pids.max", _or_max(limits.pids)
    for name, value in limits.unified.items():
        yield name.partition(".")[0], name, value


def _or_max(value: int) -> str:
    return "max" if value < 0 else str(value)


def _is_controller(option: str) -> bool:
    """Super block options of a v1 mount are its controllers, and a few that are not."""
    if "=" in option:
        return option.startswith("name=")
    return option not in ("rw", "ro", "noprefix", "xattr", "clone_children", "none", "cpuset_v2_mode")


def enable_controllers(folder: Path) -> None:
    """Hand what there is in a v2 cgroup on to its children. What it was not given itself cannot be.

    Raises `CgroupError` when processes live in it, OSError for the kernel's other reasons.
    """
    available = (folder / "cgroup.controllers").read_text().split()
    enabled = (folder / "cgroup.subtree_control").read_text().split()
    wanted = [c for c in V2_CONTROLLERS if c in available and c not in enabled]
    if not wanted:
        return
    try:
        (folder / "cgroup.subtree_control").write_text(" ".join(f"+{c}" for c in wanted))
    except OSError as err:
        if err.errno != errno.EBUSY:
            raise
        raise CgroupError(
            errno.EBUSY,
            "processes live in this cgroup, so cgroup v2 lets it hand no controllers to its children: "
            "move them to a child cgroup first",
            str(folder),
        ) from err


def _remove_tree(folder: str) -> bool:
    """False when a process is still in it or below. Its files go with it; only directories are in the way."""
    try:
        os.rmdir(folder)
    except FileNotFoundError:
        return True
    except OSError as err:
        if err.errno not in (errno.EBUSY, errno.ENOTEMPTY):
            raise
    else:
        return True
    below = [path for path in _deepest_first(Path(folder)) if str(path) != folder]
    if not below:
        return False
    gone = [_remove_tree(str(path)) for path in below]
    return all(gone) and _remove_tree(folder)


def _deepest_first(folder: Path) -> Iterator[Path]:
    for base, _, _ in os.walk(folder, topdown=False):
        yield Path(base)


def _write(file: Path, value: str) -> None:
    """Never creates: in a cgroup file system an attempt to is refused with EACCES, which hides the cause."""
    fd = os.open(file, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, value.encode())
    except OSError as err:
        raise OSError(err.errno, f"{err.strerror} (writing {value})", str(file)) from err
    finally:
        os.close(fd)


def _flat(file: Path) -> dict[str, int]:
    """A file of `key value` lines; empty when it is not there."""
    try:
        lines = file.read_text().splitlines()
    except OSError:
        return {}
    pairs = (line.split() for line in lines)
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdecimal()}


def _number(folder: Path | None, name: str) -> int | None:
    if folder is None:
        return None
    try:
        text = (folder / name).read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdecimal() else None


def _working_set(usage: int | None, inactive: int | None) -> int | None:
    return None if usage is None else max(0, usage - (inactive or 0))
