"""What of a cluster is on this machine: compared before it and after it, so that nothing stays unnoticed."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

STATE = Path("/var/lib/podling/clusters")


def leftovers(name: str) -> dict[str, list[str]]:
    """Everything on this machine that belongs to cluster `name`, or to no cluster at all.

    What somebody runs by hand, without a cluster, meanwhile is none of it.
    """
    mounts = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    links = json.loads(subprocess.run(["ip", "-j", "link"], capture_output=True, check=True).stdout)
    routes = subprocess.run(["ip", "route"], capture_output=True, check=True, text=True).stdout
    tables = subprocess.run(["nft", "list", "tables"], capture_output=True, check=True, text=True).stdout
    return {
        "processes": sorted(processes_of(name)),
        "mounts": [m for m in mounts if "podling" in m and "hand" not in m],
        "links": sorted(x["ifname"] for x in links),
        "routes": routes.splitlines(),
        # The tables CNI plugins share stay, empty, as the reference's do.
        "nft": [t for t in tables.splitlines() if "podling" in t],
        "cgroups": [str(p) for p in Path("/sys/fs/cgroup").glob(f"**/podling/{name}")],
        "netns": sorted(p.name for p in Path("/run/netns").glob("podling-?????????????")),
        "files": sorted(str(p) for p in STATE.glob(name)),
        "run": sorted(p.name for p in Path("/run").glob("podling*") if "hand" not in p.name),
    }


def processes_of(name: str) -> Iterator[str]:
    """Processes in the cluster's cgroups, and every conmon and crun that is in no cluster's."""
    for path in Path("/proc").glob("[0-9]*"):
        try:
            cgroup = (path / "cgroup").read_text()
            argv = (path / "cmdline").read_bytes().split(b"\0")
        except (FileNotFoundError, ProcessLookupError):
            continue
        # A node's runtime keeps its state there; what somebody runs by hand does not.
        ours = any(arg.endswith(b"--root=/run/podling/crun") for arg in argv)
        stray = os.path.basename(argv[0]) in (b"conmon", b"crun") and ours and "/podling/" not in cgroup
        if f"/podling/{name}/" in cgroup or stray:
            yield f"{path.name} {b' '.join(argv).decode()}"
