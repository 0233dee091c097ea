"""The cgroups of a node: `/podling/CLUSTER/NODE` in every hierarchy, seen inside the node as the root.

Inside, `init` holds PID 1, `agent` and `control-plane` our daemons, `exec` what people run; pods go to
`kubepods` beside them. On cgroup v2 the leaves are a must: a cgroup that hands controllers to its children
may hold no process itself (`cgroup-v2.rst`, "No Internal Process Constraint").

The functions here see the machine's hierarchies; call them before the mount namespace is changed.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from podling.linux.cgroups import enable_controllers

ROOT = "podling"
GROUPS = ("init", "agent", "control-plane", "exec")
CGROUP = Path("/sys/fs/cgroup")


def hierarchies() -> dict[str, Path]:
    """Options of each hierarchy to use -> its mount point; the one cgroup v2 hierarchy has options "".

    On a hybrid machine these are the v1 hierarchies: the v2 one beside them has no controller to offer.
    """
    v1: dict[str, Path] = {}
    v2: Path | None = None
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields, _, rest = line.partition(" - ")
        fstype, _, super_options = rest.split(" ", 2)
        target = Path(fields.split(" ")[4])
        if not target.is_relative_to(CGROUP):
            continue
        if fstype == "cgroup2":
            v2 = target
        elif fstype == "cgroup":
            options = [o for o in super_options.split(",") if o not in ("rw", "ro")]
            v1[",".join(o for o in options if "=" not in o or o.startswith("name="))] = target
    if v1:
        return v1
    if v2 is None:
        raise OSError(errno.ENOENT, "no cgroup file system is mounted", str(CGROUP))
    return {"": v2}


def create(cluster: str, node: str) -> None:
    """Make the node's cgroups (fine if they exist) and move this process into the node's own."""
    for options, root in hierarchies().items():
        path = root
        for part in (ROOT, cluster, node):
            if not options:
                enable_controllers(path)
            path /= part
            _make(path, cpuset="cpuset" in options.split(","))
        (path / "cgroup.procs").write_text("0")


def settle(cluster: str, node: str) -> None:
    """Move this process to `init` and prepare the other groups. After unshare(CLONE_NEWCGROUP): the cgroup
    a process is in at that moment becomes the root it sees."""
    for options, root in hierarchies().items():
        path = root / ROOT / cluster / node
        for group in GROUPS:
            _make(path / group, cpuset="cpuset" in options.split(","))
        (path / "init" / "cgroup.procs").write_text("0")
        if not options:
            enable_controllers(path)


def join(cluster: str, node: str, group: str) -> None:
    for root in hierarchies().values():
        (root / ROOT / cluster / node / group / "cgroup.procs").write_text("0")


def remove(cluster: str, *, timeout_s: float = 5.0) -> None:
    """Remove the cgroups of a whole cluster; its processes must have been killed. Absent is success."""
    deadline = time.monotonic() + timeout_s
    for root in hierarchies().values():
        for path in _deepest_first(root / ROOT / cluster):
            _remove_one(path, deadline)
        with suppress(OSError):
            # Shared by all clusters: stays while another one needs it.
            (root / ROOT).rmdir()


def _remove_one(path: Path, deadline: float) -> None:
    while True:
        try:
            path.rmdir()
            return
        except FileNotFoundError:
            return
        except OSError as err:
            # A killed process keeps its cgroup busy until the kernel has reaped it: a matter of milliseconds
            # that no event announces on v1.
            if err.errno != errno.EBUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.002)


def _deepest_first(path: Path) -> Iterator[Path]:
    for base, _, _ in os.walk(path, topdown=False):
        yield Path(base)


def _make(path: Path, *, cpuset: bool) -> None:
    with suppress(FileExistsError):
        path.mkdir()
    if cpuset:
        # A new v1 cpuset has no processor and no memory node: nothing can join until it has both.
        for file in ("cpuset.cpus", "cpuset.mems"):
            if not (path / file).read_text().strip():
                (path / file).write_text((path.parent / file).read_text())
